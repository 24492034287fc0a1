"""What a worker of a cohort does in the tests: the real work, with mishaps.

A file ``mishaps/NAME`` beside the study says what happens to the pair of that name: ``die STAGE`` kills the worker
there once, ``die always`` each time, ``full`` finds no room for the result, ``wait`` takes long. ``log`` counts what
was begun and what was completed.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from DeepRegAttentionLib import case
from DeepRegAttentionLib.cohort.pairs import Pair, Settings
from DeepRegAttentionLib.cohort.study import Study
from DeepRegAttentionLib.cohort.work import DONE, Outcome, register_pair
from DeepRegAttentionLib.engine.result import RegistrationResult

STAGE = "refine"
WRITE = RegistrationResult._write_files


@contextmanager
def workers_here() -> Iterator[str]:
    """The address of a scheduler whose only worker is a thread of this process: it has everything imported already."""
    from distributed import LocalCluster

    own = {"processes": False, "n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**own) as cluster:
        yield cluster.scheduler_address


def work(pair: Pair, settings: Settings, study: Study, how: Mapping[str, Any], threads: int) -> Outcome:
    around = study.folder.parent
    mishap, where = planned_mishap(around / "mishaps" / pair.name)
    log(around, f"begun {pair.name}")
    if mishap == "wait":
        time.sleep(float(where))
    with (
        mock.patch.object(
            case, "register_case", deadly(STAGE if where == "always" else where if mishap == "die" else "")
        ),
        mock.patch.object(RegistrationResult, "_write_files", full if mishap == "full" else WRITE),
    ):
        return register_pair(pair, settings, Ending(study.folder, study.token, where), how, threads)


def trivial(pair: Pair, settings: Settings, study: Study, how: Mapping[str, Any], threads: int) -> Outcome:
    """Nothing but what a study needs of a pair."""
    folder = study.begin(pair.name)
    assert folder is not None
    (folder / "metrics.json").write_text("{}", encoding="utf-8")
    study.complete(pair.name, folder, {"inputs": {}, **how})
    study.end(pair.name)
    return Outcome(pair, DONE, study.result_folder(pair.name))


class Ending(Study):
    """A study whose worker dies just before or after a result is in its place."""

    def __init__(self, folder: Path, token: str, where: str) -> None:
        super().__init__(folder, token)
        self.where = where

    def complete(self, name: str, folder: Path, record: Mapping[str, Any]) -> None:
        if self.where == "complete":
            die()
        super().complete(name, folder, record)
        log(self.folder.parent, f"done {name}")
        if self.where == "end":
            die()


def planned_mishap(file: Path) -> tuple[str, str]:
    """What is to happen; only once, if not always."""
    try:
        mishap, _, where = file.read_text(encoding="utf-8").partition(" ")
    except FileNotFoundError:
        return "", ""
    if where != "always":
        file.unlink()
    return mishap, where


def deadly(stage: str) -> Any:
    usual = case.register_case

    def progress(now: str, fraction: float) -> None:
        if now == stage:
            die()

    return lambda read, options: usual(read, options, progress)


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def log(folder: Path, line: str) -> None:
    with (folder / "log").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
