"""How well a registration went: its measures as tables of the page, and a bar for each structure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Callable, Optional

from ..terms.measures import (
    LESS,
    MORE,
    Row,
    Structure,
    columns,
    number,
    rows,
    structures,
    table_title,
    tables,
)


def measure_tables(metrics: Mapping[str, Any]) -> str:
    """A heading and a table for each group of measures; empty if nothing was measured."""
    return "\n".join(_section(name, found) for name, found in tables(rows(metrics)).items())


def _section(name: str, found: Sequence[Row]) -> str:
    heading, note = f"<h2>{escape(table_title(name))}</h2>", ""
    if name == "similarity":
        note = f"<p>{MORE} more is better, {LESS} less is better; the change is from before to after.</p>"
        table = _table(found, '<th class="number">Change</th>', _change)
    elif name in ("deformation", "evidence"):
        table = _table(found, "<th>Meaning</th>", lambda row: f'<td class="soft">{escape(row.meaning)}</td>')
    else:
        table = _table(found)
    return f"{heading}{table}{note}"


def _table(found: Sequence[Row], last_head: str = "", last: Callable[[Row], str] = lambda row: "") -> str:
    """The name of each measure, which tells what it means when pointed at, its values, and a last cell."""
    first, *heads = columns(found)
    head = f"<th>{first}</th>" + "".join(f'<th class="number">{text}</th>' for text in heads)
    body = "".join(
        f'<tr><th title="{escape(row.meaning)}">{escape(row.label)}</th>{_values(row)}{last(row)}</tr>' for row in found
    )
    return f"<table><thead><tr>{head}{last_head}</tr></thead><tbody>{body}</tbody></table>"


def _values(row: Row) -> str:
    """A cell for each value; folds in the colour of what is bad, none of them in that of what is good."""
    cells = row.texts
    if row.key.startswith("fold"):
        cells = (f'<span class="{"bad" if row.values[0] else "good"}">{cells[0]}</span>',)
    return "".join(f'<td class="number">{cell}</td>' for cell in cells)


def _change(row: Row) -> str:
    """From the first stage to the last, in words and colour."""
    mark = "" if math.isnan(row.change) else "the same"
    if row.improved is not None:
        kind, word = ("good", "better") if row.improved else ("bad", "worse")
        sign = "−" if row.change < 0 else "+"
        mark = f'<span class="{kind}">{sign}{number(abs(row.change), row.decimals)} {word}</span>'
    return f'<td class="number">{mark}</td>'


def structure_bars(labels: Optional[Mapping[str, Any]], names: Mapping[int, str]) -> str:
    """Overlap of every structure before and after, the worst first; empty without structures."""
    found = structures(labels, names)
    if not found:
        return ""
    bars: list[str] = [_bar(structure) for structure in found]
    return (
        f"<h2>Overlap of {len(found)} structures</h2>"
        "<p>Dice, from 0 to 1: the bar after the registration, the mark before it; the worst come first.</p>"
        f'<div class="scroll"><div class="bars">{"".join(bars)}</div></div>'
    )


def _bar(structure: Structure) -> str:
    before, after = structure.dice
    shapes = '<rect width="100" height="10" fill="var(--line)" rx="1" />'
    if math.isfinite(after):
        shapes += f'<rect width="{100 * after:.1f}" height="10" fill="var(--accent)" rx="1" />'
    if math.isfinite(before):
        shapes += f'<rect x="{99 * before:.1f}" width="1" height="10" fill="var(--ink)" />'
    name, text = escape(structure.name), " → ".join(structure.texts[1:3])
    return (
        f'<div><span class="name" title="{name}">{name}</span>'
        f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{name} {text}">{shapes}</svg>'
        f'<span class="value">{text}</span></div>'
    )
