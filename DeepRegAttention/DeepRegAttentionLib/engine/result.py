"""What a registration returns, and the folder in which it is kept."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from concurrent.futures import as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Optional, Union

import numpy as np
import SimpleITK as sitk

from .clock import Report, share
from .errors import OutputError, UnreadableFileError
from .images import read_image, write_complete
from .parallel import Threads
from .result_folder import GLANCE_FILE, METRICS_FILE, level_map, level_number, read_metrics

MAP_NAMES = (
    "expected_error",
    "error_bound",
    "jacobian",
    "correction",
    "driving_force",
    "driving_force_magnitude",
    "attention",
    "structures",
    "regularization",
    "difference_before",
    "difference_after",
)
"""Every map that a registration can explain itself with; those of single levels (:func:`map_names`) come after."""

EXTENSIONS = (".nii.gz", ".nrrd")
UNCORRECTED = "uncorrected"
"""Folder in a result folder: what was found before any correction, of the files that corrections change."""

CORRECTED_MAPS = ("expected_error", "error_bound", "jacobian", "correction", "difference_after")
_CORRECTED_IMAGES = ("warped", "warped_labels", "displacement", *CORRECTED_MAPS)
_TRANSFORMS = ("transform.h5", "inverse_transform.h5")
_PARTIAL = ".writing-"


class Maps(MutableMapping[str, sitk.Image]):
    """Maps by name, some of which are made only when they are first asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Union[sitk.Image, Callable[[], sitk.Image]]] = {}

    def later(self, name: str, make: Callable[[], sitk.Image]) -> None:
        """Have a map that will be made when it is asked for."""
        self._made[name] = make

    def __getitem__(self, name: str) -> sitk.Image:
        """The map, made now if it is not yet."""
        value = self._made[name]
        if not isinstance(value, sitk.Image):
            value = self._made[name] = value()
        return value

    def __setitem__(self, name: str, image: sitk.Image) -> None:
        """Have a map that is there."""
        self._made[name] = image

    def __delitem__(self, name: str) -> None:
        """Have a map no more."""
        del self._made[name]

    def __iter__(self) -> Iterator[str]:
        """Names, without making anything."""
        return iter(self._made)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._made)


@dataclass
class RegistrationResult:
    """Everything that one registration found.

    Attributes
    ----------
    warped : sitk.Image
        The moving image on the fixed image's grid.
    transform : sitk.Transform
        Takes fixed points to moving points (the resampling direction), LPS mm: linear part and displacement.
    inverse_transform : sitk.Transform, optional
        Takes moving points to fixed points; absent if the initial transform has no inverse.
    maps : mapping of str to sitk.Image
        Keys of ``MAP_NAMES``, and ``driving_force_1``, ... where those of the levels were asked for; a map that the
        method does not have is absent. What comes from the working grid is on it, as far as the fixed image reaches;
        the differences are on the fixed grid, or on every second, third, ... of its voxels where they are many, and
        are made when they are asked for.
    metrics : dict
        Options, model, similarities, Jacobian statistics, seconds per stage; plain values.
    warped_labels : sitk.Image, optional
        The moving label map on the fixed grid.
    uncorrected : RegistrationResult, optional
        What was found before a person corrected it; None if nobody did.
    """

    warped: sitk.Image
    transform: sitk.Transform
    inverse_transform: Optional[sitk.Transform]
    maps: MutableMapping[str, sitk.Image] = field(default_factory=Maps)
    metrics: dict[str, Any] = field(default_factory=dict)
    warped_labels: Optional[sitk.Image] = None
    uncorrected: Optional[RegistrationResult] = None

    @classmethod
    def read(cls, folder: Union[str, Path]) -> RegistrationResult:
        """The result of a folder that :meth:`save` wrote; its maps are read when they are asked for.

        Raises
        ------
        UnreadableFileError
            The folder holds no result, or a file of it is missing or damaged.
        """
        folder = Path(folder)
        found = cls._of_files(folder, lambda name: _before(name, folder))
        if not (folder / UNCORRECTED).is_dir():
            return found
        return replace(cls._of_files(folder, lambda name: folder), uncorrected=found)

    @classmethod
    def _of_files(cls, folder: Path, where: Callable[[str], Path]) -> RegistrationResult:
        """From files, each of which lies in the folder that a function gives for its name."""
        metrics = read_metrics(where(METRICS_FILE))
        warped, labels = (_find(name, where(name)) for name in ("warped", "warped_labels"))
        transform, inverse = (_read_transform(where(name) / name) for name in _TRANSFORMS)
        if warped is None or transform is None:
            lacking = "warped image" if warped is None else _TRANSFORMS[0]
            raise UnreadableFileError(f"{folder} holds no whole result: its {lacking} is missing.")
        maps = Maps()
        for name in map_names(where("driving_force")):
            if _find(name, where(name)) is not None:
                # Where it lies is asked when it is read: a correction moves it.
                maps.later(name, lambda name=name: _read_map(name, where(name)))  # type: ignore[misc]
        return cls(
            read_image(warped), transform, inverse, maps, metrics, None if labels is None else read_image(labels)
        )

    def displacement(self) -> sitk.Image:
        """The total displacement at every voxel of the fixed grid, vectors in LPS mm: the transform, written out."""
        like = self.warped
        target = like.GetSize(), like.GetOrigin(), like.GetSpacing(), like.GetDirection()
        field: sitk.Image = sitk.TransformToDisplacementField(self.transform, sitk.sitkVectorFloat32, *target)
        return field

    def plain_metrics(self) -> dict[str, Any]:
        """The metrics as JSON has them: null where a number does not exist."""
        plain: dict[str, Any] = without_nan(self.metrics)
        return plain

    def save(
        self,
        folder: Union[str, Path],
        extension: str = ".nii.gz",
        compress: bool = True,
        progress: Optional[Report] = None,
        displacement: bool = False,
    ) -> Path:
        """Write the result folder; an older result there is replaced only once the new one is complete.

        Parameters
        ----------
        folder : path
            Made if it does not exist.
        extension : {".nii.gz", ".nrrd"}
            Format of the images.
        compress : bool
            Whether NRRD images are compressed; without it they are written and read several times as fast.
        progress : callable, optional
            Gets the fraction of the files that are written; may raise to stop.
        displacement : bool
            Whether the total displacement at every voxel is written, too; it is as large as three images.

        Raises
        ------
        OutputError
            The folder cannot be written, or the disk is full; nothing half-written stays.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=folder) as partial:
                report = progress or (lambda fraction: None)
                self._write_files(Path(partial), extension, compress, report, self._images(displacement))
                if self.uncorrected is not None:
                    own = Path(partial) / UNCORRECTED
                    own.mkdir()
                    self.uncorrected._write_files(own, extension, compress, report, self.uncorrected._changing(False))
                _remove_result(folder)
                for file in Path(partial).iterdir():
                    file.replace(folder / file.name)
        except (OSError, RuntimeError) as error:
            raise _not_written(error, folder) from error
        return folder

    def renew(self, folder: Union[str, Path], extension: Optional[str] = None, compress: bool = True) -> Path:
        """Have the folder of a result hold a correction of it: of all files those that differ are written.

        What was found before any correction is kept in the folder ``uncorrected`` of it; it comes back, file by
        file, when the result is that again.

        Parameters
        ----------
        folder : path
            As :meth:`save` or this method left it.
        extension : {".nii.gz", ".nrrd"}, optional
            Format of the images; without it that of the folder.
        compress : bool
            As for :meth:`save`.

        Raises
        ------
        OutputError
            As for :meth:`save`; the older result stays.
        """
        folder = Path(folder)
        try:
            if self.uncorrected is None:
                _put_back(folder)
            else:
                self._replace(folder, extension or _extension_of(folder), compress)
        except (OSError, RuntimeError) as error:
            raise _not_written(error, folder) from error
        return folder

    def _replace(self, folder: Path, extension: str, compress: bool) -> None:
        with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=folder) as partial:
            new, kept = Path(partial) / "new", Path(partial) / UNCORRECTED
            new.mkdir()
            changing = self._changing(_find("displacement", folder) is not None)
            self._write_files(new, extension, compress, lambda fraction: None, changing)
            if not (folder / UNCORRECTED).is_dir():
                kept.mkdir()
                for path in _changing_files(folder):
                    _link(path, kept / path.name)
                kept.replace(folder / UNCORRECTED)
            _take_over(new, folder)

    def _images(self, displacement: bool) -> dict[str, sitk.Image]:
        images = {"warped": self.warped, **self.maps}
        if displacement:
            images["displacement"] = self.displacement()
        if self.warped_labels is not None:
            images["warped_labels"] = self.warped_labels
        return images

    def _changing(self, displacement: bool) -> dict[str, sitk.Image]:
        """The images that corrections change."""
        maps = {name: self.maps[name] for name in CORRECTED_MAPS if name in self.maps}
        return replace(self, maps=maps)._images(displacement)

    def _write_files(
        self, folder: Path, extension: str, compress: bool, report: Report, images: Mapping[str, sitk.Image]
    ) -> None:
        # Before the images, which would take the room that was found for them.
        self._write_transforms(folder, share(report, 0.0, 0.4))
        with Threads() as pool:
            jobs = [
                pool.submit(_write_image, image, folder / f"{name}{extension}", compress)
                for name, image in images.items()
            ]
            for done, job in enumerate(as_completed(jobs), start=1):
                job.result()
                report(0.4 + 0.6 * done / len(jobs))
        (folder / METRICS_FILE).write_text(json.dumps(self.plain_metrics(), indent=2) + "\n", encoding="utf-8")

    def _write_transforms(self, folder: Path, report: Report) -> None:
        """One after the other: the HDF5 library must not be used by two threads at once."""
        for part, (name, transform) in enumerate(zip(_TRANSFORMS, (self.transform, self.inverse_transform))):
            report(0.5 * part)
            if transform is not None:
                write_transform(transform, folder / name)


def write_transform(transform: sitk.Transform, path: Path) -> None:
    """Write a transform if there is room: a full disk makes the HDF5 library end the process with a crash.

    OSError or RuntimeError if that fails.
    """
    chain = sitk.CompositeTransform(transform)
    parts = [chain.GetNthTransform(n) for n in range(chain.GetNumberOfTransforms())]
    size = 8 * sum(part.GetNumberOfParameters() for part in parts) + 2**14
    try:
        path.write_bytes(bytes(size))
    finally:
        path.unlink(missing_ok=True)
    sitk.WriteTransform(transform, str(path))


def _write_image(image: sitk.Image, path: Path, compress: bool) -> None:
    name = path.name.split(".")[0]
    if compress and name != "warped" and image.GetPixelID() in (sitk.sitkFloat32, sitk.sitkVectorFloat32):
        image = _rounded(image, 256 if image.GetNumberOfComponentsPerPixel() > 1 else 1024)
    write_complete(image, path, compress)


def _rounded(image: sitk.Image, parts: int) -> sitk.Image:
    """Values to the nearest ``1 / parts`` (of a mm, for vectors): files a third the size, for no visible loss.

    The transform files keep every digit.
    """
    values = np.rint(sitk.GetArrayViewFromImage(image) * np.float32(parts)) / np.float32(parts)
    rounded = sitk.GetImageFromArray(values, isVector=image.GetNumberOfComponentsPerPixel() > 1)
    rounded.CopyInformation(image)
    return rounded


def _remove_result(folder: Path) -> None:
    """Delete the files of an earlier result, so that no map of it is taken for one of the new."""
    for path in (*_changing_files(folder), *_image_files(map_names(folder), folder)):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / UNCORRECTED, ignore_errors=True)


def _changing_files(folder: Path) -> list[Path]:
    """The files of a result that corrections change, as far as they are there."""
    others = [folder / name for name in (*_TRANSFORMS, METRICS_FILE, "report.html", GLANCE_FILE)]
    return [*_image_files(_CORRECTED_IMAGES, folder), *(path for path in others if path.is_file())]


def map_names(folder: Path) -> list[str]:
    """``MAP_NAMES``, and the maps of single levels that a result folder holds, in their order."""
    numbers = {level_number(path.name.split(".")[0]) for path in folder.glob("driving_force_*")}
    return [*MAP_NAMES, *(level_map(number) for number in sorted(n for n in numbers if n is not None))]


def _image_files(names: Iterable[str], folder: Path) -> list[Path]:
    paths = [folder / f"{name}{extension}" for name in names for extension in EXTENSIONS]
    return [path for path in paths if path.is_file()]


def _put_back(folder: Path) -> None:
    """Have a folder hold what it did before any correction."""
    if not (folder / UNCORRECTED).is_dir():
        return
    _take_over(folder / UNCORRECTED, folder)
    (folder / UNCORRECTED).rmdir()


def _take_over(new: Path, folder: Path) -> None:
    """Move the files of a folder into that of a result, in place of all that corrections change there."""
    older = {path.name for path in _changing_files(folder)}
    # What they say is true once all others are there.
    for path in sorted(new.iterdir(), key=lambda path: path.name == METRICS_FILE):
        path.replace(folder / path.name)
        older.discard(path.name)
    for name in older:
        (folder / name).unlink()


def _link(path: Path, copy: Path) -> None:
    """The same file in a second place; a copy where the file system knows no such thing."""
    try:
        os.link(path, copy)
    except OSError:
        shutil.copyfile(path, copy)


def _extension_of(folder: Path) -> str:
    warped = _find("warped", folder)
    return EXTENSIONS[0] if warped is None else "".join(warped.suffixes)


def _find(name: str, folder: Path) -> Optional[Path]:
    """An image file of a folder, whatever its format."""
    return next(iter(_image_files([name], folder)), None)


def _before(name: str, folder: Path) -> Path:
    """Where a file lies that tells of a result before any correction."""
    changes = name in (*_CORRECTED_IMAGES, *_TRANSFORMS, METRICS_FILE)
    return folder / UNCORRECTED if changes and (folder / UNCORRECTED).is_dir() else folder


def _read_transform(path: Path) -> Optional[sitk.Transform]:
    if not path.is_file():
        return None
    try:
        transform: sitk.Transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise UnreadableFileError(f"The transform {path} cannot be read: it is damaged.") from error
    return transform


def _read_map(name: str, folder: Path) -> sitk.Image:
    path = _find(name, folder)
    if path is None:
        raise UnreadableFileError(f"{folder} holds no whole result: its map {name} is missing.")
    return read_image(path)


def remove_partial(folder: Path) -> None:
    """Delete what a save left in a result folder because its process was ended."""
    for path in folder.glob(f"{_PARTIAL}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Raise OutputError if a folder cannot be made or written, before anything is computed for it."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise OutputError(f"The result cannot be written to {folder}: {existing} is a file.")
    if not os.access(existing, os.W_OK):
        raise OutputError(f"The result cannot be written to {folder}: you may not write in {existing}.")


def _not_written(error: Exception, folder: Path) -> OutputError:
    return OutputError(f"The result cannot be written to {folder}: {_reason(error, folder)}.")


def _reason(error: Exception, folder: Path) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if shutil.disk_usage(folder).free < 2**24:
        return "no space left on the disk"
    return "the file system refused it; the disk or the quota may be full"


def without_nan(value: Any) -> Any:
    """The value with null for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
