"""The expected error against the true one, on cases that neither fitted it nor made its bound hold."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from DeepRegAttentionLib.engine.hardware import prepare_process
from DeepRegAttentionLib.engine.resources import resource_folder
from DeepRegAttentionLib.engine.trust.predictor import FILE, Predictor, write_predictors
from documents import DOCUMENT, replace_part
from error_figure import draw
from error_fit import Places, fitted, judged_places, of_kind, places_of
from rich.console import Console
from rich.markdown import Markdown
from scipy.stats import mannwhitneyu, spearmanr
from truths import BORDER, FOREIGN, METHODS, MOVED, WRONG

LARGE_MM = 2.0
NAMES = {"brain": "brains", "hippocampus": "hippocampi", "heart": "hearts"}


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("errors", help="fit the expected error and its bound, and say how good they are")
    parser.add_argument("data", type=Path, help="folder in which the data sets lie")
    parser.add_argument("--output", type=Path, default=Path("trust"), help="folder for registrations")
    parser.add_argument("--record", action="store_true", help="write predictor and tables")
    parser.set_defaults(work=work)


def work(arguments: argparse.Namespace) -> None:
    prepare_process()
    found = {method: places_of(method, arguments.data, arguments.output) for method in METHODS}
    predictors = fitted(found)
    text = "\n".join(tables(found, predictors))
    Console().print(Markdown(text))
    if arguments.record:
        write_predictors(predictors, resource_folder("Trust") / FILE)
        print(draw({method: parts["report"] for method, parts in found.items()}, predictors, arguments.output))
        replace_part(DOCUMENT, "errors", text + "\n")


def tables(found: dict[str, dict[str, list[Places]]], predictors: dict[str, Predictor]) -> list[str]:
    """Known deformations, borders of structures, and anatomy that a model was not made for, of cases that report."""
    lines = [
        "| known deformations | cases | rank | within a case | in the bound | area, above 2 mm |",
        "|---|---|---|---|---|---|",
    ]
    judged = [
        (method, predictors[method], parts[purpose])
        for method, parts in found.items()
        for purpose in ("report", "refined")
    ]
    for method, predictor, parts in judged:
        for task, some in by_task(parts, MOVED):
            lines.append(f"{_head(method, task, some)} | {_of_rank(some, predictor)} | {area_cell(some, predictor)} |")
    lines += ["", "| borders of structures | pairs | rank | within a pair | in the bound |", "|---|---|---|---|---|"]
    for method, predictor, parts in judged:
        for task, some in by_task(parts, BORDER):
            lines.append(f"{_head(method, task, some)} | {_of_rank(some, predictor)} |")
    lines += [
        "", "| anatomy | cases | expected mm, mean | true | within the bound |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for method, predictor, parts in judged:
        for kind in (MOVED, FOREIGN, WRONG):
            for task, some in by_task(parts, kind):
                expected, bound, errors = judged_places(some, predictor)
                covered = f"{100 * np.mean(errors <= bound):.0f} %"
                lines.append(f"{_head(method, task, some)} | {expected.mean():.1f} | {errors.mean():.1f} | {covered} |")
    return lines


def _head(method: str, task: str, parts: Sequence[Places]) -> str:
    name = "refinement alone" if method == "none" else f"`{method}`"
    own = NAMES[task] if task in METHODS[method] else f"*{NAMES[task]}*"
    trial = parts[0].trial
    also = ", refined" if trial.refined else ", wrong on purpose" if trial.kind == WRONG else ""
    return f"| {name}, {own}{also} | {len(parts)}"


def by_task(parts: Sequence[Places], kind: str) -> Iterator[tuple[str, list[Places]]]:
    """The registrations of a kind, by their anatomy."""
    for task in dict.fromkeys(part.trial.task for part in parts if part.trial.kind == kind):
        yield task, of_kind(parts, kind, task)


def _of_rank(parts: Sequence[Places], predictor: Predictor) -> str:
    """Rank correlation over the places of all, mean of those of each, and share within the bound."""
    expected, bound, errors = judged_places(parts, predictor)
    own = [judged_places([part], predictor) for part in parts]
    within = np.mean([spearmanr(said, true)[0] for said, _, true in own])
    return f"{spearmanr(expected, errors)[0]:.2f} | {within:.2f} | {100 * np.mean(errors <= bound):.1f} %"


def area_cell(parts: Sequence[Places], predictor: Predictor) -> str:
    """How well the places with large errors are told from the others."""
    expected, _, errors = judged_places(parts, predictor)
    large = errors > LARGE_MM
    if large.all() or not large.any():
        return "all or none are"
    area = mannwhitneyu(expected[large], expected[~large]).statistic / (large.sum() * (~large).sum())
    return f"{area:.2f} ({100 * large.mean():.0f} % are)"
