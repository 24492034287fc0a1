"""A pair of a study as nodes: its images where they lie, its result over them, nothing twice, nothing left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.engine.errors import UnreadableFileError
from DeepRegAttentionLib.scene.nodes import voxel_to_world
from DeepRegAttentionLib.scene.results import find_results
from DeepRegAttentionLib.scene.studies import load_pair, pair_steps
from helpers.scene import World, synthetic_images, synthetic_result, to_lps, voxels

INPUTS = {"fixed": "fixed", "fixed_labels": "labels", "labels": "labels"}


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Path:
    return synthetic_result(*synthetic_images()).save(tmp_path_factory.mktemp("result"), ".nrrd")


@pytest.fixture
def study(result, tmp_path) -> Path:
    """Two pairs that have their fixed image in common."""
    fixed, moving = synthetic_images()
    images = {"fixed": fixed, "one": moving, "two": moving, "labels": sitk.Cast(fixed > 0.5, sitk.sitkUInt8)}
    for name, image in images.items():
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    for name in ("one", "two"):
        folder = Path(shutil.copytree(result, tmp_path / "pairs" / name))
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        files = {**INPUTS, "moving": name}
        metrics["inputs"] = {role: str(tmp_path / f"{file}.nrrd") for role, file in files.items()}
        (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return tmp_path


@pytest.fixture
def scene():
    return World().scene


def volumes(scene) -> list[str]:
    kind = "vtkMRMLScalarVolumeNode"
    nodes = [scene.GetNthNodeByClass(n, kind) for n in range(scene.GetNumberOfNodesByClass(kind))]
    return sorted(node.GetName() for node in nodes)


def load(scene, study: Path, name: str):
    return load_pair(scene, str(study / "pairs" / name))


def test_the_images_lie_where_their_files_say_and_the_result_is_of_them(scene, study) -> None:
    result = load(scene, study, "one")
    assert (result.name, result.fixed.GetName(), result.moving.GetName()) == ("one to fixed", "fixed", "one")
    fixed = sitk.ReadImage(str(study / "fixed.nrrd"))
    np.testing.assert_array_equal(voxels(result.fixed), sitk.GetArrayFromImage(fixed))
    for index in ((0, 0, 0), (7, 3, 11)):
        world = (voxel_to_world(result.fixed) @ (*index, 1))[:3]
        np.testing.assert_allclose(to_lps(world), fixed.TransformIndexToPhysicalPoint(index), atol=1e-3)
    assert result.fixed_labels.IsA("vtkMRMLLabelMapVolumeNode")
    assert result.warped is not None


def test_what_pairs_have_in_common_is_loaded_once_and_a_pair_is_not_loaded_twice(scene, study) -> None:
    one = load(scene, study, "one")
    two = load(scene, study, "two")
    assert two.fixed is one.fixed
    assert two.fixed_labels is one.fixed_labels
    assert two.moving is not one.moving
    before = volumes(scene)
    assert load(scene, study, "one").node is one.node
    assert volumes(scene) == before


def test_an_image_that_was_written_anew_is_another_one(scene, study) -> None:
    one = load(scene, study, "one")
    path = study / "fixed.nrrd"
    sitk.WriteImage(sitk.ReadImage(str(path)) + 1, str(path))
    assert load(scene, study, "two").fixed is not one.fixed


def test_a_result_is_shown_without_images_that_are_not_there_any_more(scene, study) -> None:
    folder = study / "pairs" / "one"
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    metrics["inputs"]["moving"] = str(study / "gone" / "patient.nii.gz")
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    result = load(scene, study, "one")
    assert (result.name, result.moving) == ("patient to fixed", None)


def test_nothing_stays_behind_of_a_damaged_pair_or_one_that_is_given_up(scene, study) -> None:
    (study / "pairs" / "two" / "transform.h5").write_bytes(b"nothing")
    with pytest.raises(UnreadableFileError):
        load(scene, study, "two")
    assert volumes(scene) == []
    steps = pair_steps(scene, study / "pairs" / "one")
    for _ in range(4):
        next(steps)
    assert volumes(scene) != []
    steps.close()
    assert volumes(scene) == []
    assert find_results(scene) == []
