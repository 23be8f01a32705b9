"""The report of a run: one HTML file that needs no network, made from the files of the run folder alone."""

from tercet.report.page import render, write

__all__ = ["render", "write"]
