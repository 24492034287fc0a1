"""``deepreg-attention register``: two images in, a result folder out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer

from ..engine.errors import OptionError, suggestion
from ..engine.options import RegistrationOptions
from . import arguments as a
from .console import ReadableErrors, StageProgress, messages, readable_warnings, results, say, silent_libraries

if TYPE_CHECKING:
    from ..case import Case
    from ..engine.result import RegistrationResult


@ReadableErrors()
def register(
    context: typer.Context,
    fixed: a.Fixed,
    moving: a.Moving,
    output: a.Output,
    preset: a.Preset = None,
    model: a.Model = None,
    accepted_licences: a.AcceptLicence = None,
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
    levels: a.Levels = None,
    displacement: a.Displacement = False,
    report: a.Report = False,
    format: a.Format = "nii.gz",
    device: a.Device = None,
    precision: a.Precision = None,
    threads: a.Threads = None,
    require: a.Require = None,
) -> None:
    """Register MOVING to FIXED; write the warped image, transforms, maps and measures to a folder."""
    from ..case import read_case
    from ..engine.result import require_writable
    from .settings import file_extension, options_of

    given = context.params
    require_known(require)
    options = options_of(context)
    extension = file_extension(format)
    require_writable(output)
    with silent_libraries():
        case = read_case(given, options, _option_name)
    result = run(case, options)
    save(result, case, output, extension, report, displacement=displacement)
    show(result, output)
    if falls_short(result, require):
        raise typer.Exit(BELOW_REQUIRED)


BELOW_REQUIRED = 8
"""Exit status of a registration that was finished, and judged worse than ``--require`` asks for."""


def require_known(grade: Optional[str]) -> None:
    """Raise OptionError unless a grade can be required."""
    from ..engine.trust.verdict import GRADES

    if grade is not None and grade not in GRADES[:-1]:
        raise OptionError(f"--require takes pass or review; “{grade}” is neither{suggestion(grade, GRADES[:-1])}.")


def falls_short(result: RegistrationResult, required: Optional[str]) -> bool:
    """Whether a result was judged worse than required."""
    from ..engine.trust.verdict import GRADES

    return required is not None and GRADES.index(result.metrics["verdict"]["grade"]) > GRADES.index(required)


def _option_name(field: str) -> str:
    """A field as it is called on the command line."""
    return f"--{field.replace('_', '-')}"


def run(case: Case, options: RegistrationOptions) -> RegistrationResult:
    """Register and measure, with progress and warnings on standard error."""
    with readable_warnings(), StageProgress() as progress:
        with progress.stage("start"):
            from ..case import register_case
            from ..engine.hardware import prepare_process

            prepare_process(options.threads)
        return register_case(case, options, progress)


def save(
    result: RegistrationResult,
    case: Case,
    folder: Path,
    extension: str = ".nii.gz",
    report: bool = False,
    label_names: Optional[Mapping[int, str]] = None,
    displacement: bool = False,
) -> None:
    """Write the result folder and, if wanted, the report in it."""
    messages.print("writing the result …", highlight=False)
    with silent_libraries():
        result.save(folder, extension, displacement=displacement)
    if report:
        from ..report.page import write_report

        messages.print("writing the report …", highlight=False)
        with readable_warnings(), silent_libraries():
            write_report(result, case.fixed, case.moving, folder / "report.html", label_names)


def show(result: RegistrationResult, folder: Path, label_names: Optional[Mapping[int, str]] = None) -> None:
    """Print what was measured, the verdict, why this model, and where the result lies."""
    from ..terms.verdict import verdict_of
    from .tables import results_table

    results.print(results_table(result.metrics))
    judged = verdict_of(result.metrics, label_names or {})
    if judged is not None:
        say(judged.title.lower(), judged.sentence, f"bold {judged.colour}", results)
        for reason in judged.reasons[1:]:
            say("also", reason, judged.colour, results)
    say("model", result.metrics["model_choice"], "bold", results)
    say("result", str(folder.resolve()), "bold", results)
