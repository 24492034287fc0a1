"""What the maps of a model have to do with the motion and with the anatomy, on pairs that it never saw.

    python Testing/benchmarks/explanations.py ../shared/data --task hippocampus --output results

For each map: the rank correlation with the length of the displacement and with its local strain, and the chance that a
voxel at the border of a structure has a higher value than one elsewhere (0.5: the map knows nothing of structures).
The local strength of the regularization is turned round: what is said is of its looseness. Needs the extra ``train``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from accuracy import TASKS, read_pair, reporting_pairs
from DeepRegAttentionLib.engine.errors import ModelError
from DeepRegAttentionLib.engine.geometry import Grid, resample
from DeepRegAttentionLib.engine.models.files import find_model
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.engine.result import RegistrationResult
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.stats import mannwhitneyu, spearmanr

MAPS = (
    "driving_force_magnitude",
    "attention",
    "regularization",
)
QUESTIONS = ("displacement", "strain", "border")
VOXELS = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder in which the data sets lie")
    parser.add_argument("--task", required=True, choices=list(TASKS))
    parser.add_argument("--model", help="one of those for the task; its own if not given")
    parser.add_argument("--pairs", type=int, default=10, help="at most so many")
    parser.add_argument("--output", type=Path, default=Path("explanations"), help="folder for the figure")
    arguments = parser.parse_args()
    model = arguments.model or TASKS[arguments.task]
    try:
        find_model(model)
    except ModelError as error:
        parser.error(str(error))
    _, pairs = reporting_pairs(TASKS[arguments.task], arguments.data, arguments.pairs)
    answers: dict[str, list[list[float]]] = {}
    for number, pair in enumerate(pairs):
        fixed, moving, labels, _ = read_pair(pair)
        result = register(fixed, moving, RegistrationOptions(model=model, prealign="none", refine=0))
        for name, values in _ask(result, fixed, labels).items():
            answers.setdefault(name, []).append(values)
        if number == 0:
            draw(result, fixed, labels, arguments.output / f"{model}-maps.png")
    show(model, answers)


def _ask(result: RegistrationResult, fixed: sitk.Image, labels: sitk.Image) -> dict[str, list[float]]:
    """For each map, an answer to each of ``QUESTIONS``."""
    inside = sitk.GetArrayFromImage(fixed) > 0
    chosen = np.flatnonzero(inside)[:: max(1, int(inside.sum()) // VOXELS)]
    displacement = sitk.GetArrayFromImage(result.displacement())
    length = np.linalg.norm(displacement, axis=-1).flat[chosen]
    strain = _strain(displacement, fixed.GetSpacing()).flat[chosen]
    border = _border(labels).flat[chosen]
    answers = {}
    for name in (name for name in MAPS if name in result.maps):
        values = _told(result, name, fixed).flat[chosen]
        more = mannwhitneyu(values[border], values[~border]).statistic / (border.sum() * (~border).sum())
        answers[name] = [spearmanr(values, length)[0], spearmanr(values, strain)[0], more]
    return answers


def _told(result: RegistrationResult, name: str, fixed: sitk.Image) -> np.ndarray:
    values = sitk.GetArrayFromImage(resample(result.maps[name], Grid.of(fixed)))
    return 1 - values if name == "regularization" else values


def _strain(displacement: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Length of the gradient of the displacement, per mm."""
    slopes = np.gradient(displacement, *spacing[::-1], axis=(0, 1, 2))
    return np.sqrt(sum(np.square(slope).sum(axis=-1) for slope in slopes))


def _border(labels: sitk.Image) -> np.ndarray:
    """Voxels next to one of another structure."""
    return sitk.GetArrayFromImage(sitk.LabelContour(labels, True)) > 0


def draw(result: RegistrationResult, fixed: sitk.Image, labels: sitk.Image, path: Path) -> None:
    """One pair: the images and each map in the slice with most of the structures, their borders in green."""
    borders = sitk.GetArrayFromImage(labels)
    index = int((borders > 0).sum(axis=(1, 2)).argmax())
    pictures = {
        "fixed": fixed,
        "warped": result.warped,
        **{name: resample(result.maps[name], Grid.of(fixed)) for name in MAPS if name in result.maps},
    }
    figure = Figure(figsize=(3.2 * len(pictures), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, image) in zip(figure.subplots(1, len(pictures)), pictures.items()):
        colours = "gray" if name in ("fixed", "warped") else "magma"
        shown = axes.imshow(sitk.GetArrayFromImage(image)[index], cmap=colours)
        axes.contour(borders[index] > 0, levels=[0.5], colors="lime", linewidths=1)
        axes.set_title(name.replace("_", " "))
        axes.set_axis_off()
        figure.colorbar(shown, ax=axes, location="bottom", shrink=0.8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70)


def show(model: str, answers: dict[str, list[list[float]]]) -> None:
    """Mean and spread over the pairs."""
    table = Table("map", *QUESTIONS, title=f"{model}, {len(next(iter(answers.values())))} pairs")
    for name, values in answers.items():
        mean, spread = np.mean(values, axis=0), np.std(values, axis=0)
        table.add_row(name, *(f"{a:.2f} ± {b:.2f}" for a, b in zip(mean, spread)))
    Console().print(table)


if __name__ == "__main__":
    main()
