"""The pictures of a report: images, maps, deformation and structures in three planes."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from matplotlib import colormaps
from matplotlib.axes import Axes

from ..engine.result import RegistrationResult
from ..terms.maps import Map, Rule, is_seen_through, offered, scale
from ..terms.palettes import label_colour
from .drawings import force_pictures, grid_pictures, jacobian_pictures
from .painting import Look, dim, grey, map_look, paint, show
from .sections import Section
from .views import Picture, Views, anatomy

# Drawn with its arrows, by itself.
_WITH_ARROWS = "driving_force_magnitude"


def result_pictures(result: RegistrationResult, fixed: sitk.Image, moving: sitk.Image) -> list[Picture]:
    """Every picture that a result has something for, in the order of a report; maps it lacks are left out.

    Parameters
    ----------
    result : RegistrationResult
        Of these two images.
    fixed, moving : sitk.Image
        On their own grids, LPS mm.
    """
    views = Views.of(result, fixed, moving)
    return [
        *_image_pictures(views),
        *_map_pictures(views, Rule.DIFFERENCE),
        *_map_pictures(views, Rule.ERROR),
        *_map_pictures(views, Rule.LENGTH),
        *grid_pictures(views),
        *jacobian_pictures(views),
        *force_pictures(views),
        *_map_pictures(views, Rule.ROBUST),
        *_label_pictures(views),
    ]


def _image_pictures(views: Views) -> list[Picture]:
    fixed, warped = views.sample(views.fixed), views.sample(views.result.warped)
    linear = views.sample(views.moving, transform=views.linear)
    moving_look = grey(views.moving_window)
    return [
        Picture(
            "fixed",
            "Fixed image",
            "What the moving image should look like.",
            paint(views.sections, fixed, grey(views.fixed_window)),
        ),
        Picture(
            "linear",
            "Moving image after the linear alignment",
            "Before the deformation. Point at the picture to see the fixed image in its place.",
            paint(views.sections, linear, moving_look),
            over_fixed=True,
        ),
        Picture(
            "warped",
            "Warped image",
            "The moving image after the deformation. Point at the picture to see the fixed image in its place: "
            "what jumps does not match.",
            paint(views.sections, warped, moving_look),
            over_fixed=True,
        ),
        _checkerboard_picture(views, fixed, warped),
    ]


def _checkerboard_picture(views: Views, fixed: list[np.ndarray], warped: list[np.ndarray]) -> Picture:
    square = max(section.size[0] for section in views.sections) / 9
    boards = []
    for section, *pair in zip(views.sections, fixed, warped):
        first, second = (
            (v - low) / max(high - low, 1e-12)
            for v, (low, high) in zip(pair, (views.fixed_window, views.moving_window))
        )
        h, v = section.coordinates(section.pixel)
        odd = (np.floor((h - h[0, 0]) / square) + np.floor((v - v[0, 0]) / square)) % 2 == 1
        boards.append(np.where(odd, second, first))
    caption = f"Fixed and warped image in turn, in squares of {square:.0f} mm: edges should run on across them."
    return Picture("checkerboard", "Checkerboard", caption, paint(views.sections, boards, grey((0.0, 1.0))))


def _map_pictures(views: Views, rule: Rule) -> list[Picture]:
    """The maps whose colours are decided by a rule."""
    pictures = []
    for entry in offered(views.result.maps):
        if entry.rule is not rule or entry.key == _WITH_ARROWS:
            continue
        image = views.result.maps[entry.key]
        look = map_look(entry, scale(entry.key, sitk.GetArrayViewFromImage(image)))
        outlines = None if rule is Rule.DIFFERENCE else anatomy(views)
        hint = " Black is agreement; before and after have the same colours." if rule is Rule.DIFFERENCE else ""
        picture = paint(views.sections, _something(entry, views.sample(image)), look, outlines)
        pictures.append(Picture(entry.key, entry.name, entry.meaning + hint, picture))
    return pictures


def _something(entry: Map, slices: list[np.ndarray]) -> list[np.ndarray]:
    """The values of a map, blank where there is nothing."""
    return [np.where(values == 0, np.nan, values) for values in slices] if is_seen_through(entry.key) else slices


def _label_pictures(views: Views) -> list[Picture]:
    labels = views.result.warped_labels
    if labels is None:
        return []

    def overlay(ax: Axes, section: Section) -> None:
        values = np.nan_to_num(section.sample(labels, nearest=True)).astype(int)
        show(ax, section, label_rim(values), Look(colormaps["gray"], 0, 1), smooth=False)

    picture = paint(views.sections, views.sample(views.fixed), dim(views.fixed_window), overlay)
    caption = "Outlines of the moving image's structures after the deformation, on the fixed image."
    return [Picture("labels", "Warped structures", caption, picture)]


def label_rim(labels: np.ndarray) -> np.ndarray:
    """Colours ``(V, H, 4)`` of the outlines of structures ``(V, H)``; transparent elsewhere."""
    numbers, index = np.unique(labels, return_inverse=True)
    table = np.array([label_colour(int(number)) for number in numbers])
    return np.dstack([table[index.reshape(labels.shape)], _outlines(labels)])


def _outlines(labels: np.ndarray) -> np.ndarray:
    """Where a structure ``(V, H)`` touches another one or the background, on its own side."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        for shift in (-1, 1):
            edge |= labels != np.roll(labels, shift, axis)
    outlines: np.ndarray = edge & (labels != 0)
    return outlines
