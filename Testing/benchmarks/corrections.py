"""What corrections are worth where the truth is known: real images, moved by a known deformation and registered.

At each of the places that look worst, one correction is made with the accuracy of a click: both of its points are the
centres of voxels. Told are the true error near it and beyond its reach, before and after, folds, time, and whether the
bound of the error still holds.

    python Testing/benchmarks/corrections.py ../shared/data
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from DeepRegAttentionLib.engine.corrections import Correction, Corrector
from DeepRegAttentionLib.engine.errors import CorrectionError
from DeepRegAttentionLib.engine.geometry import Grid, to_image, voxels_to_mm
from DeepRegAttentionLib.engine.guidance import Guidance
from DeepRegAttentionLib.engine.images import read_image
from DeepRegAttentionLib.engine.intensity import Scale
from DeepRegAttentionLib.engine.method import choose_method
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.engine.result import RegistrationResult
from DeepRegAttentionLib.engine.working_pair import working_pair
from rich.console import Console
from rich.table import Table
from truths import METHODS, MOVED, ROLES, Trial, moved, spread, trials

NEAR_MM = 10.0
_SEED = 1000


class Known(NamedTuple):
    """A pair of images on one grid, and the displacement that is right, ``(K, J, I, 3)`` in LPS mm."""

    fixed: sitk.Image
    moving: sitk.Image
    truth: np.ndarray


class Outcome(NamedTuple):
    """What one correction did; errors in mm, each of all places near it, or beyond its reach."""

    drag: float
    near_before: np.ndarray
    near_after: np.ndarray
    near_expected: np.ndarray
    near_bound_before: np.ndarray
    near_bound: np.ndarray
    far_changed: bool
    least_jacobian: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder in which the data sets lie")
    parser.add_argument("--methods", nargs="+", default=["brain-t1", "hippocampus-mr"], choices=METHODS)
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--places", type=int, default=3, help="so many corrections for each case, one at a time")
    parser.add_argument("--role", default="report", choices=ROLES, help="which cases; nothing was chosen by “report”")
    arguments = parser.parse_args()
    columns = ("method", "corrections", "drag mm", "error near, before", "after", "expected after", "bound before %",
               "bound after %", "far changed", "least Jacobian", "seconds, median")  # fmt: skip
    table = Table(*columns)
    for method in arguments.methods:
        known = [trial for trial in trials(arguments.data, method, arguments.role) if trial.kind == MOVED]
        cases = spread(known, arguments.cases)
        table.add_row(method, *told([found for trial in cases for found in observe(trial, arguments.places)]))
    Console(width=200).print(table)


def observe(trial: Trial, places: int) -> Iterator[Outcome]:
    """Register a known pair and correct it at the places that look worst."""
    pair = known_pair(trial)
    spacing = pair.fixed.GetSpacing()[0]
    options = RegistrationOptions(model=trial.method, prealign="none", refine=0, spacing=spacing)
    result = register(pair.fixed, pair.moving, options)
    corrector = Corrector(result, pair.fixed, pair.moving)
    for place in result.metrics["expected_error"]["worst"][:places]:
        correction = clicked(pair, place["point_lps_mm"])
        try:
            corrector.correct([correction])  # so that what is kept is there
            start = time.perf_counter()
            corrected = corrector.correct([correction])
        except CorrectionError as error:
            Console(stderr=True).print(f"{trial.key}: {error}")
            continue
        yield outcome(pair, result, corrected, correction, time.perf_counter() - start)


def known_pair(trial: Trial) -> Known:
    """On the working grid of the method."""
    image, random = read_image(trial.fixed.image), np.random.default_rng([_SEED, *trial.key.encode()])
    chosen = choose_method(image, image, RegistrationOptions(model=trial.method, prealign="none"))
    scale = Scale.of(sitk.GetArrayViewFromImage(image), chosen.recipe)
    pair = working_pair(image, image, (scale, scale), sitk.Transform(3, sitk.sitkIdentity), Guidance(), chosen.grid)
    changed, truth = moved(pair, random, trial.method)
    vectors = voxels_to_mm(truth, chosen.grid)[0].permute(1, 2, 3, 0).numpy()
    return Known(to_image(changed.fixed, chosen.grid), to_image(changed.moving, chosen.grid), vectors)


def clicked(pair: Known, point: Sequence[float]) -> Correction:
    """A correction at the voxel of a point, to the voxel of the moving image where it truly belongs."""
    index = pair.fixed.TransformPhysicalPointToIndex(point)
    fixed = pair.fixed.TransformIndexToPhysicalPoint(index)
    there = np.add(fixed, pair.truth[index[::-1]])
    moving = pair.moving.TransformIndexToPhysicalPoint(pair.moving.TransformPhysicalPointToIndex(there.tolist()))
    return Correction(fixed, moving)


def outcome(
    pair: Known, found: RegistrationResult, corrected: RegistrationResult, correction: Correction, seconds: float
) -> Outcome:
    grid = Grid.of(pair.fixed)
    k, j, i = np.indices(grid.shape)
    points = np.stack([i, j, k], axis=-1) @ grid.voxel_to_mm.T + np.array(grid.origin)
    away = np.linalg.norm(points - correction.fixed_point, axis=-1)
    before, after = (np.linalg.norm(vectors(result) - pair.truth, axis=-1) for result in (found, corrected))
    expected, bound = (array(corrected, name) for name in ("expected_error", "error_bound"))
    near = (away < NEAR_MM) & (expected > 0)
    told = corrected.metrics["corrections"][0]
    far = away > told["reach_mm"] + 2 * before.max()
    return Outcome(
        told["error_before_mm"], before[near], after[near], expected[near], array(found, "error_bound")[near],
        bound[near], bool((before[far] != after[far]).any()), corrected.metrics["jacobian"]["min"], seconds,
    )  # fmt: skip


def vectors(result: RegistrationResult) -> np.ndarray:
    return sitk.GetArrayFromImage(result.displacement())


def array(result: RegistrationResult, name: str) -> np.ndarray:
    return sitk.GetArrayFromImage(result.maps[name])


def told(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """One row of the table."""
    near = [np.concatenate([getattr(found, name) for found in outcomes])
            for name in ("near_before", "near_after", "near_expected", "near_bound_before", "near_bound")]  # fmt: skip
    before, after, expected, bound_before, bound = near
    yield str(len(outcomes))
    yield f"{np.mean([found.drag for found in outcomes]):.2f}"
    yield f"{before.mean():.2f}"
    yield f"{after.mean():.2f}"
    yield f"{expected.mean():.2f}"
    yield f"{100 * np.mean(before <= bound_before):.1f}"
    yield f"{100 * np.mean(after <= bound):.1f}"
    yield "yes" if any(found.far_changed for found in outcomes) else "no"
    yield f"{min(found.least_jacobian for found in outcomes):.2f}"
    yield f"{np.median([found.seconds for found in outcomes]):.2f}"


if __name__ == "__main__":
    main()
