"""The kinds of JSON files that freqrob writes, and their JSON schemas, which are in the folder ``schemas``.

``python -m freqrob.formats`` writes the schemas from the same definitions that check files when they are read.
"""

from __future__ import annotations

from pathlib import Path

from freqrob.data.cifar_b import BALANCED
from freqrob.data.corruption_arrays import GENERATED
from freqrob.data.hybrid import HYBRID
from freqrob.diagnostics.measurement import MEASUREMENT
from freqrob.evaluation.files import CORRUPTION_RESULTS, EVALUATION
from freqrob.models.cards import CARD
from freqrob.report.data import REPORT
from freqrob.reproduction.records import REPRODUCTION
from freqrob.runtime.file_formats import FileFormat
from freqrob.runtime.files import write_json
from freqrob.training.run_folder import METRICS

FORMATS: tuple[FileFormat, ...] = (
    CARD, METRICS, EVALUATION, CORRUPTION_RESULTS, MEASUREMENT, REPORT, REPRODUCTION, GENERATED, BALANCED, HYBRID,
)  # fmt: skip
SCHEMAS = Path(__file__).parent / "schemas"


def schema_path(file_format: FileFormat) -> Path:
    """The file of a format's schema."""
    return SCHEMAS / f"{file_format.name}-{file_format.version}.json"


if __name__ == "__main__":
    for each in FORMATS:
        write_json(schema_path(each), each.schema())
