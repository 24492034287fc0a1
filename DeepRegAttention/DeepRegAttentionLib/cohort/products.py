"""What a study makes of its registrations: each in a folder, complete or not there, and made again if it would differ.

The registrations are many and spread over workers; what is made of them is made by the one who owns the study.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import SimpleITK as sitk

from ..engine.errors import OutputError
from ..engine.images import write_complete
from ..engine.result import without_nan, write_transform
from ..engine.result_folder import METRICS_FILE
from .ledger import Cell
from .lock import Lock
from .provenance import made_of, what_changed
from .study import Study


class Products:
    """The folders of one kind in a study, for one who owns it.

    Parameters
    ----------
    study : Study
        Of that kind.
    """

    def __init__(self, study: Study) -> None:
        self._study = study

    def get(
        self, name: str, inputs: Mapping[str, str], how: Mapping[str, Any], make: Callable[[Path], None]
    ) -> tuple[Path, bool]:
        """A folder as it would be made now: the one that is there, or a new one.

        Parameters
        ----------
        name : str
            Of the folder.
        inputs : mapping of str to str
            The files that it is made of.
        how : mapping
            What else it depends on, as plain values for JSON.
        make : callable
            Writes its files into the folder that it is given.

        Returns
        -------
        (Path, bool)
            The folder, and whether it was made now.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        if self._is_current(name, inputs, how):
            return self._study.result_folder(name), False
        record = made_of(inputs, how)
        folder = self._study.begin(name)
        assert folder is not None, "the owner has emptied what was unfinished"
        try:
            with writable(self._study.result_folder(name)):
                make(folder)
            self._study.complete(name, folder, record)
        finally:
            self._study.end(name)
        return self._study.result_folder(name), True

    def _is_current(self, name: str, inputs: Mapping[str, str], how: Mapping[str, Any]) -> bool:
        record = self._study.record(name)
        if record is None:
            return False
        changed, renewed = what_changed(record, inputs, json.loads(json.dumps(how)))
        if not changed and renewed != record:
            self._study.renew_record(name, renewed)
        return not changed


@contextmanager
def owned(folder: Path, kind: str) -> Iterator[Products]:
    """Make a study this process's own for a block, and tidy up behind it.

    Raises StudyInUseError if another command works on it, OutputError if it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with Lock(folder) as lock:
        study = Study(folder, lock.token, kind)
        study.prepare()
        try:
            yield Products(study)
        finally:
            study.tidy()


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn what the system says in a block into OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {(error.strerror or str(error)).lower()}.") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system and SimpleITK say in a block that does nothing but write a file into OutputError."""
    with writable(path):
        try:
            yield
        except RuntimeError as error:
            raise OutputError(f"{path} cannot be written: the disk or the quota may be full.") from error


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image into a folder that is not finished; OutputError if that fails."""
    with writing(path):
        write_complete(image, path)


def write_transforms(transforms: Mapping[str, sitk.Transform], folder: Path) -> None:
    """Write transforms as ``NAME.h5`` into a folder that is not finished; OutputError if that fails."""
    for name, transform in transforms.items():
        with writing(folder / f"{name}.h5"):
            write_transform(transform, folder / f"{name}.h5")


def write_metrics(metrics: Mapping[str, Any], folder: Path) -> None:
    """Write what was measured, with null for what could not be; OSError if that fails."""
    text = json.dumps(without_nan(dict(metrics)), indent=2)
    (folder / METRICS_FILE).write_text(text + "\n", encoding="utf-8")


def write_table(rows: Sequence[Mapping[str, Cell]], path: Path) -> None:
    """Write a table in place of an earlier one, in one step; OutputError if that fails.

    A number has six digits; what a row lacks or cannot be measured is empty.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    new = path.with_name(f".{path.name}")
    with writable(path):
        try:
            with new.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(columns)
                writer.writerows([_text(row.get(column, "")) for column in columns] for row in rows)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)


def _text(cell: Cell) -> str:
    if isinstance(cell, float):
        return f"{cell:.6g}" if cell == cell else ""
    return str(cell)
