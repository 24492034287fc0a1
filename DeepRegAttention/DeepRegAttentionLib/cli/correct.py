"""``deepreg-attention correct``: points that a person placed put a result right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from ..engine.errors import OptionError
from .arguments import Report
from .console import ReadableErrors, StageProgress, messages, readable_warnings, results, say, silent_libraries

if TYPE_CHECKING:
    from ..case import Case
    from ..engine.corrections import Correction
    from ..engine.result import RegistrationResult

Folder = Annotated[Path, typer.Argument(metavar="RESULT", help="Result folder, which is changed in place.")]
Fixed = Annotated[
    Optional[Path],
    typer.Argument(metavar="[FIXED", help="Image that stayed, if it no longer lies where the result says."),
]
Moving = Annotated[Optional[Path], typer.Argument(metavar="MOVING]", help="Image that was brought onto it.")]
FixedLandmarks = Annotated[
    Optional[Path], typer.Option(help="Points of the fixed image (.mrk.json, .fcsv, or text: x y z in LPS mm).")
]
MovingLandmarks = Annotated[
    Optional[Path], typer.Option(help="Where the same anatomy lies in the moving image, in the same order or names.")
]
TakeBack = Annotated[bool, typer.Option("--take-back", help="Take all corrections back.")]


@ReadableErrors()
def correct(
    folder: Folder,
    fixed: Fixed = None,
    moving: Moving = None,
    fixed_landmarks: FixedLandmarks = None,
    moving_landmarks: MovingLandmarks = None,
    take_back: TakeBack = False,
    report: Report = False,
) -> None:
    """Put a result right where points of the FIXED image belong to other points of the MOVING one.

    The points given are all corrections that there will be; those of an earlier call that are not among them are taken
    back. What was found before any correction stays in the folder “uncorrected” of the result.
    """
    from ..engine.result import require_writable
    from .register import show

    if take_back == (fixed_landmarks is not None or moving_landmarks is not None):
        raise OptionError("Give --fixed-landmarks and --moving-landmarks, or --take-back.")
    with silent_libraries():
        case = _read_case(folder, fixed, moving)
        corrections = _read_corrections(fixed_landmarks, moving_landmarks)
        require_writable(folder)
        result = _run(case, folder, corrections)
    messages.print("writing the result …", highlight=False)
    with silent_libraries():
        result.renew(folder)
    if report:
        _write_report(result, case, folder)
    for number, told in enumerate(result.metrics.get("corrections", ()), 1):
        say(f"correction {number}", _text(told), "bold", results)
    show(result, folder)


def _read_case(folder: Path, fixed: Optional[Path], moving: Optional[Path]) -> Case:
    """What the result was made of: where it says that this lies, but for images that are given."""
    from ..case import read_case
    from ..engine.result_folder import read_metrics

    recorded: dict[str, Any] = read_metrics(folder).get("inputs") or {}
    paths = {**recorded, **({"fixed": fixed, "moving": moving} if fixed and moving else {})}
    if (fixed is None) != (moving is None):
        raise OptionError("FIXED and MOVING belong together: give both, or neither.")
    if not {"fixed", "moving"} <= set(paths):
        raise OptionError("The result does not say where its images are; give FIXED and MOVING, too.")
    return read_case(paths)


def _read_corrections(fixed: Optional[Path], moving: Optional[Path]) -> list[Correction]:
    from ..engine.corrections import Correction
    from ..engine.landmarks import read_landmarks, require_pairs

    if fixed is None and moving is None:
        return []
    if fixed is None or moving is None:
        raise OptionError("--fixed-landmarks and --moving-landmarks belong together: each point needs its counterpart.")
    pairs = require_pairs(read_landmarks(fixed), read_landmarks(moving))
    return [Correction(tuple(one), tuple(other)) for one, other in zip(*(points.points for points in pairs))]


def _run(case: Case, folder: Path, corrections: list[Correction]) -> RegistrationResult:
    with readable_warnings(), StageProgress() as progress:
        with progress.stage("start"):
            from ..case import CaseCorrector, read_result
            from ..engine.hardware import prepare_process

            prepare_process()
        return CaseCorrector(case, read_result(folder, case)).correct(corrections, progress)


def _write_report(result: RegistrationResult, case: Case, folder: Path) -> None:
    from ..report.page import write_report

    messages.print("writing the report …", highlight=False)
    with readable_warnings(), silent_libraries():
        write_report(result, case.fixed, case.moving, folder / "report.html")


def _text(told: dict[str, Any]) -> str:
    before, after, reach = (told[key] for key in ("error_before_mm", "error_after_mm", "reach_mm"))
    return f"{before:.1f} mm off before, {after:.1f} mm now; felt within {reach:.0f} mm"
