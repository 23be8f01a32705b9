"""The report of a run, or of several: one HTML file that needs no network, made from the run folders alone."""

from tercet.report.page import render, render_comparison, write, write_comparison

__all__ = ["render", "write", "render_comparison", "write_comparison"]
