"""What was measured, for the page: tables, and the histogram of the Jacobian as a drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vtk.util.numpy_support import vtk_to_numpy

from ..terms.measures import STRUCTURE_COLUMNS, columns, rows, structures, table_title, tables
from ..terms.palettes import FOLD, PLAIN

_WIDTH, _HEIGHT, _BASE = 300, 110, 92


def table_entries(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a result's metrics hold, as tables of ``title``, ``head`` and ``rows`` of text."""
    entries = [
        {"title": table_title(name), "head": list(columns(found)), "rows": [[row.label, *row.texts] for row in found]}
        for name, found in tables(rows(metrics)).items()
    ]
    lines = [list(structure.texts) for structure in structures(metrics.get("labels"), {})]
    if lines:
        entries.append({"title": table_title("structures"), "head": list(STRUCTURE_COLUMNS), "rows": lines})
    return entries


def histogram_svg(table: Any) -> str:
    """The histogram of the Jacobian (its table's two columns: value, percent of voxels) as SVG; folds stand out."""
    places, shares = (vtk_to_numpy(table.GetTable().GetColumn(n)).tolist() for n in range(2))
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
        colour = FOLD if place <= 0 else PLAIN
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
