"""Terminal output: text, tables, errors, progress. The only package that imports rich.

Progress and errors go to stderr, results to stdout. Text from users and files is never interpreted as markup,
and its control characters are escaped. Output that stderr does not accept is dropped; output that stdout does
not accept raises an OutputError (see `streams`).
"""

from trainer.console.formatting import clean, format_cell, format_seconds, one_line
from trainer.console.output import (
    print_error,
    print_json,
    print_note,
    print_pairs,
    print_sentence,
    print_text,
    results_are_kept,
    waiting,
)
from trainer.console.result import print_result
from trainer.console.tables import Column, table

__all__ = [
    "Column",
    "clean",
    "format_cell",
    "format_seconds",
    "one_line",
    "print_error",
    "print_json",
    "print_note",
    "print_pairs",
    "print_result",
    "print_sentence",
    "print_text",
    "results_are_kept",
    "table",
    "waiting",
]
