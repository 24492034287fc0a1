"""What a result was made of, to know later whether it still is what would be made now.

A file counts as the same if path, size and times are; otherwise its content decides, so that a copied or touched file
makes nothing be done again.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import __version__
from ..engine.errors import ModelError
from ..engine.models.files import find_model
from ..engine.models.listing import list_models
from ..terms.inputs import CALLED
from .pairs import Settings

_NOT_OF_THE_RESULT = ("threads", "device", "undecided_licences")
"""Options that say where and how fast, not what is computed."""

# Formats of a header and voxels in a file beside it.
_WITH_COMPANIONS = (".hdr", ".img", ".mhd", ".nhdr")
_CHUNK = 2**20


Record = Mapping[str, Any]
"""Plain values for JSON: the state of each input, and how it was registered."""


def how(settings: Settings) -> dict[str, Any]:
    """What results are made of beside their inputs: the same for all pairs.

    Raises ModelError if the model is unknown or damaged.
    """
    options = {n: v for n, v in settings.options.to_dict().items() if n not in _NOT_OF_THE_RESULT}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    written = {"extension": settings.extension, "displacement": settings.displacement, "report": settings.report}
    return {"version": __version__, "model": _model(settings.options.model), "settings": {**plain, **written}}


def _model(name: str) -> str:
    """The SHA-256 of a model, or of the list that one is chosen from."""
    if name == "none":
        return ""
    if name != "auto":
        return find_model(name).sha256
    try:
        listed = [f"{model.info.name} {model.sha256}" for model in list_models()]
    except ModelError:
        return ""  # the registration warns of it and goes on without
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def made_of(paths: Mapping[str, str], how: Record) -> dict[str, Any]:
    """What a result is made of, of inputs by their names; reads every one.

    Take it before the inputs are read: what changes in between is then noticed the next time.
    """
    return {"inputs": {name: _state(path) for name, path in paths.items()}, **how}


def what_changed(record: Record, paths: Mapping[str, str], how: Record) -> tuple[str, Record]:
    """Whether a result is what would be made of some inputs now.

    Returns
    -------
    why : str
        Why it is not, in a few words; empty if it is.
    record : mapping
        The record of it as it would be written now: times of files can be others.
    """
    for key, now in how.items():
        if record.get(key) != now:
            return ("other options" if key == "settings" else f"another {key}"), record
    known = record.get("inputs")
    if not isinstance(known, dict) or set(known) != set(paths):
        return "other inputs", record
    inputs = {name: known[name] if _is_untouched(known[name], path) else _state(path) for name, path in paths.items()}
    changed = [name for name, state in inputs.items() if state["sha256"] != known[name]["sha256"]]
    return f"another {CALLED.get(changed[0], changed[0])}" if changed else "", {**record, "inputs": inputs}


# Files


def _is_untouched(state: Mapping[str, str], path: str) -> bool:
    return state["path"] == path and state["stamp"] == _stamp(Path(path))


def _state(path: str) -> dict[str, str]:
    """Path, stamp and hash of an input; without the latter if it cannot be read, which is said when it is needed."""
    stamp = _stamp(Path(path))
    sha256 = ""
    with suppress(OSError):
        sha256 = _hash(Path(path), stamp)
    return {"path": path, "stamp": stamp, "sha256": sha256}


def _stamp(path: Path) -> str:
    """Names, sizes and times of the files of an input; empty if there are none."""
    try:
        stats = [(file.name, file.stat()) for file in _files(path)]
    except OSError:
        return ""
    return " ".join(f"{name}:{s.st_size}:{s.st_mtime_ns}:{s.st_ctime_ns}" for name, s in stats)


def _files(path: Path) -> list[Path]:
    """The files of an input: those of a DICOM folder, or the one with what belongs to it."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    if path.suffix.lower() in _WITH_COMPANIONS:
        return sorted(file for file in path.parent.glob(f"{glob.escape(path.stem)}.*") if file.is_file())
    return [path]


@lru_cache(maxsize=4096)
def _hash(path: Path, stamp: str) -> str:
    """The SHA-256 of names and contents; `stamp` makes a changed file be read again."""
    whole = hashlib.sha256()
    files = _files(path)
    for file in files:
        if len(files) > 1:
            whole.update(f"\0{file.name}\0".encode())
        for chunk in _chunks(file):
            whole.update(chunk)
    return whole.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
