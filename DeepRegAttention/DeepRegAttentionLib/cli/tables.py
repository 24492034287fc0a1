"""Results as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from ..terms.measures import MOMENTS, rows, tables


def results_table(metrics: Mapping[str, Any]) -> Table:
    """One table of all that a registration measured: agreement, deformation, seconds."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for n, head in enumerate(("Measure", *(moment.capitalize() for moment in MOMENTS))):
        table.add_column(head, justify="right" if n else "left")
    for section in tables(rows(metrics)).values():
        for row in section:
            # A single value is one of the whole result.
            table.add_row(row.label, *[""] * (len(MOMENTS) - len(row.texts)), *row.texts)
        table.add_section()
    return table


def key_value_table(values: dict[str, str]) -> Table:
    """Names and values, without a frame."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in values.items():
        table.add_row(name, value)
    return table
