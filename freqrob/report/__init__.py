"""Write figures, tables and one self-contained HTML page from measurements."""

from freqrob.runtime.figures import import_matplotlib

import_matplotlib()

from freqrob.report import plots  # noqa: E402
from freqrob.report.page import write_report  # noqa: E402

__all__ = ["plots", "write_report"]
