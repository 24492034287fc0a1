"""The predicted error: large where the answer is wrong, bounded from below by nothing but 0, in mm and in place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.engine.errors import ModelError
from DeepRegAttentionLib.engine.fields import exponentiate, smooth, warp
from DeepRegAttentionLib.engine.geometry import Grid
from DeepRegAttentionLib.engine.models.listing import list_models
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.engine.resources import resource_folder
from DeepRegAttentionLib.engine.result import RegistrationResult
from DeepRegAttentionLib.engine.trust.expected_error import error_statistics, expect_error
from DeepRegAttentionLib.engine.trust.predictor import (
    ALONE,
    ANY,
    FILE,
    read_predictors,
    surroundings,
    write_predictors,
)
from DeepRegAttentionLib.engine.trust.signs import ASKED, PLAIN, Signs, find_signs
from DeepRegAttentionLib.engine.working_pair import WorkingPair
from helpers.images import blob_image, texture
from helpers.networks import small_network

FAST = RegistrationOptions(model="none", prealign="none", refine=2, spacing=2.0)


def pair_of(fixed: sitk.Image, moving: sitk.Image) -> RegistrationResult:
    return register(fixed, moving, FAST)


@pytest.fixture(scope="module")
def found() -> RegistrationResult:
    return pair_of(blob_image(), blob_image(shift=(2.0, -1.0, 1.0)))


def test_every_registration_has_an_error_and_a_bound_above_it(found: RegistrationResult) -> None:
    expected, bound = (sitk.GetArrayFromImage(found.maps[name]) for name in ("expected_error", "error_bound"))
    assert found.maps["expected_error"].GetSize() == found.maps["jacobian"].GetSize()
    assert np.isfinite(bound).all()
    assert (expected >= 0).all()
    assert (bound >= expected).all()


def test_the_worst_places_are_those_of_the_map_the_worst_first(found: RegistrationResult) -> None:
    said = found.metrics["expected_error"]
    assert 0 < said["mean_mm"] < said["p95_mm"]
    assert said["mean_mm"] < said["bound_mean_mm"]
    worst = said["worst"]
    assert 1 <= len(worst) <= 5
    assert [place["expected_mm"] for place in worst] == sorted((p["expected_mm"] for p in worst), reverse=True)
    for place in worst:
        for key, name in (("expected_mm", "expected_error"), ("bound_mm", "error_bound")):
            image = found.maps[name]
            index = image.TransformPhysicalPointToIndex(place["point_lps_mm"])
            assert image[index] == pytest.approx(place[key], rel=1e-5)


def test_intensities_may_be_scaled(found: RegistrationResult) -> None:
    again = pair_of(blob_image() * 731.0, blob_image(shift=(2.0, -1.0, 1.0)) * 0.25)
    first, second = (sitk.GetArrayFromImage(result.maps["expected_error"]) for result in (found, again))
    assert np.abs(first - second).mean() < 0.05 * first.mean()


def test_an_answer_that_is_off_is_expected_to_be_off() -> None:
    image = texture(48, 48, 48)
    velocity = smooth(torch.randn(1, 3, 48, 48, 48, generator=torch.Generator().manual_seed(1)), 6.0)
    velocity *= 0.5 / velocity.std()
    pair, right = WorkingPair(image, warp(image, exponentiate(velocity))), exponentiate(-velocity)
    errors = [expect_error(pair, right + off, 1.5, None) for off in (0.0, 0.5, 1.0)]
    for one, worse in zip(errors, errors[1:]):
        assert one.expected.mean() < worse.expected.mean()
        assert one.bound.mean() < worse.bound.mean()


# What it is predicted from


def test_every_sign_has_a_name_and_a_finite_value() -> None:
    pair = WorkingPair(texture(32, 24, 40), texture(32, 24, 40, seed=1))
    displacement = torch.zeros(1, 3, 32, 24, 40)
    network = small_network("drivenmorph").eval()
    for given, names in ((None, PLAIN), (network, PLAIN + ASKED)):
        signs = find_signs(pair, displacement, given)
        assert signs.values.shape[1] == len(names)
        assert signs.values.isfinite().all()
        assert (signs.values >= 0).all()
        assert signs.values.shape[2:] == signs.there.shape[2:]


def test_what_is_off_is_pulled_back_by_as_much_as_it_is_off() -> None:
    image = texture(32, 32, 32)
    pair, shift = WorkingPair(image, image), torch.zeros(1, 3, 32, 32, 32)
    shift[:, 1] = 0.5
    pull = find_signs(pair, shift).values[0, PLAIN.index("pull 1")]
    assert float(pull[8:-8, 8:-8, 8:-8].mean()) == pytest.approx(0.5, abs=0.15)


def test_no_structure_and_edges_that_slide_along_themselves_are_uncertain() -> None:
    """The aperture problem: along a straight edge nothing is known, across it everything."""
    full = texture(32, 32, 64)
    stripes = full.mean(dim=(2, 3), keepdim=True).expand_as(full)
    flat = torch.full_like(full, 0.5)
    spread = []
    for image in (full, stripes, flat):
        signs = find_signs(WorkingPair(image, image), torch.zeros(1, 3, 32, 32, 64))
        spread.append(float(signs.values[0, PLAIN.index("spread 1")].mean()))
    assert spread[0] < 0.7 * spread[1] < 0.7 * spread[2]


def test_what_only_one_image_shows_is_uncertain() -> None:
    image, mask = texture(32, 32, 32), torch.ones(1, 1, 32, 32, 32)
    mask[..., 16:] = 0
    values = find_signs(WorkingPair(image, image, mask), torch.zeros(1, 3, 32, 32, 32)).values
    for name in ("unlike 1", "spread 2"):
        seen, unseen = values[0, PLAIN.index(name)].chunk(2, dim=2)
        assert unseen.min() > seen.mean()


def test_beyond_the_fixed_field_of_view_there_is_nothing() -> None:
    image, view = texture(32, 32, 32), torch.ones(1, 1, 32, 32, 32)
    view[:, :, 24:] = 0
    there = find_signs(WorkingPair(image, image, fixed_view=view), torch.zeros(1, 3, 32, 32, 32)).there
    edge = there.shape[2] * 3 // 4
    assert there[:, :, :edge].mean() > 0.9
    assert not there[:, :, edge:].any()


def test_surroundings_know_nothing_of_the_background() -> None:
    values, there = torch.rand(1, 2, 12, 12, 12) + 0.5, torch.ones(1, 1, 12, 12, 12)
    there[:, :, 6:] = 0
    changed = torch.where(there > 0, values, 100.0)
    one, other = (surroundings(Signs(some, there))[:, :, :6] for some in (values, changed))
    torch.testing.assert_close(one, other)


def test_there_is_a_small_predictor_for_every_model() -> None:
    path = resource_folder("Trust") / FILE
    known = read_predictors(path)
    assert set(known) == {model.info.name for model in list_models()} | {ALONE, ANY}
    assert path.stat().st_size < 100_000
    signs = Signs(torch.rand(1, len(PLAIN + ASKED), 4, 4, 4), torch.ones(1, 1, 4, 4, 4))
    for name, predictor in known.items():
        some = signs if name != ALONE else signs._replace(values=signs.values[:, : len(PLAIN)])
        expected, bound = predictor(some)
        assert (expected > 0).all()
        assert (bound >= expected).all()


def test_predictors_are_read_as_they_were_written(tmp_path: Path) -> None:
    known = read_predictors(resource_folder("Trust") / FILE)
    write_predictors(known, tmp_path / FILE)
    values = torch.rand(5, known[ANY].layers[0][0].shape[1])
    again = read_predictors(tmp_path / FILE)[ANY]
    torch.testing.assert_close(again.logarithms(values), known[ANY].logarithms(values))


def test_a_damaged_file_of_predictors_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="cannot be read"):
        read_predictors(tmp_path / FILE)


def test_millimetres_are_those_of_the_grid() -> None:
    torch.manual_seed(1)
    image = torch.rand(1, 1, 16, 16, 16)
    pair, answer = WorkingPair(image, image.flip(2)), torch.zeros(1, 3, 16, 16, 16)
    fine, coarse = (expect_error(pair, answer, spacing, None) for spacing in (1.0, 2.5))
    torch.testing.assert_close(2.5 * fine.expected, coarse.expected)
    grid = Grid((16, 16, 16), (2.5,) * 3, (1.0, 2.0, 3.0), (0, -1, 0, 1, 0, 0, 0, 0, 1))
    inside = np.array(error_statistics(coarse, grid)["worst"][0]["point_lps_mm"])
    assert (np.abs(inside - grid.centre) <= 20).all()


def test_empty_images_are_no_trouble() -> None:
    image = torch.zeros(1, 1, 16, 16, 16)
    error = expect_error(WorkingPair(image, image), torch.zeros(1, 3, 16, 16, 16), 1.0, None)
    grid = Grid((16, 16, 16), (1.0,) * 3, (0.0,) * 3, tuple(np.eye(3).flatten()))
    assert np.isfinite(error_statistics(error, grid)["mean_mm"])
