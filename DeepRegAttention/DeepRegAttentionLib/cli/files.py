"""Files of the command line: read with a clear error, written completely or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import SimpleITK as sitk

from ..engine.errors import DimensionError, OutputError, UnreadableFileError
from ..engine.images import check_image, read_image, write_complete

TRANSFORM_ENDINGS = (".h5", ".hdf5", ".tfm", ".txt", ".mat", ".xfm")
"""Files with these endings hold transforms; any other is taken for a displacement field."""


def read_volume(path: Path, role: str) -> sitk.Image:
    """Read a volume fit for registration; `role` names it in the error."""
    image = read_image(path)
    check_image(image, role)
    return image


def read_transform(path: Path) -> sitk.Transform:
    """Read a 3D transform from fixed to moving points, or an image of displacements (LPS mm).

    Raises
    ------
    UnreadableFileError
        Missing, damaged or of an unknown format.
    DimensionError
        Not a transform of 3D points.
    """
    if not path.is_file():
        raise UnreadableFileError(f"The transform {path} does not exist.")
    if not path.name.lower().endswith(TRANSFORM_ENDINGS):
        return _displacements(read_image(path), path)
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise UnreadableFileError(
            f"The transform {path} cannot be read: it is damaged or of an unknown format."
        ) from error
    if transform.GetDimension() != 3:
        raise DimensionError(f"The transform {path} moves {transform.GetDimension()}D points; 3D is needed.")
    return transform


def _displacements(field: sitk.Image, path: Path) -> sitk.Transform:
    if field.GetDimension() != 3 or field.GetNumberOfComponentsPerPixel() != 3:
        raise DimensionError(f"{path} is no displacement field: a 3D image of vectors (x, y, z in mm) is needed.")
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image; an older file is replaced only once the new one is complete.

    Raises
    ------
    OutputError
        The folder cannot be written, the disk is full, or the format is unknown.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as partial:
            write_complete(image, Path(partial) / path.name)
            # Some formats are more than one file.
            for file in Path(partial).iterdir():
                file.replace(path.parent / file.name)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {(error.strerror or str(error)).lower()}.") from error
    except RuntimeError as error:
        unknown = "ImageIO" in str(error)
        reason = "its ending names no known image format" if unknown else "the disk or the quota may be full"
        raise OutputError(f"{path} cannot be written: {reason}.") from error


def require_writable(folder: Path) -> None:
    """Raise OutputError if a folder cannot be made or written, before anything is computed for it."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise OutputError(f"The result cannot be written to {folder}: {existing} is a file.")
    if not os.access(existing, os.W_OK):
        raise OutputError(f"The result cannot be written to {folder}: you may not write in {existing}.")
