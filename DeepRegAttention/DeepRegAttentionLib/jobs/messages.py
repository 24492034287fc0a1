"""The worker's language: one JSON object a line, commands in, events out. Plain Python, for every side of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Callable, Optional, Union

from ..terms.cohorts import ALL_PAIRS, PAIRINGS
from ..terms.inputs import INPUTS, REQUIRED, Inputs
from ..terms.settings import ALL_OUTPUTS, Outputs, Settings

EVENTS = ("ready", "progress", "map", "pair", "warning", "done", "error", "cancelled")
"""What the worker says."""

ENDINGS = ("done", "error", "cancelled")
"""The last that is said of a job, and the answers to a question."""

STAGES = ("read", "prealign", "network", "refine", "warp", "trust", "maps", "measure", "write")
"""Of a job, in their order; a stage that a job does not need is left out."""

CORRECTION_STAGES = ("read", "correct", "measure", "write")
"""Of a correction, as well."""


class MessageError(ValueError):
    """A line is no command; the text is one sentence.

    Attributes
    ----------
    id : str, optional
        Of the command, as far as it could be read.
    """

    def __init__(self, sentence: str, id: Optional[str] = None) -> None:
        super().__init__(sentence)
        self.id = id


@dataclass(frozen=True)
class Job:
    """One registration as the worker is asked for it.

    Attributes
    ----------
    id : str
        Comes back with every event of the job.
    inputs : Inputs
        Files to read.
    folder : str
        Where the result folder is written, images as uncompressed NRRD.
    options : dict
        Fields of ``RegistrationOptions``; those left out keep their defaults.
    watch : bool
        Whether the warped image is shown while it is refined (``map`` events).
    report : bool
        Whether ``report.html`` is written, too.
    """

    id: str
    inputs: Inputs
    folder: str
    options: dict[str, Any] = field(default_factory=dict)
    watch: bool = False
    report: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The ``register`` command."""
        return {"command": "register", **asdict(self), "inputs": self.inputs.to_dict()}


Point = tuple[float, float, float]


@dataclass(frozen=True)
class CorrectionJob:
    """Corrects a result: the worker is asked for it, and answers, as for a :class:`Job`.

    Attributes
    ----------
    id : str
        Comes back with every event of the job.
    inputs : Inputs
        The files that the result was made of.
    folder : str
        The result folder, which is changed in place; of one that was made for this, ``transform.h5`` and
        ``metrics.json`` as they were before any correction are enough.
    corrections : sequence of (Point, Point)
        All that there are to be, not only new ones: a point of the fixed image, and where the same anatomy lies in
        the moving image, LPS mm. With none the result is as it was found.
    """

    id: str
    inputs: Inputs
    folder: str
    corrections: Sequence[tuple[Point, Point]] = ()

    def to_dict(self) -> dict[str, Any]:
        """The ``correct`` command."""
        pairs = [{"fixed": list(fixed), "moving": list(moving)} for fixed, moving in self.corrections]
        given = {"id": self.id, "inputs": self.inputs.to_dict(), "folder": self.folder, "corrections": pairs}
        return {"command": "correct", **given}


PairJob = Union[Job, CorrectionJob]
"""What is done with one pair."""


def make_job(
    name: str, inputs: Inputs, folder: str, settings: Settings, outputs: Outputs = ALL_OUTPUTS, watch: bool = False
) -> Job:
    """The job of a registration as a person has chosen it; no refinement, nothing to watch."""
    options = {**settings.options(), "maps": outputs.maps}
    return Job(name, inputs, folder, options, watch and settings.may_refine)


@dataclass(frozen=True)
class CohortJob:
    """Many registrations as the worker is asked for them: what ``deepreg-attention cohort`` does.

    Attributes
    ----------
    id : str
        Comes back with every event of the job.
    source : str
        A table of pairs or of images, or a folder of images.
    folder : str
        Of the study; what is complete in it is kept.
    pairing : str
        One of ``PAIRINGS``; counts for nothing with a table of pairs.
    atlas, atlas_labels : str
        With ``"to-atlas"``: a file or the name of an image, and a label map; empty without.
    images : str
        Which images of a BIDS folder; empty for those that are T1-weighted.
    options : dict
        Fields of ``RegistrationOptions``; those left out keep their defaults.
    """

    id: str
    source: str
    folder: str
    pairing: str = ALL_PAIRS
    atlas: str = ""
    atlas_labels: str = ""
    images: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The ``cohort`` command."""
        return {"command": "cohort", **asdict(self)}


AnyJob = Union[PairJob, CohortJob]
"""What takes a while, tells of its progress and can be cancelled."""


@dataclass(frozen=True)
class Cancel:
    """Stops the job with this id, whether it runs or waits."""

    id: str

    def to_dict(self) -> dict[str, Any]:
        """The ``cancel`` command."""
        return {"command": "cancel", "id": self.id}


_numbers = itertools.count(1)


def _new_id() -> str:
    return f"question-{next(_numbers)}"


@dataclass(frozen=True)
class DeviceQuestion:
    """Asks what this computer offers and, given a fixed image, how much memory a registration needs.

    Attributes
    ----------
    size : (int, int, int), optional
        Voxels of the fixed image along i, j, k; the moving image is taken to be alike.
    spacing : (float, float, float), optional
        Its spacing in mm.
    options : dict
        Fields of ``RegistrationOptions`` that the registration would have.
    id : str
        Comes back with the answer; questions that differ in nothing else are equal.
    """

    size: Optional[tuple[int, int, int]] = None
    spacing: Optional[tuple[float, float, float]] = None
    options: dict[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=_new_id, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The ``device`` command."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {"command": "device", **given}


@dataclass(frozen=True)
class Shutdown:
    """Ends the worker, even in the middle of a job."""

    def to_dict(self) -> dict[str, Any]:
        """The ``shutdown`` command."""
        return {"command": "shutdown"}


Command = Union[AnyJob, Cancel, DeviceQuestion, Shutdown]
"""What the worker understands."""


@dataclass(frozen=True)
class Event:
    """One thing that the worker said; fields that the kind of event does not have are None.

    Attributes
    ----------
    event : str
        One of ``EVENTS``.
    id : str, optional
        The job's, or the question's.
    stage, fraction, eta_s
        ``progress``: one of ``STAGES`` or ``CORRECTION_STAGES``, how much of the whole job is done (0..1), seconds that
        are left (None: unknown).
    name, path
        ``map``: which image was renewed, and its file, which is gone once the job has ended. ``error`` with the
        code ``missing-package``: the name of the package to install; with ``licence``: of the model to agree to.
    pair, count
        ``pair``: the row of a pair that has ended, texts by the columns that every table of a study has; how many
        pairs there are in all, which the first ``progress`` of a cohort says, too.
    folder, metrics
        ``done`` after ``register`` and ``correct``: the result folder and what was measured; after ``cohort`` that of
        the study.
    devices
        ``done`` after ``device``: ``name``, ``free_gib``, ``total_gib`` of each, and of the CPU ``needed_gib``, if
        asked for.
    code, message, detail
        ``error`` (and ``message`` alone: ``warning``): for programs, for people, for a bug report.
    """

    event: str
    id: Optional[str] = None
    stage: Optional[str] = None
    fraction: Optional[float] = None
    eta_s: Optional[float] = None
    name: Optional[str] = None
    path: Optional[str] = None
    pair: Optional[dict[str, str]] = None
    count: Optional[int] = None
    folder: Optional[str] = None
    metrics: Optional[dict[str, Any]] = None
    devices: Optional[dict[str, Any]] = None
    code: Optional[str] = None
    message: Optional[str] = None
    detail: Optional[str] = None

    def to_dict(self) -> dict[str, Any]:
        """The fields that this event has."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def encode(message: Union[Command, Event]) -> bytes:
    """One message as a line of UTF-8; NaN and infinities raise ValueError, JSON has none."""
    return (json.dumps(message.to_dict(), allow_nan=False) + "\n").encode("utf-8")


def decode_event(line: bytes) -> Optional[Event]:
    """An event from a line of the worker's output; None for anything else, such as a library's stray print."""
    try:
        values = json.loads(line.decode("utf-8", errors="replace"))
    except ValueError:
        return None
    if not isinstance(values, dict) or values.get("event") not in EVENTS:
        return None
    known = {field.name for field in fields(Event)}
    return Event(**{name: value for name, value in values.items() if name in known})


def decode_command(line: bytes) -> Command:
    """A command from a line of the worker's input; MessageError says what is wrong with it."""
    values = _object(line)
    id = values.get("id")
    if id is not None and not isinstance(id, str):
        raise MessageError(f"The id of a command must be a text; {id!r} is not.")
    try:
        return _command(values, id)
    except MessageError as error:
        raise MessageError(str(error), id) from None


def _object(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise MessageError(f"A line must hold one JSON object; this one does not ({error}).") from error
    if not isinstance(values, dict):
        raise MessageError("A line must hold one JSON object; this one holds something else.")
    return values


def _command(values: Mapping[str, Any], id: Optional[str]) -> Command:
    name = values.get("command")
    if name == "shutdown":
        return Shutdown()
    if name not in _WITH_ID:
        known = ", ".join([*_WITH_ID, "shutdown"])
        raise MessageError(f"There is no command {name!r}; the commands are {known}.")
    if id is None:
        raise MessageError(f"The command “{name}” needs an id.")
    return _WITH_ID[name](values, id)


def _job(values: Mapping[str, Any], id: str) -> Job:
    given = _inputs(values)
    return Job(
        id,
        given,
        _take(values, "folder", str, "the path of a folder", None),
        _take(values, "options", dict, "an object", {}),
        _take(values, "watch", bool, "true or false", False),
        _take(values, "report", bool, "true or false", False),
    )


def _inputs(values: Mapping[str, Any]) -> Inputs:
    given = _take(values, "inputs", dict, "an object", None)
    for key, path in given.items():
        if key not in INPUTS:
            raise MessageError(f"There is no input “{key}”; the inputs are {', '.join(INPUTS)}.")
        if path is not None and not isinstance(path, str):
            raise MessageError(f"The input “{key}” must be the path of a file; {path!r} is not.")
    for key in REQUIRED:
        if given.get(key) is None:
            raise MessageError(f"The input “{key}” is missing.")
    return Inputs(**given)


def _correction(values: Mapping[str, Any], id: str) -> CorrectionJob:
    pairs = [_pair(given) for given in _take(values, "corrections", list, "a list", None)]
    return CorrectionJob(id, _inputs(values), _take(values, "folder", str, "the path of a folder", None), pairs)


def _pair(given: Any) -> tuple[Point, Point]:
    ends = [given.get(key) for key in ("fixed", "moving")] if isinstance(given, dict) else []
    points = [tuple(end) for end in ends if isinstance(end, list) and len(end) == 3]
    if len(points) != 2 or not all(type(value) in (int, float) for point in points for value in point):
        raise MessageError(f"A correction has two points, “fixed” and “moving”, of three numbers; {given!r} has not.")
    return points[0], points[1]


def _cohort(values: Mapping[str, Any], id: str) -> CohortJob:
    texts = {name: _take(values, name, str, "a text", "") for name in ("atlas", "atlas_labels", "images")}
    pairing = _take(values, "pairing", str, "a text", ALL_PAIRS)
    if pairing not in PAIRINGS:
        raise MessageError(f"“pairing” must be one of {', '.join(PAIRINGS)}; “{pairing}” is not.")
    return CohortJob(
        id,
        _take(values, "source", str, "the path of a table or folder", None),
        _take(values, "folder", str, "the path of a folder", None),
        pairing,
        options=_take(values, "options", dict, "an object", {}),
        **texts,
    )


def _cancel(values: Mapping[str, Any], id: str) -> Cancel:
    return Cancel(id)


def _question(values: Mapping[str, Any], id: str) -> DeviceQuestion:
    size, spacing = (_three_positive(values, key) for key in ("size", "spacing"))
    if (size is None) != (spacing is None):
        raise MessageError("“size” and “spacing” of the fixed image belong together.")
    whole = None if size is None else (int(size[0]), int(size[1]), int(size[2]))
    return DeviceQuestion(whole, spacing, _take(values, "options", dict, "an object", {}), id)


_WITH_ID: dict[str, Callable[[Mapping[str, Any], str], Command]] = {
    "register": _job,
    "cohort": _cohort,
    "correct": _correction,
    "cancel": _cancel,
    "device": _question,
}


def _three_positive(values: Mapping[str, Any], key: str) -> Optional[tuple[float, float, float]]:
    given = values.get(key)
    if given is None:
        return None
    numbers = given if isinstance(given, list) else []
    if len(numbers) != 3 or not all(type(n) in (int, float) and 0 < n < 1e6 for n in numbers):
        raise MessageError(f"“{key}” must be three positive numbers; {given!r} is not.")
    return (numbers[0], numbers[1], numbers[2])


def _take(values: Mapping[str, Any], key: str, kind: type, words: str, default: Any) -> Any:
    value = values.get(key, default)
    if value is None:
        raise MessageError(f"The entry “{key}” is missing.")
    if not isinstance(value, kind):
        raise MessageError(f"“{key}” must be {words}; {value!r} is not.")
    return value


class LineBuffer:
    """Whole lines out of chunks of bytes that end anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that are complete now, without their ends."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return lines
