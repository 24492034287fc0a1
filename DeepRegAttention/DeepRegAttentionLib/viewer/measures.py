"""What was measured, for the page: tables, and the histogram of the Jacobian as a drawing."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, Sequence, Tuple

_TITLES = {"similarity": "Agreement", "deformation": "Deformation", "structures": "Structures"}
_WIDTH, _HEIGHT, _BASE = 300, 110, 92


def table_entries(tables: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """Tables of a result (``vtkMRMLTableNode`` by name) as ``title``, ``head`` and ``rows`` of text."""
    return [
        {"title": title, "head": columns(tables[name])[0], "rows": _rows(tables[name])}
        for name, title in _TITLES.items()
        if name in tables
    ]


def columns(table: Any) -> Tuple[List[str], List[List[Any]]]:
    """Names and values of a table's columns."""
    content = table.GetTable()
    count = content.GetNumberOfColumns()
    names = [content.GetColumnName(c) for c in range(count)]
    rows = range(content.GetNumberOfRows())
    return names, [[_plain(content.GetValue(row, c)) for row in rows] for c in range(count)]


def _plain(value: Any) -> Any:
    if value.IsString():
        return value.ToString()
    return value.ToDouble()


def _rows(table: Any) -> List[List[str]]:
    _, values = columns(table)
    return [[_text(value) for value in row] for row in zip(*values)]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if math.isfinite(value) else "–"


def histogram_svg(table: Any) -> str:
    """The histogram of the Jacobian (its table's two columns: value, percent of voxels) as SVG; folds stand out."""
    _, values = columns(table)
    places, shares = values[0], values[1]
    if not places or max(shares) <= 0:
        return ""
    low, high = min(places), max(places)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Histogram of the Jacobian" '
        f'style="width:100%;display:block">{_bars(places, shares)}{_axis(low, high)}</svg>'
    )


def _bars(places: Sequence[float], shares: Sequence[float]) -> str:
    low, high = min(places), max(places)
    width = _WIDTH / len(places)
    bars = []
    for place, share in zip(places, shares):
        x = (_WIDTH - width) * (place - low) / ((high - low) or 1.0)
        height = (_BASE - 4) * share / max(shares)
        colour = "#e0a800" if place <= 0 else "#3f8fd2"
        bars.append(f'<rect x="{x:.1f}" y="{_BASE - height:.1f}" width="{width:.1f}" height="{height:.1f}" '
                    f'fill="{colour}"><title>{place:.3g}: {share:.3g} %</title></rect>')  # fmt: skip
    return "".join(bars)


def _axis(low: float, high: float) -> str:
    ticks = [low, 1.0, high] if low < 1.0 < high else [low, high]
    line = f'<line x1="0" x2="{_WIDTH}" y1="{_BASE}" y2="{_BASE}" stroke="currentColor" stroke-opacity="0.5"/>'
    return line + "".join(_tick(value, low, high) for value in ticks)


def _tick(value: float, low: float, high: float) -> str:
    share = (value - low) / ((high - low) or 1.0)
    anchor = "start" if share < 0.05 else "end" if share > 0.95 else "middle"
    return (
        f'<text x="{_WIDTH * share:.1f}" y="{_HEIGHT - 4}" font-size="11" fill="currentColor" '
        f'text-anchor="{anchor}">{value:.3g}</text>'
    )
