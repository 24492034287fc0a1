"""Grids, resampling and units, against SimpleITK on oblique, anisotropic, off-centre images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.engine import geometry
from DeepRegAttentionLib.engine.fields import smooth, warp
from DeepRegAttentionLib.engine.geometry import Grid
from helpers.images import blob_image, rotation
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

few = settings(max_examples=20, deadline=None, derandomize=True)
SIZES = st.tuples(*[st.integers(4, 40)] * 3)
SPACINGS = st.tuples(*[st.floats(0.3, 5.0)] * 3)
ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)


def oblique_grid(
    size: tuple[int, int, int] = (13, 11, 9),
    spacing: tuple[float, float, float] = (1.2, 2.1, 3.4),
    degrees: tuple[float, float, float] = (20.0, -35.0, 50.0),
    origin: tuple[float, float, float] = (-31.0, 77.0, 12.0),
) -> Grid:
    return Grid(size, spacing, origin, tuple(rotation(degrees).flatten().tolist()))


def empty_image(grid: Grid) -> sitk.Image:
    return grid.place(sitk.Image(grid.size, sitk.sitkFloat32))


def points(grid: Grid) -> np.ndarray:
    """LPS point of every voxel, ``(K, J, I, 3)``."""
    k, j, i = np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij")
    return np.stack([i, j, k], axis=-1) @ grid.voxel_to_mm.T + grid.origin


def world_image(grid: Grid, values: np.ndarray) -> sitk.Image:
    return grid.place(sitk.GetImageFromArray(values.astype(np.float32)))


def smooth_field(grid: Grid, amplitude: float, seed: int = 0) -> Tensor:
    noise = torch.randn(1, 3, *grid.shape, generator=torch.Generator().manual_seed(seed))
    field = smooth(noise, 2.5)
    return amplitude * field / field.abs().max()


def affine() -> sitk.AffineTransform:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix((rotation((4.0, -6.0, 8.0)) @ np.diag([1.05, 0.96, 1.02])).flatten().tolist())
    transform.SetCenter((31.0, -57.0, 112.0))
    transform.SetTranslation((3.0, -2.0, 1.5))
    return transform


# Grids


@few
@given(SIZES, SPACINGS, ANGLES)
def test_a_grid_knows_where_its_voxels_are(
    size: tuple[int, int, int], spacing: tuple[float, float, float], degrees: tuple[float, float, float]
) -> None:
    grid = oblique_grid(size, spacing, degrees)
    image = empty_image(grid)
    again = Grid.of(image)
    assert again.size == size
    assert again.shape == size[::-1]
    np.testing.assert_allclose(again.spacing, spacing)
    index = (1, size[1] - 1, 2)
    expected = image.TransformIndexToPhysicalPoint(index)
    np.testing.assert_allclose((grid.index_to_point @ (*index, 1))[:3], expected, atol=1e-9)
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in size])
    np.testing.assert_allclose(grid.centre, middle, atol=1e-9)


@few
@given(SIZES, SPACINGS, ANGLES, st.floats(0.5, 6.0), st.sampled_from([1, 8, 16]))
def test_working_grid_covers_the_image_around_the_same_centre(
    size: tuple[int, int, int],
    spacing: tuple[float, float, float],
    degrees: tuple[float, float, float],
    step: float,
    multiple: int,
) -> None:
    image = empty_image(oblique_grid(size, spacing, degrees))
    grid = geometry.working_grid(image, step, multiple)
    assert grid.spacing == (step, step, step)
    assert grid.direction == image.GetDirection()
    np.testing.assert_allclose(grid.centre, Grid.of(image).centre, atol=1e-9)
    for n, own, own_step in zip(grid.size, size, spacing):
        assert n % multiple == 0
        extent = own * own_step
        assert n * step >= extent - 1e-3 * step
        # No more padding than the multiple needs.
        assert (n - multiple) * step < extent


def test_working_grid_of_an_image_that_fits_is_the_image() -> None:
    own = oblique_grid(size=(32, 48, 16), spacing=(1.5, 1.5, 1.5))
    grid = geometry.working_grid(empty_image(own), 1.5, 16)
    assert grid.size == own.size
    np.testing.assert_allclose(grid.origin, own.origin, atol=1e-9)


@few
@given(
    SIZES,
    ANGLES,
    st.sampled_from([1, 4, 8]),
    st.sampled_from([(1.5, 1.5, 1.5), (1.5, 0.9, 1.5), (2.0, 1.5, 1.5000001)]),
)
def test_on_voxels_the_working_grid_holds_every_voxel_of_axes_of_its_spacing(
    size: tuple[int, int, int], degrees: tuple[float, float, float], multiple: int, spacing: tuple[float, float, float]
) -> None:
    own = oblique_grid(size, spacing, degrees)
    centred, grid = (geometry.working_grid(empty_image(own), 1.5, multiple, where) for where in (False, True))
    assert grid.size == centred.size
    corners = np.array([np.zeros(3), np.array(size) - 1.0])
    index = np.linalg.solve(np.array(grid.direction).reshape(3, 3) * 1.5, (own.points(corners) - grid.origin).T).T
    for axis in range(3):
        if abs(spacing[axis] - 1.5) < 1e-3:
            np.testing.assert_allclose(index[:, axis], index[:, axis].round(), atol=1e-3)
            assert -0.01 < index[0, axis] < index[1, axis] + 0.5 < grid.size[axis]
    away = np.linalg.solve(np.array(grid.direction).reshape(3, 3) * 1.5, grid.centre - own.centre)
    np.testing.assert_allclose(np.abs(away) * (np.abs(np.array(spacing) - 1.5) > 1e-3), 0, atol=1e-6)
    assert np.abs(away).max() < 0.5 + 1e-6


def test_on_voxels_nothing_is_interpolated() -> None:
    own = oblique_grid((21, 18, 15), (1.5, 1.5, 1.5))
    values = np.random.default_rng(0).random((15, 18, 21), dtype=np.float32)
    image = world_image(own, values)
    seen = geometry.resample(image, geometry.working_grid(image, 1.5, 8, on_voxels=True))
    array = sitk.GetArrayFromImage(seen)
    assert array.shape == (16, 24, 24)
    np.testing.assert_allclose(np.sort(array[array > 0]), np.sort(values[values > 0].ravel()), atol=1e-4)


def test_rounding_noise_in_the_spacing_adds_no_padding() -> None:
    own = oblique_grid(size=(32, 48, 16), spacing=(1.5000001, 1.5000001, 1.5000001))
    assert geometry.working_grid(empty_image(own), 1.5, 16).size == own.size


# Resampling


@pytest.mark.parametrize("size", [(64, 66, 60), (67, 71, 59), (65, 64, 61)])
@pytest.mark.parametrize("step", [1.0, 1.7, 2.0, 3.1])
def test_averaging_down_does_not_shift(size: tuple[int, int, int], step: float) -> None:
    fine = oblique_grid(size, (0.9, 1.0, 1.1), (15.0, -25.0, 40.0))
    where = fine.centre + np.array([1.3, -2.1, 0.9])
    blob = np.exp(-(((points(fine) - where) / 7.0) ** 2).sum(-1))
    grid = geometry.working_grid(empty_image(fine), step, 8)
    seen = geometry.resample(world_image(fine, blob), grid)
    weight = sitk.GetArrayFromImage(seen)[..., None]
    centre = (points(grid) * weight).sum((0, 1, 2)) / weight.sum()
    assert np.abs(centre - where).max() < 0.02 * step


def test_averaging_down_does_not_alias() -> None:
    fine = oblique_grid((40, 40, 40), (1.0, 1.0, 1.0))
    k, j, i = np.indices((40, 40, 40))
    checkerboard = world_image(fine, (k + j + i) % 2)
    seen = geometry.resample(checkerboard, geometry.working_grid(checkerboard, 4.0, 1))
    np.testing.assert_allclose(sitk.GetArrayFromImage(seen), 0.5, atol=1e-5)


@pytest.mark.parametrize("step", [0.8, 2.0, 3.7])
@pytest.mark.parametrize("slab", [4_000_000, 3_000])
def test_averages_are_those_of_simpleitk_and_of_what_is_made_of_the_image(step: float, slab: int, monkeypatch) -> None:
    monkeypatch.setattr(geometry, "_SLAB", slab)
    own = oblique_grid((45, 41, 37), (0.9, 1.1, 1.3))
    image = own.place(sitk.GetImageFromArray(np.random.default_rng(2).integers(-900, 900, own.shape, np.int16)))
    grid = geometry.working_grid(image, step, 4)
    changed = sitk.Clamp(sitk.Cast(image, sitk.sitkFloat32) / 500, sitk.sitkFloat32, -1, 1)
    factors = [max(1, int(step / spacing + 1e-3)) for spacing in own.spacing]
    missing = [-size % factor for size, factor in zip(own.size, factors)]
    averaged = sitk.BinShrink(sitk.ZeroFluxNeumannPad(changed, [0, 0, 0], missing), factors)
    target = grid.size, affine(), sitk.sitkLinear, grid.origin, grid.spacing, grid.direction, 0.0
    expected = sitk.GetArrayFromImage(sitk.Resample(averaged, *target))
    seen = geometry.resample(image, grid, affine(), change=lambda values: np.clip(values / np.float32(500), -1, 1))
    np.testing.assert_allclose(sitk.GetArrayFromImage(seen), expected, atol=1e-4)
    assert np.abs(expected).max() > 0.2


@pytest.mark.parametrize("step", [0.9, 2.0, 3.7])
def test_resampling_keeps_a_ramp(step: float) -> None:
    """A linear function of the point in space is the same function on every grid that lies inside."""
    own = oblique_grid((45, 41, 37), (0.9, 1.1, 1.3))
    slope = np.array([0.3, -0.7, 0.2])
    grid = oblique_grid((9, 8, 7), (step, step, step), (80.0, 10.0, -30.0), (0.0, 0.0, 0.0))
    shift = own.centre - grid.centre
    grid = Grid(grid.size, grid.spacing, tuple(shift.tolist()), grid.direction)
    inside = np.linalg.norm(points(grid) - own.centre, axis=-1) < 18
    seen = sitk.GetArrayFromImage(geometry.resample(world_image(own, points(own) @ slope), grid))
    assert inside.sum() > 100
    np.testing.assert_allclose(seen[inside], (points(grid) @ slope)[inside], atol=1e-3)


def test_labels_are_not_averaged() -> None:
    image = blob_image(size=(40, 40, 40), spacing=(0.5, 0.5, 0.5))
    labels = sitk.Cast(image * 3000, sitk.sitkUInt16)
    seen = geometry.resample(labels, geometry.working_grid(labels, 2.0, 4), nearest=True)
    assert seen.GetPixelID() == sitk.sitkUInt16
    there = set(np.unique(sitk.GetArrayViewFromImage(labels)).tolist())
    assert set(np.unique(sitk.GetArrayViewFromImage(seen)).tolist()) <= there | {0}


def test_outside_the_image_is_zero() -> None:
    image = blob_image() + 5.0
    grid = Grid.of(image)
    beyond = Grid(grid.size, grid.spacing, tuple((np.array(grid.origin) + 1000).tolist()), grid.direction)
    assert not sitk.GetArrayFromImage(geometry.resample(image, beyond)).any()


def test_extended_an_image_goes_on_as_it_ends() -> None:
    array = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.5, 2.0, 3.0))
    grid = Grid((13, 9, 7), image.GetSpacing(), (-3 * 1.5, -2.0, -3.0), image.GetDirection())
    seen = sitk.GetArrayFromImage(geometry.resample(image, grid, extended=True))
    np.testing.assert_allclose(seen, np.pad(array, ((1, 1), (1, 2), (3, 3)), mode="edge"), atol=1e-6)


def test_resampling_follows_a_transform() -> None:
    image, grid = blob_image(), oblique_grid(origin=(20.0, -70.0, 100.0))
    expected = sitk.Resample(image, empty_image(grid), affine(), sitk.sitkLinear)
    seen = geometry.resample(image, grid, affine())
    np.testing.assert_allclose(sitk.GetArrayViewFromImage(seen), sitk.GetArrayViewFromImage(expected), atol=1e-6)


# Tensors


@pytest.mark.parametrize("pixel", [sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkUInt16, sitk.sitkInt32, sitk.sitkFloat64])
def test_an_image_survives_the_way_to_a_tensor_and_back(pixel: int) -> None:
    image = sitk.Cast(blob_image() * 100, pixel)
    tensor = geometry.to_tensor(image)
    assert tensor.shape == (1, 1, *image.GetSize()[::-1])
    assert tensor.dtype == torch.float32
    again = geometry.to_image(tensor, Grid.of(image))
    assert Grid.of(again) == Grid.of(image)
    np.testing.assert_allclose(sitk.GetArrayViewFromImage(again), sitk.GetArrayViewFromImage(image), rtol=1e-6)


def test_a_vector_image_survives_the_way_to_a_tensor_and_back() -> None:
    grid = oblique_grid()
    field = torch.randn(1, 3, *grid.shape)
    image = geometry.to_image(field, grid)
    assert image.GetNumberOfComponentsPerPixel() == 3
    np.testing.assert_allclose(image[3, 2, 1], field[0, :, 1, 2, 3], rtol=1e-6)
    torch.testing.assert_close(geometry.to_tensor(image), field)


def test_a_tensor_does_not_share_memory_with_its_image() -> None:
    image = blob_image()
    geometry.to_tensor(image).fill_(7.0)
    assert sitk.GetArrayViewFromImage(image).max() < 7.0


# Units


@few
@given(SPACINGS, ANGLES)
def test_millimetres_and_voxels_are_inverse(
    spacing: tuple[float, float, float], degrees: tuple[float, float, float]
) -> None:
    grid = oblique_grid(spacing=spacing, degrees=degrees)
    field = torch.randn(2, 3, *grid.shape, generator=torch.Generator().manual_seed(1))
    in_mm = geometry.voxels_to_mm(field, grid)
    torch.testing.assert_close(geometry.mm_to_voxels(in_mm, grid), field, atol=1e-4, rtol=1e-4)
    step = math.hypot(*(float(field[1, 2 - n, 4, 3, 2]) * spacing[n] for n in range(3)))
    assert float(in_mm[1, :, 4, 3, 2].norm()) == pytest.approx(step, rel=1e-4)


def test_a_displacement_moves_points_as_simpleitk_does() -> None:
    grid = oblique_grid()
    image, field = empty_image(grid), smooth_field(grid, 1.5)
    transform = geometry.displacement_transform(geometry.voxels_to_mm(field, grid), grid)
    for index in np.ndindex(3, 3, 3):
        i, j, k = (int(n) + 3 for n in index)
        di, dj, dk = field[0, :, k, j, i].flip(0).tolist()
        moved = transform.TransformPoint(image.TransformIndexToPhysicalPoint((i, j, k)))
        expected = image.TransformContinuousIndexToPhysicalPoint((i + di, j + dj, k + dk))
        np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_outside_its_grid_a_displacement_is_the_identity() -> None:
    grid = oblique_grid()
    transform = geometry.displacement_transform(torch.full((1, 3, *grid.shape), 5.0), grid)
    assert transform.TransformPoint((900.0, 900.0, 900.0)) == (900.0, 900.0, 900.0)
    np.testing.assert_allclose(transform.TransformPoint(grid.centre.tolist()), grid.centre + 5.0)


def test_warp_is_the_resampling_of_simpleitk_on_the_working_grid() -> None:
    moving = blob_image(size=(38, 44, 30), spacing=(1.3, 1.1, 2.2), degrees=(-30.0, 10.0, 70.0))
    grid = geometry.working_grid(blob_image(), 2.0, 8)
    seen = geometry.resample(moving, grid, affine())
    field = smooth_field(grid, 2.5)
    transform = geometry.displacement_transform(geometry.voxels_to_mm(field, grid), grid)
    expected = sitk.GetArrayFromImage(sitk.Resample(seen, seen, transform, sitk.sitkLinear))
    warped = warp(geometry.to_tensor(seen), field)[0, 0].numpy()
    inner = (slice(3, -3),) * 3
    assert np.abs(warped - sitk.GetArrayFromImage(seen))[inner].max() > 0.1
    np.testing.assert_allclose(warped[inner], expected[inner], atol=1e-4)


def test_affine_then_field_is_the_composite_of_simpleitk() -> None:
    """The fixed point x is found at affine(x + u(x)); a ramp makes every interpolation exact."""
    fixed = blob_image()
    grid = geometry.working_grid(fixed, 2.5, 8)
    own = Grid.of(blob_image(size=(100, 110, 90), spacing=(1.5, 1.4, 1.7), degrees=(-30.0, 10.0, 70.0)))
    moving = world_image(own, (points(own) - own.centre) @ np.array([0.011, -0.007, 0.009]))
    field = smooth_field(grid, 2.5)
    displacement = geometry.displacement_transform(geometry.voxels_to_mm(field, grid), grid)
    composite = sitk.CompositeTransform([affine(), displacement])
    direct = sitk.GetArrayFromImage(geometry.resample(moving, grid, composite))
    ours = warp(geometry.to_tensor(geometry.resample(moving, grid, affine())), field)[0, 0].numpy()
    inner = (slice(3, -3),) * 3
    backwards = sitk.CompositeTransform([displacement, affine()])
    wrong = sitk.GetArrayFromImage(geometry.resample(moving, grid, backwards))
    assert np.abs(direct - wrong)[inner].max() > 1e-3
    np.testing.assert_allclose(ours[inner], direct[inner], atol=1e-4)


def test_points_in_voxels_are_those_of_simpleitk() -> None:
    grid = oblique_grid()
    where = np.array([[-31.0, 77.0, 12.0], [3.5, 80.25, -9.0]])
    expected = [empty_image(grid).TransformPhysicalPointToContinuousIndex(p)[::-1] for p in where.tolist()]
    np.testing.assert_allclose(geometry.points_to_voxels(where, grid), expected, atol=1e-4)


# Linear transforms


@pytest.mark.parametrize(
    "transform",
    [
        affine(),
        sitk.TranslationTransform(3, (1.0, -2.0, 3.0)),
        sitk.Euler3DTransform((9.0, 8.0, 7.0), 0.1, -0.2, 0.3, (1.0, 2.0, 3.0)),
        sitk.Transform(3, sitk.sitkIdentity),
        sitk.CompositeTransform([affine(), sitk.Euler3DTransform((9.0, 8.0, 7.0), 0.1, -0.2, 0.3)]),
    ],
    ids=["affine", "translation", "rigid", "identity", "composite"],
)
def test_affine_matrix_moves_points_as_the_transform(transform: sitk.Transform) -> None:
    matrix = geometry.affine_matrix(transform)
    assert matrix[3].tolist() == [0, 0, 0, 1]
    for point in ((0.0, 0.0, 0.0), (31.0, -57.0, 112.0), (-200.0, 3.0, 8.5)):
        np.testing.assert_allclose((matrix @ (*point, 1))[:3], transform.TransformPoint(point), atol=1e-9)
