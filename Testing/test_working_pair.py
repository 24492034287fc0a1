"""What lies on the working grid beyond the fields of view of the images."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.engine.errors import OverlapError
from DeepRegAttentionLib.engine.geometry import Grid, to_tensor
from DeepRegAttentionLib.engine.guidance import Guidance
from DeepRegAttentionLib.engine.intensity import Scale
from DeepRegAttentionLib.engine.working_pair import WorkingPair, working_pair
from helpers.images import rotation

GRID = Grid((40, 32, 24), (1.5, 1.5, 1.5), (-10.0, 25.0, 60.0), tuple(rotation((9.0, -14.0, 20.0)).flatten().tolist()))


def acquired(spacing: tuple[float, float, float], turn: tuple[float, float, float], shift: np.ndarray) -> sitk.Image:
    """An oblique image in the middle of the grid, off by a shift in mm, that shows something everywhere."""
    values = np.random.default_rng(0).uniform(1, 2, (12, 16, 20)).astype(np.float32)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    image.SetDirection(rotation(turn).flatten().tolist())
    half = rotation(turn) @ ((np.array(image.GetSize()) - 1) / 2 * spacing)
    image.SetOrigin((GRID.centre - half + shift).tolist())
    return image


def put_on_grid(fixed: sitk.Image, moving: sitk.Image, linear: sitk.Transform, guidance: Guidance) -> WorkingPair:
    return working_pair(fixed, moving, (Scale(0.5, 2.0), Scale(0.5, 2.0)), linear, guidance, GRID)


def inside(image: sitk.Image, linear: sitk.Transform) -> torch.Tensor:
    """Whether each point of the grid lies in the image, asked point by point of SimpleITK's index."""
    index = np.indices(GRID.size).reshape(3, -1).T
    size = np.array(image.GetSize())
    points = (linear.TransformPoint(point.tolist()) for point in GRID.points(index.astype(float)))
    found = np.array([image.TransformPhysicalPointToContinuousIndex(point) for point in points])
    there = ((found > -0.5) & (found < size - 0.5)).all(axis=1)
    return torch.from_numpy(there.reshape(GRID.size).transpose(2, 1, 0).copy())[None, None]


@pytest.fixture
def linear() -> sitk.Transform:
    transform = sitk.Euler3DTransform()
    transform.SetCenter(GRID.centre.tolist())
    transform.SetRotation(0.1, -0.2, 0.15)
    transform.SetTranslation((4.0, -3.0, 5.0))
    return transform


def test_each_image_is_known_to_be_where_it_was_acquired(linear: sitk.Transform) -> None:
    fixed = acquired((1.2, 1.8, 2.0), (5.0, 12.0, -7.0), np.array([3.0, -2.0, 1.0]))
    moving = acquired((1.6, 1.1, 2.4), (-11.0, 4.0, 16.0), np.array([-1.0, 4.0, 2.0]))
    pair = put_on_grid(fixed, moving, linear, Guidance())
    for view, shown, image, transform in (
        (pair.fixed_view, pair.fixed_object, fixed, sitk.Transform(3, sitk.sitkIdentity)),
        (pair.moving_view, pair.moving_object, moving, linear),
    ):
        assert view is not None
        assert float((shown != inside(image, transform)).float().mean()) < 0.005
        assert torch.equal(shown, view > 0.5)
    # The images themselves go on beyond it, and only where both were acquired they are compared.
    assert float(pair.fixed.amin()) > 0.2
    assert pair.mask is not None
    assert torch.equal(pair.mask > 0.5, (pair.fixed_view * pair.moving_view) > 0.5)  # type: ignore[operator]


def test_images_that_fill_the_grid_have_no_view_and_what_is_dark_shows_nothing() -> None:
    values = np.zeros(GRID.size[::-1], np.float32)
    values[4:12, 6:20, 8:30] = 1
    image = GRID.place(sitk.GetImageFromArray(values))
    pair = put_on_grid(image, image, sitk.Transform(3, sitk.sitkIdentity), Guidance())
    assert pair.fixed_view is pair.moving_view is pair.mask is None
    assert torch.equal(pair.fixed_object, to_tensor(image) > 0)


def test_a_mask_counts_instead_of_the_field_of_view(linear: sitk.Transform) -> None:
    fixed = acquired((1.2, 1.8, 2.0), (5.0, 12.0, -7.0), np.zeros(3))
    mask = sitk.Cast(fixed > 1.5, sitk.sitkUInt8)
    pair, free = (put_on_grid(fixed, fixed, linear, given) for given in (Guidance(fixed_mask=mask), Guidance()))
    assert pair.mask is not None
    assert free.mask is not None
    assert 0.2 < float(pair.mask.sum() / free.mask.sum()) < 0.8
    assert torch.equal(pair.fixed_object, free.fixed_object)


def test_images_that_do_not_meet_are_refused_though_they_go_on(linear: sitk.Transform) -> None:
    fixed = acquired((1.2, 1.8, 2.0), (5.0, 12.0, -7.0), np.zeros(3))
    far = acquired((1.2, 1.8, 2.0), (5.0, 12.0, -7.0), np.array([200.0, 0.0, 0.0]))
    with pytest.raises(OverlapError, match="do not overlap"):
        put_on_grid(fixed, far, linear, Guidance())
