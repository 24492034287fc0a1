"""One command at a time on a study: a lock file that says who, and that a dead owner does not keep."""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Optional

from ..engine.errors import OutputError

LOCK_FILE = ".lock"
BEAT_S, DEAD_S = 10.0, 120.0
"""How often an owner shows that it lives, and after which silence it is taken for dead."""


class StudyInUseError(OutputError):
    """Another command works on the study, or has taken it over."""

    code = "in-use"


class Lock:
    """Makes a study this process's own for as long as a block takes.

    The file holds process, computer and a token, and its time is renewed by a thread. An owner on this computer whose
    process is gone, or one that has not shown itself for two minutes, is taken for dead.

    Parameters
    ----------
    folder : Path
        Of the study; it exists.

    Attributes
    ----------
    token : str
        Of this owner, for :func:`owner_of`: who still works for an earlier one leaves the study alone.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_FILE
        self.token = uuid.uuid4().hex
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._show_life, name="lock", daemon=True)

    def __enter__(self) -> Lock:
        """Take the lock; StudyInUseError if somebody has it, OutputError if it cannot be written."""
        try:
            self._take()
        except FileExistsError:
            self._remove_dead()
            self._take_again()
        self._beat.start()
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._ended.set()
        self._beat.join()
        if self.is_held():
            self.path.unlink(missing_ok=True)

    def is_held(self) -> bool:
        """Whether the study is still this owner's."""
        return owner_of(self.path.parent) == self.token

    def require(self) -> None:
        """Raise StudyInUseError if another command has taken the study over."""
        if not self.is_held():
            raise StudyInUseError(f"Another command has taken over the study {self.path.parent}; this one has stopped.")

    def _take(self) -> None:
        content = {"token": self.token, "process": os.getpid(), "computer": socket.gethostname()}
        try:
            with self.path.open("x", encoding="utf-8") as file:
                file.write(json.dumps(content))
        except FileExistsError:
            raise
        except OSError as error:
            self.path.unlink(missing_ok=True)
            reason = (error.strerror or str(error)).lower()
            raise OutputError(f"The study cannot be written to {self.path.parent}: {reason}.") from error

    def _take_again(self) -> None:
        try:
            self._take()
        except FileExistsError:
            raise self._in_use(_read(self.path)) from None

    def _remove_dead(self) -> None:
        """Remove the lock of a dead owner; raises StudyInUseError if it lives."""
        found = _read(self.path)
        if not self._is_dead(found):
            raise self._in_use(found)
        # Another command may do the same at this moment: only what was looked at is removed.
        aside = self.path.with_name(f"{LOCK_FILE}-{self.token}")
        with suppress(FileNotFoundError):
            self.path.rename(aside)
            if _read(aside) != found:
                aside.rename(self.path)
                raise self._in_use(_read(self.path))
            aside.unlink()

    def _is_dead(self, found: dict[str, Any]) -> bool:
        here = found.get("computer") == socket.gethostname()
        if here and os.name == "posix" and not _runs(found.get("process")):
            return True
        return self._silent_s() > DEAD_S

    def _silent_s(self) -> float:
        """Seconds since the owner showed itself, by the clock of the file system."""
        probe = self.path.with_name(f"{LOCK_FILE}-{self.token}")
        try:
            probe.touch()
            now = probe.stat().st_mtime
            return now - self.path.stat().st_mtime
        except FileNotFoundError:
            return DEAD_S + 1  # it has just been given back
        finally:
            probe.unlink(missing_ok=True)

    def _in_use(self, found: dict[str, Any]) -> StudyInUseError:
        who = f"process {found.get('process', '?')} on {found.get('computer', 'another computer')}"
        return StudyInUseError(f"Another command works on the study {self.path.parent}: {who}. Wait for it, or end it.")

    def _show_life(self) -> None:
        while not self._ended.wait(BEAT_S):
            with suppress(OSError):
                if self.is_held():
                    os.utime(self.path)


def owner_of(folder: Path) -> str:
    """The token of who owns a study; empty if nobody does."""
    return str(_read(folder / LOCK_FILE).get("token", ""))


def _read(path: Path) -> dict[str, Any]:
    """What a lock file says; nothing if there is none or it is still being written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _runs(process: Any) -> bool:
    if not isinstance(process, int):
        return True  # not written yet
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
