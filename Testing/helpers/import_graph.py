"""Draws which part of the library imports which, from the sources: ``make graph`` writes docs/import-graph.svg.

Every arrow points from a part to one that it imports, downwards. Those that a longer way implies are pale.
"""

from __future__ import annotations

from .imports import edges
from .places import REPOSITORY

Edge = tuple[str, str]
PICTURE = REPOSITORY / "docs" / "import-graph.svg"
WIDTH, ROW, BOX_WIDTH, BOX_HEIGHT = 760, 96, 92, 34
STYLE = (
    "text{font:15px sans-serif;text-anchor:middle}rect.part{fill:#eef4fb;stroke:#35618f}"
    "path{fill:none;stroke:#35618f;stroke-width:1.6;marker-end:url(#tip)}path.implied{stroke:#c3cfdb;stroke-width:1}"
)


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(drawing(edges()), encoding="utf-8")


def drawing(graph: set[Edge]) -> str:
    """The graph as SVG; each arrow carries its edge as ``data-edge``."""
    rows = in_rows(graph)
    middles = {
        part: (WIDTH * (n + 0.5) / len(row), ROW * (len(rows) - level) - ROW / 2)
        for level, row in enumerate(rows)
        for n, part in enumerate(row)
    }
    arrows = [_arrow(edge, middles, implied(edge, graph)) for edge in sorted(graph)]
    arrows.sort(key=lambda arrow: "implied" not in arrow)
    boxes = [_box(part, *middle) for part, middle in sorted(middles.items())]
    height = ROW * len(rows)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f'<style>{STYLE}</style><rect width="{WIDTH}" height="{height}" fill="white"/>',
        '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8" style="fill:#35618f;stroke:none;marker-end:none"/></marker>',
    )
    return "\n".join([*head, *arrows, *boxes, "</svg>", ""])


def in_rows(graph: set[Edge]) -> list[list[str]]:
    """The parts by the length of the longest way down from them; each row in the order of what it imports."""
    levels = {part: _level(part, graph) for edge in graph for part in edge}
    rows: list[list[str]] = [[] for _ in range(max(levels.values()) + 1)]
    place: dict[str, float] = {}
    for level, row in enumerate(rows):
        row += sorted(part for part in levels if levels[part] == level)
        row.sort(key=lambda part: _mean([place[below] for above, below in sorted(graph) if above == part]))
        place.update((part, (n + 0.5) / len(row)) for n, part in enumerate(row))
    return rows


def implied(edge: Edge, graph: set[Edge]) -> bool:
    """Whether a longer way leads from the one part to the other."""
    start, end = edge
    return any(_reaches(below, end, graph) for above, below in graph if above == start and below != end)


def _level(part: str, graph: set[Edge]) -> int:
    return max((1 + _level(below, graph) for above, below in graph if above == part), default=0)


def _reaches(start: str, end: str, graph: set[Edge]) -> bool:
    return start == end or any(_reaches(below, end, graph) for above, below in graph if above == start)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.5


def _box(part: str, x: float, y: float) -> str:
    left, top = x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2
    return (
        f'<rect class="part" x="{left:.0f}" y="{top:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>'
        f'<text x="{x:.0f}" y="{y + 5:.0f}">{part}</text>'
    )


def _arrow(edge: Edge, middles: dict[str, tuple[float, float]], pale: bool) -> str:
    (x, y), (goal_x, goal_y) = (middles[part] for part in edge)
    y, goal_y = y + BOX_HEIGHT / 2, goal_y - BOX_HEIGHT / 2
    bend = (goal_y - y) * 0.45
    return (
        f'<path{" class=" + chr(34) + "implied" + chr(34) if pale else ""} data-edge="{edge[0]} {edge[1]}" '
        f'd="M{x:.0f} {y:.0f}C{x:.0f} {y + bend:.0f} {goal_x:.0f} {goal_y - bend:.0f} {goal_x:.0f} {goal_y:.0f}"/>'
    )


if __name__ == "__main__":
    main()
