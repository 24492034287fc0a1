"""The frames of a series: 4D files, the sequences of 3D Slicer, or a file for each visit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import SimpleITK as sitk

from ..engine.errors import DimensionError
from ..engine.images import check_image, read_image, write_complete

SEQUENCE_ENDING = ".seq.nrrd"
"""How the sequences of 3D Slicer end."""

FEWEST = 2


@dataclass(frozen=True)
class Series:
    """Volumes of one subject, in their order.

    Attributes
    ----------
    frames : tuple of sitk.Image
        Scalar volumes; those of one file lie on one grid.
    start, step : float
        When the first was taken, and the time between two, as the file has them.
    notes : mapping of str to str
        What a sequence file says of its index and of its nodes.
    """

    frames: tuple[sitk.Image, ...]
    start: float = 0.0
    step: float = 1.0
    notes: Mapping[str, str] = field(default_factory=dict)


def read_series(paths: Sequence[Path]) -> Series:
    """Read one file that holds several volumes, or several that hold one each.

    Raises
    ------
    UnreadableFileError
        A file is missing, damaged or of an unknown format.
    DimensionError
        There are fewer than two frames, or one is no scalar volume.
    ImageError
        One of its kinds: a frame cannot be registered.
    """
    series = read_frames(paths)
    single = len(paths) == 1
    for number, frame in enumerate(series.frames):
        check_image(frame, f"frame {number} of {paths[0]}" if single else str(paths[number]))
    return series


def read_frames(paths: Sequence[Path]) -> Series:
    """Read the same of anything, such as label maps: whether its frames can be registered is not asked.

    Raises UnreadableFileError as :func:`read_series` does, DimensionError if a single file holds a single frame.
    """
    return _read_one(paths[0]) if len(paths) == 1 else Series(tuple(read_image(path) for path in paths))


def _read_one(path: Path) -> Series:
    image = read_image(path)
    if image.GetDimension() == 4 and image.GetNumberOfComponentsPerPixel() == 1:
        frames = tuple(image[..., number] for number in range(image.GetSize()[3]))
        series = Series(frames, image.GetOrigin()[3], image.GetSpacing()[3])
    elif image.GetDimension() == 3 and _is_sequence(image):
        count = image.GetNumberOfComponentsPerPixel()
        frames = tuple(sitk.VectorIndexSelectionCast(image, number) for number in range(count))
        series = Series(frames, notes=_notes(image))
    else:
        series = Series((image,))
    if len(series.frames) < FEWEST:
        raise DimensionError(f"{path} is a single volume; a series needs a 4D file, or several files.")
    return series


def _is_sequence(image: sitk.Image) -> bool:
    """Whether the values of a voxel are those of frames, as an NRRD file says, and no colours or vectors."""
    key = "NRRD_kinds[pixel]"
    return bool(image.HasMetaDataKey(key)) and image.GetMetaData(key) == "list"


def _notes(image: sitk.Image) -> dict[str, str]:
    """The notes of a sequence; the frames are on axis 0 of a file that ITK writes, wherever they were before."""
    kept = [key for key in image.GetMetaDataKeys() if re.match(r"axis \d+ |DataNodeClassName", key)]
    return {re.sub(r"^axis \d+ ", "axis 0 ", key): image.GetMetaData(key) for key in kept}


def write_series(series: Series, path: Path) -> None:
    """Write frames that lie on one grid as a 4D file, or as a sequence if the name ends in ``.seq.nrrd``.

    OSError or RuntimeError if that fails.
    """
    if not path.name.endswith(SEQUENCE_ENDING):
        write_complete(sitk.JoinSeries(series.frames, series.start, series.step), path)
        return
    image = sitk.Compose(series.frames)
    times = [f"{series.start + number * series.step:g}" for number in range(len(series.frames))]
    notes = {"axis 0 index type": "numeric", "axis 0 index values": " ".join(times), **series.notes}
    for key, value in notes.items():
        image.SetMetaData(key, value)
    write_complete(image, path)
    # ITK calls the values of a voxel a vector; 3D Slicer tells a sequence by this word.
    head, end, voxels = path.read_bytes().partition(b"\n\n")
    path.write_bytes(head.replace(b"kinds: vector", b"kinds: list") + end + voxels)
