"""Landmark files in every dialect, pairing, and what is said about a bad file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.engine.errors import LandmarkError, OutputError, UnreadableFileError
from DeepRegAttentionLib.engine.landmarks import (
    Landmarks,
    landmarks_from_voxels,
    read_landmarks,
    require_pairs,
    transform_landmarks,
    write_landmarks,
)
from helpers.places import real_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

POINTS = np.array([[12.5, -93.5, 7.25], [-1.0, 2.0, 1e-3], [43.3769, 23.1343, -1234.5]])
COORDINATE = st.floats(-1e4, 1e4, allow_nan=False)
NAME = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=8)
FORMATS = ("points.mrk.json", "points.fcsv", "points.txt", "points.csv")


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def markups(points: list[dict], **markup: object) -> str:
    return json.dumps({"markups": [{"type": "Fiducial", "controlPoints": points, **markup}]})


def fcsv_rows(points: np.ndarray, tail: str = "0,0,0,1,1,1,0,P,,") -> str:
    return "".join(f"id{n},{x!r},{y!r},{z!r},{tail}\n" for n, (x, y, z) in enumerate(points.tolist()))


@pytest.mark.parametrize("name", FORMATS)
@given(st.lists(st.tuples(COORDINATE, COORDINATE, COORDINATE, NAME), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_written_landmarks_are_read_back_exactly(tmp_path: Path, name: str, rows: list[tuple]) -> None:
    landmarks = Landmarks(np.array([row[:3] for row in rows]), tuple(row[3] for row in rows))
    write_landmarks(tmp_path / name, landmarks)
    again = read_landmarks(tmp_path / name)
    np.testing.assert_array_equal(again.points, landmarks.points)
    assert again.names == (landmarks.names if name.endswith(("json", "fcsv")) else ())


@pytest.mark.parametrize(("system", "sign"), [("LPS", 1), ("RAS", -1), ("1", 1), ("0", -1), (1, 1), (0, -1), (None, 1)])
def test_markups_coordinate_systems(tmp_path: Path, system: object, sign: int) -> None:
    extra = {} if system is None else {"coordinateSystem": system}
    text = markups([{"label": f"L{n}", "position": p} for n, p in enumerate(POINTS.tolist())], **extra)
    landmarks = read_landmarks(written(tmp_path, "a.mrk.json", text))
    np.testing.assert_array_equal(landmarks.points, POINTS * (sign, sign, 1))
    assert landmarks.names == ("L0", "L1", "L2")


@pytest.mark.parametrize(("unit", "scale"), [("mm", 1.0), ("um", 1e-3), (["mm", "UCUM", "millimeter"], 1.0)])
def test_markups_units(tmp_path: Path, unit: object, scale: float) -> None:
    text = markups([{"position": p} for p in POINTS.tolist()], coordinateUnits=unit)
    np.testing.assert_allclose(read_landmarks(written(tmp_path, "a.json", text)).points, POINTS * scale)


@pytest.mark.parametrize(("system", "sign"), [("LPS", 1), ("RAS", -1), ("1", 1), ("0", -1)])
def test_fcsv_coordinate_systems(tmp_path: Path, system: str, sign: int) -> None:
    header = f"# Markups fiducial file version = 4.10\n# CoordinateSystem = {system}\n# columns = id,x,y,z\n"
    landmarks = read_landmarks(written(tmp_path, "a.fcsv", header + fcsv_rows(POINTS)))
    np.testing.assert_array_equal(landmarks.points, POINTS * (sign, sign, 1))
    assert landmarks.names == ("P", "P", "P")


def test_fcsv_of_slicer_3_is_ras_with_the_name_first(tmp_path: Path) -> None:
    text = "# Fiducial List file /tmp/midsag.fcsv\n# columns = label,x,y,z,sel,vis\nmidsag2,12.5,-93.5,7.5,1,1\n"
    landmarks = read_landmarks(written(tmp_path, "a.fcsv", text))
    np.testing.assert_array_equal(landmarks.points, [[-12.5, 93.5, 7.5]])
    assert landmarks.names == ("midsag2",)


def test_plain_text_takes_blanks_commas_tabs_and_comments(tmp_path: Path) -> None:
    text = "\ufeff# x y z\r\n1 2 3\r\n\r\n4,5,6 # tip\r\n7\t8\t9\r\n 10 , 11,\t12 \r\n"
    landmarks = read_landmarks(written(tmp_path, "a.txt", text))
    np.testing.assert_array_equal(landmarks.points, np.arange(1.0, 13).reshape(4, 3))


HEADER = "# Markups fiducial file version = 5.0\n# CoordinateSystem = LPS\n"
UNREADABLE = [
    ("a.mrk.json", "{", "not a Slicer markups file"),
    ("a.mrk.json", "[]", "not a Slicer markups file"),
    ("a.mrk.json", '{"markups": {"a": 1}}', "not a Slicer markups file"),
    ("a.mrk.json", markups([{"position": [1, 2, "x"]}]), "Point 1 of a.mrk.json should give three numbers"),
    (
        "a.mrk.json",
        markups([{"position": [1, 2, float("nan")]}]),
        "Point 1 of a.mrk.json should give three numbers",
    ),
    ("a.fcsv", HEADER + "id,1,2\n", "Point 1 of a.fcsv should give three numbers"),
    ("a.fcsv", HEADER + "id,1,2,up,0,0,0,1,1,1,0,P,,\n", "“1 2 up”"),
    ("a.txt", "1 2 3\n1 2\n", "Line 2 of a.txt"),
    ("a.txt", "1 2 3 4\n", "Line 1 of a.txt"),
    ("a.csv", "x,y,z\n1,2,3\n", "Line 1 of a.csv should give three numbers x, y, z; “x y z” does not"),
    ("a.txt", "1 2 inf\n", "Line 1 of a.txt"),
]
UNUSABLE = [
    ("a.mrk.json", markups([]), "holds no landmarks"),
    ("a.mrk.json", '{"markups": []}', "holds 0 markups"),
    ("a.mrk.json", markups([{"position": [1, 2, 3]}], coordinateSystem="IJK"), "coordinate system “IJK”"),
    ("a.mrk.json", markups([{"position": [1, 2, 3]}], coordinateUnits="inch"), "“inch”; save them in mm"),
    (
        "a.mrk.json",
        markups([{"label": "tip", "position": "", "positionStatus": "undefined"}]),
        "Point 1 (“tip”)",
    ),
    (
        "a.mrk.json",
        markups([{"position": [1, 2, 3], "positionStatus": "preview"}]),
        "Point 1 of a.mrk.json has no",
    ),
    ("a.fcsv", HEADER, "holds no landmarks"),
    ("a.fcsv", "# Markups fiducial file version = 5.0\n" + fcsv_rows(POINTS), "coordinate system “unknown”"),
    (
        "a.fcsv",
        HEADER + fcsv_rows(POINTS, "0,0,0,1,1,1,0,tip,,,0,0"),
        "Point 1 (“tip”) of a.fcsv has no position",
    ),
    ("a.txt", "# nothing\n\n", "holds no landmarks"),
]


@pytest.mark.parametrize(("name", "text", "words"), UNREADABLE)
def test_damaged_files_are_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(UnreadableFileError, match=re.escape(words)):
        read_landmarks(written(tmp_path, name, text))


@pytest.mark.parametrize(("name", "text", "words"), UNUSABLE)
def test_files_without_usable_points_say_why(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(LandmarkError, match=re.escape(words)):
        read_landmarks(written(tmp_path, name, text))


def test_several_point_lists_in_one_file_are_refused(tmp_path: Path) -> None:
    one = json.loads(markups([{"position": [1, 2, 3]}]))["markups"]
    with pytest.raises(LandmarkError, match="holds 2 markups; save the landmarks as a single point list"):
        read_landmarks(written(tmp_path, "a.mrk.json", json.dumps({"markups": one * 2})))


@pytest.mark.parametrize("name", FORMATS)
def test_missing_and_binary_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnreadableFileError, match="cannot be read: no such file"):
        read_landmarks(tmp_path / name)
    (tmp_path / name).write_bytes(bytes(range(256)))
    with pytest.raises(UnreadableFileError, match="it is not a text file"):
        read_landmarks(tmp_path / name)


def test_a_folder_that_is_not_there_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written: no such file or directory"):
        write_landmarks(tmp_path / "absent" / "a.fcsv", Landmarks(POINTS))


def test_malformed_arrays_are_refused() -> None:
    with pytest.raises(LandmarkError, match="three coordinates"):
        Landmarks(np.zeros((4, 2)))
    with pytest.raises(LandmarkError, match="2 names for 3 landmarks"):
        Landmarks(POINTS, ("a", "b"))
    with pytest.raises(LandmarkError, match="not a finite number"):
        Landmarks(POINTS * np.inf)


@given(st.permutations(range(5)))
def test_pairs_follow_the_names_whatever_the_order(order: list[int]) -> None:
    points, names = np.arange(15.0).reshape(5, 3), ("a", "b", "c", "d", "e")
    fixed = Landmarks(points, names)
    moving = Landmarks(points[order] + 1, tuple(names[n] for n in order))
    first, second = require_pairs(fixed, moving)
    assert first.names == second.names == names
    np.testing.assert_array_equal(second.points, first.points + 1)


@pytest.mark.parametrize("names", [(), ("a", "b", "x"), ("b", "b", "a")])
def test_pairs_follow_the_files_where_names_do_not_match_up(names: tuple[str, ...]) -> None:
    _, moving = require_pairs(Landmarks(POINTS, ("a", "b", "c")), Landmarks(POINTS + 1, names))
    np.testing.assert_array_equal(moving.points, POINTS + 1)


def test_lists_that_do_not_pair_up_are_counted() -> None:
    with pytest.raises(LandmarkError, match="fixed image has 3 and the moving 2"):
        require_pairs(Landmarks(POINTS), Landmarks(POINTS[:2]))
    with pytest.raises(LandmarkError, match="no landmarks to pair"):
        require_pairs(Landmarks(np.zeros((0, 3))), Landmarks(np.zeros((0, 3))))


def test_transformed_landmarks_keep_their_names() -> None:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix([0, -1, 0, 1, 0, 0, 0, 0, 2])
    transform.SetTranslation([5, 0, -1])
    moved = transform_landmarks(Landmarks(POINTS, ("a", "b", "c")), transform)
    x, y, z = POINTS.T
    np.testing.assert_allclose(moved.points, np.stack([5 - y, x, 2 * z - 1], axis=1))
    assert moved.names == ("a", "b", "c")


def test_voxel_indices_become_points_of_an_oblique_image(make_image) -> None:
    image = make_image()
    landmarks = landmarks_from_voxels(
        Landmarks(np.array([[1, 1, 1], [44, 36, 28.0]]), ("first", "last")), image, first=1
    )
    np.testing.assert_allclose(landmarks.points[0], image.GetOrigin())
    np.testing.assert_allclose(landmarks.points[1], image.TransformIndexToPhysicalPoint((43, 35, 27)))


def test_dirlab_lists_pair_up() -> None:
    folder = real_data("dirlab_landmarks")
    fixed, moving = (read_landmarks(folder / f"Case1_300_{phase}_xyz.txt") for phase in ("T00", "T50"))
    image = sitk.Image(256, 256, 94, sitk.sitkUInt8)
    image.SetSpacing((0.97, 0.97, 2.5))
    fixed, moving = require_pairs(*(landmarks_from_voxels(points, image, first=1) for points in (fixed, moving)))
    assert len(fixed) == 300
    # Published displacement of case 1 before registration: 3.89 (2.78) mm.
    before = np.linalg.norm(fixed.points - moving.points, axis=1)
    assert before.mean() == pytest.approx(3.89, abs=0.15)
    assert before.std() == pytest.approx(2.78, abs=0.15)
