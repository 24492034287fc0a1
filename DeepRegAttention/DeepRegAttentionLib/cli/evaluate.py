"""``deepreg-attention evaluate``: measure a method on a public benchmark."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich import box
from rich.table import Table

from ..engine.errors import OptionError
from ..terms.measures import FOLD_DECIMALS, TIME_DECIMALS, TRE_DECIMALS, number
from . import arguments as a
from .console import ReadableErrors, StageProgress, messages, readable_warnings, results

if TYPE_CHECKING:
    from ..dirlab import CaseResult

evaluate = typer.Typer(name="evaluate", help="Measure a method on a public benchmark.", no_args_is_help=True)

Folder = Annotated[
    Path, typer.Argument(help="Folder with the unpacked cases (Case1Pack, …): images and landmarks, at any depth.")
]
Cases = Annotated[Optional[str], typer.Option(help="Numbers such as 1,2,5; all that are there if not given.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print comma-separated values for programs.")]


@evaluate.callback()
def _keep_the_name() -> None:
    # With a callback a single command keeps its name: “evaluate dirlab”.
    pass


@evaluate.command()
@ReadableErrors()
def dirlab(
    context: typer.Context,
    folder: Folder,
    cases: Cases = None,
    preset: a.Preset = None,
    model: a.Model = None,
    accepted_licences: a.AcceptLicence = None,
    prealign: a.Prealign = None,
    refine: a.Refine = None,
    similarity: a.Similarity = None,
    regularization: a.Regularization = None,
    spacing: a.Spacing = None,
    device: a.Device = None,
    precision: a.Precision = None,
    threads: a.Threads = None,
    as_csv: AsCsv = False,
) -> None:
    """Register T50 to T00 of the DIR-Lab 4DCT cases and print the target registration error.

    The error is the distance in mm between T(T00 landmark) and its T50 landmark, over the 300 landmarks of a case:
    mean (standard deviation), once with T(x) as computed and once with T(x) snapped to the nearest voxel.
    """
    from .settings import options_of

    options = replace(options_of(context), maps=False)
    numbers = None if cases is None else _numbers(cases)
    with StageProgress() as progress, progress.stage("start"):
        from ..dirlab import evaluate_case, find_cases
        from ..engine.hardware import prepare_process

        prepare_process(options.threads)
    found = []
    for files in find_cases(folder, numbers):
        messages.print(f"case {files.number}", highlight=False)
        with readable_warnings(), StageProgress() as progress:
            found.append(evaluate_case(files, options, progress))
    if as_csv:
        _print_csv(found)
    else:
        results.print(results_table(found))


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise OptionError(f"--cases takes numbers such as 1,2,5; “{text}” is not.") from error


def _print_csv(found: list[CaseResult]) -> None:
    rows = [asdict(result) for result in found]
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def results_table(found: list[CaseResult]) -> Table:
    """A row for each case and one for their mean, as papers print them."""
    from ..dirlab import mean_over_cases

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="DIR-Lab 4DCT, T00 to T50: TRE in mm, mean (SD)")
    for heading in ("case", "initial", "exact", "snapped to voxel", "folded voxels (%)", "seconds", "verdict"):
        table.add_column(heading, justify="right")
    for result in found:
        table.add_row(*_row(str(result.case), asdict(result)), result.verdict)
    table.add_section()
    table.add_row(*_row("mean", mean_over_cases(found)))
    return table


def _row(name: str, values: dict[str, float]) -> list[str]:
    pairs = [(values[f"{kind}mean"], values[f"{kind}sd"]) for kind in ("initial_", "", "snapped_")]
    errors = [f"{number(mean, TRE_DECIMALS)} ({number(sd, TRE_DECIMALS)})" for mean, sd in pairs]
    return [name, *errors, number(values["folds_percent"], FOLD_DECIMALS), number(values["seconds"], TIME_DECIMALS)]
