"""How well a registration went: its measures as tables of the page, and a bar for each structure."""

from __future__ import annotations

import math
from html import escape
from typing import Any, Iterable, List, Mapping, Optional, Sequence, Tuple

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

Cells = Tuple[str, ...]


def measure_tables(metrics: Mapping[str, Any]) -> str:
    """A heading and a table for each group of measures; empty if nothing was measured."""
    return "\n".join(_section(name, found) for name, found in tables(rows(metrics)).items())


def _section(name: str, found: Sequence[Row]) -> str:
    heading = f"<h2>{escape(table_title(name))}</h2>"
    if name == "similarity":
        note = f"<p>{MORE} more is better, {LESS} less is better; the change is from before to after.</p>"
        return (
            heading + _table((*columns(found), "Change"), found, [(*row.texts, _change(row)) for row in found]) + note
        )
    if name == "deformation":
        cells = [(_marked(row), escape(row.meaning)) for row in found]
        return heading + _table((*columns(found), "Meaning"), found, cells)
    return heading + _table(columns(found), found, [row.texts for row in found])


def _change(row: Row) -> str:
    """From the first stage to the last, in words and colour."""
    if row.improved is None:
        return "" if math.isnan(row.change) else "the same"
    kind, word = ("good", "better") if row.improved else ("bad", "worse")
    sign = "−" if row.change < 0 else "+"
    return f'<span class="{kind}">{sign}{number(abs(row.change), row.decimals)} {word}</span>'


def _marked(row: Row) -> str:
    """The value; folds in the colour of what is bad, none of them in that of what is good."""
    if not row.key.startswith("fold"):
        return row.texts[0]
    return f'<span class="{"bad" if row.values[0] else "good"}">{row.texts[0]}</span>'


def _table(head: Cells, found: Sequence[Row], cells: Iterable[Cells]) -> str:
    """The first cell of a row names its measure and tells what it means; the others are HTML, set as numbers."""
    names = [f'<th title="{escape(row.meaning)}">{escape(row.label)}</th>' for row in found]
    body = "".join(f"<tr>{name}{_cells(rest, 'td')}</tr>" for name, rest in zip(names, cells))
    return f"<table><thead><tr><th>{head[0]}</th>{_cells(head[1:], 'th')}</tr></thead><tbody>{body}</tbody></table>"


def _cells(texts: Cells, tag: str) -> str:
    return "".join(f'<{tag} class="number">{text}</{tag}>' for text in texts)


def structure_bars(labels: Optional[Mapping[str, Any]], names: Mapping[int, str]) -> str:
    """Overlap of every structure before and after, the worst first; empty without structures."""
    found = structures(labels, names)
    if not found:
        return ""
    bars: List[str] = [_bar(structure) for structure in found]
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
