"""How sharp the mean of aligned images is: the better they lie on each other, the less it is blurred."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

# Of the scale 0..1 of the images: less is taken for their surroundings.
_FOREGROUND = 0.1
_BINS = 64


def foreground(values: np.ndarray) -> np.ndarray:
    """Where intensities in 0..1 show something, true or false; everywhere if they do so nowhere."""
    inside: np.ndarray = values > _FOREGROUND
    return inside if inside.any() else np.ones_like(inside)


def sharpness(image: sitk.Image, inside: np.ndarray) -> dict[str, float]:
    """How sharp an image in 0..1 is, over the voxels that count.

    Parameters
    ----------
    image : sitk.Image
        Intensities in 0..1.
    inside : ndarray
        ``(K, J, I)``, true or false.

    Returns
    -------
    dict
        ``gradient_per_mm``, the mean magnitude of the gradient, which blur lowers, and ``entropy``, that of the
        histogram of 64 bins in bits.
    """
    slopes = sitk.GetArrayFromImage(sitk.GradientMagnitude(sitk.Cast(image, sitk.sitkFloat32)))
    values = sitk.GetArrayViewFromImage(image)[inside]
    counts = np.histogram(values, _BINS, (0.0, 1.0))[0]
    share = counts[counts > 0] / max(1, counts.sum())
    return {
        "gradient_per_mm": float(slopes[inside].mean(dtype=np.float64)),
        "entropy": float(-(share * np.log2(share)).sum()),
    }
