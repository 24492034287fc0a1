"""Pictures of a refinement that is going on."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.engine import preview
from DeepRegAttentionLib.engine.errors import CancelledError
from DeepRegAttentionLib.engine.geometry import displacement_transform, voxels_to_mm, working_grid
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.engine.resampling import warp_image
from helpers.images import blob_image

OPTIONS = RegistrationOptions(model="none", prealign="none", refine=3, spacing=4.0)


@pytest.fixture
def images() -> tuple[sitk.Image, sitk.Image]:
    moving = blob_image(size=(40, 40, 30), degrees=(5.0, 10.0, -9.0), shift=(2.0, 1.0, -2.0))
    return blob_image(), moving * 400 - 1000


def test_a_picture_is_the_moving_image_at_the_displacement(images) -> None:
    fixed, moving = images
    grid, seen = working_grid(fixed, 3.0, 8), []
    shift = sitk.TranslationTransform(3, (2.0, 1.0, -2.0))
    half = torch.zeros(1, 3, *(n // 2 for n in grid.shape))
    half[:, 0] = 0.7
    preview.Preview(moving, shift, grid, seen.append)(half)
    (shown,) = seen
    # 0.7 voxels of a grid of half the resolution.
    field = torch.zeros(1, 3, *grid.shape)
    field[:, 0] = 1.4
    chain = sitk.CompositeTransform([shift, displacement_transform(voxels_to_mm(field, grid), grid)])
    reference = grid.place(sitk.Image(grid.size, sitk.sitkFloat32))
    expected = sitk.GetArrayFromImage(warp_image(moving, reference, chain))
    inside = (slice(4, -4),) * 3
    difference = np.abs(sitk.GetArrayFromImage(shown) - expected)[inside]
    assert difference.mean() < 0.02 * np.ptp(expected)
    # Its surroundings stay air, which is not 0.
    assert sitk.GetArrayFromImage(shown).max() < 0
    assert shown.GetDirection() == pytest.approx(fixed.GetDirection())


def test_it_shows_once_a_second_at_most(images, monkeypatch) -> None:
    now, seen = [50.0], []
    monkeypatch.setattr(preview.time, "monotonic", lambda: now[0])
    fixed, moving = images
    grid = working_grid(fixed, 6.0, 8)
    show = preview.Preview(moving, sitk.Transform(3, sitk.sitkIdentity), grid, seen.append)
    for now[0] in (50.0, 50.5, 50.9, 51.1, 51.2, 60.0):
        show(torch.zeros(1, 3, *grid.shape))
    assert len(seen) == 3


def test_register_shows_the_same_result_watched_or_not(images) -> None:
    seen = []
    watched, alone = register(*images, OPTIONS, watch=seen.append), register(*images, OPTIONS)
    assert seen
    np.testing.assert_allclose(
        *(sitk.GetArrayFromImage(result.displacement()) for result in (watched, alone)), atol=1e-3
    )


def test_who_watches_may_stop(images) -> None:
    def stop(image: sitk.Image) -> None:
        raise CancelledError("Seen enough.")

    with pytest.raises(CancelledError):
        register(*images, OPTIONS, watch=stop)
