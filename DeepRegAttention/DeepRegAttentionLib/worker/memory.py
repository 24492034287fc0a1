"""What the worker keeps of its last job, so that a correction of its result reads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Optional

from ..engine.result_folder import METRICS_FILE
from ..jobs.messages import PairJob

if TYPE_CHECKING:
    from ..case import Case, CaseCorrector
    from ..engine.result import RegistrationResult

Stamp = tuple[tuple[str, Optional[tuple[int, int]]], ...]


class Memory:
    """The last result, with its images, for as long as their files are what they were."""

    def __init__(self) -> None:
        self._stamp: Stamp = ()
        self._last: Optional[tuple[Case, RegistrationResult]] = None
        self._corrector: Optional[CaseCorrector] = None

    def forget(self) -> None:
        """Make room."""
        self._stamp, self._last, self._corrector = (), None, None

    def keep(self, job: PairJob, case: Case, result: RegistrationResult) -> None:
        """Know a result that was just written, and what it was made of."""
        self._stamp, self._last, self._corrector = _stamp(job), (case, result), None

    def keep_corrector(self, job: PairJob, corrector: CaseCorrector) -> None:
        """Know what has just corrected a result."""
        self._stamp, self._last, self._corrector = _stamp(job), None, corrector

    def corrector(self, job: PairJob) -> Optional[CaseCorrector]:
        """What corrects the result of a job, if that is the last one."""
        from ..case import CaseCorrector

        if self._stamp != _stamp(job):
            self.forget()
        elif self._last is not None:
            self._corrector, self._last = CaseCorrector(*self._last), None
        return self._corrector


def _stamp(job: PairJob) -> Stamp:
    """The files of a job and its result, when they were written and how large they are."""
    inputs = sorted(job.inputs.to_dict().items())
    paths = [(name, Path(path)) for name, path in inputs] + [("", Path(job.folder) / METRICS_FILE)]
    return tuple((f"{name} {path}", _written(path)) for name, path in paths)


def _written(path: Path) -> Optional[tuple[int, int]]:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
