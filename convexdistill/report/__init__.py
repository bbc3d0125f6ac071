"""The report: one self-contained HTML page about distilled sets and how well they do, and the same in figures."""

from convexdistill.report.entries import Entry, entry, read_entries
from convexdistill.report.html import render_page, render_report, write_page, write_report
from convexdistill.report.record import record

__all__ = [
    "Entry",
    "entry",
    "read_entries",
    "record",
    "render_page",
    "render_report",
    "write_page",
    "write_report",
]
