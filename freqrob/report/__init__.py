"""Measurements in, figures, tables and one self-contained HTML page out."""

from freqrob.report import plots
from freqrob.report.page import write_report

__all__ = ["plots", "write_report"]
