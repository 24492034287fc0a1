"""A figure of the expected error: how often bounds hold at each size, and maps beside the true error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from DeepRegAttentionLib.engine.trust.expected_error import expect_error
from DeepRegAttentionLib.engine.trust.predictor import CONFIDENCE, Predictor
from error_fit import Places, judged_places, of_kind
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from truths import METHODS, MOVED, known, model_of

FIGURE = Path(__file__).resolve().parents[2] / "Resources" / "expected_error.png"
_BINS = 8
_TICKS_MM = (0.2, 0.5, 1, 2, 5, 10, 20)
_MAPS = ("fixed image", "true error", "expected error", "bound at 90 %")


def draw(
    found: Mapping[str, Sequence[Places]], predictors: Mapping[str, Predictor], folder: Path, path: Path = FIGURE
) -> Path:
    """Write the figure, of the cases that report of each method."""
    figure = Figure(figsize=(12, 7.2), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    curves, maps = figure.subfigures(1, 2, width_ratios=(1, 1.5))
    size, share = curves.subplots(2, 1)
    for method, parts in found.items():
        own = [part for part in parts if part.trial.kind == MOVED]
        _draw_curves(size, share, method, judged_places(own, predictors[method]))
    _name_curves(size, share)
    shown = [_hardest(parts, METHODS[method][0]) for method, parts in found.items() if method != "none"][:4]
    grid = maps.subplots(len(shown), len(_MAPS), squeeze=False)
    for row, part in zip(grid, shown):
        _draw_maps(row, part, folder)
    for ax, title in zip(grid[0], _MAPS):
        ax.set_title(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _draw_curves(size: Axes, share: Axes, method: str, places: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    expected, bound, errors = places
    edges = np.quantile(expected, np.linspace(0, 1, _BINS + 1))
    which = np.searchsorted(edges, expected, side="right").clip(1, _BINS)
    bins = [which == n for n in range(1, _BINS + 1)]
    middles = [np.median(expected[some]) for some in bins]
    name = "refinement alone" if method == "none" else method
    size.plot(middles, [np.median(errors[some]) for some in bins], "o-", ms=3, lw=1, label=name)
    share.plot(middles, [100 * np.mean(errors[some] <= bound[some]) for some in bins], "o-", ms=3, lw=1)


def _name_curves(size: Axes, share: Axes) -> None:
    ends = (0.2, 20.0)
    size.plot(ends, ends, color="0.6", lw=0.8, ls="--")
    share.axhline(100 * CONFIDENCE, color="0.6", lw=0.8, ls="--")
    size.set(xscale="log", yscale="log", ylabel="true error, median, mm")
    share.set(xscale="log", xlabel="expected error, mm", ylabel="within the bound, %", ylim=(60, 100))
    for axis in (share.xaxis, size.xaxis, size.yaxis):
        axis.set_major_locator(FixedLocator(_TICKS_MM))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    size.legend(fontsize=7, frameon=False)


def _hardest(parts: Sequence[Places], task: str) -> Places:
    """The case whose errors differ most from place to place."""
    return max(of_kind(parts, MOVED, task), key=lambda part: float(part.errors.std()))


def _draw_maps(row: Sequence[Axes], part: Places, folder: Path) -> None:
    result = known(part.trial, folder)
    error = expect_error(result.pair, result.displacement, result.spacing_mm, model_of(part.trial.method))
    there = error.there[0, 0]
    k = int(torch.nonzero(there)[:, 0].float().mean())
    high = float(np.nanpercentile(result.error[0, 0, k].numpy(), 98))
    row[0].imshow(result.pair.fixed[0, 0, k].numpy(), cmap="gray", origin="lower")
    for ax, values in zip(row[1:], (result.error, error.expected, error.bound)):
        seen = torch.where(there, values[0, 0], torch.nan)[k].numpy()
        drawn = ax.imshow(seen, cmap="magma", vmin=0, vmax=high, origin="lower")
    bar = row[-1].figure.colorbar(drawn, ax=row[-1], fraction=0.046)
    bar.set_label("mm", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    row[0].set_ylabel(part.trial.method, fontsize=8)
    for ax in row:
        ax.set(xticks=[], yticks=[])
