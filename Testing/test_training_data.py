"""What training reads: cases, pairs on the working grid, and its configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

pytest.importorskip("yaml", reason="the extra “train” is not installed")

from conftest import REPOSITORY, blob_image
from DeepRegAttentionLib.engine.errors import ImageError, OptionError, UnreadableFileError
from DeepRegAttentionLib.engine.geometry import Grid, resample, working_grid
from DeepRegAttentionLib.engine.intensity import IntensityRecipe
from DeepRegAttentionLib.engine.landmarks import Landmarks, write_landmarks
from DeepRegAttentionLib.training.data import Case, PairDataset, all_pairs, find_cases
from DeepRegAttentionLib.training.options import LossWeights, options_to_dict, read_training_options

SPACING, MULTIPLE = 2.5, 8
# The same object on three different grids; the third is elsewhere in space.
GEOMETRIES: dict[str, dict[str, Any]] = {
    "S1": {},
    "S2": {"size": (40, 42, 30), "spacing": (1.3, 1.4, 2.0), "degrees": (0.0, 0.0, 0.0)},
    "S3": {"size": (36, 50, 31), "spacing": (1.7, 1.2, 2.1), "degrees": (-30.0, 5.0, 10.0)},
}
POINTS = np.array([[31.0, -57.0, 112.0], [25.0, -50.0, 118.0], [40.0, -60.0, 105.0]])


def write_case(folder: Path, name: str, labels: bool = True, landmarks: bool = False) -> sitk.Image:
    for part in ("images", "labels", "landmarks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    image = blob_image(**GEOMETRIES[name])
    sitk.WriteImage(image, str(folder / "images" / f"{name}.nii.gz"))
    if labels:
        label_map = sitk.Cast(image > 0.4, sitk.sitkUInt16) + sitk.Cast(image > 0.8, sitk.sitkUInt16) * 299
        sitk.WriteImage(label_map, str(folder / "labels" / f"{name}.nii.gz"))
    if landmarks:
        write_landmarks(folder / "landmarks" / f"{name}.txt", Landmarks(POINTS))
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in GEOMETRIES:
        write_case(tmp_path, name, landmarks=True)
    return tmp_path


def dataset(folder: Path, **asked: bool) -> PairDataset:
    pairs = all_pairs(find_cases(folder))
    return PairDataset(pairs, SPACING, MULTIPLE, IntensityRecipe(), **{"labels": True, **asked})


# Cases and pairs


def test_cases_are_found_with_what_belongs_to_them(tmp_path: Path) -> None:
    write_case(tmp_path, "S2", labels=False)
    write_case(tmp_path, "S1", landmarks=True)
    first, second = find_cases(tmp_path)
    assert first == Case(
        "S1",
        tmp_path / "images" / "S1.nii.gz",
        tmp_path / "labels" / "S1.nii.gz",
        tmp_path / "landmarks" / "S1.txt",
    )
    assert second == Case("S2", tmp_path / "images" / "S2.nii.gz", None)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="holds no images"):
        find_cases(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(UnreadableFileError, match="holds no images"):
        find_cases(tmp_path)


def test_all_pairs_are_ordered_and_of_different_cases() -> None:
    cases = [Case(name, Path(name), None) for name in "abcd"]
    pairs = [(fixed.name, moving.name) for fixed, moving in all_pairs(cases)]
    assert len(set(pairs)) == len(pairs) == 12
    assert all(fixed != moving for fixed, moving in pairs)
    assert all_pairs(cases[:1]) == []


# Items


def test_an_item_is_the_pair_on_the_fixed_working_grid(folder: Path) -> None:
    data = dataset(folder)
    assert len(data) == 6
    for index, (fixed, _) in enumerate(data.pairs):
        item = data[index]
        shape = working_grid(sitk.ReadImage(str(fixed.image)), SPACING, MULTIPLE).shape
        for name in ("fixed", "moving", "fixed_labels", "moving_labels"):
            assert item[name].shape == (1, *shape)
            assert item[name].shape[1] % MULTIPLE == 0
        for name in ("fixed", "moving"):
            assert item[name].dtype == torch.float32
            assert 0 <= item[name].min() < 0.2
            assert 0.8 < item[name].max() <= 1


def test_images_and_labels_are_centred_on_each_other(folder: Path) -> None:
    """All grids have the same centre and show the same object, so it is in the same place."""
    for item in dataset(folder):
        fixed, moving = item["fixed"], item["moving"]
        correlation = np.corrcoef(fixed.flatten().numpy(), moving.flatten().numpy())[0, 1]
        assert correlation > 0.97
        labels = item["fixed_labels"], item["moving_labels"]
        for label in (1, 300):
            both = (labels[0] == label) & (labels[1] == label)
            assert 2 * both.sum() / sum((x == label).sum() for x in labels) > 0.75


def test_a_moving_image_from_elsewhere_in_space_is_brought_to_the_fixed_centre(folder: Path) -> None:
    before = dataset(folder)[0]
    for part in ("images", "labels"):
        path = str(folder / part / "S2.nii.gz")
        image = sitk.ReadImage(path)
        image.SetOrigin([o + d for o, d in zip(image.GetOrigin(), (400.0, -250.0, 90.0))])
        sitk.WriteImage(image, path)
    write_landmarks(folder / "landmarks" / "S2.txt", Landmarks(POINTS + np.array([400.0, -250.0, 90.0])))
    after = dataset(folder, landmarks=True)[0]
    torch.testing.assert_close(after["moving"], before["moving"], atol=1e-3, rtol=0)
    assert (after["moving_labels"] != before["moving_labels"]).float().mean() < 1e-3
    torch.testing.assert_close(after["moving_landmarks"], after["fixed_landmarks"], atol=0.02, rtol=0)


def test_labels_survive_the_resampling_whole(folder: Path) -> None:
    item = dataset(folder)[0]
    assert set(item["fixed_labels"].unique().tolist()) == {0, 1, 300}
    image = sitk.ReadImage(str(folder / "labels" / "S1.nii.gz"))
    expected = resample(image, working_grid(image, SPACING, MULTIPLE), nearest=True)
    np.testing.assert_array_equal(item["fixed_labels"][0], sitk.GetArrayViewFromImage(expected))


def test_landmarks_are_in_voxels_of_the_working_grid(folder: Path) -> None:
    item = dataset(folder, landmarks=True)[0]
    grid = working_grid(sitk.ReadImage(str(folder / "images" / "S1.nii.gz")), SPACING, MULTIPLE)
    reference = grid.place(sitk.Image(grid.size, sitk.sitkUInt8))
    expected = [reference.TransformPhysicalPointToContinuousIndex(p)[::-1] for p in POINTS.tolist()]
    np.testing.assert_allclose(item["fixed_landmarks"], expected, atol=1e-3)
    assert float(item["spacing"]) == SPACING


def test_labels_and_landmarks_are_given_only_if_asked_for_and_there(folder: Path) -> None:
    assert set(dataset(folder, labels=False)[0]) == {"fixed", "moving"}
    (folder / "labels" / "S3.nii.gz").unlink()
    (folder / "landmarks" / "S3.txt").unlink()
    assert set(dataset(folder, landmarks=True)[0]) == {"fixed", "moving"}


def test_an_image_is_read_once(folder: Path) -> None:
    data = dataset(folder, labels=False)
    first = data[0]
    for path in (folder / "images").iterdir():
        path.unlink()
    torch.testing.assert_close(data[0]["moving"], first["moving"])
    with pytest.raises(UnreadableFileError):
        data[len(data) - 1]


def test_the_intensity_recipe_is_applied(folder: Path) -> None:
    recipe = IntensityRecipe(window=(0.0, 10.0))
    item = PairDataset(all_pairs(find_cases(folder)), SPACING, MULTIPLE, recipe, labels=False)[0]
    image = sitk.ReadImage(str(folder / "images" / "S1.nii.gz"))
    expected = sitk.GetArrayFromImage(resample(image, working_grid(image, SPACING, MULTIPLE))) / 10
    np.testing.assert_allclose(item["fixed"][0], np.clip(expected, 0, 1), atol=0.01)


def test_a_bad_image_is_named(folder: Path) -> None:
    path = folder / "images" / "S2.nii.gz"
    sitk.WriteImage(sitk.Image(8, 8, 8, sitk.sitkFloat32), str(path))
    with pytest.raises(ImageError, match=r"S2\.nii\.gz is empty"):
        dataset(folder)[0]


def test_the_geometry_of_the_images_is_awkward() -> None:
    """So that what passes above did not pass by chance."""
    grids = [Grid.of(blob_image(**geometry)) for geometry in GEOMETRIES.values()]
    assert len({grid.direction for grid in grids}) == len({grid.size for grid in grids}) == 3
    np.testing.assert_allclose(grids[0].centre, grids[2].centre, atol=1e-9)


# Configuration

MINIMAL = "name: test\nnetwork: drivenmorph\ndata: here\nmetadata: {}\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "options.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_minimal_configuration_takes_the_defaults(tmp_path: Path) -> None:
    options = read_training_options(written(tmp_path, MINIMAL))
    assert (options.name, options.network, options.data) == ("test", "drivenmorph", "here")
    assert options.weights == LossWeights()
    assert options.intensity == IntensityRecipe()
    assert options.validation == options.test == options.ignore_labels == ()


def test_sections_and_lists_are_read(tmp_path: Path) -> None:
    text = MINIMAL + (
        "validation: [S1, S2]\ntest: [S3]\nignore_labels: [181]\nspacing: 1.5\n"
        "weights: {diffusion: 0.2, labels: 1.0}\nintensity: {window: [-1000, 400]}\n"
    )
    options = read_training_options(written(tmp_path, text))
    assert options.validation == ("S1", "S2")
    assert options.test == ("S3",)
    assert options.ignore_labels == (181,)
    assert options.weights == LossWeights(diffusion=0.2, labels=1.0)
    assert options.intensity == IntensityRecipe(window=(-1000, 400))
    assert options_to_dict(options)["weights"]["diffusion"] == 0.2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("spacng: 2", "no setting “spacng”. Did you mean “spacing”"),
        ("weights: {difusion: 1}", "no setting “weights.difusion”. Did you mean “weights.diffusion”"),
        ("intensity: {windo: [0, 1]}", "no setting “intensity.windo”. Did you mean “intensity.window”"),
        ("zzz: 2", "no setting “zzz”"),
    ],
)
def test_an_unknown_setting_gets_a_suggestion(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        read_training_options(written(tmp_path, MINIMAL + line))


@pytest.mark.parametrize("missing", ["name", "network", "data", "metadata"])
def test_a_missing_setting_is_named(tmp_path: Path, missing: str) -> None:
    text = "".join(line for line in MINIMAL.splitlines(keepends=True) if not line.startswith(missing))
    with pytest.raises(OptionError, match=missing):
        read_training_options(written(tmp_path, text))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_a_file_without_settings_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(OptionError, match="holds no settings"):
        read_training_options(written(tmp_path, text))


SHIPPED = sorted((REPOSITORY / "DeepRegAttention" / "Resources" / "Training").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_configurations_are_valid(path: Path) -> None:
    options = read_training_options(path)
    assert not set(options.validation) & set(options.test)
    assert options.steps > 0
    assert options.spacing > 0
