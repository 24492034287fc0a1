"""Landmarks: points with names in LPS mm, and their files (Slicer markups, ``.fcsv``, plain text)."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, Union

import numpy as np
import SimpleITK as sitk

from .errors import LandmarkError, OutputError, UnreadableFileError

PathLike = Union[str, Path]

# 3D Slicer accepts any 1.x.y; 1.0.0 is understood by every version that reads this format.
_MARKUPS_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/"
    "Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.0.json#"
)
_FCSV_HEADER = """# Markups fiducial file version = 4.11
# CoordinateSystem = LPS
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
"""
_FCSV_LABEL, _FCSV_STATUS, _FCSV_DEFINED = 11, 14, 2
_TO_LPS: dict[str, tuple[float, float, float]] = {
    "LPS": (1.0, 1.0, 1.0),
    "1": (1.0, 1.0, 1.0),
    "RAS": (-1.0, -1.0, 1.0),
    "0": (-1.0, -1.0, 1.0),
}
_TO_MM: dict[str, float] = {"mm": 1.0, "um": 1e-3}


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points of one image.

    Attributes
    ----------
    points : np.ndarray
        ``(P, 3)``, LPS mm, finite.
    names : tuple of str
        One for each point, or none at all.
    """

    points: np.ndarray
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        points = np.array(self.points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 3:
            raise LandmarkError(f"Landmarks are rows of three coordinates; an array of {points.shape} is not.")
        if not np.isfinite(points).all():
            raise LandmarkError("A landmark has a coordinate that is not a finite number.")
        if self.names and len(self.names) != len(points):
            raise LandmarkError(f"There are {len(self.names)} names for {len(points)} landmarks.")
        object.__setattr__(self, "points", points)

    def __len__(self) -> int:
        return len(self.points)


def read_landmarks(path: PathLike) -> Landmarks:
    """Read landmarks, whatever the coordinate system of the file, as LPS mm.

    Parameters
    ----------
    path : str or Path
        Slicer markups (``.mrk.json``), Slicer fiducials (``.fcsv``), or plain text (``.txt``, ``.csv``, ...):
        on each line x, y, z in LPS mm, separated by blanks, tabs or commas; ``#`` starts a comment.

    Raises
    ------
    UnreadableFileError
        The file is missing or not of the format that its name promises.
    LandmarkError
        It holds no landmarks, a point without a position, or no known coordinate system.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFileError(f"The landmark file {path} cannot be read: {_reason(error)}.") from error
    landmarks = _READERS.get(path.suffix.lower(), _read_text)(text, path.name)
    if not len(landmarks):
        raise LandmarkError(f"{path.name} holds no landmarks.")
    return landmarks


def write_landmarks(path: PathLike, landmarks: Landmarks) -> None:
    """Write landmarks as LPS mm in the format that the file name asks for (see :func:`read_landmarks`).

    Plain text keeps the points and drops the names.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    path = Path(path)
    text = _WRITERS.get(path.suffix.lower(), _write_text)(landmarks)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"The landmark file {path} cannot be written: {_reason(error)}.") from error


def require_pairs(fixed: Landmarks, moving: Landmarks) -> tuple[Landmarks, Landmarks]:
    """The two lists such that each row of one belongs to the same row of the other.

    If both lists have the same names, each once, the moving points are put in the order of the fixed names;
    otherwise the order in the files pairs them.

    Raises
    ------
    LandmarkError
        The lists are empty or differ in length.
    """
    if len(fixed) != len(moving):
        raise LandmarkError(
            f"Landmarks come in pairs, but the fixed image has {len(fixed)} and the moving {len(moving)}."
        )
    if not len(fixed):
        raise LandmarkError("There are no landmarks to pair.")
    unique = set(fixed.names)
    if len(unique) == len(fixed) == len(moving.names) and unique == set(moving.names):
        order = [moving.names.index(name) for name in fixed.names]
        moving = Landmarks(moving.points[order], fixed.names)
    return fixed, moving


def transform_landmarks(landmarks: Landmarks, transform: sitk.Transform) -> Landmarks:
    """The landmarks of the fixed image where the transform finds them in the moving image, LPS mm."""
    return Landmarks(transform_points(landmarks.points, transform), landmarks.names)


def transform_points(points: np.ndarray, transform: sitk.Transform) -> np.ndarray:
    """Map ``(P, 3)`` points in LPS mm, fixed to moving."""
    return np.array([transform.TransformPoint(point) for point in points.tolist()]).reshape(-1, 3)


def landmarks_from_voxels(voxels: Landmarks, image: sitk.Image, first: int = 0) -> Landmarks:
    """Landmarks given as voxel indices, brought to LPS mm.

    Parameters
    ----------
    voxels : Landmarks
        Continuous indices (i, j, k) in place of millimetres.
    image : sitk.Image
        The image whose voxels they count.
    first : int
        The index of the first voxel: 1 in the DIR-Lab lists.
    """
    indices = (voxels.points - first).tolist()
    points = [image.TransformContinuousIndexToPhysicalPoint(index) for index in indices]
    return Landmarks(np.array(points).reshape(-1, 3), voxels.names)


def _read_markups(text: str, file: str) -> Landmarks:
    try:
        markups = json.loads(text)["markups"]
        points = [point for markup in markups for point in markup.get("controlPoints", [])]
        if len(markups) != 1:
            raise LandmarkError(f"{file} holds {len(markups)} markups; save the landmarks as a single point list.")
        positions = [_markup_position(point, number, file) for number, point in enumerate(points, 1)]
        names = tuple(str(point.get("label", "")) for point in points)
        scale = _markup_scale(markups[0], file)
        return Landmarks(np.array(positions).reshape(-1, 3) * scale, names)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableFileError(f"{file} is not a Slicer markups file.") from error


def _markup_position(point: dict[str, Any], number: int, file: str) -> list[float]:
    if point.get("positionStatus", "defined") != "defined" or len(point.get("position", "")) != 3:
        raise _unplaced(file, number, str(point.get("label", "")))
    return _numbers([str(value) for value in point["position"]], f"Point {number} of {file}")


def _markup_scale(markup: dict[str, Any], file: str) -> np.ndarray:
    unit = markup.get("coordinateUnits", "mm")
    name = unit if isinstance(unit, str) else unit[0]
    if name not in _TO_MM:
        raise LandmarkError(f"{file} gives its points in “{name}”; save them in mm.")
    return _to_lps(str(markup.get("coordinateSystem", "LPS")), file) * _TO_MM[name]


def _to_lps(system: str, file: str) -> np.ndarray:
    if system not in _TO_LPS:
        raise LandmarkError(f"{file} is in the coordinate system “{system}”; save it as LPS or RAS.")
    return np.array(_TO_LPS[system])


def _unplaced(file: str, number: int, name: str) -> LandmarkError:
    label = f" (“{name}”)" if name else ""
    return LandmarkError(f"Point {number}{label} of {file} has no position; place it or delete it from the list.")


def _read_fcsv(text: str, file: str) -> Landmarks:
    header = _fcsv_header(text)
    rows = _fcsv_rows(text, file)
    points = [_numbers(row[1:4], f"Point {number} of {file}") for number, row in enumerate(rows, 1)]
    if "Markups fiducial file version" not in header:
        # Slicer 3 wrote name, x, y, z, ... in RAS and said so nowhere.
        scale, names = _to_lps("RAS", file), [row[0] for row in rows]
    else:
        _require_placed(rows, file)
        scale = _to_lps(header.get("CoordinateSystem", "unknown"), file)
        names = [row[_FCSV_LABEL] if len(row) > _FCSV_LABEL else "" for row in rows]
    return Landmarks(np.array(points).reshape(-1, 3) * scale, tuple(names))


def _fcsv_rows(text: str, file: str) -> list[list[str]]:
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    try:
        return list(csv.reader(lines))
    except csv.Error as error:
        raise UnreadableFileError(f"{file} is not a Slicer fiducial file.") from error


def _fcsv_header(text: str) -> dict[str, str]:
    pairs = (line[1:].partition("=") for line in text.splitlines() if line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _require_placed(rows: Sequence[Sequence[str]], file: str) -> None:
    for number, row in enumerate(rows, 1):
        if len(row) > _FCSV_STATUS and row[_FCSV_STATUS].strip() != str(_FCSV_DEFINED):
            raise _unplaced(file, number, row[_FCSV_LABEL])


def _read_text(text: str, file: str) -> Landmarks:
    lines = [line.partition("#")[0] for line in text.splitlines()]
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    points = [_numbers(line.replace(",", " ").split(), f"Line {number} of {file}") for number, line in filled]
    return Landmarks(np.array(points).reshape(-1, 3))


def _numbers(words: Sequence[str], place: str) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not np.isfinite(numbers).all():
        found = shorten(" ".join(words), 40, placeholder=" …")
        raise UnreadableFileError(f"{place} should give three numbers x, y, z; “{found}” does not.")
    return numbers


def _write_markups(landmarks: Landmarks) -> str:
    points = [
        {"id": str(number), "label": name, "position": point, "positionStatus": "defined"}
        for number, (name, point) in enumerate(zip(_names(landmarks), landmarks.points.tolist()), 1)
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
    return json.dumps({"@schema": _MARKUPS_SCHEMA, "markups": [markup]}, indent=1, ensure_ascii=False) + "\n"


def _write_fcsv(landmarks: Landmarks) -> str:
    rows = [
        [f"{number}", *map(repr, point), "0", "0", "0", "1", "1", "1", "0", _quoted(name), "", ""]
        for number, (name, point) in enumerate(zip(_names(landmarks), landmarks.points.tolist()), 1)
    ]
    return _FCSV_HEADER + "".join(",".join(row) + "\n" for row in rows)


def _quoted(name: str) -> str:
    """A field of a line: quoted if it must be, and without line breaks, which Slicer does not read."""
    name = " ".join(name.splitlines())
    return '"' + name.replace('"', '""') + '"' if "," in name or '"' in name else name


def _write_text(landmarks: Landmarks) -> str:
    lines = (" ".join(map(repr, point)) for point in landmarks.points.tolist())
    return "# x y z (LPS mm)\n" + "".join(line + "\n" for line in lines)


def _names(landmarks: Landmarks) -> Sequence[str]:
    return landmarks.names or [str(number) for number in range(1, len(landmarks) + 1)]


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not a text file"
    return (getattr(error, "strerror", None) or str(error)).lower()


_READERS: dict[str, Callable[[str, str], Landmarks]] = {".json": _read_markups, ".fcsv": _read_fcsv}
_WRITERS: dict[str, Callable[[Landmarks], str]] = {".json": _write_markups, ".fcsv": _write_fcsv}
