"""Our own resampling against SimpleITK's, on oblique, anisotropic, off-centre grids."""

from __future__ import annotations

from typing import Callable

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.engine import resampling
from DeepRegAttentionLib.engine.fields import smooth
from DeepRegAttentionLib.engine.geometry import Grid, Lattice, displacement_transform, resample, working_grid
from DeepRegAttentionLib.engine.intensity import background_value
from DeepRegAttentionLib.engine.resampling import sample_image, warp_image
from helpers.images import blob_image

MOVING = {"size": (40, 44, 36), "spacing": (1.6, 1.3, 1.9), "degrees": (-9.0, 14.0, -22.0)}


def affine() -> sitk.AffineTransform:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix((1.05, 0.1, -0.05, -0.08, 0.97, 0.06, 0.02, -0.09, 1.02))
    transform.SetCenter((31.0, -57.0, 112.0))
    transform.SetTranslation((2.0, -3.0, 1.0))
    return transform


def field(grid: Grid) -> sitk.DisplacementFieldTransform:
    generator = torch.Generator().manual_seed(1)
    return displacement_transform(smooth(torch.randn(1, 3, *grid.shape, generator=generator) * 30, 2.0), grid)


def spline() -> sitk.Transform:
    transform = sitk.BSplineTransformInitializer(blob_image(), (3, 3, 3))
    count = transform.GetNumberOfParameters()
    transform.SetParameters(np.random.default_rng(0).normal(scale=2.0, size=count).tolist())
    return transform


def of_registration() -> sitk.Transform:
    return sitk.CompositeTransform([affine(), field(working_grid(blob_image(), 3.0, 8))])


TRANSFORMS: dict[str, Callable[[], sitk.Transform]] = {
    "identity": lambda: sitk.Transform(3, sitk.sitkIdentity),
    "affine": affine,
    "of a registration": of_registration,
    "inverse of one": lambda: sitk.CompositeTransform([field(working_grid(blob_image(), 3.0, 8)), affine()]),
    "field that ends within the image": lambda: field(working_grid(blob_image(size=(20, 18, 14)), 2.9, 1)),
    "field on other axes": lambda: sitk.CompositeTransform([affine(), field(Grid.of(blob_image(**MOVING))), affine()]),
    "nested": lambda: sitk.CompositeTransform([sitk.CompositeTransform([affine(), of_registration()])]),
    "two fields": lambda: sitk.CompositeTransform([of_registration(), of_registration()]),
    "spline": spline,
}


@pytest.mark.parametrize("side", [200, 11])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_an_image_is_warped_as_simpleitk_does(name: str, side: int, monkeypatch) -> None:
    monkeypatch.setattr(resampling, "_SIDE", side)
    fixed, moving, transform = blob_image(), blob_image(**MOVING), TRANSFORMS[name]()
    outside = background_value(sitk.GetArrayViewFromImage(moving))
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, outside))
    warped = warp_image(moving, fixed, transform)
    assert Grid.of(warped) == Grid.of(fixed)
    assert 0.5 < (expected != outside).mean() < 1
    assert np.abs(sitk.GetArrayFromImage(warped) - expected).max() < 1e-5 * np.ptp(expected)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_labels_are_warped_as_simpleitk_does(name: str) -> None:
    fixed, transform = blob_image(), TRANSFORMS[name]()
    labels = sitk.Cast(blob_image(**MOVING) * 50 + 5, sitk.sitkUInt16)
    expected = sitk.GetArrayFromImage(sitk.Resample(labels, fixed, transform, sitk.sitkNearestNeighbor, 0))
    warped = warp_image(labels, fixed, transform, nearest=True)
    assert warped.GetPixelID() == sitk.sitkUInt16
    # Half-way between two voxels either is right.
    assert (sitk.GetArrayFromImage(warped) != expected).sum() <= 2
    assert 0 in expected


@pytest.mark.parametrize("pixel", [sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkInt32, sitk.sitkFloat32, sitk.sitkFloat64])
def test_the_pixel_type_stays_and_whole_numbers_are_rounded(pixel: int) -> None:
    fixed, exact = blob_image(), sitk.Cast(sitk.Cast(blob_image(**MOVING) * 60 + 20, pixel), sitk.sitkFloat64)
    warped = warp_image(sitk.Cast(exact, pixel), fixed, of_registration())
    assert warped.GetPixelID() == pixel
    expected = sitk.GetArrayFromImage(warp_image(exact, fixed, of_registration()))
    limit = 1e-4 if pixel in (sitk.sitkFloat32, sitk.sitkFloat64) else 0.501
    assert np.abs(sitk.GetArrayFromImage(warped).astype(float) - expected).max() < limit


def test_a_large_offset_does_not_eat_the_contrast() -> None:
    fixed, moving = blob_image(), sitk.Cast(blob_image(**MOVING), sitk.sitkFloat64)
    shifted = sitk.GetArrayFromImage(warp_image(moving + 1e6, fixed, of_registration())) - 1e6
    assert np.abs(shifted - sitk.GetArrayFromImage(warp_image(moving, fixed, of_registration()))).max() < 1e-5


def test_what_does_not_meet_is_background() -> None:
    moving = blob_image(**MOVING) + 3
    away = sitk.TranslationTransform(3, (500.0, 0.0, 0.0))
    outside = background_value(sitk.GetArrayViewFromImage(moving))
    assert (sitk.GetArrayFromImage(warp_image(moving, blob_image(), away)) == np.float32(outside)).all()
    assert not sitk.GetArrayFromImage(warp_image(moving, blob_image(), away, nearest=True)).any()


def test_vectors_and_slices_are_warped_too() -> None:
    vectors = sitk.Compose([blob_image(**MOVING)] * 3)
    warped = warp_image(vectors, blob_image(), affine(), nearest=True)
    assert (warped.GetNumberOfComponentsPerPixel(), warped.GetSize()) == (3, blob_image().GetSize())
    flat = blob_image()[:, :, 5]
    assert warp_image(flat, flat, sitk.Transform(2, sitk.sitkIdentity)).GetSize() == flat.GetSize()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_lattice_shows_the_voxels_of_the_warped_image(name: str) -> None:
    fixed, moving, transform = blob_image(), blob_image(**MOVING), TRANSFORMS[name]()
    lattice = Lattice.of(Grid.of(fixed), 5_000)
    assert lattice.steps == (3, 2, 2)
    warped = warp_image(moving, fixed, transform)
    expected = lattice.of_image(warped)
    assert np.abs(sample_image(moving, lattice.grid, transform) - expected).max() < 1e-5 * np.ptp(expected)


@pytest.mark.parametrize("voxels", [10, 5_000, 50_000])
def test_a_lattice_lies_on_voxels(voxels: int) -> None:
    image = blob_image()
    lattice = Lattice.of(Grid.of(image), voxels)
    assert np.prod(lattice.grid.size) <= voxels
    seen = sitk.GetArrayFromImage(resample(image, lattice.grid, nearest=True))
    np.testing.assert_array_equal(seen, lattice.of_image(image))
