"""From scanner intensities to the 0..1 that the networks see."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from .errors import ModelError

DARK = 0.02
"""Of intensities in 0..1: what is not above shows nothing."""

# A value that fills less of the image's border than this is no background.
_BACKGROUND_SHARE = 0.1
# Percentiles of so many voxels are those of the image to within noise.
_PERCENTILE_VOXELS = 200_000


@dataclass(frozen=True)
class IntensityRecipe:
    """Which intensities become 0 and 1; those between are scaled linearly, those beyond are clipped.

    Attributes
    ----------
    low_percentile, high_percentile : float
        Percentiles of the foreground that become 0 and 1.
    window : (float, float), optional
        Fixed intensities that become 0 and 1 instead, such as Hounsfield units.
    """

    low_percentile: float = 0.5
    high_percentile: float = 99.5
    window: Optional[tuple[float, float]] = None

    def __post_init__(self) -> None:
        _require_ascending("The percentiles of an intensity recipe", (self.low_percentile, self.high_percentile))
        if self.low_percentile < 0 or self.high_percentile > 100:
            raise ModelError("The percentiles of an intensity recipe must lie between 0 and 100.")
        if self.window is not None:
            _require_ascending("The window of an intensity recipe", self.window)
            object.__setattr__(self, "window", tuple(self.window))


@dataclass(frozen=True)
class Scale:
    """Intensities between `low` and `high` become 0..1, those beyond are clipped.

    An image of one value, of which `high` is not above `low`, becomes 0.
    """

    low: float
    high: float

    @classmethod
    def of(cls, array: np.ndarray, recipe: IntensityRecipe) -> Scale:
        """What a recipe says of an image.

        Parameters
        ----------
        array : ndarray
            Finite intensities of a whole image, ``(K, J, I)``.
        recipe : IntensityRecipe
            Percentiles are those of the voxels that differ from :func:`background_value`, so neither padding
            nor the size of the empty surroundings changes the result; nor does scaling or shifting the
            intensities.
        """
        return cls(*(recipe.window or _foreground_range(array, recipe)))

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The intensities of the image, or of any part of it, as float32 in 0..1."""
        if not self.high > self.low:
            return np.zeros(array.shape, np.float32)
        # Subtracted before the rounding to float32: a large offset must not eat the contrast.
        scaled = np.subtract(array, self.low, dtype=np.result_type(array.dtype, np.float32))
        scaled *= 1 / (self.high - self.low)
        clipped: np.ndarray = np.clip(scaled, 0, 1, out=scaled).astype(np.float32, copy=False)
        return clipped


def normalise(array: np.ndarray, recipe: IntensityRecipe) -> np.ndarray:
    """The intensities of a whole image ``(K, J, I)`` as float32 in 0..1; see :meth:`Scale.of`."""
    return Scale.of(array, recipe)(array)


def background_value(array: np.ndarray) -> float:
    """The intensity of the surroundings of the object in ``(K, J, I)``.

    That is the most frequent value on the six faces of the volume if it covers a tenth of them (padding,
    skull stripping, a reconstruction's fixed air), else the minimum of the volume.
    """
    value, share = _most_frequent_on_faces(array)
    return value if share >= _BACKGROUND_SHARE else float(array.min())


def has_background(array: np.ndarray) -> bool:
    """Whether the object in ``(K, J, I)`` has empty surroundings: one value on a tenth of the volume's faces."""
    return _most_frequent_on_faces(array)[1] >= _BACKGROUND_SHARE


def _most_frequent_on_faces(array: np.ndarray) -> tuple[float, float]:
    """The value, and its share of the faces."""
    faces = [face.ravel() for axis in range(array.ndim) for face in _faces(array, axis)]
    values, counts = np.unique(np.concatenate(faces), return_counts=True)
    most = int(counts.argmax())
    return float(values[most]), float(counts[most] / counts.sum())


def _faces(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    return array.take(0, axis), array.take(-1, axis)


def _foreground_range(array: np.ndarray, recipe: IntensityRecipe) -> tuple[float, float]:
    foreground = array[array != background_value(array)]
    if foreground.size:
        # The foreground in its own order, hence the same voxels whatever the padding.
        sample = foreground[:: max(1, foreground.size // _PERCENTILE_VOXELS)]
        low, high = np.percentile(sample, (recipe.low_percentile, recipe.high_percentile))
        if high > low:
            return float(low), float(high)
    # An object of a single value, such as a label: all the contrast is to its surroundings.
    return float(array.min()), float(array.max())


def _require_ascending(what: str, pair: Any) -> None:
    two = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not two or not all(isinstance(n, (int, float)) and math.isfinite(n) for n in pair) or pair[0] >= pair[1]:
        raise ModelError(f"{what} must be two ascending numbers; {pair} is not.")
