"""The folder of a study: a result folder for each pair, complete or not there.

``pairs/NAME`` holds what ``register`` would have written, and ``pair.json``: what it was made of, and its files. A
worker writes into ``.partial/TOKEN/NAME.N``, of the owner's token and the attempt, and renames that when it is
complete. So whatever happens, a folder in ``pairs`` is whole, and what lies in ``.partial`` is nobody's once its owner
is gone. Beside ``pairs`` lie the table of all measures, a page that shows them, and what people said of the pairs.
What is made of the pairs, such as fused labels, is kept in the same way in folders of other kinds.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

from ..engine.errors import OutputError
from .lock import StudyInUseError, owner_of

TABLE, WALL = "cohort.csv", "index.html"
PAIRS, PARTIAL = "pairs", ".partial"
_RECORDS = {PAIRS: "pair.json"}
ATTEMPTS = 3
"""A pair whose worker died so often is set aside."""


class Study:
    """The folder, for one who owns it and for those who work for the owner.

    Parameters
    ----------
    folder : Path
        Workers, which may have been started elsewhere, see it under the same absolute path.
    token : str
        Of the owner's lock.
    kind : str
        Name of the folder of its results.

    Attributes
    ----------
    partial : Path
        For what is not finished.
    """

    def __init__(self, folder: Path, token: str, kind: str = PAIRS) -> None:
        self.folder = folder.absolute()
        self.token = token
        self.kind = kind
        self.partial = self.folder / PARTIAL / token
        self._record = _RECORDS.get(kind, "made_of.json")

    def result_folder(self, name: str) -> Path:
        """Where the result of a pair lies once it is complete."""
        return self.folder / self.kind / name

    # For the owner

    def prepare(self) -> None:
        """Make the folders, and remove what earlier owners left unfinished."""
        shutil.rmtree(self.folder / PARTIAL, ignore_errors=True)
        self.partial.mkdir(parents=True, exist_ok=True)
        (self.folder / self.kind).mkdir(exist_ok=True)

    def tidy(self) -> None:
        """Remove everything unfinished."""
        shutil.rmtree(self.folder / PARTIAL, ignore_errors=True)

    def record(self, name: str) -> Optional[dict[str, Any]]:
        """What the result of a pair was made of; None if there is no whole result."""
        folder = self.result_folder(name)
        try:
            record = json.loads((folder / self._record).read_text(encoding="utf-8"))
            files = record["files"]
            whole = all((folder / file).stat().st_size == size for file, size in files.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return record if whole else None

    def renew_record(self, name: str, record: Mapping[str, Any]) -> None:
        """Replace what is known of a result's inputs, in one step."""
        new = self.partial / f"{name}.json"
        new.write_text(_as_json(record), encoding="utf-8")
        new.replace(self.result_folder(name) / self._record)

    def attempts(self, name: str) -> int:
        """How often a worker has begun a pair and not ended it."""
        return sum((self.partial / f"{name}.{n}").exists() for n in range(1, ATTEMPTS + 1))

    # For a worker

    def begin(self, name: str) -> Optional[Path]:
        """A new folder to write the result of a pair to; None after too many attempts.

        Raises StudyInUseError if the study has another owner by now, OutputError if it cannot be written.
        """
        for attempt in range(1, ATTEMPTS + 1):
            folder = self.partial / f"{name}.{attempt}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                continue
            except FileNotFoundError:
                raise self._other_owner() from None
            except OSError as error:
                raise OutputError(f"The study cannot be written: {(error.strerror or str(error)).lower()}.") from error
        return None

    def complete(self, name: str, folder: Path, record: Mapping[str, Any]) -> None:
        """Make a folder the result of a pair, in place of an older one.

        Raises
        ------
        StudyInUseError
            The study has another owner by now.
        OutputError
            It cannot be written.
        """
        try:
            files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
            (folder / self._record).write_text(_as_json({**record, "files": files}), encoding="utf-8")
            self._require_owner()
            self.remove_result(name)
            folder.rename(self.result_folder(name))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OutputError(f"The result cannot be written to {self.result_folder(name)}: {reason}.") from error

    def remove_result(self, name: str) -> None:
        """Remove a result, which is of other inputs or options or not whole: in one step, then from the disk."""
        aside = self.partial / f"{name}.old"
        with suppress(FileNotFoundError):
            self.result_folder(name).rename(aside)
            shutil.rmtree(aside, ignore_errors=True)

    def end(self, name: str) -> None:
        """Forget all attempts at a pair."""
        for attempt in range(1, ATTEMPTS + 1):
            shutil.rmtree(self.partial / f"{name}.{attempt}", ignore_errors=True)
        if owner_of(self.folder) != self.token:
            # The owner has tidied up already.
            for folder in (self.partial, self.partial.parent):
                with suppress(OSError):
                    folder.rmdir()

    def _require_owner(self) -> None:
        if owner_of(self.folder) != self.token:
            raise self._other_owner()

    def _other_owner(self) -> StudyInUseError:
        return StudyInUseError(f"The command that worked on the study {self.folder} has ended.")


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room on the disk, or in the quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _as_json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=1) + "\n"
