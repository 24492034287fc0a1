"""The files of the last pair: kept for corrections of its result, never used for anything else, never left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from DeepRegAttentionLib.engine.errors import OutputError
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.panel.files import KeptFiles, PairFiles
from DeepRegAttentionLib.scene.nodes import finish
from DeepRegAttentionLib.scene.results import inputs_of_result, keep_inputs, load_result, remove_result
from helpers.images import blob_image
from helpers.scene import World, add_volume


@pytest.fixture(scope="module")
def images():
    return blob_image(), blob_image(size=(40, 40, 30), degrees=(5, 10, -9), shift=(3, -1, 2))


@pytest.fixture(scope="module")
def found(images):
    return register(*images, RegistrationOptions(model="none", prealign="none", refine=1, spacing=6.0, threads=1))


@pytest.fixture
def scene():
    return World().scene


@pytest.fixture
def make(scene, images, found, tmp_path):
    """A pair in the scene, its result, and its files as a registration leaves them."""
    (tmp_path / "volumes").mkdir()

    def make():
        nodes = {name: add_volume(scene, image, name, tmp_path / "volumes")
                 for image, name in zip(images, ("fixed", "moving"))}  # fmt: skip
        files = PairFiles(str(tmp_path))
        assert finish(files.write_steps(nodes)) == files.inputs
        found.save(files.result_folder, ".nrrd", compress=False)
        result = load_result(scene, files.result_folder, *nodes.values())
        keep_inputs(result, nodes)
        files.know(result)
        return files, result

    return make


@pytest.fixture
def left(tmp_path):
    return lambda: sorted(tmp_path.glob("DeepRegAttention-*"))


def test_the_files_of_a_result_are_given_to_its_corrections(make, scene, left) -> None:
    kept = KeptFiles(scene)
    files, result = make()
    kept.keep(files)
    assert kept.take(result, inputs_of_result(result)) is files
    assert Path(files.inputs.fixed or "").is_file()
    # They belong to whoever took them.
    assert kept.take(result, inputs_of_result(result)) is None
    kept.end()
    assert left() == [files.folder]
    kept.keep(files)
    kept.end()
    assert left() == []


@pytest.mark.parametrize("change", ["volume", "transform", "input", "another result"])
def test_files_that_are_not_what_would_be_written_now_are_removed(change, make, scene, left) -> None:
    kept = KeptFiles(scene)
    files, result = make()
    wanted = result
    if change == "volume":
        result.moving.GetImageData().GetPointData().GetScalars().Modified()
    elif change == "transform":
        result.transform.Inverse()
    elif change == "input":
        keep_inputs(result, {"labels": result.fixed})
    else:
        others, wanted = make()
        others.remove()
    kept.keep(files)
    assert kept.take(wanted, inputs_of_result(wanted)) is None
    assert left() == []


def test_newer_files_take_the_place_of_older_ones(make, scene, left) -> None:
    kept = KeptFiles(scene)
    (older, _), (newer, result) = make(), make()
    kept.keep(older)
    kept.keep(newer)
    assert left() == [newer.folder]
    assert kept.take(result, inputs_of_result(result)) is newer


def test_files_go_with_their_result_and_with_the_scene(make, scene, left) -> None:
    kept = KeptFiles(scene)
    files, result = make()
    kept.keep(files)
    other = make()
    other[0].remove()
    remove_result(other[1])
    assert left() == [files.folder]
    remove_result(result)
    assert left() == []
    files, result = make()
    remove_result(result)
    kept.keep(files)
    assert left() == []
    files, result = make()
    kept.keep(files)
    scene.Clear()
    assert left() == []


def test_a_temporary_folder_that_is_not_there_is_said(tmp_path) -> None:
    with pytest.raises(OutputError, match=r"temporary folder .*gone"):
        PairFiles(str(tmp_path / "gone"))
