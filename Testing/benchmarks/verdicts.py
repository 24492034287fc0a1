"""How well the verdict tells registrations that went wrong from those that went well.

``trust.py limits`` registers pairs that should go well and takes the limits of the verdict from them;
``trust.py failures`` registers other pairs, well and spoiled in every way of ``trials.KINDS``, and says how many of
each kind are flagged. What the folder of results holds already is not done again, and is judged anew by the limits as
they are. ``trust.py gallery`` draws what is caught and what is missed, on the shipped pair.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
from DeepRegAttentionLib.engine.hardware import prepare_process
from DeepRegAttentionLib.engine.resources import resource_folder
from DeepRegAttentionLib.engine.trust.predictor import ANY
from DeepRegAttentionLib.engine.trust.verdict import judge, read_limits
from DeepRegAttentionLib.terms.measures import EVIDENCE
from documents import DOCUMENT, replace_part
from gallery import FIGURE, draw
from limits import document, fit
from trials import GOOD, GOOD_INVERTED, KINDS, Cases, Trial, bad_trials, good_trials, run

Row = dict[str, Any]

LOST = 0.75
"""A result is wrong whose structures overlap less than this share of what they do when nothing is spoiled."""


def add_commands(commands: Any) -> None:
    """``limits`` and ``failures``."""
    for name, work, text in (
        ("limits", take_limits, "take the limits of the verdict from pairs that go well"),
        ("failures", tell_failures, "register pairs that were made to fail, and say how many are noticed"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("data", type=Path, help="folder in which the data sets lie")
        command.add_argument("--output", type=Path, default=Path("trust"), help="folder for results")
        command.add_argument("--good", type=int, default=48, help="pairs that go well, for each model")
        command.add_argument("--bad", type=int, default=6, help="pairs of each kind of failure, for each anatomy")
        command.add_argument("--record", action="store_true", help="write into the resources or the documentation")
        command.set_defaults(work=work)
    command = commands.add_parser("gallery", help="draw failures of the shipped pair")
    command.add_argument("--figure", type=Path, default=FIGURE)
    command.set_defaults(work=lambda arguments: print(draw(arguments.figure)))


def take_limits(arguments: argparse.Namespace) -> None:
    """Limits from pairs of the part that they are fitted on."""
    cases = Cases(arguments.data)
    rows = done(good_trials(cases, "fit", arguments.good), cases, arguments.output / "fit.jsonl")
    text = json.dumps(limits_of(rows), indent=1) + "\n"
    (arguments.output / "verdict.json").write_text(text, encoding="utf-8")
    if arguments.record:
        (resource_folder("Trust") / "verdict.json").write_text(text, encoding="utf-8")


def limits_of(rows: Iterable[Row]) -> dict[str, Any]:
    """The resource file, from registrations that went well."""
    evidence: dict[str, list[Mapping[str, float]]] = {}
    for row in rows:
        evidence.setdefault(row["used"], []).append(row["evidence"])
    fitted = {method: fit(found) for method, found in evidence.items()}
    return document(fitted, {method: len(found) for method, found in evidence.items()})


def tell_failures(arguments: argparse.Namespace) -> None:
    """The table of failures, of pairs of the part that reports."""
    cases = Cases(arguments.data)
    trials = [*good_trials(cases, "report", arguments.good), *bad_trials(cases, "report", arguments.bad)]
    rows = judged(done(trials, cases, arguments.output / "report.jsonl"))
    text = "\n".join([*alarm_table(rows), "", *failure_table(rows)]) + "\n"
    (arguments.output / "failures.md").write_text(text, encoding="utf-8")
    print(text)
    if arguments.record:
        replace_part(DOCUMENT, "failures", text)


def done(trials: Iterable[Trial], cases: Cases, path: Path) -> list[Row]:
    """A row for each trial; those that a file has are read, the others run and added to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    known = {row["key"]: row for row in map(json.loads, lines)}
    prepare_process()
    rows = []
    for trial in dict.fromkeys(trials):
        if trial.key not in known:
            known[trial.key] = {"key": trial.key, **run(trial, cases)}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known[trial.key]) + "\n")
        rows.append(known[trial.key])
    return rows


def judged(rows: Sequence[Row]) -> list[Row]:
    """The rows with ``grade`` and ``reasons`` by the limits as they are; what was refused failed."""
    known = read_limits(resource_folder("Trust") / "verdict.json")
    told = []
    for row in rows:
        if "refused" in row:
            told.append({**row, "grade": "fail", "reasons": ["refused"]})
            continue
        grade, reasons = judge(row["evidence"], known.get(row["used"], known[ANY]))
        told.append({**row, "grade": grade, "reasons": [reason.key for reason in reasons]})
    return told


# Tables


def alarm_table(rows: Sequence[Row]) -> list[str]:
    """How many good pairs are flagged, by model."""
    good = [row for row in rows if row["kind"] in (GOOD, GOOD_INVERTED)]
    lines = ["| good pairs of | pairs | flagged | fail |", "|---|---|---|---|"]
    for model in dict.fromkeys(row["model"] for row in good):
        some = [row for row in good if row["model"] == model]
        name = "refinement alone" if model == "none" else f"`{model}`"
        lines.append(f"| {name} | {len(some)} | {_percent(some, flagged)} | {_percent(some, failed)} |")
    return [*lines, f"| all | {len(good)} | {_percent(good, flagged)} | {_percent(good, failed)} |"]


def failure_table(rows: Sequence[Row]) -> list[str]:
    """What is noticed of each kind of failure."""
    lines = ["| what is wrong | pairs | Dice without → with | wrong | flagged | of the wrong | fail | first reasons |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    whole = references(rows)
    bad = [row for row in rows if row["kind"] not in (GOOD, GOOD_INVERTED)]
    for kind, how in KINDS.items():
        some = [row for row in bad if row["kind"] == kind]
        if some:
            name = f"**{how.text}**" if how.gross else how.text
            lines.append(f"| {name} | {_cells(some, whole)} | {_reasons(some)} |")
    gross = [row for row in bad if KINDS[row["kind"]].gross]
    lines.append(f"| all gross failures (bold) | {_cells(gross, whole)} | |")
    return [*lines, f"| all | {_cells(bad, whole)} | |"]


def references(rows: Sequence[Row]) -> dict[tuple[Any, ...], float]:
    """Dice of pairs of which nothing was spoiled, by their fixed and moving images."""
    whole: dict[tuple[Any, ...], float] = {}
    for row in rows:
        if row["kind"] == GOOD and row.get("dice") is not None:
            pair = _pair(row)
            whole[pair] = max(row["dice"], whole.get(pair, 0.0))
    return whole


def _pair(row: Row) -> tuple[Any, ...]:
    return (*row["fixed"], *row["moving"])


def is_wrong(row: Row, whole: Mapping[tuple[Any, ...], float]) -> bool:
    """Whether much of the overlap is lost, or there was nothing to find."""
    dice: Optional[float] = row.get("dice")
    return dice is None or _pair(row) not in whole or dice < LOST * whole[_pair(row)]


def flagged(row: Row) -> bool:
    return bool(row["grade"] != "pass")


def failed(row: Row) -> bool:
    return bool(row["grade"] == "fail")


def _cells(rows: Sequence[Row], whole: Mapping[tuple[Any, ...], float]) -> str:
    wrong = [row for row in rows if is_wrong(row, whole)]
    both = [(whole[_pair(row)], row["dice"]) for row in rows if row.get("dice") is not None and _pair(row) in whole]
    dice = " → ".join(f"{value:.2f}" for value in np.mean(both, axis=0)) if both else "–"
    shares = f"{_percent(rows, flagged)} | {_percent(wrong, flagged)} | {_percent(rows, failed)}"
    return f"{len(rows)} | {dice} | {len(wrong)} | {shares}"


def _percent(rows: Sequence[Row], what: Any) -> str:
    return f"{100 * np.mean([what(row) for row in rows]):.0f} %" if rows else "–"


def _reasons(rows: Sequence[Row]) -> str:
    """The reasons that came first most often, as a verdict names them."""
    names = {row.key: row.name.lower() for row in EVIDENCE}
    first = [names.get(row["reasons"][0], row["reasons"][0]) for row in rows if row["reasons"]]
    return "; ".join(sorted(dict.fromkeys(first), key=lambda reason: -first.count(reason))[:3])
