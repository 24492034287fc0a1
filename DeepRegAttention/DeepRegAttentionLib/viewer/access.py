"""What a browser may have read: files that hold their own voxels, within the folders that the operator allowed."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from ..engine.errors import UnreadableFileError
from ..engine.result_folder import METRICS_FILE

IMAGE_ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha")
"""Images in one file; a folder with one DICOM series is an image, too."""

DICOM_ENDINGS = (".dcm", ".ima", "")

_HEADER_BYTES = 2**16
_NAME_LENGTH = 120

PathLike = Union[str, Path]


@dataclass(frozen=True)
class Access:
    """The folders and single files that may be read, however their path is written.

    Attributes
    ----------
    folders : tuple of Path
        Real paths (links resolved); all that lies in them may be read.
    files : tuple of Path
        Real paths of further single files or DICOM folders.
    """

    folders: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()

    @classmethod
    def to(cls, folders: Iterable[PathLike], files: Iterable[PathLike] = ()) -> Access:
        """Access to these, which may be links themselves."""
        return cls(tuple(Path(p).resolve() for p in folders), tuple(Path(p).resolve() for p in files))

    def path(self, text: PathLike) -> Path:
        """The real path of what may be read.

        Raises
        ------
        UnreadableFileError
            It lies outside, or leads there by a link; nothing tells whether it exists.
        """
        real = _real_path(text)
        if not self.allows(real):
            raise UnreadableFileError(f"{text} lies outside the folders that this viewer may read.")
        if not real.exists():
            raise UnreadableFileError(f"{text} does not exist.")
        return real

    def allows(self, real: Path) -> bool:
        """Whether a real path may be read."""
        return real in self.files or any(folder == real or folder in real.parents for folder in self.folders)

    def image(self, text: PathLike) -> Path:
        """The real path of an image that holds its own voxels, or of a folder of DICOM files.

        Raises
        ------
        UnreadableFileError
            As :meth:`path`; or reading it would open other files, which may lie anywhere.
        """
        real = self.path(text)
        if not real.is_dir():
            require_one_file(real)
        elif not all(self.allows(entry.resolve()) or real in self.files for entry in real.iterdir()):
            raise UnreadableFileError(f"{text} holds links to files outside the folders that this viewer may read.")
        return real

    def entries(self, folder: Path) -> list[dict[str, str]]:
        """What to choose from in a folder: ``name``, ``path`` and ``kind`` (folder, result or image), sorted.

        Hidden files and links that lead outside are left out.
        """
        found = [_entry(path) for path in folder.iterdir() if path.name[0] != "." and self.allows(path.resolve())]
        return sorted((entry for entry in found if entry["kind"]), key=lambda e: (e["kind"] == "image", e["name"]))


def _real_path(text: PathLike) -> Path:
    try:
        return Path(text).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise UnreadableFileError(f"{text!r} is not a path that can be followed.") from error


def _entry(path: Path) -> dict[str, str]:
    kind = ""
    if path.is_dir():
        kind = "result" if (path / METRICS_FILE).is_file() else "folder"
    elif path.name.lower().endswith(IMAGE_ENDINGS):
        kind = "image"
    return {"name": path.name, "path": str(path), "kind": kind}


def require_one_file(path: Path) -> None:
    """Raise UnreadableFileError unless a file is of a format, and written in a way, that needs no other file.

    The header of a MetaImage or a NRRD may name any file as the one with the voxels, and a NIfTI header a pair.
    """
    name = path.name.lower()
    if not name.endswith(IMAGE_ENDINGS):
        known = ", ".join(IMAGE_ENDINGS)
        raise UnreadableFileError(f"{path.name} is not of a format that is read here: {known} or a DICOM folder.")
    header = _header(path)
    whole = _is_whole_nifti(header) if name.endswith((".nii", ".nii.gz")) else _is_whole_text_header(header)
    if not whole:
        raise UnreadableFileError(
            f"{path.name} cannot be read: it is damaged, of an unknown format, or keeps its voxels in another file."
        )


def _header(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else path.open("rb") as file:
            return file.read(_HEADER_BYTES)
    except (OSError, EOFError, zlib.error):
        return b""


def _is_whole_nifti(header: bytes) -> bool:
    return header[344:348] == b"n+1\0" or header[4:8] == b"n+2\0"


def _is_whole_text_header(header: bytes) -> bool:
    """Whether a header names no file; wherever the words stand, as readers differ in where they look for them."""
    if header.startswith(b"NRRD"):
        fields, end, _ = header.replace(b"\r\n", b"\n").partition(b"\n\n")
        return bool(end) and not re.search(rb"data\s*file\s*:", fields, re.IGNORECASE)
    places = re.findall(rb"ElementDataFile[\s=:]*(\S*)", header, re.IGNORECASE)
    return bool(places) and all(place == b"LOCAL" for place in places)


def safe_name(name: str) -> str:
    """The name of an uploaded file, without anything that a path or a shell could take amiss."""
    last = re.split(r"[/\\]", name)[-1]
    clean = re.sub(r"[^\w.() -]", "_", last).strip(". ")
    return clean[-_NAME_LENGTH:] or "file"


def uploaded_image(folder: Path) -> Path:
    """What was uploaded into a folder of its own: its one image, or the folder if it holds DICOM files.

    Raises
    ------
    UnreadableFileError
        There are several files that are no DICOM series, or none.
    """
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    if len(files) == 1 and files[0].suffix.lower() not in DICOM_ENDINGS:
        require_one_file(files[0])
        return files[0]
    if not files or any(file.suffix.lower() not in DICOM_ENDINGS for file in files):
        raise UnreadableFileError("Upload one image, or all files of one DICOM series.")
    return folder
