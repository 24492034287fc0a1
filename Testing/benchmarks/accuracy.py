"""Accuracy, regularity, speed and memory of the shipped models beside other programs, all in one run.

    python Testing/benchmarks/accuracy.py ../shared/data --output results

For each model the training configuration of its name says which data, which cases report, which labels count: pairs
of those cases alone are measured. All methods start alike, with the middles of both grids on each other and no linear
alignment, use all processor cores and work in a process of their own, whose peak memory is reported. Needs the extras
``train`` and ``benchmark``.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import numpy as np
import SimpleITK as sitk
from DeepRegAttentionLib.engine.geometry import Grid
from DeepRegAttentionLib.engine.images import read_image, warp_image
from DeepRegAttentionLib.engine.metrics import dice, hd95, jacobian_statistics, mean_over_labels
from DeepRegAttentionLib.engine.models import ModelFile, find_model, list_models
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.engine.resources import resource_folder
from DeepRegAttentionLib.training.cases import Case, Pair, choose_pairs, read_cases, select
from DeepRegAttentionLib.training.data import some_pairs
from DeepRegAttentionLib.training.options import TrainingOptions, read_training_options
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.markdown import Markdown

Row = dict[str, object]
MEASURES = ("dice", "hd95_mm", "folds_percent", "sd_log_jacobian", "seconds", "peak_gib")
NETWORK, REFINED = "network", "network + 20 steps"
REFINEMENT_STEPS = 20


class Found(NamedTuple):
    """What a method found: where fixed points lie in the moving image, and how volumes change."""

    transform: sitk.Transform
    jacobian: Optional[sitk.Image]


Method = Callable[[sitk.Image, sitk.Image, str], Found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [model.info.name for model in list_models()]
    parser.add_argument("data", type=Path, help="folder in which the data sets lie")
    parser.add_argument("--models", nargs="+", default=names, choices=names)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--pairs", type=int, default=20, help="at most so many for each model")
    parser.add_argument("--output", type=Path, default=Path("accuracy"), help="folder for table and figure")
    parser.add_argument("--record", action="store_true", help="write the accuracy of the models into their files")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for name in arguments.models:
        options, pairs = reporting_pairs(name, arguments.data, arguments.pairs)
        own = [row for method in arguments.methods for row in measure(method, find_model(name), options, pairs)]
        if arguments.record:
            record(find_model(name), own, options)
        rows += own
    write(rows, arguments.output)
    model = find_model(arguments.models[0])
    _, pairs = reporting_pairs(model.info.name, arguments.data, 1)
    print(f"The whole command on a pair for {model.info.name}, from a cold start: {cold_start(pairs[0]):.1f} s")


def reporting_pairs(model: str, data: Path, count: int) -> tuple[TrainingOptions, list[Pair]]:
    """The configuration of a model, and pairs of the cases that it held out to report."""
    options = read_training_options(resource_folder("Training") / f"{model}.yaml")
    cases = read_cases(data / str(options.data.cases), data)
    atlas = None if options.data.atlas is None else select(cases, [options.data.atlas])[0]
    return options, some_pairs(choose_pairs(select(cases, options.test), options.data.pairs, atlas), count)


def measure(method: str, model: ModelFile, options: TrainingOptions, pairs: list[Pair]) -> list[Row]:
    """Run one method over the pairs in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        rows = pool.apply(_measure_here, (method, model.info.name, options, pairs))
    print(
        f"{model.info.name}, {method}: Dice {statistics.mean(numbers(rows, 'dice')):.4f}", file=sys.stderr, flush=True
    )
    return rows


def _measure_here(method: str, model: str, options: TrainingOptions, pairs: list[Pair]) -> list[Row]:
    from DeepRegAttentionLib.engine.hardware import keep_freed_memory

    keep_freed_memory()
    if method in (NETWORK, REFINED):
        METHODS[method](*read_pair(pairs[0])[:2], model)  # the model is loaded and the processor tried out
    return [
        {"model": model, "method": method, **_measure_pair(METHODS[method], pair, model, options)} for pair in pairs
    ]


def _measure_pair(method: Method, pair: Pair, model: str, options: TrainingOptions) -> Row:
    fixed, moving, fixed_labels, labels = read_pair(pair)
    start = time.perf_counter()
    found = method(fixed, moving, model)
    row: Row = {"fixed": pair[0].name, "moving": pair[1].name, "seconds": time.perf_counter() - start}
    warped = warp_image(labels, fixed, found.transform, nearest=True)
    counted = list(options.structures.values()) or None
    overlap, distance = dice(fixed_labels, warped, counted), hd95(fixed_labels, warped, counted)
    row["dice"] = mean_over_labels(_counted(overlap, options))
    row["hd95_mm"] = mean_over_labels(_counted(distance, options))
    row.update({f"dice_{name}": overlap[label] for name, label in options.structures.items()})
    if found.jacobian is not None:
        regularity = jacobian_statistics(found.jacobian)
        row.update(folds_percent=regularity["fold_percent"], sd_log_jacobian=regularity["sd_log"])
    row["peak_gib"] = _peak_gib()
    return row


def _peak_gib() -> float:
    """Of this process: what the system counts begins with the size of the one that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def _counted(values: dict[int, float], options: TrainingOptions) -> dict[int, float]:
    return {label: value for label, value in values.items() if label not in options.ignore_labels}


def read_pair(pair: Pair) -> tuple[sitk.Image, sitk.Image, sitk.Image, sitk.Image]:
    """Images and labels; the moving ones shifted so that the middles of both grids meet."""
    fixed, moving = pair
    images = [read_image(fixed.image), read_image(moving.image), _labels(fixed), _labels(moving)]
    offset = Grid.of(images[0]).centre - Grid.of(images[1]).centre
    for image in (images[1], images[3]):
        image.SetOrigin((np.array(image.GetOrigin()) + offset).tolist())
    return images[0], images[1], images[2], images[3]


def _labels(case: Case) -> sitk.Image:
    assert case.labels is not None
    return sitk.Cast(read_image(case.labels), sitk.sitkInt16)


# The methods


def unregistered(fixed: sitk.Image, moving: sitk.Image, model: str) -> Found:
    return Found(sitk.Transform(3, sitk.sitkIdentity), None)


def ours(steps: int, with_model: bool = True) -> Method:
    def run(fixed: sitk.Image, moving: sitk.Image, model: str) -> Found:
        name = model if with_model else "none"
        result = register(fixed, moving, RegistrationOptions(model=name, prealign="none", refine=steps))
        return Found(result.transform, result.maps["jacobian"])

    return run


def syn(fixed: sitk.Image, moving: sitk.Image, model: str) -> Found:
    """ANTs SyN with antspyx's defaults (mutual information, 40-20-0 iterations)."""
    import ants

    with tempfile.TemporaryDirectory() as folder:
        images = [ants.image_read(path) for path in _written(folder, fixed, moving)]
        result = ants.registration(*images, "SyNOnly", initial_transform="Identity", outprefix=f"{folder}/syn")
        # The identity is among the transforms, too.
        path = next(path for path in result["fwdtransforms"] if path.endswith("Warp.nii.gz"))
        return _by_field(sitk.ReadImage(path))


def greedy(fixed: sitk.Image, moving: sitk.Image, model: str) -> Found:
    """greedy as its manual proposes between subjects: NCC of radius 2, three levels."""
    from picsl_greedy import Greedy3D

    command = "-i fixed moving -m NCC 2x2x2 -n 100x50x10 -s 2.0vox 0.5vox -sv -V 0"
    with tempfile.TemporaryDirectory() as folder:
        Greedy3D().execute(f"{command} -o {folder}/warp.nii.gz", fixed=fixed, moving=moving)
        return _by_field(sitk.ReadImage(f"{folder}/warp.nii.gz"))


def elastix(fixed: sitk.Image, moving: sitk.Image, model: str) -> Found:
    """elastix with its default map for B-splines."""
    import itk

    parameters = itk.ParameterObject.New()
    parameters.AddParameterMap(parameters.GetDefaultParameterMap("bspline"))
    with tempfile.TemporaryDirectory() as folder:
        images = [itk.imread(path, itk.F) for path in _written(folder, fixed, moving)]
        _, found = itk.elastix_registration_method(*images, parameter_object=parameters, log_to_console=False)
        itk.imwrite(
            itk.transformix_deformation_field(images[1], found, output_directory=folder), f"{folder}/field.nrrd"
        )
        return _by_field(sitk.ReadImage(f"{folder}/field.nrrd"))


def demons(fixed: sitk.Image, moving: sitk.Image, model: str) -> Found:
    """SimpleITK's diffeomorphic Demons on three resolutions, after matching the histograms."""
    fixed = sitk.Cast(fixed, sitk.sitkFloat32)
    matched = sitk.HistogramMatching(sitk.Resample(sitk.Cast(moving, sitk.sitkFloat32), fixed), fixed)
    field: Optional[sitk.Image] = None
    for factor in (4, 2, 1):
        shrink = [max(1, min(factor, size // 8)) for size in fixed.GetSize()]
        images = [sitk.Shrink(sitk.SmoothingRecursiveGaussian(i, 0.5 * factor), shrink) for i in (fixed, matched)]
        step = sitk.DiffeomorphicDemonsRegistrationFilter()
        step.SetNumberOfIterations(60)
        step.SetStandardDeviations(1.5)
        start = None if field is None else sitk.Resample(field, images[0])
        field = step.Execute(*images) if start is None else step.Execute(*images, start)
    assert field is not None
    return _by_field(field)


def _written(folder: str, *images: sitk.Image) -> list[str]:
    paths = [f"{folder}/image{number}.nii.gz" for number in range(len(images))]
    for image, path in zip(images, paths):
        sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat32), path)
    return paths


def _by_field(field: sitk.Image) -> Found:
    """By displacements on the fixed grid, LPS mm."""
    field = sitk.Cast(field, sitk.sitkVectorFloat64)
    jacobian = sitk.DisplacementFieldJacobianDeterminant(field)
    return Found(sitk.DisplacementFieldTransform(field), jacobian)


METHODS: dict[str, Method] = {
    "unregistered": unregistered,
    NETWORK: ours(0),
    REFINED: ours(REFINEMENT_STEPS),
    "refinement alone, 60 steps": ours(60, with_model=False),
    "antspyx SyN": syn,
    "picsl-greedy": greedy,
    "elastix B-spline": elastix,
    "SimpleITK Demons": demons,
}


def cold_start(pair: Pair) -> float:
    """Seconds of the whole command in a new process, affine prealignment and writing included."""
    program = [str(Path(sys.executable).with_name("deepreg-attention")), "register", *[str(c.image) for c in pair]]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([*program, "-o", folder, "--prealign", "affine"], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start


# What is made of the measurements


def numbers(rows: list[Row], measure: str) -> list[float]:
    """The values of a measure, where a row has it."""
    return [float(str(row[measure])) for row in rows if measure in row]


def summary(rows: list[Row]) -> dict[str, float]:
    """Mean of each measure, and the standard deviation of the Dice over the pairs, rounded."""
    means = {name: statistics.mean(values) for name in MEASURES if (values := numbers(rows, name))}
    spread = {"dice_sd": statistics.pstdev(numbers(rows, "dice"))}
    return {name: round(value, 4) for name, value in {**means, **spread}.items()}


def record(model: ModelFile, rows: list[Row], options: TrainingOptions) -> None:
    """Keep the measured accuracy in the model file and in the list of models beside it."""
    from DeepRegAttentionLib.engine.models import load_model, register_model, save_model

    kept = ("dice", "dice_sd", "hd95_mm", "folds_percent", "sd_log_jacobian")
    pairs = len({(row["fixed"], row["moving"]) for row in rows})
    accuracy: dict[str, object] = {"data": f"{pairs} pairs of cases held out to report", "cases": list(options.test)}
    for name, method in (("network", NETWORK), (f"with_{REFINEMENT_STEPS}_steps", REFINED)):
        own = [row for row in rows if row["method"] == method]
        if own:
            found = summary(own)
            accuracy[name] = {"pairs": len(own), **{key: found[key] for key in kept if key in found}}
    save_model(load_model(model), dataclasses.replace(model.info, accuracy=accuracy), model.path)
    register_model(model.path, model.path.parent)


def write(rows: list[Row], folder: Path) -> None:
    """Every measurement as CSV, the means as Markdown, the Dice and the seconds as a figure."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "accuracy.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    text = "\n".join(table([row for row in rows if row["model"] == name]) for name in _distinct(rows, "model"))
    (folder / "accuracy.md").write_text(text, encoding="utf-8")
    figure(rows).savefig(folder / "accuracy.png", dpi=120)
    Console().print(Markdown(text))


def _distinct(rows: list[Row], key: str) -> list[str]:
    return list(dict.fromkeys(str(row[key]) for row in rows))


def table(rows: list[Row]) -> str:
    """One model's measurements as Markdown: a line for each method, means over the pairs."""
    pairs = len({(row["fixed"], row["moving"]) for row in rows})
    lines = [
        f"## {rows[0]['model']}, {pairs} pairs",
        "",
        "| method | Dice | HD95 mm | folds % | SD log J | s | peak GiB |",
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for method in _distinct(rows, "method"):
        found = summary([row for row in rows if row["method"] == method])
        cells = [f"{found['dice']:.3f} ± {found['dice_sd']:.3f}"]
        cells += [f"{found[name]:.3g}" if name in found else "" for name in MEASURES[1:]]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def figure(rows: list[Row]) -> Figure:
    """A column for each model: the Dice of every pair by method, and the mean seconds."""
    models, methods = _distinct(rows, "model"), _distinct(rows, "method")
    drawn = Figure(figsize=(4.5 * len(models) + 1.5, 1.5 + 0.7 * len(methods)), layout="constrained")
    FigureCanvasAgg(drawn)
    panels = drawn.subplots(2, len(models), squeeze=False, sharey="row")
    for column, model in enumerate(models):
        own = [[row for row in rows if row["model"] == model and row["method"] == method] for method in methods]
        upper, lower = panels[0, column], panels[1, column]
        upper.boxplot([numbers(group, "dice") for group in own], orientation="horizontal", tick_labels=methods)
        upper.set(title=model, xlabel="mean Dice of each pair")
        lower.barh(methods, [statistics.mean(numbers(group, "seconds")) if group else 0 for group in own], color="0.6")
        lower.set(xscale="log", xlabel="seconds a pair")
    # Shared along each row: inverted once, the first method is on top everywhere.
    panels[0, 0].invert_yaxis()
    panels[1, 0].invert_yaxis()
    return drawn


if __name__ == "__main__":
    main()
