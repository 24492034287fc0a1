"""How good a registration is: similarity, overlap, surface distance, landmarks, volume change, consistency.

Every number is a plain float, ready for ``metrics.json``; NaN stands for what cannot be measured (a structure
that is missing in one of the two images).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Optional

import numpy as np
import SimpleITK as sitk

from .errors import EmptyImageError, ImageError, LabelError, MaskError
from .landmarks import Landmarks, require_pairs, transform_points
from .parallel import Threads

_SSIM_WIDTH = 7
_SSIM_SLAB = 8
_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2
_ROBUST_PERCENTILES = (1.0, 99.0)
_ROBUST_SAMPLES = 200_000
_GRID_TOLERANCE = 0.05
Slices = tuple[slice, slice, slice]


# Similarity of intensities


def similarity(fixed: sitk.Image, warped: sitk.Image, mask: Optional[sitk.Image] = None) -> dict[str, float]:
    """How alike two images on one grid are: ``ncc``, ``mse``, ``ssim`` and ``nmi``.

    Each image is first scaled linearly so that its own robust range (1st to 99th percentile inside the mask)
    becomes 0..1, without clipping: images of different scanners then give comparable numbers.

    Parameters
    ----------
    fixed, warped : sitk.Image
        Scalar volumes on the same grid.
    mask : sitk.Image, optional
        On the same grid; voxels other than 0 count. Without it all voxels count.

    Raises
    ------
    ImageError
        The two images lie on different grids.
    MaskError
        The mask is empty or lies on another grid.
    """
    require_same_grid(warped, fixed, "warped image")
    inside = None if mask is None else _mask_array(mask, fixed)
    a, b = _scaled(fixed, inside), _scaled(warped, inside)
    a_values, b_values = (a.ravel(), b.ravel()) if inside is None else (a[inside], b[inside])
    return {
        "ncc": ncc(a_values, b_values),
        "mse": mse(a_values, b_values),
        "ssim": ssim(a, b, inside),
        "nmi": nmi(a_values, b_values),
    }


def ncc(fixed: np.ndarray, warped: np.ndarray) -> float:
    """Normalised cross-correlation (Pearson) of all values, -1..1; 0 if one side is flat."""
    a = fixed.ravel() - fixed.mean(dtype=np.float64).astype(fixed.dtype)
    b = warped.ravel() - warped.mean(dtype=np.float64).astype(warped.dtype)
    norm = float(np.dot(a, a)) * float(np.dot(b, b))
    return float(np.clip(np.dot(a, b) / np.sqrt(norm), -1, 1)) if norm > 0 else 0.0


def mse(fixed: np.ndarray, warped: np.ndarray) -> float:
    """Mean squared difference, in squared units of the intensities."""
    difference = fixed - warped
    return float(np.mean(difference * difference, dtype=np.float64))


def nmi(fixed: np.ndarray, warped: np.ndarray, bins: int = 64) -> float:
    """Normalised mutual information ``(H(F) + H(W)) / H(F, W)`` (Studholme et al., 1999), 1 (unrelated) to 2.

    Intensities in 0..1 (beyond: clipped) are counted in ``bins`` equal bins.
    """
    rows, columns = (_bin_numbers(values.ravel(), bins) for values in (fixed, warped))
    joint = np.bincount(rows * bins + columns, minlength=bins * bins).reshape(bins, bins) / rows.size
    together = _entropy(joint)
    # Two flat images share all that there is to know.
    return (_entropy(joint.sum(axis=0)) + _entropy(joint.sum(axis=1))) / together if together > 0 else 2.0


def _bin_numbers(values: np.ndarray, bins: int) -> np.ndarray:
    numbers: np.ndarray = np.clip(values * np.float32(bins), 0, bins - 1).astype(np.int32)
    return numbers


def _entropy(p: np.ndarray) -> float:
    positive = p[p > 0]
    return float(-(positive * np.log(positive)).sum())


def ssim(fixed: np.ndarray, warped: np.ndarray, mask: Optional[np.ndarray] = None) -> float:
    """Structural similarity (Wang et al., 2004) of volumes ``(K, J, I)`` with intensities in about 0..1.

    Means and variances are those of boxes of 7 voxels (fewer where the image is thinner) that lie wholly
    inside the image; the result is the mean over all boxes, or over those whose centre is in the mask.
    """
    width = [min(_SSIM_WIDTH, n) for n in fixed.shape]
    starts = range(0, fixed.shape[0] - width[0] + 1, _SSIM_SLAB)

    # Slabs of this size stay in the processor's cache, and numpy computes them side by side.
    def of_slab(start: int) -> tuple[float, float]:
        slab = slice(start, start + _SSIM_SLAB + width[0] - 1)
        values = _ssim_map(fixed[slab], warped[slab], width)
        if mask is None:
            return float(values.sum(dtype=np.float64)), float(values.size)
        weight = mask[slab][tuple(slice(w // 2, w // 2 + n) for w, n in zip(width, values.shape))]
        return float(values[weight].sum(dtype=np.float64)), float(weight.sum())

    with Threads() as pool:
        total, count = np.sum(list(pool.map(of_slab, starts)), axis=0)
    return float(total / count) if count else float("nan")


def _ssim_map(a: np.ndarray, b: np.ndarray, width: Sequence[int]) -> np.ndarray:
    mean_a, mean_b = _box_mean(a, width), _box_mean(b, width)
    # The denominator needs only the sum of both variances, which saves one of five filters.
    squares, product = _box_mean(a * a + b * b, width), _box_mean(a * b, width)
    means, mean_squares = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
    upper = (2 * means + _SSIM_C1) * (2 * (product - means) + _SSIM_C2)
    local: np.ndarray = upper / ((mean_squares + _SSIM_C1) * (squares - mean_squares + _SSIM_C2))
    return local


def _box_mean(values: np.ndarray, width: Sequence[int]) -> np.ndarray:
    for axis, n in enumerate(width):
        values = _running_sum(values, axis, n)
    mean: np.ndarray = values / np.float32(np.prod(width))
    return mean


def _running_sum(values: np.ndarray, axis: int, width: int) -> np.ndarray:
    """Sums of ``width`` neighbours that lie inside, from sums of 1, 2, 4, ... (no drift, few additions)."""
    n = values.shape[axis] - width + 1
    parts: list[np.ndarray] = []
    power, offset = values, 0
    for bit in range(width.bit_length()):
        length = 1 << bit
        if bit:
            size, half = power.shape[axis], length // 2
            power = _part(power, axis, 0, size - half) + _part(power, axis, half, size)
        if width & length:
            parts.append(_part(power, axis, offset, offset + n))
            offset += length
    return reduce(np.add, parts)


def _part(values: np.ndarray, axis: int, start: int, stop: int) -> np.ndarray:
    index = [slice(None)] * values.ndim
    index[axis] = slice(start, stop)
    return values[tuple(index)]


def _scaled(image: sitk.Image, inside: Optional[np.ndarray]) -> np.ndarray:
    values = sitk.GetArrayViewFromImage(image)
    sample = (values if inside is None else values[inside]).ravel()
    low, high = np.percentile(sample[:: max(1, sample.size // _ROBUST_SAMPLES)], _ROBUST_PERCENTILES)
    if high <= low:
        low, high = float(sample.min()), float(sample.max())
    scale = 1 / (high - low) if high > low else 0.0
    scaled: np.ndarray = (values.astype(np.float32) - np.float32(low)) * np.float32(scale)
    return scaled


# Overlap and distance of labelled structures


def dice(
    fixed_labels: sitk.Image, warped_labels: sitk.Image, labels: Optional[Iterable[int]] = None
) -> dict[int, float]:
    """Dice overlap of each structure, 0..1.

    Parameters
    ----------
    fixed_labels, warped_labels : sitk.Image
        Whole numbers on the same grid; 0 is background.
    labels : iterable of int, optional
        The structures to measure; without it all that either image holds. One that neither holds gives NaN.

    Raises
    ------
    LabelError
        The grids differ, or the voxels are not whole numbers.
    """
    a, b = _label_pair(fixed_labels, warped_labels)
    in_a, in_b, in_both = _counts(a), _counts(b), _counts(a[a == b])
    chosen = _chosen(labels, [*in_a, *in_b])
    sizes = {label: in_a.get(label, 0) + in_b.get(label, 0) for label in chosen}
    return {n: 2 * in_both.get(n, 0) / size if size else float("nan") for n, size in sizes.items()}


def hd95(
    fixed_labels: sitk.Image,
    warped_labels: sitk.Image,
    labels: Optional[Iterable[int]] = None,
    progress: Optional[Callable[[float], None]] = None,
) -> dict[int, float]:
    """95th percentile of the distances between the surfaces of each structure in mm, the larger direction.

    Surface voxels are those with one of six neighbours outside the structure; distances are Euclidean
    between their centres. Arguments and errors as in :func:`dice`; NaN where one image lacks the structure.
    `progress` gets the fraction of the structures that are measured and may raise to stop.
    """
    a, b = _label_pair(fixed_labels, warped_labels)
    boxes = _bounding_boxes(fixed_labels), _bounding_boxes(warped_labels)
    chosen = _chosen(labels, [*boxes[0], *boxes[1]])
    shared = sorted(set(chosen) & set(boxes[0]) & set(boxes[1]))

    def of_label(label: int) -> float:
        where = _union(boxes[0][label], boxes[1][label])
        return _surface_distance(a[where] == label, b[where] == label, fixed_labels.GetSpacing())

    measured = {}
    with Threads() as pool:
        for label, distance in zip(shared, pool.map(of_label, shared)):
            measured[label] = distance
            if progress is not None:
                progress(len(measured) / len(shared))
    return {label: measured.get(label, float("nan")) for label in chosen}


def mean_over_labels(values: dict[int, float]) -> float:
    """Mean over the structures that could be measured; NaN if none could."""
    measured = [value for value in values.values() if not np.isnan(value)]
    return float(np.mean(measured)) if measured else float("nan")


def require_labels(labels: sitk.Image, image: sitk.Image) -> None:
    """Raise :class:`LabelError` unless a label map holds whole numbers on the grid of its image."""
    require_same_grid(labels, image, "label map", LabelError)
    _label_array(labels)


def require_same_grid(
    image: sitk.Image, reference: sitk.Image, name: str = "image", error: type[ImageError] = ImageError
) -> None:
    """Raise ``error`` unless the corners of two images coincide within a twentieth of a voxel.

    Parameters
    ----------
    image, reference : sitk.Image
        Any images.
    name : str
        What ``image`` is, for the sentence.
    error : type
        The class of the error.
    """
    size, expected = image.GetSize(), reference.GetSize()
    if size != expected:
        mine, other = (" × ".join(map(str, n)) for n in (size, expected))
        raise error(f"The {name} has {mine} voxels, but its counterpart has {other}; resample it to that grid first.")
    gap = max(float(np.linalg.norm(p - q)) for p, q in zip(_corners(image), _corners(reference)))
    if gap > _GRID_TOLERANCE * min(reference.GetSpacing()):
        raise error(f"The {name} lies {gap:.3g} mm off the grid of its counterpart; resample it to that grid first.")


def _corners(image: sitk.Image) -> list[np.ndarray]:
    indices = np.ndindex(*([2] * image.GetDimension()))
    far = np.array(image.GetSize()) - 1
    return [np.array(image.TransformIndexToPhysicalPoint((np.array(i) * far).tolist())) for i in indices]


def _label_pair(fixed: sitk.Image, warped: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    require_same_grid(warped, fixed, "warped label map", LabelError)
    return _label_array(fixed), _label_array(warped)


def _label_array(image: sitk.Image) -> np.ndarray:
    values = sitk.GetArrayViewFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise LabelError("A label map holds one whole number for each voxel; this image holds vectors.")
    if np.issubdtype(values.dtype, np.floating):
        whole = values.astype(np.int32)
        if not np.array_equal(whole, values):
            raise LabelError("A label map holds whole numbers; this image holds others, as if interpolated.")
        return whole
    return values


def _counts(values: np.ndarray) -> dict[int, int]:
    """How many voxels each label has, background left out."""
    if values.size and values.min() >= 0 and values.max() < 1 << 16:
        counts = np.bincount(values.ravel())
        return {int(label): int(counts[label]) for label in np.flatnonzero(counts) if label}
    return {int(label): int(n) for label, n in zip(*np.unique(values, return_counts=True)) if label}


def _chosen(labels: Optional[Iterable[int]], present: Iterable[int]) -> list[int]:
    return sorted(set(present)) if labels is None else [int(label) for label in labels]


def _bounding_boxes(labels: sitk.Image) -> dict[int, Slices]:
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.ComputePerimeterOff()
    if labels.GetPixelID() in (sitk.sitkFloat32, sitk.sitkFloat64):
        labels = sitk.Cast(labels, sitk.sitkInt32)
    shapes.Execute(labels)
    return {int(label): _slices(shapes.GetBoundingBox(label)) for label in shapes.GetLabels()}


def _slices(box: Sequence[int]) -> Slices:
    i, j, k = (slice(start, start + n) for start, n in zip(box[:3], box[3:]))
    return k, j, i


def _union(a: Slices, b: Slices) -> Slices:
    k, j, i = (slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(a, b))
    return k, j, i


def _surface_distance(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> float:
    surface_a, surface_b = _surface(a), _surface(b)
    there = _distance_to(surface_b, spacing)[surface_a]
    back = _distance_to(surface_a, spacing)[surface_b]
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def _surface(structure: np.ndarray) -> np.ndarray:
    padded = np.pad(structure, 1)
    inner = structure.copy()
    for axis in range(3):
        n = padded.shape[axis]
        around = [slice(1, -1)] * 3
        for start, stop in ((0, n - 2), (2, n)):
            around[axis] = slice(start, stop)
            inner &= padded[tuple(around)]
    surface: np.ndarray = structure & ~inner
    return surface


def _distance_to(voxels: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    image = sitk.GetImageFromArray(voxels.astype(np.uint8))
    image.SetSpacing(spacing)
    distance = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    # The filter measures from the rim of the given voxels; deeper ones among them would come out negative.
    outside: np.ndarray = np.maximum(sitk.GetArrayFromImage(distance), 0)
    return outside


# Landmarks and consistency


def tre(fixed: Landmarks, moving: Landmarks, transform: sitk.Transform) -> np.ndarray:
    """Target registration error ``(P,)`` in mm: how far T(fixed landmark) lies from its moving landmark.

    Raises
    ------
    LandmarkError
        The landmarks do not pair up.
    """
    fixed, moving = require_pairs(fixed, moving)
    distances: np.ndarray = np.linalg.norm(transform_points(fixed.points, transform) - moving.points, axis=1)
    return distances


def summary(distances: np.ndarray) -> dict[str, float]:
    """``mean``, ``std``, ``median`` and ``max`` of distances."""
    return {name: float(getattr(np, name)(distances)) for name in ("mean", "std", "median", "max")}


def inverse_consistency(transform: sitk.Transform, inverse: sitk.Transform, points: np.ndarray) -> dict[str, float]:
    """``mean`` and ``max`` distance in mm of inverse(transform(x)) from x, over x in ``(P, 3)``, LPS mm."""
    there_and_back = transform_points(transform_points(points, transform), inverse)
    distances = np.linalg.norm(there_and_back - points, axis=1)
    return {"mean": float(distances.mean()), "max": float(distances.max())}


# Volume change


def jacobian_statistics(jacobian: sitk.Image, mask: Optional[sitk.Image] = None) -> dict[str, float]:
    """How a transform changes volumes, and where it folds.

    Parameters
    ----------
    jacobian : sitk.Image
        Jacobian determinant of the transform (1 keeps volume).
    mask : sitk.Image, optional
        On the same grid; voxels other than 0 count.

    Returns
    -------
    dict
        ``mean``, ``std``, ``min``, ``max``, ``p01``, ``p99``; ``sd_log``, the standard deviation of
        log(J clipped to 1e-9..1e9), and ``sd_log_learn2reg``, that of log(J + 3, so clipped), which the
        Learn2Reg challenge publishes; ``fold_percent`` of the voxels, with J at most 0, and ``fold_volume_cm3``.

    Raises
    ------
    MaskError
        The mask is empty or lies on another grid.
    """
    values = sitk.GetArrayViewFromImage(jacobian).ravel()
    if mask is not None:
        values = values[_mask_array(mask, jacobian).ravel()]
    low, high = np.percentile(values, (1, 99))
    folds = int(np.count_nonzero(values <= 0))
    return {
        "mean": float(values.mean(dtype=np.float64)),
        "std": float(values.std(dtype=np.float64)),
        "min": float(values.min()),
        "max": float(values.max()),
        "p01": float(low),
        "p99": float(high),
        "sd_log": _sd_log(values),
        "sd_log_learn2reg": _sd_log(values + 3),
        "fold_percent": 100.0 * folds / values.size,
        "fold_volume_cm3": folds * float(np.prod(jacobian.GetSpacing())) / 1000.0,
    }


def _sd_log(values: np.ndarray) -> float:
    return float(np.log(values.clip(1e-9, 1e9)).std(dtype=np.float64))


def _mask_array(mask: sitk.Image, image: sitk.Image) -> np.ndarray:
    require_same_grid(mask, image, "mask", MaskError)
    inside: np.ndarray = sitk.GetArrayViewFromImage(mask) != 0
    if not inside.any():
        raise MaskError("The mask is empty: none of its voxels is other than 0.")
    return inside


# Tissue classes


def tissue_classes(image: sitk.Image, n: int = 3, mask: Optional[sitk.Image] = None) -> sitk.Image:
    """Divide the foreground by intensity into classes 1..n, from dark to bright (multi-level Otsu).

    On a skull-stripped T1 image three classes are about cerebrospinal fluid, grey and white matter.

    Parameters
    ----------
    image : sitk.Image
        Scalar volume; its lowest value is background.
    n : int
        Number of classes.
    mask : sitk.Image, optional
        The foreground, on the same grid, if it is not what exceeds the lowest value.

    Raises
    ------
    EmptyImageError
        The foreground is empty or all of one value.
    """
    values = sitk.GetArrayViewFromImage(image)
    foreground = values > values.min() if mask is None else _mask_array(mask, image)
    inside = values[foreground].astype(np.float32)
    classes = np.zeros(values.shape, dtype=np.uint8)
    classes[foreground] = 1 + np.digitize(inside, _otsu_thresholds(inside, n - 1), right=True)
    result = sitk.GetImageFromArray(classes)
    result.CopyInformation(image)
    return result


def _otsu_thresholds(values: np.ndarray, count: int) -> tuple[float, ...]:
    if not values.size or values.min() == values.max():
        raise EmptyImageError("The foreground is empty or all of one intensity: it has no tissue classes.")
    # A few very bright voxels would leave the histogram with few bins for all others.
    row = sitk.GetImageFromArray(np.minimum(values, np.percentile(values, 99.5))[None, :])
    otsu = sitk.OtsuMultipleThresholdsImageFilter()
    otsu.SetNumberOfThresholds(count)
    otsu.Execute(row)
    return tuple(otsu.GetThresholds())
