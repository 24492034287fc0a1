"""Reading and checking volumes: everything a registration refuses, it refuses here."""

from __future__ import annotations

import errno
import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Union

import numpy as np
import SimpleITK as sitk

from .errors import DimensionError, EmptyImageError, MaskError, NonFiniteError, SpacingError, UnreadableFileError

PathLike = Union[str, Path]


def read_image(path: PathLike) -> sitk.Image:
    """Read a volume: any format of SimpleITK, or a folder holding one DICOM series.

    Raises
    ------
    UnreadableFileError
        Missing, truncated or of an unknown format.
    """
    path = Path(path)
    if not path.exists():
        raise UnreadableFileError(f"{path} does not exist.")
    try:
        image = sitk.ReadImage(_dicom_files(path)) if path.is_dir() else sitk.ReadImage(str(path))
        _require_whole_nifti(path, image)
    except (RuntimeError, EOFError, zlib.error) as error:
        raise UnreadableFileError(f"{path} cannot be read: it is damaged or of an unknown format.") from error
    return image


def _require_whole_nifti(path: Path, image: sitk.Image) -> None:
    """Raise EOFError where voxels are missing: ITK reads a truncated NIfTI file without a word."""
    if not path.name.endswith((".nii", ".nii.gz")):
        return
    sides = [max(1, int(image.GetMetaData(f"dim[{axis}]"))) for axis in range(1, 8)]
    expected = float(image.GetMetaData("vox_offset")) + math.prod(sides) * int(image.GetMetaData("bitpix")) / 8
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(-4, os.SEEK_END)
        if compressed and int.from_bytes(file.read(), "little") == expected % 2**32:
            return  # its last bytes say how much it holds: there is no need to unpack it once more
    with gzip.open(path) if compressed else path.open("rb") as file:
        if file.seek(0, os.SEEK_END) < expected:
            raise EOFError


def _dicom_files(folder: Path) -> tuple[str, ...]:
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        found = "no DICOM series" if not series else f"{len(series)} DICOM series"
        raise UnreadableFileError(f"{folder} holds {found}; one is expected.")
    files: tuple[str, ...] = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    return files


def write_complete(image: sitk.Image, path: PathLike, compress: bool = True) -> None:
    """Write an image, compressed if wanted and where its format can be; OSError or RuntimeError if that fails.

    ITK's writer of NIfTI files says nothing when the disk is full, so the size in their gzip trailer is read.
    """
    sitk.WriteImage(image, str(path), useCompression=compress)
    values = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel() * image.GetSizeOfPixelComponent()
    if str(path).endswith(".nii.gz"):
        with Path(path).open("rb") as file:
            file.seek(-4, os.SEEK_END)
            # Modulo 4 GiB, and with the header, which is shorter than 64 KiB.
            complete = (int.from_bytes(file.read(), "little") - values) % 2**32 < 2**16
    else:
        complete = not str(path).endswith(".nii") or Path(path).stat().st_size >= values
    if not complete:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def check_image(image: sitk.Image, role: str) -> None:
    """Refuse an image that cannot be registered, with an error that says what is wrong with it.

    Parameters
    ----------
    image : sitk.Image
        Must be a finite, non-constant, three-dimensional scalar volume.
    role : str
        What to call it in the error, for example ``"fixed image"``.
    """
    _check_volume(image, role)
    values = sitk.GetArrayViewFromImage(image)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low + high):
        raise NonFiniteError(f"The {role} holds NaN or infinite voxels.")
    if low == high:
        raise EmptyImageError(f"The {role} is empty: every voxel is {low:g}.")


def _check_volume(image: sitk.Image, role: str) -> None:
    if image.GetDimension() != 3:
        raise DimensionError(f"The {role} has {image.GetDimension()} dimensions; a 3D volume is needed.")
    if image.GetNumberOfComponentsPerPixel() != 1:
        count = image.GetNumberOfComponentsPerPixel()
        raise DimensionError(f"The {role} has {count} values per voxel; a scalar volume is needed.")
    if _is_special(image):
        raise DimensionError(f"The {role} holds a {image.GetPixelIDTypeAsString()} per voxel; a real number is needed.")
    if min(image.GetSize()) < 4:
        size = " x ".join(map(str, image.GetSize()))
        raise DimensionError(f"The {role} is {size} voxels; at least 4 are needed along each axis.")
    if not all(1e-3 <= spacing <= 100 for spacing in image.GetSpacing()):
        spacing = " x ".join(f"{s:g}" for s in image.GetSpacing())
        raise SpacingError(f"The {role} has a spacing of {spacing} mm, which cannot be right.")


def _is_special(image: sitk.Image) -> bool:
    """Whether the voxels are complex numbers or run-length labels, which hardly any filter takes."""
    special: bool = image.GetPixelIDTypeAsString().startswith(("complex", "label"))
    return special


def check_pair(fixed: sitk.Image, moving: sitk.Image) -> None:
    """Refuse images whose voxels differ in size by more than a factor of 50."""
    volumes = [float(np.prod(image.GetSpacing())) ** (1 / 3) for image in (fixed, moving)]
    if max(volumes) > 50 * min(volumes):
        raise SpacingError(
            f"The voxels of the two images differ too much in size ({volumes[0]:.3g} and {volumes[1]:.3g} mm)."
        )


def check_mask(mask: sitk.Image, image: sitk.Image, role: str) -> sitk.Image:
    """The mask as 0 and 1 on the grid of its image.

    Raises
    ------
    MaskError
        It is not a 3D volume, or marks no voxel of the image.
    """
    if mask.GetDimension() != 3 or mask.GetNumberOfComponentsPerPixel() != 1 or _is_special(mask):
        raise MaskError(f"The {role} is not a three-dimensional scalar volume.")
    binary = sitk.Resample(sitk.Cast(mask != 0, sitk.sitkUInt8), image, sitk.Transform(), sitk.sitkNearestNeighbor)
    if not sitk.GetArrayViewFromImage(binary).any():
        raise MaskError(f"The {role} is empty or lies outside its image.")
    return binary


def check_map(image: sitk.Image) -> sitk.Image:
    """A map of local regularization strength as 32-bit floating point; finite and nowhere negative.

    Raises
    ------
    MaskError
        It holds negative values.
    """
    _check_volume(image, "regularization map")
    image = sitk.Cast(image, sitk.sitkFloat32)
    values = sitk.GetArrayViewFromImage(image)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low + high):
        raise NonFiniteError("The regularization map holds NaN or infinite voxels.")
    if low < 0:
        raise MaskError("The regularization map holds negative strengths.")
    return image
