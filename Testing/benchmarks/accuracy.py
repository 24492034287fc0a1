"""Accuracy, regularity, speed and memory of the shipped models beside other programs, all in one run.

    python Testing/benchmarks/accuracy.py ../shared/data --output results

For each task a training configuration says which data, which cases report, which labels count: pairs of those cases
alone are measured, with every shipped model for that anatomy or for any. All methods start alike, with the middles of
both grids on each other and no linear alignment, use all processor cores and work in a process of their own, whose peak
memory is reported. What the output folder holds of other tasks and methods stays in the table, so that it can be made
in several goes. Needs the extras ``train`` and ``benchmark``.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import numpy as np
import SimpleITK as sitk
from DeepRegAttentionLib.dataset import ImageFiles, Pair, choose_pairs, read_cases, select
from DeepRegAttentionLib.engine.geometry import Grid, resample, to_image, to_tensor, voxels_to_mm, working_grid
from DeepRegAttentionLib.engine.images import read_image
from DeepRegAttentionLib.engine.maps import jacobian_map
from DeepRegAttentionLib.engine.metrics import dice, hd95, jacobian_statistics, mean_over_labels, similarity
from DeepRegAttentionLib.engine.models.listing import ModelFile, list_models
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.engine.resampling import warp_image
from DeepRegAttentionLib.engine.resources import resource_folder
from DeepRegAttentionLib.training.data import some_pairs
from DeepRegAttentionLib.training.options import TrainingOptions, read_training_options
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from rich.console import Console
from rich.markdown import Markdown

Row = dict[str, object]
TASKS = {"brain": "brain-t1", "hippocampus": "hippocampus-mr", "heart": "cardiac-mr"}
"""Names of the training configurations whose held-out cases are registered."""
REGULARITY = {
    "mean_jacobian": "mean",
    "folds_percent": "fold_percent",
    "sd_log_jacobian": "sd_log",
    "sd_log_jacobian_learn2reg": "sd_log_learn2reg",
}
"""Columns, and the names of the Jacobian's statistics that they hold."""
COLUMNS = {
    "dice": "Dice",
    "hd95_mm": "HD95 mm",
    "centroids_mm": "centroids mm",
    "ncc": "NCC",
    "ssim": "SSIM",
    "mean_jacobian": "mean J",
    "folds_percent": "folds %",
    "sd_log_jacobian": "SD log J",
    "sd_log_jacobian_learn2reg": "SD log (J + 3), Learn2Reg",
    "seconds": "s",
    "peak_gib": "peak GiB",
}
"""What is measured, and the head of its column in a table."""
TITLES = {
    "brain": "**Brains** (LPBA40, 1 mm, 54 labels)",
    "hippocampus": "**Hippocampus** (2 labels)",
    "heart": "**Heart**, ED to ES and back (3 labels)",
}
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "accuracy.md"
BEGINNING, END = "<!-- tables -->\n", "<!-- end of tables -->"
REFINEMENT_STEPS = 20


class Found(NamedTuple):
    """What a method found: where fixed points lie in the moving image, and how volumes change."""

    transform: sitk.Transform
    jacobian: Optional[sitk.Image]


Method = Callable[[sitk.Image, sitk.Image], Found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder in which the data sets lie")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="+", help="all that suit the task, if not given")
    parser.add_argument("--pairs", type=int, default=20, help="at most so many for each task")
    parser.add_argument("--output", type=Path, default=Path("accuracy"), help="folder for table and figure")
    parser.add_argument(
        "--record", action="store_true", help="write the accuracy into the models and the documentation"
    )
    arguments = parser.parse_args()
    known = {method for task in arguments.tasks for method in methods(task)}
    for unknown in set(arguments.methods or ()) - known:
        parser.error(f"there is no method “{unknown}”; the methods are {', '.join(sorted(known))}")
    rows: list[Row] = []
    for task in arguments.tasks:
        options, pairs = reporting_pairs(TASKS[task], arguments.data, arguments.pairs)
        for method in (name for name in methods(task) if name in (arguments.methods or known)):
            new = measure(task, method, options, pairs)
            rows = in_order([*measured_before(arguments.output, new), *new])
            write(rows, arguments.output)
    Console().print(Markdown((arguments.output / "accuracy.md").read_text(encoding="utf-8")))
    if arguments.record:
        for model in list_models():
            record(model, rows)
        publish(rows, arguments.output)
    _, pairs = reporting_pairs(TASKS[arguments.tasks[0]], arguments.data, 1)
    print(f"The whole command on a pair of {arguments.tasks[0]}, from a cold start: {cold_start(pairs[0]):.1f} s")


def reporting_pairs(recipe: str, data: Path, count: int) -> tuple[TrainingOptions, list[Pair]]:
    """A training configuration, and pairs of the cases that it holds out to report."""
    options = read_training_options(resource_folder("Training") / f"{recipe}.yaml")
    cases = read_cases(data / str(options.data.cases), data)
    atlas = None if options.data.atlas is None else select(cases, [options.data.atlas])[0]
    return options, some_pairs(choose_pairs(select(cases, options.test), options.data.pairs, atlas), count)


def measure(task: str, method: str, options: TrainingOptions, pairs: list[Pair]) -> list[Row]:
    """Run one method over the pairs in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        rows = pool.apply(_measure_here, (task, method, options, pairs))
    print(f"{task}, {method}: Dice {statistics.mean(numbers(rows, 'dice')):.4f}", file=sys.stderr, flush=True)
    return rows


def _measure_here(task: str, method: str, options: TrainingOptions, pairs: list[Pair]) -> list[Row]:
    from DeepRegAttentionLib.engine.hardware import keep_freed_memory

    keep_freed_memory()
    run = methods(task)[method]
    if method.startswith(tuple(models_for(task))):
        run(*read_pair(pairs[0])[:2])  # the model is loaded and the processor tried out
    return [{"task": task, "method": method, **_measure_pair(run, pair, options)} for pair in pairs]


def _measure_pair(method: Method, pair: Pair, options: TrainingOptions) -> Row:
    fixed, moving, fixed_labels, labels = read_pair(pair)
    start = time.perf_counter()
    found = method(fixed, moving)
    row: Row = {"fixed": pair[0].name, "moving": pair[1].name, "seconds": time.perf_counter() - start}
    warped = warp_image(labels, fixed, found.transform, nearest=True)
    counted = list(options.structures.values()) or None
    overlap, distance = dice(fixed_labels, warped, counted), hd95(fixed_labels, warped, counted)
    row["dice"] = mean_over_labels(_counted(overlap, options))
    row["hd95_mm"] = mean_over_labels(_counted(distance, options))
    row["centroids_mm"] = mean_over_labels(_counted(centroid_distances(fixed_labels, warped), options))
    row.update({f"dice_{name}": overlap[label] for name, label in options.structures.items()})
    # Where a method was shown other intensities, those of the file tell how well the places agree.
    alike = similarity(fixed, warp_image(moving, fixed, found.transform))
    row.update({name: alike[name] for name in ("ncc", "ssim")})
    if found.jacobian is not None:
        regularity = jacobian_statistics(found.jacobian)
        row.update({column: regularity[name] for column, name in REGULARITY.items()})
    row["peak_gib"] = _peak_gib()
    return row


def centroid_distances(fixed: sitk.Image, warped: sitk.Image) -> dict[int, float]:
    """How far apart the centroids of each label are that both maps have, mm."""
    places = []
    for labels in (fixed, warped):
        shapes = sitk.LabelShapeStatisticsImageFilter()
        shapes.Execute(labels)
        places.append({label: np.array(shapes.GetCentroid(label)) for label in shapes.GetLabels()})
    both = places[0].keys() & places[1].keys()
    return {label: float(np.linalg.norm(places[0][label] - places[1][label])) for label in sorted(both)}


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


def _labels(case: ImageFiles) -> sitk.Image:
    assert case.labels is not None
    return sitk.Cast(read_image(case.labels), sitk.sitkInt16)


# The methods


def models_for(task: str) -> list[str]:
    """The shipped models that were made for the task's anatomy, or for any."""
    anatomy = read_training_options(resource_folder("Training") / f"{TASKS[task]}.yaml").metadata["anatomy"]
    return [model.info.name for model in list_models() if model.info.anatomy in (anatomy, ANY)]


ANY = "any"
"""The anatomy of models that were trained for none in particular, and for any contrast."""


def methods(task: str) -> dict[str, Method]:
    """What is compared, by name; any contrast is also tried with the moving image in two other ones."""
    found: dict[str, Method] = {"unregistered": unregistered}
    for name in models_for(task):
        found[name] = ours(name)
        found[refined(name)] = ours(name, REFINEMENT_STEPS)
    found.update(
        {
            "refinement alone, 60 steps": ours("none", 60),
            "antspyx SyN": syn,
            "picsl-greedy": greedy,
            "elastix B-spline": elastix,
            "SimpleITK Demons": demons,
            "ConvexAdam": convex_adam,
        }
    )
    contrasts = {"inverted": inverted, "gamma 2": darkened}
    for name in (model.info.name for model in list_models() if model.info.anatomy == ANY):
        found.update({f"{name}, moving {how}": changed(change, found[name]) for how, change in contrasts.items()})
    return found


def refined(model: str) -> str:
    """Name of the method that refines a model's answer."""
    return f"{model} + {REFINEMENT_STEPS} steps"


def unregistered(fixed: sitk.Image, moving: sitk.Image) -> Found:
    return Found(sitk.Transform(3, sitk.sitkIdentity), None)


def ours(model: str, steps: int = 0) -> Method:
    def run(fixed: sitk.Image, moving: sitk.Image) -> Found:
        result = register(fixed, moving, RegistrationOptions(model=model, prealign="none", refine=steps))
        # On the fixed grid, as that of the other programs.
        chain = sitk.CompositeTransform(result.transform)
        field = sitk.DisplacementFieldTransform(chain.GetNthTransform(chain.GetNumberOfTransforms() - 1))
        return Found(result.transform, jacobian_map(field, Grid.of(fixed)))

    return run


def changed(change: Callable[[sitk.Image], sitk.Image], method: Method) -> Method:
    """The method, shown the moving image in another contrast."""
    return lambda fixed, moving: method(fixed, change(moving))


def inverted(image: sitk.Image) -> sitk.Image:
    """Bright becomes dark, where there is anything: the background stays."""
    image = sitk.Cast(image, sitk.sitkFloat32)
    highest = float(sitk.GetArrayViewFromImage(image).max())
    return sitk.Mask(1.05 * highest - image, image > 0.02 * highest)


def darkened(image: sitk.Image) -> sitk.Image:
    """The square of the intensities relative to the highest."""
    image = sitk.Cast(image, sitk.sitkFloat32)
    highest = float(sitk.GetArrayViewFromImage(image).max())
    return highest * sitk.Pow(image / highest, 2.0)


def syn(fixed: sitk.Image, moving: sitk.Image) -> Found:
    """ANTs SyN with antspyx's defaults (mutual information, 40-20-0 iterations)."""
    import ants

    with tempfile.TemporaryDirectory() as folder:
        images = [ants.image_read(path) for path in _written(folder, fixed, moving)]
        result = ants.registration(*images, "SyNOnly", initial_transform="Identity", outprefix=f"{folder}/syn")
        # The identity is among the transforms, too.
        path = next(path for path in result["fwdtransforms"] if path.endswith("Warp.nii.gz"))
        return _by_field(sitk.ReadImage(path))


def greedy(fixed: sitk.Image, moving: sitk.Image) -> Found:
    """greedy as its manual proposes between subjects: NCC of radius 2, three levels, fewer for images of few slices."""
    from picsl_greedy import Greedy3D

    # A level halves the sides, and none of less than four voxels can be smoothed.
    halvings = int(math.log2(min(*fixed.GetSize(), *moving.GetSize()) / 4))
    iterations = "x".join(("100", "50", "10")[: halvings + 1])
    command = f"-i fixed moving -m NCC 2x2x2 -n {iterations} -s 2.0vox 0.5vox -sv -V 0"
    with tempfile.TemporaryDirectory() as folder:
        Greedy3D().execute(f"{command} -o {folder}/warp.nii.gz", fixed=fixed, moving=moving)
        return _by_field(sitk.ReadImage(f"{folder}/warp.nii.gz"))


def elastix(fixed: sitk.Image, moving: sitk.Image) -> Found:
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


def demons(fixed: sitk.Image, moving: sitk.Image) -> Found:
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


def convex_adam(fixed: sitk.Image, moving: sitk.Image) -> Found:
    """ConvexAdam with MIND and its defaults, on voxels that are cubes."""
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    grid = working_grid(fixed, min(fixed.GetSpacing()), _CONVEX_ADAM_MULTIPLE)
    arrays = [to_tensor(resample(image, grid))[0, 0] for image in (fixed, moving)]
    field = torch.from_numpy(convex_adam_pt(*arrays, device=torch.device("cpu"))).float().movedim(3, 0)[None]
    return _by_field(to_image(voxels_to_mm(field, grid), grid), fixed)


_CONVEX_ADAM_MULTIPLE = 12
"""Voxels of its search grid times those of the grid on which it goes on."""


def _written(folder: str, *images: sitk.Image) -> list[str]:
    paths = [f"{folder}/image{number}.nii.gz" for number in range(len(images))]
    for image, path in zip(images, paths):
        sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat32), path)
    return paths


def _by_field(field: sitk.Image, fixed: Optional[sitk.Image] = None) -> Found:
    """By displacements, LPS mm, on the fixed grid or another."""
    grid, transform = Grid.of(fixed or field), sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    return Found(transform, jacobian_map(transform, grid))


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
    means = {name: statistics.mean(values) for name in COLUMNS if (values := numbers(rows, name))}
    spread = {"dice_sd": statistics.pstdev(numbers(rows, "dice"))}
    return {name: round(value, 4) for name, value in {**means, **spread}.items()}


def record(model: ModelFile, rows: list[Row]) -> None:
    """Keep what was measured of a model in its file and in the list of models beside it."""
    from DeepRegAttentionLib.engine.models.files import load_model, register_model, save_model

    kept = ("dice", "dice_sd", "hd95_mm", *REGULARITY)
    found: dict[str, object] = {}
    for task in _distinct(rows, "task"):
        for key, method in ((task, model.info.name), (f"{task}_refined", refined(model.info.name))):
            own = [row for row in rows if (row["task"], row["method"]) == (task, method)]
            if own:
                means = summary(own)
                found[key] = {"pairs": len(own), **{name: means[name] for name in kept if name in means}}
    if found:
        accuracy = {"data": "pairs of cases held out to report", **found}
        save_model(load_model(model), dataclasses.replace(model.info, accuracy=accuracy), model.path)
        register_model(model.path, model.path.parent)


def measured_before(folder: Path, rows: list[Row]) -> list[Row]:
    """What the folder holds of tasks and methods that are not among the rows."""
    path = folder / "accuracy.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        before: list[Row] = [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    now = {(row["task"], row["method"]) for row in rows}
    return [row for row in before if (row["task"], row["method"]) not in now]


def in_order(rows: list[Row]) -> list[Row]:
    """Sorted by task and method; of methods that there are no more, none."""
    order = [(task, method) for task in TASKS for method in methods(task)]
    places = [(order.index(key), row) for row in rows if (key := (str(row["task"]), str(row["method"]))) in order]
    return [row for _, row in sorted(places, key=lambda place: place[0])]


def write(rows: list[Row], folder: Path) -> None:
    """Every measurement as CSV, the means as Markdown, the Dice and the seconds as a figure."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "accuracy.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "accuracy.md").write_text(tables(rows), encoding="utf-8")
    figure(rows).savefig(folder / "accuracy.png", dpi=80)


def publish(rows: list[Row], folder: Path, document: Path = DOCUMENT) -> None:
    """Put the tables between the marks of the documentation, and what the folder holds beside the rest of it."""
    text = document.read_text(encoding="utf-8")
    before, after = text.split(BEGINNING)[0], text.split(END)[1]
    document.write_text(f"{before}{BEGINNING}{tables(rows)}{END}{after}", encoding="utf-8")
    root = document.parents[1]
    shutil.copy(folder / "accuracy.png", root / "Resources")
    shutil.copy(folder / "accuracy.csv", root / "Testing" / "benchmarks")


def _distinct(rows: list[Row], key: str) -> list[str]:
    return list(dict.fromkeys(str(row[key]) for row in rows))


def tables(rows: list[Row]) -> str:
    """The measurements as Markdown, a table for each task."""
    return "\n".join(table([row for row in rows if row["task"] == name]) for name in _distinct(rows, "task"))


def table(rows: list[Row]) -> str:
    """One task's measurements as Markdown: a line for each method, means over the pairs; no column without a number."""
    pairs, task = len({(row["fixed"], row["moving"]) for row in rows}), str(rows[0]["task"])
    found = {name: summary([row for row in rows if row["method"] == name]) for name in _distinct(rows, "method")}
    columns = [name for name in COLUMNS if any(name in means for means in found.values())]
    return "\n".join(
        [
            f"{TITLES.get(task, task)}, {pairs} pairs",
            "",
            f"| method | {' | '.join(COLUMNS[name] for name in columns)} |",
            "|---" * (1 + len(columns)) + "|",
            *(f"| {_printed(name)} | {' | '.join(_cells(name, means, columns))} |" for name, means in found.items()),
            "",
        ]
    )


def _printed(method: str) -> str:
    """The names of models as code."""
    model = next((model.info.name for model in list_models() if method.startswith(model.info.name)), "")
    return f"`{model}`{method[len(model) :]}" if model else method


def _cells(method: str, means: dict[str, float], columns: list[str]) -> list[str]:
    if method == "unregistered":  # it takes nothing
        columns = [name if name not in ("seconds", "peak_gib") else "" for name in columns]
    cells = [f"{means[name]:.3g}" if name in means else "" for name in columns]
    return [f"{means['dice']:.3f} ± {means['dice_sd']:.3f}", *cells[1:]]


def figure(rows: list[Row]) -> Figure:
    """A column for each task: the Dice of every pair by method, and the mean seconds."""
    tasks = _distinct(rows, "task")
    drawn = Figure(figsize=(6 * len(tasks), 2 + 0.5 * len(_distinct(rows, "method"))), layout="constrained")
    FigureCanvasAgg(drawn)
    panels = drawn.subplots(2, len(tasks), squeeze=False)
    for task, (upper, lower) in zip(tasks, panels.T):
        own = [row for row in rows if row["task"] == task]
        # From below: the first method is on top.
        names = _distinct(own, "method")[::-1]
        groups = {name: [row for row in own if row["method"] == name] for name in names}
        dice = [numbers(group, "dice") for group in groups.values()]
        upper.boxplot(dice, orientation="horizontal", tick_labels=names)
        upper.set(title=task, xlabel="mean Dice of each pair")
        seconds = {name: statistics.mean(numbers(group, "seconds")) for name, group in groups.items()}
        seconds.pop("unregistered", None)
        lower.barh(list(seconds), list(seconds.values()), color="0.6")
        lower.set(xscale="log", xlabel="seconds a pair")
        lower.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        lower.xaxis.set_major_formatter("{x:g}")
        lower.xaxis.set_minor_locator(NullLocator())
    return drawn


if __name__ == "__main__":
    main()
