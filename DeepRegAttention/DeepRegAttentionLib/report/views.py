"""One result, as all pictures of a report look at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes

from ..engine.result import RegistrationResult
from .painting import Overlay
from .sections import PLANES, Section, foreground_points, view_box, window

# Pixels along the longest side of a section.
_PIXELS = 340
_ROUND = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


@dataclass(frozen=True)
class Picture:
    """One picture of a report.

    Attributes
    ----------
    name : str
        For programs, such as ``"warped"``.
    title, caption : str
        For people; the caption is one or two sentences.
    png : bytes
        The picture.
    over_fixed : bool
        Whether it lines up with the picture ``"fixed"``, so that the two are worth comparing in place.
    """

    name: str
    title: str
    caption: str
    png: bytes
    over_fixed: bool = False


@dataclass(frozen=True)
class Views:
    """What all pictures of one result share.

    Attributes
    ----------
    sections : tuple of Section
        Axial, coronal, sagittal.
    linear, deformation : sitk.Transform
        The two parts of the result: x -> linear(deformation(x)).
    fixed_window, moving_window : (float, float)
        Intensities shown as black and white.
    """

    result: RegistrationResult
    fixed: sitk.Image
    moving: sitk.Image
    sections: tuple[Section, ...]
    linear: sitk.Transform
    deformation: sitk.Transform
    fixed_window: tuple[float, float]
    moving_window: tuple[float, float]

    @classmethod
    def of(cls, result: RegistrationResult, fixed: sitk.Image, moving: sitk.Image) -> Views:
        """The planes through the centre of the fixed image's foreground."""
        points = foreground_points(fixed)
        low, high = view_box(points, fixed)
        centre, pixel = points.mean(axis=0), float((high - low).max()) / _PIXELS
        return cls(
            result,
            fixed,
            moving,
            tuple(Section(plane, low, high, centre, pixel) for plane in PLANES),
            *split_transform(result.transform),
            window(fixed),
            window(moving),
        )

    @property
    def motion(self) -> Optional[sitk.Transform]:
        """From a place of the linearly aligned moving image to where the deformation takes it, as the screen draws it.

        None if the result has no inverse.
        """
        back = self.result.inverse_transform
        return None if back is None else sitk.CompositeTransform([back, self.linear])

    @property
    def longest(self) -> float:
        """The longest displacement of the deformation in mm."""
        field = sitk.DisplacementFieldTransform(self.deformation).GetDisplacementField()
        return float(np.linalg.norm(sitk.GetArrayViewFromImage(field), axis=-1).max())

    def sample(self, image: sitk.Image, **how: Any) -> list[np.ndarray]:
        """The image in each section; see :meth:`Section.sample`."""
        return [section.sample(image, **how) for section in self.sections]


def split_transform(transform: sitk.Transform) -> tuple[sitk.Transform, sitk.Transform]:
    """The linear part and the deformation of a result's transform, x -> linear(deformation(x))."""
    chain = sitk.CompositeTransform(transform)
    parts = [chain.GetNthTransform(n) for n in range(chain.GetNumberOfTransforms())]
    linear = sitk.CompositeTransform(parts[:-1]) if parts[1:] else sitk.Transform(3, sitk.sitkIdentity)
    return linear, parts[-1]


def anatomy(views: Views) -> Overlay:
    """Thin outlines of the fixed image, to find one's way on a heat map."""
    low, high = views.fixed_window

    def overlay(ax: Axes, section: Section) -> None:
        values = section.sample(views.fixed, step=2 * section.pixel)
        h, v = section.coordinates(2 * section.pixel)
        values = np.nan_to_num(values, nan=low)
        ax.contour(h, v, values, [low + 0.3 * (high - low)], colors="black", linewidths=0.5, alpha=0.6)

    return overlay


def round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, ..., so that people can count with it."""
    return next((number for number in _ROUND if number >= value), _ROUND[-1])
