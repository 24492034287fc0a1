"""Images that the command line writes: completely or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path

import SimpleITK as sitk

from ..engine.errors import OutputError
from ..engine.images import write_complete


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
