"""The HTML report: what it shows (`contents`), which rows are drawn (`downsampling`), the page (`page`)."""

from trainer.report.contents import report_contents
from trainer.report.page import render_page

__all__ = ["render_page", "report_contents"]
