"""The report: one self-contained HTML page about a distilled set and how well it does."""

from convexdistill.report.html import render_report, write_report

__all__ = ["render_report", "write_report"]
