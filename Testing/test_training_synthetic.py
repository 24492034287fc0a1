"""Synthetic pairs: two contrasts of one anatomy, deformed without folds, the same from the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from DeepRegAttentionLib.engine.errors import OptionError
from DeepRegAttentionLib.training.data import split_pairs, training_items, validation_items
from DeepRegAttentionLib.training.synthetic import (
    SyntheticOptions,
    SyntheticPairs,
    cut_off,
    paint,
    random_body,
    random_colours,
    random_shapes,
    smooth_noise,
    thick_slices,
)
from helpers.training import tiny, write_blobs

CLEAN = {"noise": 0.0, "blur": 0.0, "bias": 0.0, "thick": 1.0, "missing": 0.0}
SMALL = SyntheticOptions(shape=(24, 32, 16), shapes=6, alike=0.0)


def test_a_pair_is_two_paintings_of_two_deformations_of_one_map() -> None:
    pairs = SyntheticPairs(SMALL, 1, 8)
    contrasts = []
    for n in range(4):
        item = pairs[n]
        assert set(item) == {"fixed", "moving", "fixed_labels", "moving_labels"}
        for name in ("fixed", "moving"):
            assert item[name].shape == item[f"{name}_labels"].shape == (1, 24, 32, 16)
            assert 0 <= float(item[name].min()) < float(item[name].max()) <= 1
        overlap = float((item["fixed_labels"] == item["moving_labels"]).float().mean())
        assert 0.15 < overlap < 1
        labels = item["fixed_labels"].unique().tolist()
        means = [[float(item[r][item[f"{r}_labels"] == k].mean()) for k in labels] for r in ("fixed", "moving")]
        contrasts.append(np.corrcoef(means)[0, 1])
    # Unrelated contrasts: the intensities of a label in one image say nothing about those in the other.
    assert np.mean(np.abs(contrasts)) < 0.9


def test_pairs_that_are_alike_have_one_contrast() -> None:
    options = SyntheticOptions(shape=(24, 32, 16), shapes=6, deformation=0.0, alike=1.0, **CLEAN)
    item = SyntheticPairs(options, 1, 8)[0]
    labels = item["fixed_labels"].unique().tolist()
    means = [[float(item[r][item[f"{r}_labels"] == k].mean()) for k in labels] for r in ("fixed", "moving")]
    # The gamma differs, and keeps the order.
    assert np.argsort(means[0]).tolist() == np.argsort(means[1]).tolist()


def test_an_item_depends_on_seed_and_number_alone() -> None:
    first, second = SyntheticPairs(SMALL, 1, 8), SyntheticPairs(SMALL, 1, 8)
    _ = first[2]
    for name, value in first[5].items():
        torch.testing.assert_close(second[5][name], value, rtol=0, atol=0)
    assert float((first[5]["fixed"] - SyntheticPairs(SMALL, 2, 8)[5]["fixed"]).abs().max()) > 0.1


def test_deformation_of_size_zero_leaves_the_map() -> None:
    item = SyntheticPairs(SyntheticOptions(shape=(16, 16, 16), shapes=4, deformation=0.0), 1, 8)[0]
    assert torch.equal(item["fixed_labels"], item["moving_labels"])


def test_shapes_are_blobs_of_all_labels_and_noise_is_smooth() -> None:
    random = torch.Generator().manual_seed(1)
    shapes = random_shapes((32, 32, 32), 8, 8.0, random)
    assert set(shapes.unique().tolist()) == set(range(8))
    same = (shapes[:, 1:] == shapes[:, :-1]).float().mean()
    assert float(same) > 0.85
    finer = random_shapes((32, 32, 32), 8, 5.0, random)
    assert float((finer[:, 1:] == finer[:, :-1]).float().mean()) < float(same) - 0.03
    noise = smooth_noise(3, (32, 24, 16), 8.0, random)
    assert noise.shape == (1, 3, 32, 24, 16)
    assert float(noise.std()) == pytest.approx(1, abs=1e-4)
    assert float(noise.diff(dim=2).std()) < 0.5


def test_each_label_has_its_own_intensity() -> None:
    labels = random_shapes((16, 16, 16), 5, 4.0, torch.Generator().manual_seed(1))
    random = torch.Generator().manual_seed(2)
    image = paint(labels, random_colours(5, False, random), random)
    spreads = [float(image[labels == k].std()) for k in labels.unique()]
    assert max(spreads) < 0.07
    assert float(image.std()) > 2 * max(spreads)


def test_a_body_in_the_dark_is_one_blob_in_the_middle() -> None:
    body = random_body((32, 24, 40), torch.Generator().manual_seed(3))
    assert body.shape == (1, 32, 24, 40)
    assert 0.15 < float(body.float().mean()) < 0.7
    assert bool(body[0, 12:20, 9:15, 15:25].all())
    assert not bool(body[0, 0, 0].any())
    labels = torch.where(body, random_shapes((32, 24, 40), 5, 6.0, torch.Generator().manual_seed(1)) + 1, 0)
    random = torch.Generator().manual_seed(2)
    image = paint(labels, random_colours(6, True, random), random)
    assert float(image[~body].max()) == 0 < float(image[body].median())


def test_some_pairs_have_a_dark_background_and_some_have_none() -> None:
    pairs = SyntheticPairs(SyntheticOptions(shape=(24, 32, 16), shapes=6, **CLEAN), 1, 8)
    dark = [float(pairs[n]["fixed"][0, 0, 0, 0]) == float(pairs[n]["moving"][0, 0, 0, 0]) == 0 for n in range(8)]
    assert 2 <= sum(dark) <= 6


def test_thick_slices_blur_one_axis_and_move_nothing() -> None:
    ramp = torch.arange(12.0).reshape(1, 12, 1, 1).expand(1, 12, 5, 7)
    thick = thick_slices(ramp, 1, 3.0)
    assert thick.shape == ramp.shape
    torch.testing.assert_close(thick[0, 1:-1], ramp[0, 1:-1])
    torch.testing.assert_close(thick_slices(ramp, 3, 3.5), ramp)
    torch.testing.assert_close(thick_slices(ramp, 1, 1.0), ramp)
    stripes = (torch.arange(12) % 2).float().reshape(1, 12, 1, 1).expand(1, 12, 5, 7)
    assert float(thick_slices(stripes, 1, 4.0).std()) < 0.01


@pytest.mark.parametrize("upper", [True, False])
def test_where_it_is_cut_off_an_image_goes_on_as_it_ends(upper: bool) -> None:
    image = torch.rand(1, 8, 10, 6, generator=torch.Generator().manual_seed(1)) + 0.1
    shown = cut_off(image, 2, 0.3, upper)
    beyond, end = (slice(7, 10), slice(6, 7)) if upper else (slice(0, 3), slice(3, 4))
    assert torch.equal(shown[:, :, beyond], image[:, :, end].expand(-1, -1, 3, -1))
    kept = slice(0, 7) if upper else slice(3, 10)
    assert torch.equal(shown[:, :, kept], image[:, :, kept])
    assert torch.equal(cut_off(image, 1, 0.0, upper), image)


def test_some_images_miss_an_end() -> None:
    options = SyntheticOptions(shape=(16, 16, 16), shapes=6, **{**CLEAN, "missing": 0.5})
    pairs = SyntheticPairs(options, 1, 8)
    found = 0
    for n in range(12):
        item = pairs[n]
        for name in ("fixed", "moving"):
            # Slices that are all the same, of a texture that never is.
            steps = [item[name].diff(dim=axis).abs().amax(dim=[d for d in range(4) if d != axis]) for axis in (1, 2, 3)]
            found += any(float(step[end]) == 0 for step in steps for end in (0, -1))
    assert 1 <= found <= 12


@pytest.mark.parametrize("wrong", [{"thick": 0.5}, {"thick": 17.0}, {"missing": 1.0}, {"missing": -0.1}])
def test_impossible_acquisitions_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=r"data\.synthetic\.(thick|missing)"):
        SyntheticOptions(shape=(16, 16, 16), **wrong)


def test_a_shape_that_does_not_suit_the_network_is_refused() -> None:
    with pytest.raises(OptionError, match="multiples of 16"):
        SyntheticPairs(SMALL, 1, 16)


def test_label_maps_of_the_training_cases_are_painted(tmp_path: Path) -> None:
    write_blobs(tmp_path)
    data = {"cases": "blobs", "synthetic": {"from_labels": True}}
    options = tiny(tmp_path, data=data, weights={"labels": 1.0, "similarity": 0})
    items = training_items(options, split_pairs(options).training, 2, 0)
    assert set(items[0]["fixed_labels"].unique().tolist()) == {0, 1, 2}
    assert items[0]["fixed"].shape == items[0]["moving_labels"].shape
    without = tiny(tmp_path, data=data)
    with pytest.raises(OptionError, match=r"needs “weights.labels” above 0"):
        training_items(without, split_pairs(without).training, 2, 0)


def test_without_validation_cases_other_synthetic_pairs_judge(tmp_path: Path) -> None:
    options = tiny(tmp_path, data={"synthetic": {"shape": [16, 16, 16]}, "validation_pairs": 3}, validation=[])
    judged = validation_items(options, [], 2)
    assert len(judged) == 3  # type: ignore[arg-type]
    drawn = training_items(options, [], 2, 0)
    assert float((judged[0]["fixed"] - drawn[0]["fixed"]).abs().max()) > 0.1
