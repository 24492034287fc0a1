"""What “Choose for me” gives on kinds of images, beside what could have been asked for.

    python Testing/benchmarks/choice.py ../shared/data --output choice.md

Pairs of cases that no model was trained on: brains, brains of which one is inverted, hippocampi, hearts as the training
data show them and in the scanner's full field of view (mirrored at the border, with noise), and a synthetic chest whose
displacement is known. For each, the row says which model was taken, the overlap of labels (or the mean error of the
displacement in mm), the similarity and the seconds of network and refinement.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import numpy as np
import SimpleITK as sitk
from DeepRegAttentionLib.engine.hardware import prepare_process
from DeepRegAttentionLib.engine.images import read_image
from DeepRegAttentionLib.engine.metrics import dice, mean_over_labels
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.engine.resampling import warp_image
from DeepRegAttentionLib.engine.result import RegistrationResult

WAYS = {
    "auto, fast": {"refine": 0},
    "auto": {},
    "no model": {"model": "none"},
    "any-contrast, fast": {"model": "any-contrast", "refine": 0},
    "any-contrast": {"model": "any-contrast"},
}
"""Options of each way; the licences of all models are accepted."""

_UNSCORED = {181, 182}
_CHEST_MM, _CHEST = 3.0, (80, 96, 112)


class Pair(NamedTuple):
    """Two images that lie on each other, and what says how good a result is."""

    fixed: sitk.Image
    moving: sitk.Image
    score: Callable[[sitk.Transform], float]


def overlap(fixed: sitk.Image, moving: sitk.Image) -> Callable[[sitk.Transform], float]:
    """Mean Dice of the labels of two images after a transform."""

    def score(transform: sitk.Transform) -> float:
        found = dice(fixed, warp_image(moving, fixed, transform, nearest=True))
        return mean_over_labels({label: value for label, value in found.items() if label not in _UNSCORED})

    return score


def brains(data: Path, inverted: bool = False) -> Iterator[Pair]:
    """LPBA40, between subjects; with one of each pair inverted inside the skull."""
    for names in (("S35", "S36"), ("S37", "S38")):
        fixed, moving = (read_image(data / "lpba40" / "images" / f"{name}.nii.gz") for name in names)
        labels = [read_image(data / "lpba40" / "labels" / f"{name}.nii.gz") for name in names]
        yield Pair(fixed, _inverted(moving) if inverted else moving, overlap(*labels))


def _inverted(image: sitk.Image) -> sitk.Image:
    inside = image > 0
    top = float(sitk.GetArrayViewFromImage(image).max())
    return sitk.Mask(1.02 * top - sitk.Cast(image, sitk.sitkFloat32), inside)


def hippocampi(data: Path) -> Iterator[Pair]:
    """Crops of the last cases, between subjects, their middles on each other."""
    names = sorted(path.name for path in (data / "hippocampus" / "labels").iterdir())[-8:]
    for pair in zip(names[::2], names[1::2]):
        images = [read_image(data / "hippocampus" / "images" / name) for name in pair]
        labels = [read_image(data / "hippocampus" / "labels" / name) for name in pair]
        for image in (*images, *labels):
            size, spacing = np.array(image.GetSize()), np.array(image.GetSpacing())
            image.SetOrigin((-(size - 1) * spacing / 2).tolist())
        yield Pair(*images, overlap(*labels))


def hearts(data: Path, full_field: bool = False) -> Iterator[Pair]:
    """ACDC, end-systole to end-diastole."""
    for patient in (88, 97):
        folder = data / "acdc" / f"patient{patient:03d}"
        facts = dict(
            line.split(": ") for line in (folder / "Info.cfg").read_text(encoding="utf-8").splitlines() if ": " in line
        )
        stems = [f"patient{patient:03d}_frame{int(facts[phase]):02d}" for phase in ("ED", "ES")]
        images = [read_image(next(folder.glob(f"{stem}.nii*"))) for stem in stems]
        labels = [read_image(next(folder.glob(f"{stem}_gt.nii*"))) for stem in stems]
        if full_field:
            images = [widened(image) for image in images]
        yield Pair(*images, overlap(*labels))


def widened(image: sitk.Image, field_mm: tuple[float, float] = (295.0, 350.0)) -> sitk.Image:
    """The image in a larger field of view: mirrored at its border, with a little noise, so without a background."""
    pad = [round((mm / s - n) / 2) for mm, s, n in zip(field_mm, image.GetSpacing(), image.GetSize())]
    wide = sitk.MirrorPad(sitk.Cast(image, sitk.sitkFloat32), [*pad, 0], [*pad, 0])
    top = float(sitk.GetArrayViewFromImage(wide).max())
    return sitk.AdditiveGaussianNoise(wide, 0.01 * top, 0.0, 3)


def chests(data: Path, seed: int = 1) -> Iterator[Pair]:
    """Lungs with vessels in a body, in Hounsfield units; the diaphragm moves by 35 and by 15 mm."""
    for motion_mm in (35.0, 15.0):
        noise = np.random.default_rng(seed)
        k, j, i = np.meshgrid(*[np.linspace(-1, 1, n) for n in _CHEST], indexing="ij")
        body = (j / 0.75) ** 2 + (i / 0.95) ** 2 < 1
        lungs = np.zeros(_CHEST, bool)
        for side in (-0.42, 0.42):
            lungs |= ((i - side) / 0.36) ** 2 + (j / 0.55) ** 2 + ((k - 0.2) / 0.75) ** 2 < 1
        vessels = 0.6 * _texture(noise, 1.2) + _texture(noise, 2.5)
        tissue = np.where(body, 40 + 25 * _texture(noise, 4), -1000.0)
        moving = _chest_image(np.where(lungs, -850 + np.clip(500 * (vessels - 1.6), 0, 850), tissue))
        breath = motion_mm * np.exp(-(((k + 0.6) / 0.55) ** 2) - (i / 0.8) ** 4 - (j / 0.7) ** 4)
        along = breath * (1 + 0.15 * _texture(noise, 12))
        across = [0.12 * motion_mm * _texture(noise, 14) * body for _ in range(2)]
        truth = np.stack([*across, along], axis=-1)
        field = sitk.GetImageFromArray(truth, isVector=True)
        field.CopyInformation(moving)
        move = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
        fixed = sitk.Resample(moving, moving, move, sitk.sitkLinear, -1000.0)
        inside = sitk.GetArrayFromImage(fixed) < -300
        noisy = [sitk.AdditiveGaussianNoise(image, 15.0, 0.0, n) for n, image in enumerate((fixed, moving))]
        yield Pair(*noisy, _error(truth, inside & body, moving))


def _texture(noise: np.random.Generator, width: float) -> np.ndarray:
    image = sitk.GetImageFromArray(noise.standard_normal(_CHEST))
    smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(image, width))
    return smooth / smooth.std()


def _chest_image(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing((_CHEST_MM,) * 3)
    return image


def _error(truth: np.ndarray, inside: np.ndarray, grid: sitk.Image) -> Callable[[sitk.Transform], float]:
    """Mean distance in mm from the true displacement."""

    def score(transform: sitk.Transform) -> float:
        place = grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
        found = sitk.GetArrayFromImage(sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, *place))
        return float(np.linalg.norm(found - truth, axis=-1)[inside].mean())

    return score


KINDS: dict[str, Callable[[Path], Iterator[Pair]]] = {
    "brain": brains,
    "brain, inverted": lambda data: brains(data, inverted=True),
    "hippocampus": hippocampi,
    "heart": hearts,
    "heart, full field": lambda data: hearts(data, full_field=True),
    "chest (mm)": chests,
}


def row(kind: str, way: str, pairs: list[Pair], accepted: tuple[str, ...]) -> str:
    """One line of the table: the means over the pairs."""
    options = RegistrationOptions(prealign="none", maps=False, accepted_licences=accepted, **WAYS[way])
    results = [register(pair.fixed, pair.moving, options) for pair in pairs]
    scores = [pair.score(result.transform) for pair, result in zip(pairs, results)]
    models = {(result.metrics["model"] or {"name": "none"})["name"] for result in results}
    ssim = np.mean([result.metrics["similarity"]["after"]["ssim"] for result in results])
    numbers = f"{np.mean(scores):.3f} | {ssim:.3f} | {_seconds(results):.1f}"
    return f"| {kind} | {way} | {', '.join(sorted(models))} | {numbers} |"


def _seconds(results: list[RegistrationResult]) -> float:
    taken = [result.metrics["seconds"] for result in results]
    return float(np.mean([seconds.get("network", 0.0) + seconds["refine"] for seconds in taken]))


def main(arguments: Optional[list[str]] = None) -> None:
    """Measure, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder in which the data sets lie")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--pairs", type=int, default=4, help="at most so many of each kind")
    parser.add_argument("--output", type=Path, help="file for the table")
    given = parser.parse_args(arguments)
    prepare_process()
    lines = ["| images | way | model | Dice | SSIM | s |", "|---|---|---|---|---|---|"]
    print("\n".join(lines))
    for kind in given.kinds:
        pairs = list(KINDS[kind](given.data))[: given.pairs]
        before = np.mean([pair.score(sitk.Transform(3, sitk.sitkIdentity)) for pair in pairs])
        lines.append(f"| {kind} | unregistered | | {before:.3f} | | |")
        print(lines[-1])
        for way in given.ways:
            lines.append(row(kind, way, pairs, ("cardiac-mr",)))
            print(lines[-1], flush=True)
    if given.output is not None:
        given.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
