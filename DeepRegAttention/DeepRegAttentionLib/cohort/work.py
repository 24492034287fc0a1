"""What a worker does: one pair, from its files to its folder in the study."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Optional

import SimpleITK as sitk

from ..engine.errors import OutputError, RegistrationError
from ..engine.result_folder import METRICS_FILE, read_metrics
from .lock import StudyInUseError
from .pairs import Pair, Settings
from .provenance import made_of
from .study import ATTEMPTS, Study, is_full

DONE, KEPT, FAILED, SET_ASIDE = "done", "kept", "failed", "set aside"
STATES = (DONE, KEPT, FAILED, SET_ASIDE)
"""Registered now; registered earlier and still what would be made; an error; given up after its workers died."""


@dataclass(frozen=True)
class Outcome:
    """How a pair ended.

    Attributes
    ----------
    pair : Pair
        Which.
    state : str
        One of ``STATES``.
    folder : Path, optional
        Its result, if there is one.
    metrics : mapping
        Of the result; empty without one.
    sentence : str
        Why there is none.
    full : bool
        Whether there is none because the disk is full.
    """

    pair: Pair
    state: str
    folder: Optional[Path] = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    sentence: str = ""
    full: bool = False

    @property
    def verdict(self) -> str:
        """``pass``, ``review`` or ``fail``; empty without a result."""
        return str((self.metrics.get("verdict") or {}).get("grade", ""))


# The libraries have one number of threads for a process; a worker with several threads of Dask would do as many pairs.
_ONE_AT_A_TIME = threading.Lock()


def register_pair(pair: Pair, settings: Settings, study: Study, how: Mapping[str, Any], threads: int) -> Outcome:
    """Register a pair into a study, completely or not at all.

    Runs in a worker. What goes wrong with the pair is its outcome; StudyInUseError is raised if the study has another
    owner by now.
    """
    with _ONE_AT_A_TIME:
        return _attempt(pair, settings, study, how, threads, _register)


def align_pair(pair: Pair, settings: Settings, study: Study, how: Mapping[str, Any], threads: int) -> Outcome:
    """Align a pair linearly and no more, as :func:`register_pair` would begin: its result is the transform alone."""
    with _ONE_AT_A_TIME:
        return _attempt(pair, settings, study, how, threads, _align)


Make = Callable[[Pair, Settings, Path, int], dict[str, Any]]
"""Writes the result of a pair into a folder, with so many threads, and returns its metrics."""


def _attempt(pair: Pair, settings: Settings, study: Study, how: Mapping[str, Any], threads: int, make: Make) -> Outcome:
    if study.record(pair.name) is not None:
        # A worker died after it had completed it.
        return replace(kept(pair, study), state=DONE)
    folder = study.begin(pair.name)
    if folder is None:
        study.end(pair.name)
        sentence = f"{ATTEMPTS} workers died of this pair: it may need more memory than there is."
        return Outcome(pair, SET_ASIDE, sentence=sentence)
    try:
        _prepare(threads)
        # What changes while it is registered is noticed the next time.
        record = made_of(pair.inputs.to_dict(), how)
        metrics = make(pair, settings, folder, threads)
        study.complete(pair.name, folder, record)
        return Outcome(pair, DONE, study.result_folder(pair.name), metrics)
    except StudyInUseError:
        raise
    except RegistrationError as error:
        return Outcome(pair, FAILED, sentence=str(error), full=_says_full(error))
    finally:
        # Not after the death of this process: then the folder counts as an attempt.
        study.end(pair.name)


def kept(pair: Pair, study: Study) -> Outcome:
    """The outcome of a pair that was registered earlier."""
    folder = study.result_folder(pair.name)
    return Outcome(pair, KEPT, folder, read_metrics(folder))


def _register(pair: Pair, settings: Settings, folder: Path, threads: int) -> dict[str, Any]:
    from ..case import read_case, register_case
    from ..engine.hardware import memory_errors
    from ..report.glance import write_glance

    options = replace(settings.options, threads=threads)
    with warnings.catch_warnings(), memory_errors():
        warnings.simplefilter("ignore")
        case = read_case(pair.inputs.to_dict(), options)
        result = register_case(case, options)
        result.save(folder, settings.extension, displacement=settings.displacement)
        write_glance(result, case.fixed, folder)
        if settings.report:
            from ..report.page import write_report

            write_report(result, case.fixed, case.moving, folder / "report.html")
    return result.plain_metrics()


def _align(pair: Pair, settings: Settings, folder: Path, threads: int) -> dict[str, Any]:
    from ..case import read_case
    from ..engine.prealign import prealign
    from ..engine.result import write_transform

    case = read_case(pair.inputs.to_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = prealign(
            case.fixed,
            case.moving,
            settings.options.prealign,
            initial=case.initial_transform,
            fixed_mask=case.fixed_mask,
            moving_mask=case.moving_mask,
        )
    try:
        write_transform(found or sitk.Transform(3, sitk.sitkIdentity), folder / "transform.h5")
        (folder / METRICS_FILE).write_text("{}\n", encoding="utf-8")
    except (OSError, RuntimeError) as error:
        raise OutputError(f"The result cannot be written to {folder}.") from error
    return {}


@lru_cache(maxsize=1)
def _prepare(threads: int) -> None:
    """Once in a process."""
    from ..engine.hardware import prepare_process

    prepare_process(threads)


def _says_full(error: BaseException) -> bool:
    cause: Optional[BaseException] = error
    while cause is not None:
        if is_full(cause):
            return True
        cause = cause.__cause__
    return isinstance(error, OutputError) and "no space left" in str(error)
