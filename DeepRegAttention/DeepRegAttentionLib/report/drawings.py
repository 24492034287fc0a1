"""The deformation drawn: as a grid, by its change of volume, and with the force behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ..engine.intensity import background_value
from ..terms.maps import MAPS, SHORTEST_ARROW, VECTORS, ColourScale, length_scale, scale
from ..terms.palettes import code, colours
from .painting import DPI, GROUND, INK, WIDTH, dim, map_look, map_values, paint, palette_map, png
from .sections import Section, window
from .views import Picture, Views, anatomy, round_up

_LINES = 26
_FINE = 6
_BINS = 99


def grid_pictures(views: Views) -> list[Picture]:
    """A regular grid on the aligned moving image, where the deformation takes it: on the warped image."""
    motion = views.motion
    if motion is None:
        return []
    step = round_up(max(max(section.size) for section in views.sections) / _LINES)
    seen = length_scale(views.longest)
    norm, colour = Normalize(seen.low, seen.high), palette_map(seen.palette)

    def overlay(ax: Axes, section: Section) -> ScalarMappable:
        lines, values = _grid_lines(section, section.displacement(motion, step / _FINE), step / _FINE, _FINE)
        return ax.add_collection(LineCollection(lines, array=values, cmap=colour, norm=norm, linewidths=0.9, zorder=3))

    slices = views.sample(views.result.warped)
    picture = paint(views.sections, slices, dim(views.moving_window, "mm"), overlay, exact=True)
    caption = (
        f"A regular grid of {step:g} mm on the moving image after the linear alignment, drawn where the deformation "
        "takes it, on the warped image, and projected to each plane; the colour is the length of the displacement."
    )
    return [Picture("grid", "Deformation grid", caption, picture)]


def _grid_lines(section: Section, field: np.ndarray, step: float, every: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Short pieces of the deformed lines ``(P, 2, 2)`` and the displacement in mm on each, from ``(V, H, 3)``."""
    h, v = section.coordinates(step)
    moved = np.stack([h + field[..., section.plane.horizontal], v + field[..., section.plane.vertical]], axis=-1)
    length = np.linalg.norm(field, axis=-1)
    pieces, values = [], []
    for points, mm in ((moved, length), (moved.swapaxes(0, 1), length.T)):
        lines, along = points[every // 2 :: every], mm[every // 2 :: every]
        pieces.append(np.stack([lines[:, :-1], lines[:, 1:]], axis=2).reshape(-1, 2, 2))
        values.append((along[:, :-1] + along[:, 1:]).ravel() / 2)
    return list(np.concatenate(pieces)), np.concatenate(values)


def jacobian_pictures(views: Views) -> list[Picture]:
    """The change of volume where it is, and how often each occurs."""
    if "jacobian" not in views.result.maps:
        return []
    jacobian, entry = views.result.maps["jacobian"], MAPS["jacobian"]
    seen = scale("jacobian", sitk.GetArrayViewFromImage(jacobian))
    # Between its neighbours a single fold would vanish: it keeps all of its voxel.
    voxels = zip(views.sample(jacobian), views.sample(jacobian, nearest=True))
    slices = [map_values(np.where(nearest <= 0, nearest, values), seen) for values, nearest in voxels]
    caption = f"{entry.meaning} Blue shrinks, red grows, folds are yellow."
    heat = paint(views.sections, slices, map_look(entry, seen), anatomy(views), exact=True)
    return [
        Picture("jacobian", entry.name, caption, heat),
        Picture(
            "histogram",
            "How often each change of volume occurs",
            "Jacobian where the fixed image is not background; left of 1 shrinks, right of it grows. The bars at the "
            "ends hold all beyond.",
            _histogram(_inside(jacobian, views.fixed), seen),
        ),
    ]


def _histogram(values: np.ndarray, seen: ColourScale) -> bytes:
    places = seen.places(values)
    folds = int(np.isneginf(places).sum())
    counts, edges = np.histogram(places[np.isfinite(places)].clip(0, 1), np.linspace(0, 1, _BINS + 1))
    figure = Figure(figsize=(WIDTH, 2.6), dpi=DPI, facecolor=GROUND)
    ax = figure.add_axes((0.07, 0.2, 0.9, 0.72), facecolor=GROUND)
    middles = (edges[:-1] + edges[1:]) / 2
    bars = colours(seen.palette, middles).tolist()
    ax.bar(middles, 100 * counts / values.size, np.diff(edges), color=bars)
    ax.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
    ticks = map_look(MAPS["jacobian"], seen).ticks or {}
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set_xlim(0, 1)
    ax.set_xlabel(f"Jacobian ({100 * folds / values.size:.3g} % folds)", color=INK, fontsize=9)
    ax.set_ylabel("% of voxels", color=INK, fontsize=9)
    ax.tick_params(colors=INK, labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["bottom", "left"]].set_color(INK)
    return png(figure)


def _inside(values: sitk.Image, fixed: sitk.Image) -> np.ndarray:
    """The values of a map where the fixed image is not background, whatever grid the map has."""
    background = background_value(sitk.GetArrayViewFromImage(fixed))
    low, high = window(fixed)
    identity = sitk.Transform(3, sitk.sitkIdentity)
    here = sitk.Resample(fixed, values, identity, sitk.sitkLinear, float(background), sitk.sitkFloat32)
    contrast = np.abs(sitk.GetArrayViewFromImage(here) - np.float32(background))
    inside = sitk.GetArrayViewFromImage(values)[contrast > 0.1 * (high - low)]
    return inside if inside.size else sitk.GetArrayViewFromImage(values).ravel()


def force_pictures(views: Views) -> list[Picture]:
    """The driving force: its length as colours, its direction as arrows."""
    if VECTORS not in views.result.maps:
        return []
    force = views.result.maps[VECTORS]
    vectors = sitk.GetArrayViewFromImage(force)
    seen, longest = scale(VECTORS, vectors), float(np.linalg.norm(vectors, axis=-1).max())
    spacing = max(max(section.size) for section in views.sections) / _LINES
    factor = round_up(0.9 * spacing / max(seen.high, 1e-6))
    size = "at their true size" if factor == 1 else f"{factor:g} times as long as they are"

    def overlay(ax: Axes, section: Section) -> None:
        _draw_arrows(ax, section, force, spacing, factor, SHORTEST_ARROW * longest)

    entry = MAPS["driving_force_magnitude"]
    slices = [np.linalg.norm(values, axis=-1) for values in views.sample(force)]
    picture = paint(views.sections, slices, map_look(entry, seen), overlay)
    caption = f"{MAPS[VECTORS].meaning} Colour: its length; arrows: the way it pulled the moving image, {size}."
    return [Picture("driving_force", entry.name, caption, picture)]


def _draw_arrows(
    ax: Axes, section: Section, vectors: sitk.Image, spacing: float, factor: float, shortest: float
) -> None:
    """The motion that vectors in mm ask for, in the plane, every ``spacing`` mm, where it is longer than ``shortest``.

    As on the screen from moving to fixed image; the vectors of a result are in the resampling direction, the opposite.
    """
    values = -section.sample(vectors, step=spacing)
    h, v = section.coordinates(spacing)
    along, up = values[..., section.plane.horizontal], values[..., section.plane.vertical]
    long = np.hypot(along, up) > shortest
    how: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1 / factor, "width": 0.0045}
    how.update(headwidth=3.2, headlength=3.6, headaxislength=3.2, minlength=0.6)
    ax.quiver(h[long], v[long], along[long], up[long], color=code("length", 0.0), zorder=3, **how)
