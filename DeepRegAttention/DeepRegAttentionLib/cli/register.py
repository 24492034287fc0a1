"""``deepreg-attention register``: two images in, a result folder out."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, Optional

import typer

from ..engine.errors import OptionError
from ..engine.options import RegistrationOptions
from . import arguments as a
from .console import ReadableErrors, StageProgress, messages, readable_warnings, results, say, silent_libraries

if TYPE_CHECKING:
    import SimpleITK as sitk

    from ..engine.landmarks import Landmarks
    from ..engine.result import RegistrationResult


@ReadableErrors()
def register(
    context: typer.Context,
    fixed: a.Fixed,
    moving: a.Moving,
    output: a.Output,
    preset: a.Preset = None,
    model: a.Model = None,
    prealign: a.Prealign = None,
    refine: a.Refine = None,
    similarity: a.Similarity = None,
    regularization: a.Regularization = None,
    regularization_map: a.RegularizationMap = None,
    landmark_weight: a.LandmarkWeight = None,
    spacing: a.Spacing = None,
    initial_transform: a.InitialTransform = None,
    fixed_mask: a.FixedMask = None,
    moving_mask: a.MovingMask = None,
    fixed_landmarks: a.FixedLandmarks = None,
    moving_landmarks: a.MovingLandmarks = None,
    labels: a.Labels = None,
    fixed_labels: a.FixedLabels = None,
    maps: a.Maps = None,
    report: a.Report = False,
    format: a.Format = "nii.gz",
    device: a.Device = None,
    precision: a.Precision = None,
    threads: a.Threads = None,
) -> None:
    """Register MOVING to FIXED; write the warped image, transforms, maps and measures to a folder."""
    from .files import require_writable
    from .settings import file_extension, read_options

    given = context.params
    options = read_options(preset, {field.name: given[field.name] for field in fields(RegistrationOptions)})
    extension = file_extension(format)
    require_writable(output)
    with silent_libraries():
        case = read_case(given)
    if options.landmark_weight and case.fixed_landmarks is None:
        raise OptionError("--landmark-weight needs --fixed-landmarks and --moving-landmarks.")
    result = run(case, options)
    save(result, case, output, extension, report)
    show(result, output)


@dataclass(frozen=True)
class Case:
    """Everything that was read for one registration; the names are those of the options."""

    fixed: sitk.Image
    moving: sitk.Image
    fixed_mask: Optional[sitk.Image] = None
    moving_mask: Optional[sitk.Image] = None
    initial_transform: Optional[sitk.Transform] = None
    regularization_map: Optional[sitk.Image] = None
    fixed_landmarks: Optional[Landmarks] = None
    moving_landmarks: Optional[Landmarks] = None
    labels: Optional[sitk.Image] = None
    fixed_labels: Optional[sitk.Image] = None


def read_case(paths: Mapping[str, Optional[Path]]) -> Case:
    """Read all files (keys: the fields of :class:`Case`) and check what needs no computation."""
    from ..engine.landmarks import read_landmarks, require_pairs
    from ..engine.metrics import require_labels
    from .files import read_image, read_transform, read_volume

    _require_together(paths)
    given = {field.name: path for field in fields(Case) if (path := paths.get(field.name)) is not None}
    readers: Dict[str, Callable[[Path], Any]] = {
        "fixed": lambda path: read_volume(path, "fixed image"),
        "moving": lambda path: read_volume(path, "moving image"),
        "initial_transform": read_transform,
        "fixed_landmarks": read_landmarks,
        "moving_landmarks": read_landmarks,
    }
    read: Dict[str, Any] = {name: readers.get(name, read_image)(path) for name, path in given.items()}
    case = Case(**read)
    for labels, image in ((case.labels, case.moving), (case.fixed_labels, case.fixed)):
        if labels is not None:
            require_labels(labels, image)
    if case.fixed_landmarks is not None and case.moving_landmarks is not None:
        require_pairs(case.fixed_landmarks, case.moving_landmarks)
    return case


def _require_together(paths: Mapping[str, Optional[Path]]) -> None:
    needs = {
        "fixed_landmarks": "moving_landmarks",
        "moving_landmarks": "fixed_landmarks",
        "fixed_labels": "labels",
    }
    for name, other in needs.items():
        if paths.get(name) is not None and paths.get(other) is None:
            raise OptionError(f"--{name.replace('_', '-')} needs --{other.replace('_', '-')}.")


def run(case: Case, options: RegistrationOptions) -> RegistrationResult:
    """Register and measure, with progress and warnings on standard error."""
    with readable_warnings(), StageProgress() as progress:
        with progress.stage("start"):
            from ..engine.evaluation import evaluate_labels, evaluate_landmarks
            from ..engine.hardware import keep_freed_memory
            from ..engine.registration import Guidance, register

            keep_freed_memory()
        guidance = Guidance(**{field.name: getattr(case, field.name) for field in fields(Guidance)})
        result = register(case.fixed, case.moving, options, guidance, progress)
        if case.labels is not None:
            evaluate_labels(result, case.moving, case.labels, case.fixed_labels)
        if case.fixed_landmarks is not None and case.moving_landmarks is not None:
            evaluate_landmarks(result, case.fixed_landmarks, case.moving_landmarks)
    return result


def save(
    result: RegistrationResult,
    case: Case,
    folder: Path,
    extension: str = ".nii.gz",
    report: bool = False,
    label_names: Optional[Mapping[int, str]] = None,
) -> None:
    """Write the result folder and, if wanted, the report in it."""
    messages.print("writing the result …", highlight=False)
    with silent_libraries():
        result.save(folder, extension)
    if report:
        from ..report import write_report

        messages.print("writing the report …", highlight=False)
        with readable_warnings(), silent_libraries():
            write_report(result, case.fixed, case.moving, folder / "report.html", label_names)


def show(result: RegistrationResult, folder: Path) -> None:
    """Print what was measured, why this model, and where the result lies."""
    from .tables import results_table

    results.print(results_table(result.metrics))
    say("model", result.metrics["model_choice"], "bold", results)
    say("result", str(folder.resolve()), "bold", results)
