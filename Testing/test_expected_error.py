"""The predicted error: large where the answer is wrong, bounded from below by nothing but 0, in mm and in place."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.engine.geometry import Grid
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.engine.result import RegistrationResult
from DeepRegAttentionLib.engine.trust.expected_error import error_statistics, expect_error
from DeepRegAttentionLib.engine.working_pair import WorkingPair
from helpers.images import blob_image

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
    torch.manual_seed(0)
    image = torch.rand(1, 1, 12, 12, 12)
    image = torch.nn.functional.interpolate(image, scale_factor=4, mode="trilinear")
    pair, right = WorkingPair(image, image), torch.zeros(1, 3, 48, 48, 48)
    errors = [float(expect_error(pair, right + off, 1.5, None).expected.mean()) for off in (0.0, 0.5, 1.5)]
    assert errors[0] < 0.6 * errors[1] < 0.6 * errors[2]


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
