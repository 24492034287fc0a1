"""Speed, memory and accuracy on LPBA40 pairs, beside antspyx SyN and picsl-greedy, in one run.

    python Testing/benchmarks/brains.py ../shared/data/lpba40 --pairs 3

The images are affinely aligned already, so no method prealigns. Each method works in a process of its own,
whose peak memory is reported. The pairs are those of the cases held out of training. Needs the extra
``benchmark``.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Optional

import numpy as np
import SimpleITK as sitk
from DeepRegAttentionLib.engine.metrics import dice, jacobian_statistics, mean_over_labels
from rich.console import Console
from rich.table import Table

MODEL = "brain-t1-drivenmorph"
TEST_CASES = ("S37", "S38", "S39", "S40")
OUTSIDE_THE_STRIPPED_BRAIN = {181, 182}
Measured = dict[str, object]
WarpLabels = tuple[sitk.Image, Optional[sitk.Image], dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with images/ and labels/")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--record", action="store_true", help="write our accuracy into the model file")
    parser.add_argument("--csv", type=Path, help="write every measurement there")
    arguments = parser.parse_args()
    pairs = list(itertools.permutations(TEST_CASES, 2))[:: max(1, 12 // arguments.pairs)][: arguments.pairs]
    rows = [row for method in arguments.methods for row in measure(method, arguments.data, pairs)]
    report(rows)
    print(f"Whole command from a cold start, with prealignment: {cold_start(arguments.data, pairs[0]):.1f} s")
    if arguments.record:
        record(rows)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, sorted({key for row in rows for key in row}))
            writer.writeheader()
            writer.writerows(rows)


def measure(method: str, data: Path, pairs: list[tuple[str, str]]) -> list[Measured]:
    """Run one method over the pairs in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure_here, (method, data, pairs))


def _measure_here(method: str, data: Path, pairs: list[tuple[str, str]]) -> list[Measured]:
    from DeepRegAttentionLib.engine.hardware import keep_freed_memory

    keep_freed_memory()
    if method.startswith("drivenmorph"):
        METHODS[method](*_read(data, *pairs[0]))  # the model is loaded and the processor tried out
    rows = []
    for fixed, moving in pairs:
        images = _read(data, fixed, moving)
        start = time.perf_counter()
        warped, jacobian, stages = METHODS[method](*images)
        row: Measured = {"method": method, "fixed": fixed, "moving": moving, **stages}
        row.setdefault("seconds", time.perf_counter() - start)
        row["dice"] = _dice(images[2], warped)
        if jacobian is not None:
            statistics_ = jacobian_statistics(jacobian)
            row.update(folds_percent=statistics_["fold_percent"], sd_log_jacobian=statistics_["sd_log"])
        row["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows.append(row)
    return rows


def _read(data: Path, fixed: str, moving: str) -> tuple[sitk.Image, sitk.Image, sitk.Image, sitk.Image]:
    def read(folder: str, name: str) -> sitk.Image:
        return sitk.ReadImage(str(data / folder / f"{name}.nii.gz"))

    return read("images", fixed), read("images", moving), read("labels", fixed), read("labels", moving)


def _dice(fixed: sitk.Image, warped: sitk.Image) -> float:
    return mean_over_labels({k: v for k, v in dice(fixed, warped).items() if k not in OUTSIDE_THE_STRIPPED_BRAIN})


def unregistered(fixed: sitk.Image, moving: sitk.Image, fixed_labels: sitk.Image, labels: sitk.Image) -> WarpLabels:
    return labels, None, {"seconds": 0.0}


def ours(model: str, refine: int) -> Callable[..., WarpLabels]:
    """Our engine without prealignment; ``core`` is network, composition, full-resolution warp and Jacobian."""

    def run(fixed: sitk.Image, moving: sitk.Image, fixed_labels: sitk.Image, labels: sitk.Image) -> WarpLabels:
        from DeepRegAttentionLib.engine.images import warp_image
        from DeepRegAttentionLib.engine.options import RegistrationOptions
        from DeepRegAttentionLib.engine.registration import register

        options = RegistrationOptions(model=model, prealign="none", refine=refine)
        start = time.perf_counter()
        result = register(fixed, moving, options)
        seconds = time.perf_counter() - start
        stages = result.metrics["seconds"]
        core = stages.get("network", 0.0) + stages["warp"]
        warped = warp_image(labels, fixed, result.transform, nearest=True)
        return warped, result.maps["jacobian"], {"seconds": seconds, "core_seconds": core}

    return run


def syn(fixed: sitk.Image, moving: sitk.Image, fixed_labels: sitk.Image, labels: sitk.Image) -> WarpLabels:
    """ANTs SyN with its defaults of antspyx (mutual information, 40-20-0 iterations), no affine stage."""
    import ants

    a, b, lb = (
        ants.from_numpy(sitk.GetArrayFromImage(i).transpose(2, 1, 0).astype(np.float32))
        for i in (fixed, moving, labels)
    )
    start = time.perf_counter()
    result = ants.registration(a, b, "SyNOnly", initial_transform="Identity")
    seconds = time.perf_counter() - start
    warped = ants.apply_transforms(a, lb, result["fwdtransforms"], interpolator="nearestNeighbor")
    field = next(path for path in result["fwdtransforms"] if path.endswith(".nii.gz"))
    jacobian = _as(ants.create_jacobian_determinant_image(a, field).numpy(), fixed)
    return sitk.Cast(_as(warped.numpy(), fixed), sitk.sitkInt16), jacobian, {"seconds": seconds}


def greedy(fixed: sitk.Image, moving: sitk.Image, fixed_labels: sitk.Image, labels: sitk.Image) -> WarpLabels:
    """greedy as its manual proposes for inter-subject brains: NCC of radius 2, three levels."""
    from picsl_greedy import Greedy3D

    tool = Greedy3D()
    start = time.perf_counter()
    command = "-i fixed moving -m NCC 2x2x2 -n 100x50x10 -s 2.0vox 0.5vox -sv -o warp -V 0"
    tool.execute(command, fixed=fixed, moving=moving, warp=None)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        moved = f"{folder}/labels.nii.gz"
        sitk.WriteImage(labels, f"{folder}/moving.nii.gz")
        tool.execute(f"-rf fixed -ri LABEL 0.2vox -rm {folder}/moving.nii.gz {moved} -r warp -V 0")
        warped = sitk.ReadImage(moved, sitk.sitkInt16)
    tool.execute("-rf fixed -r warp -rj jacobian -V 0", jacobian=None)
    return warped, tool["jacobian"], {"seconds": seconds}


def _as(array: np.ndarray, reference: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.CopyInformation(reference)
    return image


METHODS: dict[str, Callable[..., WarpLabels]] = {
    "unregistered": unregistered,
    "drivenmorph": ours(MODEL, 0),
    "drivenmorph + 20 steps": ours(MODEL, 20),
    "drivenmorph + 60 steps": ours(MODEL, 60),
    "refinement alone, 60 steps": ours("none", 60),
    "antspyx SyN": syn,
    "picsl-greedy": greedy,
}


def cold_start(data: Path, pair: tuple[str, str]) -> float:
    """Seconds of the whole command in a new process, prealignment and writing included."""
    images = [str(data / "images" / f"{name}.nii.gz") for name in pair]
    program = [str(Path(sys.executable).with_name("deepreg-attention")), "register", *images]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([*program, "-o", folder, "--prealign", "affine"], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start


def record(rows: list[Measured]) -> None:
    """Keep the measured accuracy in the model file and in the list of models."""
    from DeepRegAttentionLib.engine.models import find_model, load_model, register_model, save_model

    model = find_model(MODEL)
    accuracy: dict[str, object] = {"data": f"LPBA40, pairs of {', '.join(TEST_CASES)}, 54 structures"}
    for name, method in (("network", "drivenmorph"), ("with_20_steps", "drivenmorph + 20 steps")):
        own = [row for row in rows if row["method"] == method]
        means = {key: statistics.mean(float(str(row[key])) for row in own) for key in ("dice", "folds_percent")}
        accuracy[name] = {"pairs": len(own), **{key: round(value, 4) for key, value in means.items()}}
    network = load_model(model)
    save_model(network, dataclasses.replace(model.info, accuracy=accuracy), model.path)
    register_model(model.path)


def report(rows: list[Measured]) -> None:
    """One line per method: means over the pairs."""
    columns = ("seconds", "core_seconds", "dice", "folds_percent", "sd_log_jacobian", "peak_gib")
    table = Table("method", *columns, width=130)
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        cells = [_mean([row[column] for row in own if column in row]) for column in columns]
        table.add_row(str(method), *cells)
    Console().print(table)


def _mean(values: list[object]) -> str:
    numbers = [float(str(value)) for value in values]
    return f"{statistics.mean(numbers):.4g}" if numbers else ""


if __name__ == "__main__":
    main()
