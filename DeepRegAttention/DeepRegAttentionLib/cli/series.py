"""``deepreg-attention series``: the frames of one subject brought together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from . import arguments as a
from .cohort import Cluster, Scheduler, Study, Workers, show_progress
from .console import ReadableErrors, readable_warnings, results, say
from .template import USUAL

_SERIES = "Series"

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE", help="A 4D file, a sequence of 3D Slicer (.seq.nrrd), or a volume for each frame."),
]
To = Annotated[
    str,
    typer.Option(
        help="To what frames are brought: reference (each to that frame), neighbour (each to the next, and composed), "
        "template (to their own average, by refinement alone unless a model is named).",
        rich_help_panel=_SERIES,
    ),
]
Reference = Annotated[
    int, typer.Option(help="Number of the frame, from 0, whose space is the common one.", rich_help_panel=_SERIES)
]
LabelFiles = Annotated[
    Optional[list[Path]],
    typer.Option(
        "--labels",
        help="Label maps of the frames, as the frames come: one 4D file, or one file for each in turn, with the option "
        "repeated; the overlap is measured.",
        rich_help_panel=_SERIES,
    ),
]
Cycle = Annotated[
    bool,
    typer.Option(
        "--cycle/--no-cycle",
        help="Whether neighbours are registered to measure consistency where they need not be.",
        rich_help_panel=_SERIES,
    ),
]


@ReadableErrors()
def series(
    context: typer.Context,
    files: Files,
    output: Study,
    to: To = "reference",
    reference: Reference = 0,
    labels: LabelFiles = None,
    cycle: Cycle = True,
    workers: Workers = None,
    scheduler: Scheduler = None,
    cluster: Cluster = None,
    preset: a.Preset = None,
    model: a.Model = None,
    accepted_licences: a.AcceptLicence = None,
    prealign: a.Prealign = None,
    refine: a.Refine = None,
    similarity: a.Similarity = None,
    regularization: a.Regularization = None,
    spacing: a.Spacing = None,
    format: a.Format = "nii.gz",
    device: a.Device = None,
    precision: a.Precision = None,
    threads: a.Threads = None,
) -> None:
    """Bring the frames of one subject into one space: a 4D file, a sequence of 3D Slicer, or repeated visits.

    Writes the aligned series, its mean before and after, the transforms of each frame, and how consistent they are
    around the cycle, in mm (needs the extra “cohort”). What is complete is never done twice.
    """
    from ..cohort.cluster import Where, require_dask
    from ..cohort.pairs import Settings
    from .settings import file_extension, options_of

    require_dask()
    settings = Settings(options_of(context, USUAL if to == "template" else None), file_extension(format))
    with readable_warnings():
        from ..cohort.series import SeriesOptions
        from ..cohort.series_study import KIND, RESULT, TABLE, SeriesStudy

        options = SeriesOptions(to, reference, cycle)
        where = Where(scheduler, cluster, workers)
        study = SeriesStudy(files, settings, output, options, labels or (), where, show_progress)
        metrics, made = study.run()
    _show(metrics, made)
    say("aligned", str((output / KIND / RESULT).resolve()), "bold", results)
    say("table", str((output / TABLE).resolve()), "bold", results)


def _show(metrics: Mapping[str, Any], made: bool) -> None:
    """The means over all frames but the reference, which has nothing to move."""
    frames = metrics["frames"]
    others = [one for n, one in enumerate(frames) if metrics["to"] == "template" or n != metrics["reference"]]
    what = f"{len(frames)} frames to their {metrics['to']}"
    say("series", f"{what}, correlation {_mean(others, 'ncc_before')} before, {_mean(others, 'ncc_after')} after"
        f"{'' if made else '; kept'}", "bold", results)  # fmt: skip
    far = [one["cycle_mm"] for one in frames if "cycle_mm" in one]
    if far:
        largest = max(one["p95"] for one in far)
        text = f"off by {_mean(far, 'mean', 2)} mm around the cycle; 95 % of points by {largest:.2f} mm at most"
        say("consistency", text, "bold", results)
    drawn = [one for one in others if one.get("dice_after") is not None]
    if drawn:
        text = (
            f"mean Dice {_mean(drawn, 'dice_before')} before, {_mean(drawn, 'dice_after')} after; {len(drawn)} frames"
        )
        say("overlap", text, "bold", results)


def _mean(measures: list[Any], name: str, decimals: int = 3) -> str:
    values = [one[name] for one in measures if one.get(name) is not None]
    return f"{sum(values) / len(values):.{decimals}f}" if values else "–"
