"""What training reads: cases from folders and tables, and pairs of them on the working grid."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

pytest.importorskip("yaml", reason="the extra “train” is not installed")

from DeepRegAttentionLib.dataset import ImageFiles, all_pairs, choose_pairs, find_cases, read_cases, select
from DeepRegAttentionLib.engine.errors import ImageError, OptionError, UnreadableFileError
from DeepRegAttentionLib.engine.geometry import Grid, points_to_voxels, resample, working_grid
from DeepRegAttentionLib.engine.intensity import IntensityRecipe
from DeepRegAttentionLib.engine.landmarks import Landmarks, write_landmarks
from DeepRegAttentionLib.training.data import (
    EpochSampler,
    ImageCache,
    PairDataset,
    PairReader,
    TrainingDraws,
    centroids,
    some_pairs,
    split_pairs,
)
from helpers.images import blob_image
from helpers.training import tiny, write_blobs

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


def dataset(folder: Path, labels: bool = True, landmarks: bool = False, **reading: Any) -> PairDataset:
    reader = PairReader(MULTIPLE, IntensityRecipe(), **reading)
    return PairDataset(all_pairs(find_cases(folder)), SPACING, reader, labels, landmarks)


# Cases and pairs


def test_cases_are_found_with_what_belongs_to_them(tmp_path: Path) -> None:
    write_case(tmp_path, "S2", labels=False)
    write_case(tmp_path, "S1", landmarks=True)
    first, second = find_cases(tmp_path)
    assert first == ImageFiles(
        "S1",
        tmp_path / "images" / "S1.nii.gz",
        tmp_path / "labels" / "S1.nii.gz",
        tmp_path / "landmarks" / "S1.txt",
    )
    assert second == ImageFiles("S2", tmp_path / "images" / "S2.nii.gz", None)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="holds no images"):
        find_cases(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(UnreadableFileError, match="holds no images"):
        find_cases(tmp_path)


def test_hidden_files_are_no_cases(tmp_path: Path) -> None:
    write_case(tmp_path, "S1")
    for name in (".DS_Store", "._S1.nii.gz"):
        (tmp_path / "images" / name).write_bytes(b"junk")
    assert [case.name for case in find_cases(tmp_path)] == ["S1"]


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    write_case(tmp_path, "S1")
    (tmp_path / "images" / "S1.nrrd").write_bytes(b"")
    with pytest.raises(OptionError, match="more than one case “S1”"):
        find_cases(tmp_path)


def table(folder: Path, *lines: str) -> Path:
    path = folder / "cases.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_table_names_cases_their_files_and_groups(folder: Path) -> None:
    path = table(
        folder,
        "name,image,labels,group,mask",
        "a-ED,images/S1.nii.gz,labels/S1.nii.gz,a,",
        "a-ES, images/S2.nii.gz,,a,labels/S2.nii.gz",
        "b,images/S3.nii.gz,labels/S3.nii.gz,,",
    )
    cases = read_cases(path)
    assert cases[0] == ImageFiles("a-ED", folder / "images" / "S1.nii.gz", folder / "labels" / "S1.nii.gz", group="a")
    assert cases[1] == ImageFiles(
        "a-ES", folder / "images" / "S2.nii.gz", mask=folder / "labels" / "S2.nii.gz", group="a"
    )
    assert cases[2].group == ""
    elsewhere = table(folder / "labels", "name,image", "x,images/S1.nii.gz")
    assert read_cases(elsewhere, folder)[0].image == folder / "images" / "S1.nii.gz"


@pytest.mark.parametrize(
    ("lines", "error", "words"),
    [
        (["name,imag", "a,images/S1.nii.gz"], OptionError, "unknown column “imag” .did you mean “image”"),
        (["image", "images/S1.nii.gz"], OptionError, "lacks the column “name”"),
        (["name,image", "a,"], OptionError, "an image are needed in row 2"),
        (["name,image", "a,images/S9.nii.gz"], UnreadableFileError, r"S9.nii.gz does not exist; row 2"),
        (["name,image", "a,images/S1.nii.gz", "a,images/S2.nii.gz"], OptionError, "more than one case “a”"),
        (["name,image"], UnreadableFileError, "holds no cases"),
    ],
)
def test_a_bad_table_gets_a_sentence(folder: Path, lines: list[str], error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        read_cases(table(folder, *lines))


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=r"none\.csv cannot be read"):
        read_cases(tmp_path / "none.csv")


GROUPED = [ImageFiles(name, Path(name), group=name[0]) for name in ("a1", "a2", "b1", "b2", "b3")]


def test_pairs_within_groups_and_to_an_atlas() -> None:
    within = choose_pairs(GROUPED, "within-group")
    assert len(within) == 2 + 6
    assert all(fixed.group == moving.group for fixed, moving in within)
    to_atlas = choose_pairs(GROUPED[1:], "to-atlas", GROUPED[0])
    assert [fixed.name for fixed, _ in to_atlas] == ["a1"] * 4
    assert choose_pairs(GROUPED, "to-atlas", GROUPED[0]) == to_atlas


def test_cases_are_selected_by_name_or_group() -> None:
    assert [case.name for case in select(GROUPED, ["a", "b2"])] == ["a1", "a2", "b2"]
    with pytest.raises(OptionError, match=r"No case or group of the data is called “b4”.*did you mean"):
        select(GROUPED, ["b4"])


def test_some_pairs_are_always_the_same_ones() -> None:
    pairs = all_pairs(GROUPED)
    assert some_pairs(pairs, 4) == some_pairs(pairs, 4)
    assert set(some_pairs(pairs, 4)) < set(pairs)
    assert some_pairs(pairs, None) == some_pairs(pairs, 99) == pairs


def test_what_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    write_blobs(tmp_path)
    split = split_pairs(tiny(tmp_path, validation=["case3", "case4"], test=["case0"]))
    assert {case.name for pair in split.training for case in pair} == {"case1", "case2"}
    assert {case.name for pair in split.validation for case in pair} == {"case3", "case4"}
    with pytest.raises(OptionError, match="no pairs left to train on"):
        split_pairs(tiny(tmp_path, test=["case0", "case1"]))
    with pytest.raises(OptionError, match="make no pair"):
        split_pairs(tiny(tmp_path, validation=["case3"]))
    with pytest.raises(OptionError, match="is called “case9”"):
        split_pairs(tiny(tmp_path, test=["case9"]))
    atlas = split_pairs(tiny(tmp_path, data={"cases": "blobs", "pairs": "to-atlas", "atlas": "case0"}))
    assert {fixed.name for fixed, _ in [*atlas.training, *atlas.validation]} == {"case0"}
    assert [moving.name for _, moving in atlas.validation] == ["case3", "case4"]


def test_all_pairs_are_ordered_and_of_different_cases() -> None:
    cases = [ImageFiles(name, Path(name), None) for name in "abcd"]
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


@pytest.mark.parametrize("size", [(17, 20, 24), (16, 21, 23), (19, 18, 21)])
def test_labels_on_the_spacing_of_the_grid_are_those_of_the_voxels(tmp_path: Path, size: tuple[int, int, int]) -> None:
    """Odd beside even sides would put the moving voxels halfway between those of the grid, and labels to one side."""
    random = np.random.default_rng(3)
    for name, sides in (("a", (20, 21, 22)), ("b", size)):
        image = blob_image(size=sides, spacing=(1.0, 1.0, 1.0), degrees=(20.0, -10.0, 5.0))
        labels = sitk.GetImageFromArray(random.integers(1, 200, sides[::-1]).astype(np.uint8))
        for part, what in (("images", image), ("labels", Grid.of(image).place(labels))):
            (tmp_path / part).mkdir(exist_ok=True)
            sitk.WriteImage(what, str(tmp_path / part / f"{name}.nii.gz"))
    data = PairDataset(all_pairs(find_cases(tmp_path)), 1.0, PairReader(MULTIPLE, IntensityRecipe()), labels=True)
    pair, item = data.pairs[0], data[0]
    for role, case in zip(("fixed", "moving"), pair):
        drawn = np.bincount(sitk.GetArrayFromImage(sitk.ReadImage(str(case.labels))).flatten(), minlength=200)
        seen = np.bincount(item[f"{role}_labels"].flatten().numpy(), minlength=200)
        np.testing.assert_array_equal(seen[1:], drawn[1:])


def test_landmarks_are_in_voxels_of_the_working_grid(folder: Path) -> None:
    item = dataset(folder, landmarks=True)[0]
    grid = working_grid(sitk.ReadImage(str(folder / "images" / "S1.nii.gz")), SPACING, MULTIPLE)
    reference = grid.place(sitk.Image(grid.size, sitk.sitkUInt8))
    expected = [reference.TransformPhysicalPointToContinuousIndex(p)[::-1] for p in POINTS.tolist()]
    np.testing.assert_allclose(item["fixed_landmarks"], expected, atol=1e-3)
    assert float(item["spacing"]) == SPACING


def test_landmarks_may_be_the_centroids_of_labels(folder: Path) -> None:
    item = dataset(folder, landmarks=True, centroids=True)[0]
    grid = working_grid(sitk.ReadImage(str(folder / "images" / "S1.nii.gz")), SPACING, MULTIPLE)
    for role in ("fixed", "moving"):
        shapes = sitk.LabelShapeStatisticsImageFilter()
        shapes.Execute(grid.place(sitk.GetImageFromArray(item[f"{role}_labels"][0].numpy())))
        expected = points_to_voxels(np.array([shapes.GetCentroid(label) for label in (1, 300)]), grid)
        torch.testing.assert_close(item[f"{role}_landmarks"], expected, atol=1e-3, rtol=0)


def test_centroids_are_those_of_labels_that_both_have() -> None:
    fixed, moving = torch.zeros(2, 1, 4, 4, 4, dtype=torch.int32)
    fixed[0, 1, 2, :], fixed[0, 3, 3, 3], moving[0, 0, 0, 1:3], moving[0, 2] = 7, 2, 7, 3
    found = centroids({"fixed_labels": fixed, "moving_labels": moving})
    assert found["fixed_landmarks"].tolist() == [[1.0, 2.0, 1.5]]
    assert found["moving_landmarks"].tolist() == [[0.0, 0.0, 1.5]]


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
    item = PairDataset(all_pairs(find_cases(folder)), SPACING, PairReader(MULTIPLE, recipe), labels=False)[0]
    image = sitk.ReadImage(str(folder / "images" / "S1.nii.gz"))
    expected = sitk.GetArrayFromImage(resample(image, working_grid(image, SPACING, MULTIPLE), extended=True)) / 10
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


def test_labels_that_do_not_count_become_background(folder: Path) -> None:
    kept, dropped = dataset(folder, keep=[300])[0], dataset(folder, drop=[300])[0]
    assert set(kept["fixed_labels"].unique().tolist()) == {0, 300}
    assert set(dropped["moving_labels"].unique().tolist()) == {0, 1}


def test_a_mask_of_the_fixed_image_comes_along(tmp_path: Path) -> None:
    write_blobs(tmp_path)
    pairs = all_pairs(find_cases(tmp_path / "blobs"))[:1]
    item = PairDataset(pairs, 4.0, PairReader(2, IntensityRecipe()), labels=False)[0]
    assert set(item["fixed_mask"].unique().tolist()) == {0.0, 1.0}
    assert item["fixed_mask"].shape == item["fixed"].shape


def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    reads: list[str] = []

    def read(path: Path) -> sitk.Image:
        reads.append(path.name)
        return sitk.Image(10, 10, 10, sitk.sitkFloat32)

    cache = ImageCache(limit=9000)
    for name in ("a", "b", "a", "c", "a", "b"):
        cache.get("image", Path(name), read)
    assert reads == ["a", "b", "c", "b"]
    copy = pickle.loads(pickle.dumps(cache))
    copy.get("image", Path("a"), read)
    assert len(reads) == 5


# Draws


def test_a_draw_depends_on_the_seed_and_its_number_alone(tmp_path: Path) -> None:
    write_blobs(tmp_path)
    options = tiny(tmp_path, weights={"labels": 1.0}, augmentation={"affine": {"probability": 1}})
    pairs = split_pairs(options).training
    first, second = TrainingDraws(pairs, options, 2, 0), TrainingDraws(pairs, options, 2, 0)
    _ = [first[n] for n in (3, 0)]
    for n in (7, 1):
        for name, value in first[n].items():
            torch.testing.assert_close(second[n][name], value, rtol=0, atol=0)
    assert len({float(first[n]["moving"].sum()) for n in range(8)}) > 4


def test_an_equal_pair_lies_on_itself_whatever_else_is_changed(tmp_path: Path) -> None:
    write_blobs(tmp_path)
    augmentation = {
        "affine": {"probability": 1},
        "elastic": {"probability": 1},
        "noise": {"probability": 1, "range": [0.0, 0.05]},
    }
    options = tiny(tmp_path, weights={"labels": 1.0}, augmentation=augmentation, data={"cases": "blobs", "equal": 0.5})
    draws = TrainingDraws(split_pairs(options).training, options, 2, 0)
    items = [draws[n] for n in range(8)]
    equal = [item for item in items if torch.equal(item["fixed_labels"], item["moving_labels"])]
    assert 1 < len(equal) < 7
    for item in equal:
        left = (item["fixed"] - item["moving"]).abs()
        assert 0 < float(left.mean()) < 0.08
    assert len({float(item["fixed"].sum()) for item in equal}) == len(equal)


def test_some_labels_a_step_are_the_same_in_both_maps_and_others_each_time(tmp_path: Path) -> None:
    write_blobs(tmp_path)
    options = tiny(tmp_path, labels_a_step=1, weights={"labels": 1.0})
    draws = TrainingDraws(split_pairs(options).training, options, 2, 0)
    seen = [(draws[n]["fixed_labels"], draws[n]["moving_labels"]) for n in range(8)]
    counted = [set(fixed.unique().tolist()) - {0} for fixed, _ in seen]
    assert all(len(one) == 1 for one in counted)
    assert set().union(*counted) == {1, 2}
    assert all(set(moving.unique().tolist()) - {0} <= one for (_, moving), one in zip(seen, counted))
    assert torch.equal(draws[3]["fixed_labels"], seen[3][0])
    more = tiny(tmp_path, labels_a_step=5, weights={"labels": 1.0})
    whole = TrainingDraws(split_pairs(more).training, more, 2, 0)[0]["fixed_labels"]
    assert set(whole.unique().tolist()) == {0, 1, 2}


def test_labels_with_a_weight_must_be_there(tmp_path: Path) -> None:
    write_blobs(tmp_path)
    (tmp_path / "blobs" / "labels" / "case1.nii.gz").unlink()
    options = tiny(tmp_path, weights={"labels": 1.0})
    with pytest.raises(OptionError, match=r"“weights.labels” needs a label map of every case; “case1” has none"):
        TrainingDraws(split_pairs(options).training, options, 2, 0)


def test_a_share_of_the_draws_is_labelled_and_the_others_train_without_supervision(tmp_path: Path) -> None:
    write_blobs(tmp_path)
    (tmp_path / "blobs" / "labels" / "case1.nii.gz").unlink()
    weights = {"labels": 1.0, "landmarks": 0.1}
    options = tiny(tmp_path, weights=weights, data={"cases": "blobs", "labelled": 0.75, "centroids": True})
    draws = TrainingDraws(split_pairs(options).training, options, 2, 0)
    items = [draws[n] for n in range(60)]
    supervised = [item for item in items if "fixed_labels" in item]
    assert 35 < len(supervised) < 55
    for item in items:
        known = {"fixed_labels", "moving_labels", "fixed_landmarks", "moving_landmarks"} & set(item)
        assert len(known) == (4 if "fixed_labels" in item else 0)
        assert item["fixed"].shape == item["moving"].shape


def test_landmarks_of_files_come_with_the_labelled_draws(tmp_path: Path) -> None:
    write_blobs(tmp_path)
    for kind, ending in (("labels", "nii.gz"), ("landmarks", "txt")):
        (tmp_path / "blobs" / kind / f"case1.{ending}").unlink()
    options = tiny(tmp_path, weights={"landmarks": 0.1}, data={"cases": "blobs", "labelled": 0.5})
    draws = TrainingDraws(split_pairs(options).training, options, 2, 0)
    found = {"fixed_landmarks" in draws[n] for n in range(12)}
    assert found == {True, False}
    assert not any("fixed_labels" in draws[n] for n in range(12))


@pytest.mark.parametrize("without", [[], ["case0", "case1", "case2"]])
def test_a_share_of_labelled_draws_needs_pairs_of_both_kinds(tmp_path: Path, without: list[str]) -> None:
    write_blobs(tmp_path)
    for name in without:
        (tmp_path / "blobs" / "labels" / f"{name}.nii.gz").unlink()
    options = tiny(tmp_path, weights={"labels": 1.0}, data={"cases": "blobs", "labelled": 0.5})
    with pytest.raises(OptionError, match=r"“data.labelled” needs pairs of cases with label maps and pairs of others"):
        TrainingDraws(split_pairs(options).training, options, 2, 0)


def test_the_first_draws_are_on_the_coarser_grid(tmp_path: Path) -> None:
    write_blobs(tmp_path)
    options = tiny(tmp_path, start_spacing=8.0, start_steps=2)
    draws = TrainingDraws(split_pairs(options).training, options, 2, start_draws=2)
    assert [draws[n]["fixed"].shape[3] for n in range(4)] == [8, 8, 16, 16]


def test_epochs_and_devices_share_the_draws() -> None:
    seen = []
    for epoch in range(3):
        for rank in range(2):
            sampler = EpochSampler(4, rank, 2)
            sampler.set_epoch(epoch)
            assert len(list(sampler)) == len(sampler) == 4
            seen.extend(sampler)
    assert sorted(seen) == list(range(24))
    assert list(EpochSampler(4, 1, 2)) == [1, 3, 5, 7]


def test_pairs_are_aligned_as_a_registration_aligns_them(tmp_path: Path) -> None:
    """An image turned and moved a long way lies on its original once it is aligned, and not with the middles alone."""
    fixed = blob_image(**GEOMETRIES["S2"])
    turn = sitk.Euler3DTransform(Grid.of(fixed).centre.tolist(), 0.1, -0.05, 0.15, (4.0, -6.0, 3.0))
    (tmp_path / "images").mkdir()
    sitk.WriteImage(fixed, str(tmp_path / "images" / "a.nii.gz"))
    sitk.WriteImage(sitk.Resample(fixed, fixed, turn), str(tmp_path / "images" / "b.nii.gz"))
    pairs = all_pairs(find_cases(tmp_path))[:1]
    off = {}
    for alignment in ("middles", "affine"):
        item = PairDataset(pairs, 3.0, PairReader(4, IntensityRecipe(), alignment=alignment), labels=False)[0]
        off[alignment] = float((item["fixed"] - item["moving"]).abs().mean())
    assert off["affine"] < off["middles"] / 2
