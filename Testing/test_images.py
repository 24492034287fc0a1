"""Every image that is refused, and what is said about it; every image that is read."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.engine.errors import (
    DimensionError,
    EmptyImageError,
    ImageError,
    MaskError,
    NonFiniteError,
    SpacingError,
    UnreadableFileError,
)
from DeepRegAttentionLib.engine.geometry import Grid
from DeepRegAttentionLib.engine.images import check_image, check_map, check_mask, check_pair, read_image
from helpers.images import blob_image

FORMATS = ("volume.nii", "volume.nii.gz", "volume.nrrd", "volume.mha")


def spoilt(value: float) -> sitk.Image:
    image = blob_image()
    image[3, 4, 5] = value
    return image


def spaced(*spacing: float) -> sitk.Image:
    image = blob_image()
    image.SetSpacing(spacing)
    return image


def write_dicom_series(folder: Path, image: sitk.Image, uid: str) -> None:
    """One file a slice, last slice first, with the tags that place it in space."""
    folder.mkdir(exist_ok=True)
    image = sitk.Cast(image, sitk.sitkInt16)
    matrix = np.array(image.GetDirection()).reshape(3, 3)
    cosines = "\\".join(f"{v:.12g}" for v in (*matrix[:, 0], *matrix[:, 1]))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in reversed(range(image.GetSize()[2])):
        piece = image[:, :, k]
        position = "\\".join(f"{v:.10g}" for v in image.TransformIndexToPhysicalPoint((0, 0, k)))
        tags = {"0008|0060": "CT", "0020|000d": "1.2.3", "0020|000e": uid, "0008|0018": f"{uid}.{k + 1}"}
        tags.update({"0020|0032": position, "0020|0037": cosines, "0020|0013": str(k)})
        for tag, value in tags.items():
            piece.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid}-{100 - k}.dcm"))
        writer.Execute(piece)


# Reading


@pytest.mark.parametrize("name", FORMATS)
def test_a_volume_is_read_with_its_geometry(tmp_path: Path, name: str) -> None:
    image = blob_image()
    sitk.WriteImage(image, str(tmp_path / name))
    for path in (tmp_path / name, str(tmp_path / name)):
        again = read_image(path)
        assert again.GetSize() == image.GetSize()
        for mine, theirs in zip(
            (again.GetOrigin(), again.GetSpacing(), again.GetDirection()),
            (image.GetOrigin(), image.GetSpacing(), image.GetDirection()),
        ):
            np.testing.assert_allclose(mine, theirs, atol=1e-4)
        np.testing.assert_array_equal(sitk.GetArrayViewFromImage(again), sitk.GetArrayViewFromImage(image))


def test_a_folder_with_one_dicom_series_is_a_volume(tmp_path: Path) -> None:
    image = sitk.Cast(blob_image(size=(18, 14, 9)) * 1000, sitk.sitkInt16)
    write_dicom_series(tmp_path, image, "1.2.3.4")
    again = read_image(tmp_path)
    assert again.GetSize() == image.GetSize()
    np.testing.assert_allclose(again.GetSpacing(), image.GetSpacing(), rtol=1e-5)
    np.testing.assert_allclose(again.GetOrigin(), image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(again.GetDirection(), image.GetDirection(), atol=1e-5)
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(again), sitk.GetArrayViewFromImage(image))
    check_image(again, "fixed image")


def test_a_folder_with_two_dicom_series_is_refused(tmp_path: Path) -> None:
    image = blob_image(size=(8, 8, 5)) * 1000
    write_dicom_series(tmp_path, image, "1.2.3.4")
    write_dicom_series(tmp_path, image, "1.2.3.5")
    with pytest.raises(UnreadableFileError, match="2 DICOM series"):
        read_image(tmp_path)


def test_a_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="no DICOM series"):
        read_image(tmp_path)
    sitk.WriteImage(blob_image(), str(tmp_path / "volume.nrrd"))
    with pytest.raises(UnreadableFileError, match="no DICOM series"):
        read_image(tmp_path)


@pytest.mark.parametrize("name", [*FORMATS, "folder", "Größe ä.nii.gz"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnreadableFileError, match=f"{name} does not exist"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, compressed: bool, share: float) -> None:
    path = tmp_path / name
    sitk.WriteImage(blob_image(), str(path), useCompression=compressed)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UnreadableFileError, match="damaged"):
        read_image(path)


def test_a_compressed_file_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "volume.nii.gz"
    sitk.WriteImage(blob_image(), str(path))
    monkeypatch.setattr(gzip, "open", lambda *_: pytest.fail("unpacked once more"))
    assert read_image(path).GetSize() == blob_image().GetSize()


def test_a_file_compressed_in_pieces_is_whole(tmp_path: Path) -> None:
    sitk.WriteImage(blob_image(), str(tmp_path / "volume.nii"))
    content = (tmp_path / "volume.nii").read_bytes()
    (tmp_path / "pieces.nii.gz").write_bytes(gzip.compress(content[:9999]) + gzip.compress(content[9999:]))
    assert read_image(tmp_path / "pieces.nii.gz").GetSize() == blob_image().GetSize()


@pytest.mark.parametrize("pixel", [sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkVectorFloat32, sitk.sitkVectorUInt8])
def test_whole_nifti_files_of_any_type_are_read(tmp_path: Path, pixel: int) -> None:
    scalar = blob_image()
    image = sitk.Cast(sitk.Compose([scalar] * 3) if "vector" in sitk.GetPixelIDValueAsString(pixel) else scalar, pixel)
    sitk.WriteImage(image, str(tmp_path / "volume.nii"))
    assert read_image(tmp_path / "volume.nii").GetSize() == image.GetSize()
    # Misnamed, as some tools do.
    (tmp_path / "volume.nii").rename(tmp_path / "volume.nii.gz")
    assert read_image(tmp_path / "volume.nii.gz").GetSize() == image.GetSize()


def test_a_rescaled_nifti_file_is_whole(tmp_path: Path) -> None:
    """Two bytes a voxel in the file, four in memory."""
    path = tmp_path / "volume.nii"
    sitk.WriteImage(sitk.Cast(blob_image() * 100, sitk.sitkInt16), str(path))
    content = bytearray(path.read_bytes())
    content[112:116] = np.float32(0.5).tobytes()  # scl_slope
    path.write_bytes(content)
    expected = sitk.GetArrayFromImage(sitk.Cast(blob_image() * 100, sitk.sitkInt16)) * 0.5
    np.testing.assert_allclose(sitk.GetArrayFromImage(read_image(path)), expected)


@pytest.mark.parametrize("name", [*FORMATS, "notes.txt", "volume", "image.png", "slice.dcm"])
@pytest.mark.parametrize("content", [b"", b"These are my notes.\n", bytes(range(256)) * 8])
def test_a_file_of_something_else_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match="damaged or of an unknown format"):
        read_image(path)


def test_a_compressed_text_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "volume.nii.gz"
    path.write_bytes(gzip.compress(b"These are my notes.\n" * 100))
    with pytest.raises(UnreadableFileError, match="damaged or of an unknown format"):
        read_image(path)


# Images


BAD_IMAGES = {
    "2D": (lambda: blob_image()[:, :, 5], DimensionError, "2 dimensions"),
    "4D": (lambda: sitk.JoinSeries([blob_image(), blob_image()]), DimensionError, "4 dimensions"),
    "vector": (lambda: sitk.Compose(blob_image(), blob_image()), DimensionError, "2 values per voxel"),
    "RGB": (lambda: sitk.Image((8, 8, 8), sitk.sitkVectorUInt8, 3), DimensionError, "3 values per voxel"),
    "complex": (lambda: sitk.Image((8, 8, 8), sitk.sitkComplexFloat32), DimensionError, "real"),
    "run-length labels": (lambda: sitk.Image((8, 8, 8), sitk.sitkLabelUInt8), DimensionError, "real"),
    "one slice": (lambda: blob_image(size=(40, 40, 1)), DimensionError, "40 x 40 x 1 voxels"),
    "three slices": (lambda: blob_image(size=(40, 40, 3)), DimensionError, "40 x 40 x 3 voxels"),
    "no voxels": (lambda: sitk.Image(0, 0, 0, sitk.sitkFloat32), DimensionError, "0 x 0 x 0 voxels"),
    "constant": (lambda: blob_image() * 0 + 7, EmptyImageError, "every voxel is 7"),
    "black": (lambda: sitk.Image(8, 8, 8, sitk.sitkUInt8), EmptyImageError, "every voxel is 0"),
    "NaN": (lambda: spoilt(np.nan), NonFiniteError, "NaN or infinite"),
    "inf": (lambda: spoilt(np.inf), NonFiniteError, "NaN or infinite"),
    "-inf": (lambda: spoilt(-np.inf), NonFiniteError, "NaN or infinite"),
    "NaN and infinities": (lambda: spoilt(np.inf) - spoilt(np.inf), NonFiniteError, "NaN or infinite"),
    "tiny spacing": (lambda: spaced(1, 1, 1e-4), SpacingError, "1 x 1 x 0.0001 mm"),
    "huge spacing": (lambda: spaced(1, 1000, 1), SpacingError, "1 x 1000 x 1 mm"),
}


@pytest.mark.parametrize("role", ["fixed image", "moving image"])
@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_image_is_refused_with_a_reason(case: str, role: str) -> None:
    make, error, words = BAD_IMAGES[case]
    with pytest.raises(error, match=words) as raised:
        check_image(make(), role)
    assert f"The {role}" in str(raised.value)
    assert str(raised.value).endswith(".")


def test_the_smallest_image_passes() -> None:
    check_image(blob_image(size=(4, 4, 4)), "fixed image")


@pytest.mark.parametrize("factor", [0.01, 1.0, 49.0])
def test_a_pair_may_differ_in_resolution(factor: float) -> None:
    close = factor > 0.02
    pair = spaced(1, 1, 1), spaced(factor, factor, factor)
    if close:
        check_pair(*pair)
        check_pair(*reversed(pair))
    else:
        with pytest.raises(SpacingError, match="differ too much"):
            check_pair(*pair)


# Masks


def box_mask(image: sitk.Image) -> sitk.Image:
    mask = sitk.Image(image.GetSize(), sitk.sitkUInt8)
    mask.CopyInformation(image)
    mask[5:20, 6:18, 4:12] = 3
    return mask


def moved(image: sitk.Image, by: float) -> sitk.Image:
    image.SetOrigin([o + by for o in image.GetOrigin()])
    return image


def test_a_mask_becomes_zero_and_one() -> None:
    image = blob_image()
    binary = check_mask(box_mask(image), image, "fixed mask")
    assert binary.GetPixelID() == sitk.sitkUInt8
    expected = sitk.GetArrayFromImage(box_mask(image)) > 0
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(binary), expected)


@pytest.mark.parametrize("pixel", [sitk.sitkFloat32, sitk.sitkInt16, sitk.sitkUInt32])
def test_a_mask_may_be_of_any_type(pixel: int) -> None:
    image = blob_image()
    plain = check_mask(box_mask(image), image, "fixed mask")
    typed = check_mask(sitk.Cast(box_mask(image), pixel), image, "fixed mask")
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(typed), sitk.GetArrayViewFromImage(plain))


def test_a_mask_on_another_grid_marks_the_same_place() -> None:
    image = blob_image()
    other = blob_image(size=(50, 50, 50), spacing=(1.0, 1.0, 1.0), degrees=(0.0, 40.0, -10.0))
    marked = sitk.Cast(blob_image() > 0.5, sitk.sitkUInt8)
    elsewhere = check_mask(sitk.Cast(other > 0.5, sitk.sitkUInt8), image, "fixed mask")
    assert Grid.of(elsewhere) == Grid.of(image)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(marked, elsewhere)
    assert overlap.GetDiceCoefficient() > 0.95


BAD_MASKS: dict[str, tuple[Callable[[], sitk.Image], str]] = {
    "empty": (lambda: box_mask(blob_image()) * 0, "empty"),
    "outside": (lambda: moved(box_mask(blob_image()), 500), "outside"),
    "2D": (lambda: box_mask(blob_image())[:, :, 6], "three-dimensional"),
    "4D": (lambda: sitk.JoinSeries([box_mask(blob_image())] * 2), "three-dimensional"),
    "vector": (lambda: sitk.Compose(box_mask(blob_image()), box_mask(blob_image())), "scalar"),
    "complex": (lambda: sitk.Image((8, 8, 8), sitk.sitkComplexFloat32), "scalar"),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_a_bad_mask_is_refused_with_a_reason(case: str) -> None:
    make, words = BAD_MASKS[case]
    with pytest.raises(MaskError, match=words) as raised:
        check_mask(make(), blob_image(), "moving mask")
    assert "The moving mask" in str(raised.value)
    assert isinstance(raised.value, ImageError)


# Maps of strength


def test_a_map_of_strength_may_be_zero() -> None:
    assert check_map(sitk.Image(8, 8, 8, sitk.sitkUInt8)).GetPixelID() == sitk.sitkFloat32


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_map_of_strength_is_finite(value: float) -> None:
    with pytest.raises(NonFiniteError, match="regularization map"):
        check_map(spoilt(value))


def test_a_map_of_strength_is_nowhere_negative() -> None:
    with pytest.raises(MaskError, match="negative"):
        check_map(spoilt(-0.1))
