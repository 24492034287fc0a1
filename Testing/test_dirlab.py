"""The DIR-Lab benchmark: the layout of its files, its landmarks, a registration of a synthetic case 1."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.cli import app
from DeepRegAttentionLib.cli.evaluate import results_table
from DeepRegAttentionLib.dirlab import (
    GEOMETRY,
    SLICE_SPACING,
    CaseResult,
    find_cases,
    mean_over_cases,
    read_phase,
    read_points,
    snap_to_voxels,
)
from DeepRegAttentionLib.engine.errors import LandmarkError, OptionError, UnreadableFileError
from DeepRegAttentionLib.engine.landmarks import Landmarks
from DeepRegAttentionLib.engine.metrics import tre
from DeepRegAttentionLib.engine.trust.verdict import GRADES
from helpers.places import real_data
from typer.testing import CliRunner

# Mean and standard deviation of the landmark distance before registration, as published for each case.
PUBLISHED = {
    1: (3.89, 2.78),
    2: (4.34, 3.90),
    3: (6.94, 4.05),
    4: (9.83, 4.86),
    5: (7.48, 5.51),
    6: (10.89, 6.97),
    7: (11.03, 7.43),
    8: (14.99, 9.01),
    9: (7.92, 3.98),
    10: (7.30, 6.35),
}


def geometry_of(case: int) -> sitk.Image:
    """A blank image with the size and spacing of a case."""
    size, spacing = GEOMETRY[case]
    image = sitk.Image(size, sitk.sitkUInt8)
    image.SetSpacing((spacing, spacing, SLICE_SPACING))
    return image


def write_raw(image: sitk.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.GetArrayFromImage(image).astype("<i2").tofile(path)


def copy_landmarks(case: int, target: Path, name: str = "Case{case}_300_T{phase}_xyz.txt") -> None:
    target.mkdir(parents=True, exist_ok=True)
    for phase in ("00", "50"):
        source = real_data("dirlab_landmarks") / f"Case{case}_300_T{phase}_xyz.txt"
        shutil.copy(source, target / name.format(case=case, phase=phase))


def smooth_motion(start: Landmarks, goal: Landmarks, reference: sitk.Image) -> sitk.Transform:
    """A B-spline through the motion of the landmarks, as nearly as it can."""
    flat = (points.ravel().tolist() for points in (start.points, goal.points))
    spline = sitk.BSplineTransform(3)
    return sitk.LandmarkBasedTransformInitializer(spline, *flat, [], reference, 12)


def texture(reference: sitk.Image) -> sitk.Image:
    """Structures of about a centimetre, in CT-like numbers."""
    size = reference.GetSize()
    noise = np.random.default_rng(2).normal(size=tuple(n // 4 + 1 for n in size[::-1])).astype(np.float32)
    coarse = sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(noise), 1.0)
    coarse.SetSpacing([4 * s for s in reference.GetSpacing()])
    fine = sitk.Resample(coarse, reference, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    return sitk.Cast(sitk.Clamp(fine * 2000 + 1000, lowerBound=0, upperBound=3000), sitk.sitkInt16)


@pytest.fixture(scope="module")
def case_1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Case 1 in its true size and layout: a texture that moves as the real landmarks do."""
    folder = tmp_path_factory.mktemp("dirlab") / "Case1Pack"
    copy_landmarks(1, folder / "ExtremePhases")
    moving = texture(geometry_of(1))
    names = [folder / "ExtremePhases" / f"Case1_300_T{phase}_xyz.txt" for phase in ("00", "50")]
    motion = smooth_motion(*(read_points(name, moving) for name in names), geometry_of(1))
    write_raw(moving, folder / "Images" / "case1_T50_s.img")
    write_raw(sitk.Resample(moving, moving, motion), folder / "Images" / "case1_T00_s.img")
    write_raw(sitk.Image(4, 4, 4, sitk.sitkInt16), folder / "Images" / "case1_T10_s.img")
    return folder.parent


def evaluate(*arguments: object):
    return CliRunner().invoke(app, ["evaluate", "dirlab", *map(str, arguments)])


@pytest.mark.parametrize("case", GEOMETRY)
def test_the_landmarks_lie_in_the_image_and_are_as_far_apart_as_published(case: int):
    image = geometry_of(case)
    start, goal = (
        read_points(real_data("dirlab_landmarks") / f"Case{case}_300_T{phase}_xyz.txt", image) for phase in ("00", "50")
    )
    distances = tre(start, goal, sitk.Transform(3, sitk.sitkIdentity))
    assert len(distances) == 300
    assert distances.mean() == pytest.approx(PUBLISHED[case][0], abs=0.0051)
    assert distances.std(ddof=1) == pytest.approx(PUBLISHED[case][1], abs=0.0051)


@pytest.mark.slow
def test_a_synthetic_case_1_is_registered_from_its_files(case_1: Path):
    options = ["--model", "none", "--prealign", "none", "--spacing", 5, "--refine", 25, "--precision", "float32"]
    run = evaluate(case_1, *options, "--csv")
    assert run.exit_code == 0, run.output
    (row,) = csv.DictReader(run.stdout.splitlines())
    assert row["case"] == "1"
    assert float(row["initial_mean"]) == pytest.approx(3.89, abs=0.005)
    assert float(row["initial_sd"]) == pytest.approx(2.78, abs=0.005)
    assert float(row["mean"]) < 1.5
    assert float(row["snapped_mean"]) == pytest.approx(float(row["mean"]), abs=0.5)
    assert float(row["folds_percent"]) == 0
    assert float(row["seconds"]) > 0
    assert row["verdict"] in GRADES


def test_the_table_has_a_row_for_each_case_and_the_mean_over_cases():
    found = [
        CaseResult(1, 3.89, 2.78, 1.2, 0.8, 1.1, 0.9, 0, 10, "pass"),
        CaseResult(8, 15, 9, 3, 2, 3.3, 2.1, 0.5, 31, "fail"),
    ]
    columns = [list(column.cells) for column in results_table(found).columns]
    rows = list(zip(*columns))
    assert rows[0] == ("1", "3.89 (2.78)", "1.20 (0.80)", "1.10 (0.90)", "0.0000", "10.0", "pass")
    assert rows[-1] == ("mean", "9.45 (5.89)", "2.10 (1.40)", "2.20 (1.50)", "0.2500", "20.5", "")
    assert len(rows) == 3


def test_the_mean_over_cases_counts_every_case_the_same():
    one, two = CaseResult(1, 4, 2, 1, 1, 1, 1, 0, 10, "pass"), CaseResult(2, 8, 4, 2, 1, 3, 2, 0.5, 30, "fail")
    mean = mean_over_cases([one, two])
    assert (mean["initial_mean"], mean["mean"], mean["snapped_mean"], mean["seconds"]) == (6, 1.5, 2, 20)
    assert "case" not in mean


def test_snapping_moves_each_point_to_the_centre_of_its_voxel():
    image = geometry_of(1)
    centre = image.TransformIndexToPhysicalPoint((10, 20, 30))
    near = Landmarks(np.add(centre, [[0.4, -0.4, 1.2], [0.6, 0, 0], [0, 0, -1.3]]))
    other = [image.TransformIndexToPhysicalPoint(index) for index in ((10, 20, 30), (11, 20, 30), (10, 20, 29))]
    np.testing.assert_allclose(snap_to_voxels(near, image).points, other, atol=1e-9)


def test_a_voxel_of_the_file_and_its_landmark_meet(tmp_path: Path):
    size = GEOMETRY[1][0]
    voxels = np.zeros(size[::-1], "<i2")
    voxels[49, 99, 199] = -77
    voxels.tofile(tmp_path / "case1_T00_s.img")
    (tmp_path / "list.txt").write_text("200\t100\t50\n", encoding="utf-8")
    image = read_phase(tmp_path / "case1_T00_s.img", 1)
    (point,) = read_points(tmp_path / "list.txt", image).points
    assert image[image.TransformPhysicalPointToIndex(point)] == -77
    np.testing.assert_allclose(point, (199 * 0.97, 99 * 0.97, 49 * 2.5))


@pytest.mark.parametrize(
    ("case", "image", "landmarks", "pack"),
    [
        (1, "case1_T{phase}_s.img", "Case1_300_T{phase}_xyz.txt", "Case1Pack/ExtremePhases"),
        (3, "case3_T{phase}-ssm.img", "case3_300_T{phase}_xyz.txt", "Case3Pack/extremephases"),
        (8, "case8_T{phase}.img", "case8_dirLab300_T{phase}_xyz.txt", "Case8Deploy/extremePhases"),
        (10, "CASE10_T{phase}.IMG", "Case10_300_T{phase}_xyz.txt", "."),
    ],
)
def test_the_files_are_found_under_every_name_in_use(case, image, landmarks, pack, tmp_path):
    copy_landmarks(case, tmp_path / pack, landmarks)
    for phase in ("00", "10", "50"):
        (tmp_path / image.format(phase=phase)).touch()
        (tmp_path / f"._{image.format(phase=phase)}").touch()
    (found,) = find_cases(tmp_path)
    assert found.number == case
    assert found.fixed.name == image.format(phase="00")
    assert found.moving.name == image.format(phase="50")
    assert found.fixed_landmarks.name == landmarks.format(case=case, phase="00")
    assert found.moving_landmarks.name == landmarks.format(case=case, phase="50")


def empty_case(folder: Path) -> Path:
    copy_landmarks(1, folder / "Case1Pack" / "ExtremePhases")
    for phase in ("00", "50"):
        (folder / f"case1_T{phase}_s.img").write_bytes(bytes(8))
    return folder


def test_an_image_of_the_wrong_size_is_refused_with_both_sizes(tmp_path: Path):
    run = evaluate(empty_case(tmp_path))
    assert run.exit_code == 3
    (line,) = [line for line in run.stderr.splitlines() if "error" in line]
    assert "has 8 bytes" in line
    assert "256 x 256 x 94" in line
    assert "12320768" in line


def test_a_missing_or_double_phase_is_named(tmp_path: Path):
    folder = empty_case(tmp_path)
    (folder / "copy").mkdir()
    shutil.copy(folder / "case1_T50_s.img", folder / "copy")
    with pytest.raises(UnreadableFileError, match="Case 1 has 2 images of phase T50"):
        find_cases(folder)
    shutil.rmtree(folder / "copy")
    (folder / "case1_T50_s.img").unlink()
    with pytest.raises(UnreadableFileError, match="Case 1 has no image of phase T50"):
        find_cases(folder)


def test_missing_landmarks_are_named(tmp_path: Path):
    folder = empty_case(tmp_path)
    (folder / "Case1Pack" / "ExtremePhases" / "Case1_300_T50_xyz.txt").unlink()
    with pytest.raises(LandmarkError, match=r"no landmarks of phase T50.*Case1_300_T50_xyz\.txt"):
        find_cases(folder)


def test_a_landmark_outside_the_image_is_refused(tmp_path: Path):
    (tmp_path / "list.txt").write_text("1 1 1\n256 256 95\n", encoding="utf-8")
    with pytest.raises(LandmarkError, match="outside"):
        read_points(tmp_path / "list.txt", geometry_of(1))


def test_a_folder_without_cases_and_a_case_that_is_not_there(tmp_path: Path):
    with pytest.raises(UnreadableFileError, match="holds no DIR-Lab images"):
        find_cases(tmp_path)
    with pytest.raises(UnreadableFileError, match="does not exist"):
        find_cases(tmp_path / "nowhere")
    with pytest.raises(UnreadableFileError, match="Case 4 has no image"):
        find_cases(tmp_path, [4])
    with pytest.raises(OptionError, match="no case 11"):
        find_cases(tmp_path, [11])
    assert evaluate(tmp_path, "--cases", "one").exit_code == 2
