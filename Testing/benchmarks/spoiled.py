"""Images spoiled on purpose: what goes wrong in practice, made of images and labels with which all is well."""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional

import numpy as np
import SimpleITK as sitk


class Subject(NamedTuple):
    """An image and the structures in it, which go with it wherever it is moved."""

    image: sitk.Image
    labels: Optional[sitk.Image] = None


Spoil = Callable[[Subject, np.random.Generator], Subject]
"""The same subject as a bad image; the random numbers decide where and how."""


def mirrored(subject: Subject, noise: np.random.Generator) -> Subject:
    """Left and right exchanged in the voxels, while the header stays."""
    axis = _left_right(subject.image)
    return _both(subject, lambda image: _with_array(image, np.flip(sitk.GetArrayFromImage(image), 2 - axis)))


def half_seen(subject: Subject, noise: np.random.Generator) -> Subject:
    """Half of the field of view, along an axis with many slices."""
    size = list(subject.image.GetSize())
    axis = int(noise.choice([n for n in range(3) if size[n] >= max(size) / 2]))
    start = [0, 0, 0]
    start[axis] = int(noise.integers(2)) * (size[axis] // 2)
    size[axis] //= 2
    return _both(subject, lambda image: sitk.RegionOfInterest(image, size, start))


def one_side(left: bool) -> Spoil:
    """One half of what is symmetrical, cut at its middle, in empty surroundings."""

    def cut(subject: Subject, noise: np.random.Generator) -> Subject:
        axis = 2 - _left_right(subject.image)
        values = sitk.GetArrayFromImage(subject.image)
        middle = int(np.argwhere(values > values.min()).mean(0)[axis])
        place = np.arange(values.shape[axis])
        kept = place < middle if left else place >= middle
        shape = [-1 if n == axis else 1 for n in range(3)]
        return _both(subject, lambda image: _with_array(image, sitk.GetArrayFromImage(image) * kept.reshape(shape)))

    return cut


def with_lesion(subject: Subject, noise: np.random.Generator) -> Subject:
    """A bright or dark ball with soft edges somewhere inside, a quarter of the object wide."""
    values = sitk.GetArrayFromImage(subject.image).astype(np.float32)
    inside = np.argwhere(values > np.percentile(values, 60))
    spacing = np.array(subject.image.GetSpacing()[::-1])
    middle, half = inside.mean(0), np.ptp(inside, axis=0) / 2
    inner = inside[(np.abs((inside - middle) / np.maximum(half, 1)) < 0.55).all(1)]
    radius = 0.25 * float((half * spacing).mean())
    offset = np.indices(values.shape).transpose(1, 2, 3, 0) - inner[noise.integers(len(inner))]
    weight = 1 / (1 + np.exp((np.linalg.norm(offset * spacing, axis=-1) - radius) / (0.12 * radius)))
    low, high = np.percentile(values[tuple(inside.T)], (2, 98))
    painted = (1 - weight) * values + weight * (high if noise.random() < 0.5 else low)
    return subject._replace(image=_with_array(subject.image, painted))


def biased(subject: Subject, noise: np.random.Generator) -> Subject:
    """Four to six times as bright at one end as at the other."""
    direction = noise.normal(size=3)
    direction /= np.abs(direction).sum()
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in subject.image.GetSize()[::-1]], indexing="ij")
    slope = sum(weight * axis for weight, axis in zip(direction, axes))
    strength = np.log(noise.uniform(4, 6)) / 2
    values = sitk.GetArrayFromImage(subject.image).astype(np.float32)
    low = values.min()
    return subject._replace(image=_with_array(subject.image, low + (values - low) * np.exp(strength * slope)))


def striped_by_motion(subject: Subject, noise: np.random.Generator) -> Subject:
    """Parts of the spatial frequencies of an image that was moved by up to 10 degrees and a tenth of its size."""
    image = sitk.Cast(subject.image, sitk.sitkFloat32)
    extent = np.array(image.GetSize()) * image.GetSpacing()
    moved = [_moved(image, noise.uniform(-10, 10, 3), 0.1 * extent * noise.uniform(-1, 1, 3)) for _ in range(4)]
    spectra = [np.fft.fftn(sitk.GetArrayFromImage(one)) for one in (image, *moved)]
    frequencies = np.abs(np.fft.fftfreq(spectra[0].shape[1]))
    taken = np.repeat(noise.integers(len(spectra), size=1 + len(frequencies) // 4), 4)[: len(frequencies)]
    taken[frequencies < 0.02] = 0
    mixed = np.stack([spectra[n][:, line] for line, n in enumerate(taken)], axis=1)
    return subject._replace(image=_with_array(image, np.abs(np.fft.ifftn(mixed)).astype(np.float32)))


def _moved(image: sitk.Image, degrees: np.ndarray, shift: np.ndarray) -> sitk.Image:
    turn = sitk.Euler3DTransform(_middle(image).tolist(), *np.deg2rad(degrees).tolist(), shift.tolist())
    lowest = float(sitk.GetArrayViewFromImage(image).min())
    return sitk.Resample(image, image, turn, sitk.sitkLinear, lowest)


def turned(subject: Subject, noise: np.random.Generator, degrees: float = 60.0) -> Subject:
    """Turned about its middle by the header, around an axis at random."""
    axis = noise.normal(size=3)
    turn = sitk.VersorTransform((axis / np.linalg.norm(axis)).tolist(), float(np.deg2rad(degrees)))
    matrix = np.array(turn.GetMatrix()).reshape(3, 3)

    def header(image: sitk.Image) -> sitk.Image:
        image, middle = sitk.Image(image), _middle(image)
        image.SetOrigin((middle + matrix @ (np.array(image.GetOrigin()) - middle)).tolist())
        image.SetDirection((matrix @ np.array(image.GetDirection()).reshape(3, 3)).ravel().tolist())
        return image

    return _both(subject, header)


def inverted(subject: Subject, noise: np.random.Generator) -> Subject:
    """Bright becomes dark, where there is anything: the background stays."""
    values = sitk.GetArrayFromImage(subject.image).astype(np.float32)
    low, high = values.min(), np.percentile(values, 99.9)
    inside = values > low + 0.02 * (high - low)
    inverse = np.where(inside, low + 1.05 * (high - values.clip(low, high)), low)
    return subject._replace(image=_with_array(subject.image, inverse.astype(np.float32)))


def nearly_empty(subject: Subject, noise: np.random.Generator) -> Subject:
    """Noise, and a small ball in it: a scan that failed."""
    shape = subject.image.GetSize()[::-1]
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    where = noise.uniform(-0.5, 0.5, 3)
    ball = sum((axis - at) ** 2 for axis, at in zip(axes, where)) < 0.12**2
    values = 100.0 * ball + np.abs(noise.normal(size=shape)) * 4
    return Subject(_with_array(subject.image, values.astype(np.float32)))


def _both(subject: Subject, change: Callable[[sitk.Image], sitk.Image]) -> Subject:
    return Subject(change(subject.image), None if subject.labels is None else change(subject.labels))


def _with_array(image: sitk.Image, values: np.ndarray) -> sitk.Image:
    result = sitk.GetImageFromArray(np.ascontiguousarray(values))
    result.CopyInformation(image)
    return result


def _middle(image: sitk.Image) -> np.ndarray:
    return np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))


def _left_right(image: sitk.Image) -> int:
    """The axis, of i, j and k, that lies closest to left and right."""
    return int(np.abs(np.array(image.GetDirection()).reshape(3, 3)[0]).argmax())
