"""Where the files lie that come with the program: models, presets, samples."""

from __future__ import annotations

from pathlib import Path

from .errors import RegistrationError

_PACKAGE = Path(__file__).resolve().parents[1]


def resource_folder(name: str) -> Path:
    """The folder ``Resources/<name>``, such as ``"Models"``.

    It lies inside the package in an installed wheel, and beside the package in a checkout and in 3D Slicer.
    Raises RegistrationError if it is in neither place.
    """
    for parent in (_PACKAGE, _PACKAGE.parent):
        folder = parent / "Resources" / name
        if folder.is_dir():
            return folder
    raise RegistrationError(f"The folder Resources/{name} is missing from this installation; install it again.")
