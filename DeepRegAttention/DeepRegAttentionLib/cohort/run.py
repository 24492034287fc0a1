"""A cohort from its pairs to its table: what is missing or changed is registered, the rest is kept."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from ..engine.errors import CancelledError, OutputError
from ..engine.result import require_writable
from ..terms.measures import values_by_column
from .cluster import ClusterError, Plan, Where, connected
from .ledger import Cell, Ledger
from .lock import Lock, StudyInUseError
from .marks import NO_MARK, Mark, read_marks
from .pairs import Pair, Settings
from .provenance import how, what_changed
from .study import TABLE, Study
from .wall import Wall
from .work import FAILED, KEPT, SET_ASIDE, Outcome, kept, register_pair

if TYPE_CHECKING:
    from distributed import Client, Future

    Promise = Future[Outcome]

# Pairs that the scheduler holds for each worker, beside the one that it works on.
_AHEAD = 2

# How often somebody who waits for the next pair looks whether it is to stop.
_LOOK_S = 0.1

Work = Callable[[Pair, Settings, Study, Mapping[str, Any], int], Outcome]


def _never() -> bool:
    return False


@dataclass
class Cohort:
    """Pairs, how they are registered, and the folder that holds the study of them.

    Attributes
    ----------
    pairs : sequence of Pair
        With names of their own.
    settings : Settings
        How each is registered.
    folder : Path
        Of the study: ``cohort.csv`` and a result folder for each pair in ``pairs``.
    where : Where
        On what it is computed.
    work : callable
        What is done with a pair.
    stopped : callable
        Whether to stop, for those who cannot stop asking while they wait for the next pair.
    """

    pairs: Sequence[Pair]
    settings: Settings
    folder: Path
    where: Where = Where()  # noqa: RUF009  (it is frozen)
    work: Work = register_pair
    stopped: Callable[[], bool] = _never

    def __iter__(self) -> Iterator[Outcome]:
        """Do what is missing, and give the outcome of each pair as it ends; those that are kept come first.

        Whoever stops asking stops the study: what is complete stays, and the next time the rest is done.

        Raises
        ------
        StudyInUseError
            Another command works on the study.
        OutputError
            The study cannot be written, or the disk is full.
        UnreadableFileError
            What people said of its pairs, ``marks.csv``, cannot be read.
        ModelError
            The model is unknown or damaged.
        OptionError
            Dask is not installed.
        ClusterError
            The workers cannot be reached.
        CancelledError
            It was to stop.
        """
        made_how = how(self.settings)
        require_writable(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        with Lock(self.folder) as lock, ExitStack() as at_the_end:
            study = Study(self.folder, lock.token)
            study.prepare()
            at_the_end.callback(study.tidy)
            ledger = Ledger(self.folder / TABLE, study.partial)
            wall = Wall(self.folder, len(self.pairs))
            at_the_end.callback(wall.write)
            names = [pair.name for pair in self.pairs]
            at_the_end.callback(lambda: ledger.finish(names, read_marks(self.folder)))
            yield from self._all(study, ledger, wall, lock, made_how)

    def _all(
        self, study: Study, ledger: Ledger, wall: Wall, lock: Lock, made_how: Mapping[str, Any]
    ) -> Iterator[Outcome]:
        missing: list[Pair] = []
        marks = read_marks(self.folder)
        for pair in self.pairs:
            self.require_wanted()
            if _is_current(pair, study, made_how):
                outcome = kept(pair, study)
                ledger.append(row_of(outcome, marks.get(pair.name, NO_MARK)))
                yield outcome
            else:
                missing.append(pair)
        ledger.publish()
        wall.write()
        if not missing:
            return
        with connected(self.where, missing, self.settings.options, study.partial) as (client, plan):
            spread = _Spread(client, plan, self, study, made_how)
            with closing(spread.outcomes(missing)) as outcomes:
                for outcome in outcomes:
                    lock.require()
                    ledger.append(row_of(outcome, marks.get(outcome.pair.name, NO_MARK)))
                    wall.keep_up()
                    yield outcome
                    if outcome.full:
                        raise OutputError(f"The disk of {self.folder} is full; make room and start the command again.")

    def require_wanted(self) -> None:
        """Raise CancelledError once the study is to stop."""
        if self.stopped():
            raise CancelledError("The study was stopped; started again, it goes on.")


def _is_current(pair: Pair, study: Study, made_how: Mapping[str, Any]) -> bool:
    """Whether a pair's result is whole and what would be made now; one that is not is removed."""
    record = study.record(pair.name)
    changed, renewed = ("no result", None) if record is None else what_changed(record, pair.inputs.to_dict(), made_how)
    if changed:
        study.remove_result(pair.name)
        return False
    if renewed != record and renewed is not None:
        study.renew_record(pair.name, renewed)
    return True


class _Spread:
    """Keeps the workers busy, with no more pairs on their way than that takes."""

    def __init__(self, client: Client, plan: Plan, cohort: Cohort, study: Study, made_how: Mapping[str, Any]) -> None:
        self._client, self._plan, self._cohort = client, plan, cohort
        self._study, self._how = study, made_how
        self._pairs: dict[tuple[str, str], Pair] = {}

    def outcomes(self, pairs: Sequence[Pair]) -> Generator[Outcome, None, None]:
        """Each as it ends."""
        from distributed import as_completed

        waiting = iter(pairs)
        ahead = (1 + _AHEAD) * self._plan.workers
        begun = as_completed([self._submit(pair) for _, pair in zip(range(ahead), waiting)], loop=self._client.loop)
        try:
            while not begun.is_empty():
                self._cohort.require_wanted()
                if not begun.has_ready():
                    with begun.thread_condition:
                        begun.thread_condition.wait(_LOOK_S)
                    continue
                future = next(begun)
                pair = self._pairs.pop(future.key)
                outcome = _outcome(future, pair)
                future.release()
                for following in waiting:
                    begun.add(self._submit(following))
                    break
                yield outcome
        finally:
            # The scheduler may have gone.
            with suppress(Exception):
                self._client.cancel(list(begun.futures), force=True)

    def _submit(self, pair: Pair) -> Promise:
        # All of one kind: only then does the scheduler keep them until a worker is idle, and learn how long they take.
        key = f"register-{self._study.token}", pair.name
        self._pairs[key] = pair
        work, settings = self._cohort.work, self._cohort.settings
        given = pair, settings, self._study, self._how, self._plan.threads
        return self._client.submit(work, *given, key=key, pure=False)


def _outcome(future: Promise, pair: Pair) -> Outcome:
    from distributed import KilledWorker

    if future.status in ("cancelled", "lost"):
        raise ClusterError("The scheduler has gone; start the command again, and it does what is missing.")
    if future.status == "finished":
        found: Outcome = future.result()
        return found
    error = future.exception()
    if isinstance(error, StudyInUseError):
        raise error
    if isinstance(error, KilledWorker):
        return Outcome(pair, SET_ASIDE, sentence="Its workers died again and again.")
    return Outcome(pair, FAILED, sentence=f"Unexpected {type(error).__name__}: {error}.")


def row_of(outcome: Outcome, mark: Mark = NO_MARK) -> dict[str, Cell]:
    """The row of a pair in the table."""
    from ..terms.verdict import verdict_of

    pair, metrics = outcome.pair, outcome.metrics
    judged = verdict_of(metrics) if metrics else None
    about: dict[str, Cell] = {
        "name": pair.name,
        "group": pair.group,
        "state": "done" if outcome.state == KEPT else outcome.state,
        "verdict": outcome.verdict,
        "sentence": outcome.sentence or (judged.sentence if judged else ""),
        **mark.cells,
        "fixed": pair.inputs.fixed or "",
        "moving": pair.inputs.moving or "",
        "folder": f"pairs/{pair.name}" if outcome.folder else "",
        "model": (metrics.get("model") or {}).get("name", ""),
    }
    return {**about, **values_by_column(metrics)}
