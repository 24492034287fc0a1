"""A figure of failures that the verdict notices and of some that it does not, on the shipped pair of brains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from choice import chests
from DeepRegAttentionLib.engine.images import read_image
from DeepRegAttentionLib.engine.resources import resource_folder
from DeepRegAttentionLib.terms.verdict import Verdict, verdict_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from spoiled import Subject
from trials import GOOD, KINDS, RECIPES, SPOILS, registered

FIGURE = Path(__file__).resolve().parents[2] / "Resources" / "failures.png"
_COLUMNS, _SIDE, _SEED = 2, 150, 5


class Picture(NamedTuple):
    """What is wrong, the middle slices of fixed, moving and warped image, and what was said of them."""

    text: str
    slices: tuple[np.ndarray, ...]
    verdict: Verdict

    @classmethod
    def of(cls, text: str, fixed: sitk.Image, moving: sitk.Image, model: str, prealign: str = "affine") -> Picture:
        """Of a pair, registered. The volumes are not kept: those of all pairs together would fill the memory."""
        result = registered(fixed, moving, model, prealign)
        judged = verdict_of(result.metrics)
        assert judged is not None
        return cls(text, tuple(middle_slice(image) for image in (fixed, moving, result.warped)), judged)


def pictures() -> Iterator[Picture]:
    """Every kind of failure that one pair can show."""
    samples = resource_folder("Samples")
    fixed, moving = (
        Subject(sitk.Cast(read_image(samples / f"{name}.nii.gz"), sitk.sitkFloat32))
        for name in ("icbm152-t1", "colin27-t1")
    )
    for name, kind in KINDS.items():
        if name == GOOD or kind.fixed or kind.moving:
            noise = np.random.default_rng(_SEED)
            one = SPOILS[kind.fixed](fixed, noise).image if kind.fixed else fixed.image
            other = SPOILS[kind.moving](moving, noise).image if kind.moving else moving.image
            model = "any-contrast" if name.startswith("good,") else RECIPES["brain"]
            yield Picture.of(kind.text, one, other, model, kind.prealign)
    chest = sitk.Cast(next(chests(Path())).fixed, sitk.sitkFloat32)
    yield Picture.of(KINDS["organ"].text, fixed.image, chest, "auto")
    yield Picture.of(KINDS["model"].text, fixed.image, moving.image, RECIPES["hippocampus"])


def draw(path: Path = FIGURE) -> Path:
    """Write the figure: fixed, moving and warped image of each pair, its grade and why."""
    shown = list(pictures())
    lines = -(-len(shown) // _COLUMNS)
    figure = Figure(figsize=(13, 2.15 * lines), dpi=66, layout="constrained")
    FigureCanvasAgg(figure)
    for part, picture in zip(figure.subfigures(lines, _COLUMNS).ravel(), shown):
        _draw_one(part, picture)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _draw_one(part: Figure, picture: Picture) -> None:
    axes = part.subplots(1, 4, width_ratios=(1, 1, 1, 1.9))
    for ax, image, title in zip(axes, picture.slices, ("fixed", "moving", "warped")):
        ax.imshow(image, cmap="gray")
        ax.set_title(title, fontsize=8)
    for ax in axes:
        ax.set_axis_off()
    judged = picture.verdict
    why = judged.reasons[0] if judged.reasons else "No reason to doubt it."
    axes[3].text(0, 0.98, picture.text, fontsize=9.5, va="top", wrap=True)
    axes[3].text(0, 0.62, judged.title, fontsize=10, color="white", va="center", weight="bold",
                 bbox={"facecolor": judged.colour, "edgecolor": "none", "boxstyle": "round,pad=0.35"})  # fmt: skip
    axes[3].text(0, 0.46, why, fontsize=8, va="top", wrap=True)


def middle_slice(image: sitk.Image) -> np.ndarray:
    """The axial plane through the middle of an image's object, seen from the feet, front above, in 0 to 1."""
    image = sitk.DICOMOrient(sitk.Cast(image, sitk.sitkFloat32), "LPS")
    values = sitk.GetArrayFromImage(image)
    bright = values > values.min() + 0.1 * np.ptp(values)
    plane = values[int(np.argwhere(bright.any(axis=(1, 2))).mean())]
    low, high = np.percentile(values, (1, 99.7))
    square: np.ndarray = np.zeros((_SIDE, _SIDE), np.float32)
    height, width = (min(_SIDE, n) for n in plane.shape)
    top, left = ((n - m) // 2 for n, m in zip(plane.shape, (height, width)))
    cut = plane[top : top + height, left : left + width]
    y, x = (_SIDE - height) // 2, (_SIDE - width) // 2
    square[y : y + height, x : x + width] = ((cut - low) / max(high - low, 1e-6)).clip(0, 1)
    return square
