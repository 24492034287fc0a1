"""A pair at a glance: fixed, warped, difference and expected error, small and side by side, where it may be off most.

Plain arrays and Pillow: it is made of every pair of a cohort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image, ImageDraw

from ..engine.geometry import Grid
from ..engine.result import RegistrationResult
from ..engine.result_folder import GLANCE_FILE
from ..terms.maps import ColourScale, scale
from .sections import PLANES, Plane, Section, foreground_points, view_box, window
from .style import GAP, SIDE

_QUALITY = 85
_GROUND, _INK = (20, 23, 26), (215, 220, 225)
_RING = 7
# Voxels so much longer than others are slices, and looked at in their plane.
_SLICES = 1.5


def write_glance(result: RegistrationResult, fixed: sitk.Image, folder: Path) -> None:
    """Write the picture of a result into its folder, as a JPEG of some 15 kB.

    Parameters
    ----------
    result : RegistrationResult
        Of this fixed image.
    fixed : sitk.Image
        On its own grid, LPS mm.
    folder : Path
        It exists.
    """
    glance(result, fixed).save(folder / GLANCE_FILE, "jpeg", quality=_QUALITY, subsampling=0)


def glance(result: RegistrationResult, fixed: sitk.Image) -> Image.Image:
    """The picture, ``SIDE`` pixels high."""
    look = _Look.at(result, fixed)
    panels = [look.panel(colours) for colours in _panels(look.section, result, fixed)]
    whole = Image.new("RGB", (len(panels) * (SIDE + GAP) - GAP, SIDE), _GROUND)
    for number, panel in enumerate(panels):
        whole.paste(panel, (number * (SIDE + GAP), 0))
    ink = ImageDraw.Draw(whole)
    _write(ink, (3, SIDE // 2 - 6), look.section.plane.letters[0])
    error = result.maps.get("expected_error")
    if error is not None:
        highest = scale("expected_error", sitk.GetArrayViewFromImage(error)).high
        _write(ink, (3 * (SIDE + GAP) + 3, SIDE - 14), f"0-{highest:g} mm")
    return whole


def _write(ink: ImageDraw.ImageDraw, where: tuple[int, int], text: str) -> None:
    ink.text(where, text, fill=_INK, stroke_width=1, stroke_fill=_GROUND)


def _panels(section: Section, result: RegistrationResult, fixed: sitk.Image) -> list[np.ndarray]:
    """Colours ``(V, H, 3)``, 0 to 1, NaN where there is nothing."""
    shown = [_grey(section, image) for image in (fixed, result.warped)]
    difference = _coloured(scale("difference_after", np.zeros((1, 1, 1))), shown[0] - shown[1])
    error = result.maps.get("expected_error")
    expected = np.full((*shown[0].shape, 3), np.nan)
    if error is not None:
        values = section.sample(error)
        colours = scale("expected_error", sitk.GetArrayViewFromImage(error))
        expected = _coloured(colours, np.where(values == 0, np.nan, values))
    return [*(np.repeat(grey[..., None], 3, axis=-1) for grey in shown), difference, expected]


def _grey(section: Section, image: sitk.Image) -> np.ndarray:
    """The image in the section ``(V, H)``, scaled to 0..1 as it is shown; NaN outside of it."""
    low, high = window(image)
    grey: np.ndarray = ((section.sample(image) - low) / (high - low if high > low else 1.0)).clip(0.0, 1.0)
    return grey


def _coloured(colours: ColourScale, values: np.ndarray) -> np.ndarray:
    found = colours.colours(np.nan_to_num(values).ravel()).reshape(*values.shape, 3)
    found[np.isnan(values)] = np.nan
    return found


@dataclass(frozen=True)
class _Look:
    """The plane through the worst place, or through the middle of the object where none is known."""

    section: Section
    marked: bool

    @classmethod
    def at(cls, result: RegistrationResult, fixed: sitk.Image) -> _Look:
        points = foreground_points(fixed)
        low, high = view_box(points, fixed)
        worst = (result.metrics.get("expected_error") or {}).get("worst") or ()
        point = np.array(worst[0]["point_lps_mm"] if worst else points.mean(axis=0), float)
        plane = plane_of(fixed)
        pixel = float(max((high - low)[[plane.horizontal, plane.vertical]])) / SIDE
        inside = np.clip(_within(fixed, point), low + pixel / 2, high - pixel / 2)
        return cls(Section(plane, low, high, inside, pixel), bool(worst))

    def panel(self, colours: np.ndarray) -> Image.Image:
        """A square with the colours ``(V, H, 3)`` in its middle, the place marked."""
        drawn = np.where(np.isnan(colours), np.array(_GROUND) / 255, colours)
        upright = drawn if self.section.plane.downwards else drawn[::-1]
        picture = Image.fromarray((255 * upright).round().astype(np.uint8))
        panel = Image.new("RGB", (SIDE, SIDE), _GROUND)
        corner = (SIDE - picture.width) // 2, (SIDE - picture.height) // 2
        panel.paste(picture, corner)
        if self.marked:
            _ring(panel, [c + p for c, p in zip(corner, self._place(picture.height))])
        return panel

    def _place(self, height: int) -> tuple[float, float]:
        """Where the place lies in a picture, in pixels from its upper left corner."""
        section, plane = self.section, self.section.plane
        h, v = (
            float((section.point - section.low)[axis]) / section.pixel for axis in (plane.horizontal, plane.vertical)
        )
        return h, v if plane.downwards else height - v


def plane_of(image: sitk.Image) -> Plane:
    """The anatomical plane in which an image is finest: that of its slices, the axial one where there are none."""
    grid = Grid.of(image)
    spacing = np.array(grid.spacing)
    if spacing.max() < _SLICES * np.median(spacing):
        return PLANES[0]
    across = np.abs(np.array(grid.voxel_to_mm)[:, int(spacing.argmax())])
    return next(plane for plane in PLANES if plane.normal == int(across.argmax()))


def _within(image: sitk.Image, point: np.ndarray) -> np.ndarray:
    """A point, or the nearest voxel's if it lies outside: the grid that a network works on reaches a little further."""
    index = np.array(image.TransformPhysicalPointToContinuousIndex(point.tolist()))
    inside = index.clip(0, np.array(image.GetSize()) - 1)
    return np.array(image.TransformContinuousIndexToPhysicalPoint(inside.tolist()))


def _ring(panel: Image.Image, centre: Sequence[float]) -> None:
    x, y = centre
    ink = ImageDraw.Draw(panel)
    for radius, colour in ((_RING + 1, (0, 0, 0)), (_RING, (255, 213, 0))):
        ink.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour)
