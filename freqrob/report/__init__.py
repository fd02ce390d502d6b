"""Measurements in, figures, tables and one self-contained HTML page out."""

from freqrob.report.measure import DemoMeasurements, collect
from freqrob.report.page import render, write_report

__all__ = ["DemoMeasurements", "collect", "render", "write_report"]
