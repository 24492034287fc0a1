"""What is made of the measurements of ``causes.py``: CSV, tables, a figure, and their places in the documentation."""

from __future__ import annotations

import csv
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import numpy as np
from accuracy import DOCUMENT, TASKS
from documents import replace_part
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SHARES = (0.02, 0.05, 0.1, 0.2)
AREA = "area"
MOTION, DIFFERENCE = "for comparison: the motion", "for comparison: the difference"


class Measured(NamedTuple):
    """One number of one experiment on one pair."""

    experiment: str
    task: str
    model: str
    pair: str
    what: str
    measure: str
    value: float


class View(NamedTuple):
    """How the numbers of an experiment become a table: where each belongs, None for nowhere, and its digits."""

    place: Callable[[Measured], Optional[tuple[tuple[str, ...], str]]]
    """Cells that name the line, beside those of the model and the images, and the head of the column."""
    digits: int
    heads: tuple[str, ...] = ()
    """Of the cells that name the line."""


def _of_parts(row: Measured) -> Optional[tuple[tuple[str, ...], str]]:
    if row.what == "whole":
        return ((), "Dice, whole") if row.measure == "Dice" else None
    return ((), f"{row.what}: lost") if row.measure == "lost" else None


def _of_forces(row: Measured) -> Optional[tuple[tuple[str, ...], str]]:
    place, level = row.what.split(", ")
    whose, goal = row.measure.split(", ")
    return ((whose,), level) if (place, goal) == ("pass 1", "refined") else None


VIEWS = {
    "equal": View(lambda row: ((), f"{row.what}: {row.measure}"), 3),
    "knockout": View(_of_parts, 3),
    "structures": View(lambda row: ((), row.what), 3),
    "differing": View(lambda row: ((row.what,), row.measure), 2, ("map",)),
    "inside": View(lambda row: ((), row.what), 1),
    "deletion": View(lambda row: ((row.what,), row.measure), 2, ("map",)),
    "force": View(_of_forces, 2, ("force",)),
}


def table(experiment: str, rows: Sequence[Measured]) -> str:
    """An experiment's means over the pairs as Markdown; nothing without a measurement."""
    view = VIEWS[experiment]
    cells: dict[tuple[str, ...], dict[str, list[float]]] = {}
    pairs: dict[tuple[str, ...], set[str]] = {}
    for row in (row for row in rows if row.experiment == experiment):
        place = view.place(row)
        if place is not None:
            line = (f"`{row.model}`", row.task, *place[0])
            cells.setdefault(line, {}).setdefault(place[1], []).append(row.value)
            pairs.setdefault(line, set()).add(row.pair)
    if not cells:
        return ""
    columns = list(dict.fromkeys(column for found in cells.values() for column in found))
    lines = [f"| {' | '.join(('model', 'images', *view.heads, 'pairs', *columns))} |"]
    lines.append("|---" * (3 + len(view.heads) + len(columns)) + "|")
    for line, found in cells.items():
        means = [_rounded(found[name], view.digits) if name in found else "" for name in columns]
        lines.append(f"| {' | '.join((*line, str(len(pairs[line])), *means))} |")
    return "\n".join(lines) + "\n"


def _rounded(values: Sequence[float], digits: int) -> str:
    """Their mean; never a zero with a sign."""
    return f"{round(statistics.mean(values), digits) + 0.0:.{digits}f}"


def in_order(rows: Sequence[Measured]) -> list[Measured]:
    """By experiment and task."""
    return sorted(rows, key=lambda row: (list(VIEWS).index(row.experiment), list(TASKS).index(row.task)))


def read(folder: Path) -> list[Measured]:
    """The measurements of a folder, none if it has none."""
    path = folder / "causes.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [Measured(**{**row, "value": float(row["value"])}) for row in csv.DictReader(file)]


def measured_before(folder: Path, rows: Sequence[Measured]) -> list[Measured]:
    """What the folder holds of experiments, tasks and models that are not among the rows."""
    now = {row[:3] for row in rows}
    return [row for row in read(folder) if row[:3] not in now]


def write(rows: Sequence[Measured], folder: Path) -> None:
    """Every measurement as CSV, the means as Markdown, what was taken away as a figure."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "causes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Measured._fields)
        writer.writerows((*row[:-1], f"{row.value:.5g}") for row in rows)
    text = "\n".join(f"{name}\n\n{part}" for name in VIEWS if (part := table(name, rows)))
    (folder / "causes.md").write_text(text, encoding="utf-8")
    if any(row.experiment == "deletion" for row in rows):
        figure([row for row in rows if row.experiment == "deletion"]).savefig(folder / "causes.png", dpi=80)


def publish(folder: Path, document: Path = DOCUMENT) -> None:
    """Put each table of the folder between its marks of the documentation, and figure and measurements beside it."""
    rows = read(folder)
    for experiment in VIEWS:
        replace_part(document, experiment, table(experiment, rows))
    root = document.parents[1]
    shutil.copy(folder / "causes.csv", root / "Testing" / "benchmarks")
    if (folder / "causes.png").exists():
        shutil.copy(folder / "causes.png", root / "Resources")


def figure(rows: Sequence[Measured]) -> Figure:
    """A panel for each model and task: the motion's change by the share of places whose difference is taken away."""
    groups = list(dict.fromkeys((row.model, row.task) for row in rows))
    across = min(4, len(groups))
    drawn = Figure(figsize=(max(5, 3 * across), 1 + 2.6 * -(-len(groups) // across)), layout="constrained")
    FigureCanvasAgg(drawn)
    panels = drawn.subplots(-(-len(groups) // across), across, squeeze=False, sharex=True)
    for panel in panels.flat[len(groups) :]:
        panel.set_axis_off()
    for (model, task), panel in zip(groups, panels.flat):
        own = [row for row in rows if (row.model, row.task) == (model, task) and row.measure != AREA]
        for name in dict.fromkeys(row.what for row in own):
            heights = [[row.value for row in own if (row.what, row.measure) == (name, f"{s:.0%}")] for s in SHARES]
            panel.plot([100 * share for share in SHARES], np.mean(heights, axis=1), **STYLES[name])
        panel.axhline(1, color="0.6", linewidth=1, label="random places")
        panel.set_title(f"{model}, {task}", fontsize=9)
    labelled = {label: line for panel in panels.flat for line, label in zip(*panel.get_legend_handles_labels())}
    drawn.legend(
        labelled.values(), labelled.keys(), loc="outside upper center", ncols=5 if across > 2 else 3, fontsize=8
    )
    drawn.supxlabel("% of the places inside, those where a map is highest", fontsize=9)
    drawn.supylabel("change of the motion there, random = 1", fontsize=9)
    return drawn


STYLES: dict[str, dict[str, str]] = {
    "attention": {"color": "C0", "marker": ".", "label": "attention"},
    "driving_force_magnitude": {"color": "C3", "marker": ".", "label": "driving force"},
    DIFFERENCE: {"color": "0.4", "linestyle": ":", "label": "difference"},
    MOTION: {"color": "0.2", "linestyle": "--", "label": "motion"},
}
