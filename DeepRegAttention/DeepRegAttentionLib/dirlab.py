"""The DIR-Lab 4DCT benchmark: its files as they are distributed, and its target registration error.

Ten chest CT scans at full inspiration (phase T00, here the fixed image) and full expiration (T50, moving), each
with 300 landmarks (Castillo et al., Phys Med Biol 54:1849, 2009, and 55:305, 2010). The images are raw and say
neither their size nor their spacing nor how the patient lies. They are read with the axes of the landmark lists:
x, y and z of a list count voxels from 1 along the image's own i, j and k, k from head to feet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from re import Pattern
from typing import Optional

import numpy as np
import SimpleITK as sitk

from .engine.clock import Progress
from .engine.errors import LandmarkError, OptionError, UnreadableFileError
from .engine.landmarks import Landmarks, landmarks_from_voxels, read_landmarks, transform_landmarks
from .engine.metrics import tre
from .engine.options import RegistrationOptions
from .engine.registration import register

GEOMETRY: Mapping[int, tuple[tuple[int, int, int], float]] = {
    1: ((256, 256, 94), 0.97),
    2: ((256, 256, 112), 1.16),
    3: ((256, 256, 104), 1.15),
    4: ((256, 256, 99), 1.13),
    5: ((256, 256, 106), 1.10),
    6: ((512, 512, 128), 0.97),
    7: ((512, 512, 136), 0.97),
    8: ((512, 512, 128), 0.97),
    9: ((512, 512, 128), 0.97),
    10: ((512, 512, 120), 0.97),
}
"""Size in voxels and spacing in the slice in mm of each case, as published with the data."""

SLICE_SPACING = 2.5
"""Distance of the slices in mm, the same in all cases."""

_PHASES = {"fixed": "00", "moving": "50"}
# case1_T00_s.img, case2_T00-ssm.img, case6_T00.img; Case1_300_T00_xyz.txt, case6_dirLab300_T00_xyz.txt.
_IMAGE = r"case0?{case}_T{phase}([_-][^.]*)?\.img"
_LANDMARKS = r"case0?{case}_(dirlab)?300_T{phase}_xyz[^.]*\.txt"


@dataclass(frozen=True)
class CaseFiles:
    """The four files of one case: images and landmarks of T00 (fixed) and T50 (moving)."""

    number: int
    fixed: Path
    moving: Path
    fixed_landmarks: Path
    moving_landmarks: Path


@dataclass(frozen=True)
class CaseResult:
    """What one case says of a method; distances in mm, mean and standard deviation (n - 1) over its landmarks.

    Attributes
    ----------
    case : int
        1 to 10.
    initial_mean, initial_sd
        Before the registration.
    mean, sd
        Target registration error: distance of T(x) from the T50 landmark, T(x) exactly as computed.
    snapped_mean, snapped_sd
        The same with T(x) moved to the centre of its nearest voxel, where the landmarks themselves lie.
        DIR-Lab lists both; published .
    folds_percent
        Share of the voxels of the whole image that are folded.
    seconds
        For the registration, without reading the files.
    verdict
        ``"pass"``, ``"review"`` or ``"fail"``: what the registration, which knows no landmarks, thinks of itself.
    """

    case: int
    initial_mean: float
    initial_sd: float
    mean: float
    sd: float
    snapped_mean: float
    snapped_sd: float
    folds_percent: float
    seconds: float
    verdict: str


def find_cases(folder: Path, numbers: Optional[Iterable[int]] = None) -> list[CaseFiles]:
    """The cases in a folder and its subfolders, in whatever case their names are written.

    Parameters
    ----------
    folder : Path
        Holds, for example, ``Case1Pack/Images/case1_T00_s.img`` and
        ``Case1Pack/ExtremePhases/Case1_300_T00_xyz.txt``.
    numbers : iterable of int, optional
        Which cases; by default all that have an image of phase T00 or T50.

    Raises
    ------
    UnreadableFileError
        The folder does not exist, holds no case, or a case lacks an image or has two of the same phase.
    LandmarkError
        A case lacks landmarks.
    """
    if not folder.is_dir():
        raise UnreadableFileError(f"The folder {folder} does not exist.")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".img", ".txt"))
    wanted = [_known(number) for number in numbers] if numbers is not None else _present(files)
    if not wanted:
        raise UnreadableFileError(f"{folder} holds no DIR-Lab images such as Case1Pack/Images/case1_T00_s.img.")
    return [_case_files(number, files, folder) for number in wanted]


def _known(number: int) -> int:
    if number not in GEOMETRY:
        raise OptionError(f"DIR-Lab has the cases 1 to {len(GEOMETRY)}; there is no case {number}.")
    return number


def _present(files: list[Path]) -> list[int]:
    return [n for n in GEOMETRY if any(_matching(files, _IMAGE, n, phase) for phase in _PHASES.values())]


def _matching(files: list[Path], pattern: str, case: int, phase: str) -> list[Path]:
    expression: Pattern[str] = re.compile(pattern.format(case=case, phase=phase), re.IGNORECASE)
    return [path for path in files if expression.fullmatch(path.name)]


def _case_files(number: int, files: list[Path], folder: Path) -> CaseFiles:
    found: dict[str, Path] = {}
    for role, phase in _PHASES.items():
        images = _matching(files, _IMAGE, number, phase)
        if len(images) != 1:
            what = f"{len(images)} images" if images else "no image"
            raise UnreadableFileError(f"Case {number} has {what} of phase T{phase} in {folder}; one is needed.")
        lists = _matching(files, _LANDMARKS, number, phase)
        if len(lists) != 1:
            what = f"{len(lists)} landmark lists" if lists else "no landmarks"
            name = f"Case{number}_300_T{phase}_xyz.txt"
            raise LandmarkError(f"Case {number} has {what} of phase T{phase} in {folder}; one {name} is needed.")
        found.update({role: images[0], f"{role}_landmarks": lists[0]})
    return CaseFiles(number, **found)


def read_phase(path: Path, case: int) -> sitk.Image:
    """Read a raw image: signed 16-bit little-endian voxels, first voxel at the origin.

    Raises
    ------
    UnreadableFileError
        It cannot be read, or does not have the size of an image of this case.
    """
    size, spacing = GEOMETRY[case]
    try:
        voxels = np.fromfile(path, dtype="<i2")
        found = path.stat().st_size
    except OSError as error:
        raise UnreadableFileError(f"{path} cannot be read: {(error.strerror or '').lower()}.") from error
    expected = 2 * int(np.prod(size))
    if found != expected:
        shape = " x ".join(map(str, size))
        raise UnreadableFileError(
            f"{path} has {found} bytes, but an image of case {case} ({shape} voxels of 16 bits) has {expected}."
        )
    image = sitk.GetImageFromArray(voxels.astype(np.int16, copy=False).reshape(size[::-1]))
    image.SetSpacing((spacing, spacing, SLICE_SPACING))
    return image


def read_points(path: Path, image: sitk.Image) -> Landmarks:
    """Read a landmark list (voxels from 1) as LPS mm of its image; a point outside raises LandmarkError."""
    voxels = read_landmarks(path)
    if not ((voxels.points >= 1) & (voxels.points <= image.GetSize())).all():
        raise LandmarkError(f"{path} has a landmark outside its image; its voxels count from 1.")
    return landmarks_from_voxels(voxels, image, first=1)


def evaluate_case(files: CaseFiles, options: RegistrationOptions, progress: Optional[Progress] = None) -> CaseResult:
    """Register T50 to T00 and measure how far each T00 landmark then lies from its T50 landmark.

    The registration does not see the landmarks. Raises what reading and registering raise.
    """
    fixed, moving = read_phase(files.fixed, files.number), read_phase(files.moving, files.number)
    start, goal = read_points(files.fixed_landmarks, fixed), read_points(files.moving_landmarks, moving)
    result = register(fixed, moving, options, progress=progress)
    there = transform_landmarks(start, result.transform)
    identity = sitk.Transform(3, sitk.sitkIdentity)
    return CaseResult(
        files.number,
        *_mean_and_sd(tre(start, goal, identity)),
        *_mean_and_sd(tre(there, goal, identity)),
        *_mean_and_sd(tre(snap_to_voxels(there, moving), goal, identity)),
        folds_percent=result.metrics["jacobian"]["fold_percent"],
        seconds=sum(result.metrics["seconds"].values()),
        verdict=result.metrics["verdict"]["grade"],
    )


def snap_to_voxels(landmarks: Landmarks, image: sitk.Image) -> Landmarks:
    """Each point moved to the centre of the nearest voxel of the image's grid, LPS mm."""
    nearest = [image.TransformPhysicalPointToContinuousIndex(point) for point in landmarks.points.tolist()]
    return landmarks_from_voxels(Landmarks(np.rint(nearest), landmarks.names), image)


def mean_over_cases(results: list[CaseResult]) -> dict[str, float]:
    """Mean of each measure over the cases, all cases counting the same: the last row of published tables."""
    names = [field.name for field in fields(CaseResult) if field.name not in ("case", "verdict")]
    return {name: float(np.mean([getattr(result, name) for result in results])) for name in names}


def _mean_and_sd(distances: np.ndarray) -> tuple[float, float]:
    # With n - 1, the distances of the given landmarks have the published standard deviations.
    return float(distances.mean()), float(distances.std(ddof=1))
