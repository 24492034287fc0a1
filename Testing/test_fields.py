"""Fields against SimpleITK, against closed forms, and against their own algebra."""

from __future__ import annotations

from typing import Callable

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from DeepRegAttentionLib.engine import fields
from DeepRegAttentionLib.engine.geometry import Grid, to_image, voxels_to_mm
from helpers.images import blob_image
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

few = settings(max_examples=15, deadline=None, derandomize=True)
SEEDS = st.integers(0, 10_000)
SHAPES = st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(2, 9))
SHAPE = (14, 17, 20)


def random_image(shape: tuple[int, ...], seed: int = 0, channels: int = 1) -> Tensor:
    return torch.rand(1, channels, *shape, generator=torch.Generator().manual_seed(seed))


def smooth_field(shape: tuple[int, ...], seed: int = 0, amplitude: float = 1.5, sigma: float = 3.0) -> Tensor:
    """A smooth random field whose longest component is `amplitude` voxels."""
    noise = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(seed))
    field = fields.smooth(noise, sigma)
    return amplitude * field / field.abs().max()


def positions(shape: tuple[int, ...]) -> Tensor:
    """The voxel (k, j, i) of every voxel, ``(1, 3, K, J, I)``."""
    return torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij"))[None]


def stays_inside(displacement: Tensor) -> Tensor:
    """Which voxels land inside the grid, ``(K, J, I)``."""
    end = positions(tuple(displacement.shape[2:])) + displacement
    last = torch.tensor(displacement.shape[2:]).reshape(1, 3, 1, 1, 1) - 1.0
    return ((end >= 0) & (end <= last)).all(dim=1)[0]


def affine_field(matrix: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """The displacement ``matrix @ (x - centre)``."""
    offset = positions(shape) - (torch.tensor(shape).reshape(1, 3, 1, 1, 1) - 1) / 2
    weight = torch.tensor(matrix, dtype=torch.float32)
    return (weight @ offset.flatten(2)).reshape(offset.shape)


def sitk_image(image: Tensor) -> sitk.Image:
    return sitk.GetImageFromArray(image[0, 0].numpy())


def sitk_transform(displacement: Tensor) -> sitk.DisplacementFieldTransform:
    """A displacement in voxels as a transform of a grid of unit spacing: channels (i, j, k)."""
    array = displacement[0].flip(0).permute(1, 2, 3, 0).contiguous().double().numpy()
    return sitk.DisplacementFieldTransform(sitk.GetImageFromArray(array, isVector=True))


# Warp and sample


@few
@given(SHAPES, SEEDS, st.sampled_from(["bilinear", "nearest"]))
def test_zero_displacement_changes_nothing(shape: tuple[int, int, int], seed: int, mode: str) -> None:
    image = random_image(shape, seed, channels=2)
    torch.testing.assert_close(fields.warp(image, torch.zeros(1, 3, *shape), mode), image, atol=2e-6, rtol=0)


@few
@given(st.tuples(*[st.integers(-3, 3)] * 3), SEEDS)
def test_whole_voxel_shift_moves_voxels(shift: tuple[int, int, int], seed: int) -> None:
    image = random_image((9, 8, 7), seed)
    displacement = torch.tensor(shift, dtype=torch.float32).reshape(1, 3, 1, 1, 1).expand(1, 3, 9, 8, 7)
    warped = fields.warp(image, displacement)
    # The value at x comes from x + u; where that lies outside, the border value continues.
    expected = F.pad(image, [3] * 6, mode="replicate")
    k, j, i = (3 + s for s in shift)
    torch.testing.assert_close(warped, expected[:, :, k : k + 9, j : j + 8, i : i + 7], atol=5e-6, rtol=0)


@few
@given(SEEDS)
@pytest.mark.parametrize(
    ("mode", "interpolator"), [("bilinear", sitk.sitkLinear), ("nearest", sitk.sitkNearestNeighbor)]
)
def test_warp_is_the_resampling_of_simpleitk(mode: str, interpolator: int, seed: int) -> None:
    image, displacement = random_image(SHAPE, seed), smooth_field(SHAPE, seed + 1, amplitude=4.0)
    inside = stays_inside(displacement)
    reference = sitk.Resample(sitk_image(image), sitk_image(image), sitk_transform(displacement), interpolator)
    difference = (
        fields.warp(image, displacement, mode)[0, 0] - torch.from_numpy(sitk.GetArrayFromImage(reference))
    ).abs()
    assert inside.float().mean() > 0.5
    # A point halfway between two voxels may go to either.
    assert difference[inside].quantile(1.0 if mode == "bilinear" else 0.999) < 2e-5


def test_warp_keeps_the_type_and_the_labels() -> None:
    labels = torch.randint(0, 2000, (1, 1, *SHAPE), dtype=torch.int16)
    warped = fields.warp(labels, smooth_field(SHAPE), mode="nearest")
    assert warped.dtype == torch.int16
    assert set(warped.unique().tolist()) <= set(labels.unique().tolist())
    assert fields.warp(random_image(SHAPE).bfloat16(), smooth_field(SHAPE)).dtype == torch.bfloat16


def test_warp_treats_each_item_of_a_batch_on_its_own() -> None:
    images = torch.cat([random_image(SHAPE, 1, 2), random_image(SHAPE, 2, 2)])
    displacements = torch.cat([smooth_field(SHAPE, 3), smooth_field(SHAPE, 4)])
    together = fields.warp(images, displacements)
    for n in range(2):
        torch.testing.assert_close(together[n : n + 1], fields.warp(images[n : n + 1], displacements[n : n + 1]))


@few
@given(SHAPES, SEEDS, st.integers(1, 5))
def test_sampling_on_several_threads_is_grid_sample(shape: tuple[int, int, int], seed: int, threads: int) -> None:
    image = random_image((6, 5, 7), seed, channels=3).requires_grad_()
    where = (random_image(shape, seed + 1, channels=3).permute(0, 2, 3, 4, 1) * 2.4 - 1.2).requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for mode, padding in (("bilinear", "border"), ("nearest", "border"), ("bilinear", "zeros")):
            ours = fields.sample(image, where, mode, padding)
            torchs = F.grid_sample(image, where, mode=mode, padding_mode=padding, align_corners=True)
            torch.testing.assert_close(ours, torchs)
            for mine, theirs in zip(*(torch.autograd.grad(x.square().sum(), (image, where)) for x in (ours, torchs))):
                torch.testing.assert_close(mine, theirs)
    finally:
        torch.set_num_threads(before)


# Composition and integration


@few
@given(SEEDS)
def test_composition_is_that_of_simpleitk(seed: int) -> None:
    outer, inner = smooth_field(SHAPE, seed, 2.0), smooth_field(SHAPE, seed + 1, 2.0)
    composite = sitk.CompositeTransform([sitk_transform(outer), sitk_transform(inner)])
    composed = fields.compose(outer, inner)[0]
    inside = stays_inside(inner).nonzero()
    for k, j, i in inside[:: max(1, len(inside) // 60)].tolist():
        expected = np.subtract(composite.TransformPoint((i, j, k)), (i, j, k))[::-1]
        np.testing.assert_allclose(composed[:, k, j, i], expected, atol=1e-5)


def test_composition_order_matters_as_documented() -> None:
    shift = torch.zeros(1, 3, *SHAPE)
    shift[:, 2] = 2.0
    stretch = affine_field(np.diag([0.0, 0.0, 0.5]), SHAPE)
    # x -> outer(inner(x)): stretching the shifted point moves it by half the shift more.
    stretch_last, shift_last = fields.compose(stretch, shift), fields.compose(shift, stretch)
    centre = tuple(n // 2 for n in SHAPE)
    assert float((stretch_last - shift_last)[(0, 2, *centre)]) == pytest.approx(1.0, abs=1e-4)


@few
@given(SEEDS)
def test_composition_is_associative(seed: int) -> None:
    a, b, c = (smooth_field(SHAPE, seed + n, 1.5, sigma=4.0) for n in range(3))
    left, right = fields.compose(fields.compose(a, b), c), fields.compose(a, fields.compose(b, c))
    assert (left - right)[..., 3:-3, 3:-3, 3:-3].abs().max() < 0.1
    assert (left - right).abs().mean() < 0.02


def test_zero_is_the_neutral_element() -> None:
    zero, field = torch.zeros(1, 3, *SHAPE), smooth_field(SHAPE)
    torch.testing.assert_close(fields.compose(zero, field), field)
    torch.testing.assert_close(fields.compose(field, zero), field, atol=1e-5, rtol=0)


def test_a_constant_velocity_is_its_own_displacement() -> None:
    velocity = torch.tensor([1.5, -2.0, 0.25]).reshape(1, 3, 1, 1, 1).expand(1, 3, *SHAPE)
    torch.testing.assert_close(fields.exponentiate(velocity), velocity.contiguous(), atol=1e-5, rtol=0)


def test_a_linear_velocity_is_the_matrix_exponential() -> None:
    matrix = np.array([[-0.3, 0.1, 0.0], [-0.1, -0.25, 0.05], [0.0, -0.05, -0.2]])
    exact = torch.linalg.matrix_exp(torch.tensor(matrix)).numpy() - np.eye(3)
    displacement = fields.exponentiate(affine_field(matrix, SHAPE), steps=8)
    torch.testing.assert_close(displacement, affine_field(exact, SHAPE), atol=5e-3, rtol=0)


@few
@given(SEEDS)
def test_exponentiation_follows_the_flow(seed: int) -> None:
    velocity = smooth_field(SHAPE, seed, amplitude=2.0, sigma=4.0)
    exact = runge_kutta(velocity, steps=12)
    inside = stays_inside(exact * 1.2)
    error = (fields.exponentiate(velocity) - exact).norm(dim=1)[0][inside]
    assert error.max() < 0.1
    assert error.mean() < 0.02


def runge_kutta(velocity: Tensor, steps: int) -> Tensor:
    """Displacement after unit time along the interpolated velocity."""

    def at(u: Tensor) -> Tensor:
        return fields.warp(velocity, u)

    u, h = torch.zeros_like(velocity), 1 / steps
    for _ in range(steps):
        a = at(u)
        b = at(u + h / 2 * a)
        c = at(u + h / 2 * b)
        d = at(u + h * c)
        u = u + h / 6 * (a + 2 * b + 2 * c + d)
    return u


@few
@given(SEEDS)
def test_the_flow_backwards_undoes_the_flow(seed: int) -> None:
    velocity = smooth_field(SHAPE, seed, amplitude=2.0, sigma=4.0)
    forth, back = fields.exponentiate(velocity), fields.exponentiate(-velocity)
    inside = stays_inside(2 * back)
    rest = fields.compose(forth, back).norm(dim=1)[0][inside]
    assert rest.max() < 0.15
    assert rest.mean() < 0.02
    assert (fields.jacobian_determinant(forth) > 0).all()


def test_lengths_are_those_of_the_vectors() -> None:
    field = torch.randn(2, 3, 4, 5, 6)
    field[0, :, 1] = 0
    torch.testing.assert_close(fields.length(field), field.norm(dim=1, keepdim=True))


# Inverse


@few
@given(SEEDS)
def test_inverse_composes_to_the_identity_both_ways(seed: int) -> None:
    displacement = fields.exponentiate(smooth_field((24, 22, 26), seed, amplitude=2.0, sigma=6.0))
    inverse = fields.invert(displacement)
    forth = fields.compose(displacement, inverse).norm(dim=1)[0][stays_inside(inverse)]
    back = fields.compose(inverse, displacement).norm(dim=1)[0][stays_inside(displacement)]
    assert min(len(forth), len(back)) > 0.6 * displacement[0, 0].numel()
    # One way to the tolerance; the other way up to the interpolation, 0.1 mm on a grid of 2 mm.
    assert forth.max() < 2e-3
    assert back.quantile(0.98) < 0.05
    assert back.max() < 0.1


@few
@given(SEEDS)
def test_inverse_of_a_strong_deformation_is_exact_one_way(seed: int) -> None:
    displacement = fields.exponentiate(smooth_field((24, 22, 26), seed, amplitude=5.0, sigma=5.0))
    inverse = fields.invert(displacement)
    assert fields.compose(displacement, inverse).norm(dim=1)[0][stays_inside(inverse)].max() < 2e-3


def test_inverse_of_an_affine_field_is_exact() -> None:
    matrix = np.array([[0.25, 0.05, 0.0], [-0.05, 0.2, 0.04], [0.0, 0.03, 0.3]])
    inverse = fields.invert(affine_field(matrix, SHAPE))
    exact = affine_field(np.linalg.inv(np.eye(3) + matrix) - np.eye(3), SHAPE)
    torch.testing.assert_close(inverse, exact, atol=2e-3, rtol=0)


def test_inverse_of_a_folded_field_stays_finite() -> None:
    folded = affine_field(np.diag([-2.0, 0.0, 0.0]), SHAPE) + smooth_field(SHAPE, 1, 3.0, 1.0)
    assert (fields.jacobian_determinant(folded) <= 0).any()
    assert fields.invert(folded).isfinite().all()


# Derivatives


@few
@given(st.lists(st.floats(-0.4, 0.4), min_size=9, max_size=9), SHAPES)
def test_jacobian_of_an_affine_field_is_its_determinant(values: list[float], shape: tuple[int, int, int]) -> None:
    matrix = np.array(values).reshape(3, 3)
    determinant = fields.jacobian_determinant(affine_field(matrix, shape))
    assert determinant.shape == (1, 1, *shape)
    np.testing.assert_allclose(determinant, np.linalg.det(np.eye(3) + matrix), atol=1e-4)


def test_gradient_of_a_linear_image_is_its_slope() -> None:
    k, j, i = positions(SHAPE)[0]
    slopes = fields.gradient((2 * k - 3 * j + 0.5 * i)[None, None])
    assert slopes.shape == (1, 1, 3, *SHAPE)
    for axis, slope in enumerate((2.0, -3.0, 0.5)):
        torch.testing.assert_close(slopes[:, :, axis], torch.full((1, 1, *SHAPE), slope), atol=1e-4, rtol=0)


def test_a_single_slice_has_no_slope_across() -> None:
    assert not fields.gradient(random_image((1, 5, 6)))[:, :, 0].any()


def test_jacobian_is_that_of_simpleitk_in_millimetres() -> None:
    grid = Grid.of(blob_image(size=(20, 17, 14)))
    displacement = smooth_field(grid.shape, 5, amplitude=2.0)
    # SimpleITK differentiates along the image's axes, so the vectors are given along them as well.
    in_mm = voxels_to_mm(displacement, grid)[0].flatten(1).numpy()
    axes = np.array(grid.direction).reshape(3, 3)
    along_axes = torch.from_numpy(axes.T @ in_mm).float().reshape(displacement.shape)
    reference = sitk.DisplacementFieldJacobianDeterminant(to_image(along_axes, grid))
    ours = fields.jacobian_determinant(displacement)[0, 0]
    inner = (slice(1, -1),) * 3
    assert ours.std() > 0.05
    np.testing.assert_allclose(ours[inner], sitk.GetArrayFromImage(reference)[inner], atol=1e-4)


def test_a_fold_is_seen_where_it_is() -> None:
    displacement = torch.zeros(1, 3, *SHAPE)
    displacement[0, 2, :, :, 8], displacement[0, 2, :, :, 10] = 2.0, -2.0
    folds = fields.jacobian_determinant(displacement)[0, 0] <= 0
    assert folds[:, :, 9].all()
    assert not folds[:, :, :7].any()
    assert not folds[:, :, 12:].any()


@few
@given(st.tuples(*[st.integers(1, 5)] * 3), SEEDS)
def test_gradient_is_numpys_and_its_own_gradient_the_numerical_one(shape: tuple[int, int, int], seed: int) -> None:
    field = random_image(shape, seed, channels=2).double()
    slopes = fields.gradient(field)
    for axis in (axis for axis in range(3) if shape[axis] > 1):
        expected = np.gradient(field.numpy(), axis=axis + 2)
        np.testing.assert_allclose(slopes[:, :, axis].numpy(), expected, atol=1e-12)
    assert torch.autograd.gradcheck(fields.gradient, field.requires_grad_(), fast_mode=True)


# Resolution and filters


def ramp(shape: tuple[int, ...], axis: int) -> Tensor:
    """The physical coordinate along an axis; the outer voxel edges lie at 0 and 1."""
    return (positions(shape)[:, axis : axis + 1] + 0.5) / shape[axis]


@few
@given(SHAPES, st.integers(0, 2), st.integers(2, 20))
def test_resizing_keeps_a_ramp_in_place(shape: tuple[int, int, int], axis: int, size: int) -> None:
    """Sampled at any other resolution it is still the coordinate of each voxel's centre."""
    other = (*shape[:axis], size, *shape[axis + 1 :])
    expected = ramp(other, axis)
    # Beyond the outermost voxel centres the border value continues.
    half = 0.5 / shape[axis]
    torch.testing.assert_close(
        fields.resize(ramp(shape, axis), other), expected.clamp(half, 1 - half), atol=1e-5, rtol=0
    )


@few
@given(SHAPES, SHAPES)
def test_a_resized_field_has_vectors_of_the_new_grid(shape: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    """A translation by a tenth of each side stays one."""

    def tenth(of: tuple[int, int, int]) -> Tensor:
        return (torch.tensor(of) / 10).reshape(1, 3, 1, 1, 1).expand(1, 3, *of).contiguous()

    torch.testing.assert_close(fields.resize_field(tenth(shape), other), tenth(other))


@few
@given(SHAPES, st.tuples(*[st.integers(1, 12)] * 3), SEEDS)
def test_resizing_is_trilinear_interpolation(
    shape: tuple[int, int, int], other: tuple[int, int, int], seed: int
) -> None:
    image = random_image(shape, seed, channels=2)
    expected = F.interpolate(image, size=other, mode="trilinear", align_corners=False)
    torch.testing.assert_close(fields.resize(image, other), expected, atol=2e-6, rtol=0)
    assert fields.resize(image.bfloat16(), other).dtype == torch.bfloat16
    double = image.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: fields.resize(x, other), double, fast_mode=True)


def test_warping_commutes_with_resizing() -> None:
    """The same motion of the same object at twice the resolution."""
    coarse_shape, fine_shape = (16, 18, 20), (32, 36, 40)
    displacement = smooth_field(coarse_shape, 2, amplitude=2.0, sigma=4.0)
    inner = (..., slice(4, -4), slice(4, -4), slice(4, -4))
    for axis in range(3):
        still = ramp(coarse_shape, axis)
        coarse = fields.warp(still, displacement)
        fine = fields.warp(ramp(fine_shape, axis), fields.resize_field(displacement, fine_shape))
        difference = (fields.resize(fine, coarse_shape) - coarse)[inner].abs().mean()
        assert difference < 0.05 * (still - coarse)[inner].abs().mean()


@few
@given(SHAPES, st.floats(0.4, 4.0), st.floats(-5, 5))
def test_smoothing_keeps_a_constant(shape: tuple[int, int, int], sigma: float, value: float) -> None:
    constant = torch.full((2, 3, *shape), value)
    torch.testing.assert_close(fields.smooth(constant, sigma), constant, atol=1e-5, rtol=1e-5)


@few
@given(SHAPES, st.floats(0.5, 2.5), SEEDS)
def test_smoothing_is_a_gaussian_convolution(shape: tuple[int, int, int], sigma: float, seed: int) -> None:
    image = random_image(shape, seed)
    reach = int(3 * sigma)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = torch.einsum("k,j,i->kji", line, line, line)[None, None]
    # Clipped at the border: the weights that fall outside are missing from the mean.
    expected = F.conv3d(image, kernel, padding=reach) / F.conv3d(torch.ones_like(image), kernel, padding=reach)
    torch.testing.assert_close(fields.smooth(image, sigma), expected, atol=1e-5, rtol=1e-4)


@few
@given(SHAPES, SEEDS)
def test_filter_axes_applies_each_matrix_to_its_axis(shape: tuple[int, int, int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrices = [torch.randn(n, n, generator=generator) for n in shape]
    image = torch.randn(2, 3, *shape, generator=generator)
    expected = torch.einsum("kK,jJ,iI,ncKJI->nckji", *matrices, image)
    torch.testing.assert_close(fields.filter_axes(image, matrices), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "operation",
    [
        lambda u: fields.warp(random_image(SHAPE), u),
        fields.exponentiate,
        fields.jacobian_determinant,
        lambda u: fields.resize_field(u, (7, 9, 10)),
        lambda u: fields.smooth(u, 1.0),
    ],
    ids=["warp", "exponentiate", "jacobian", "resize", "smooth"],
)
def test_gradients_reach_the_field_after_an_inference(operation: Callable[[Tensor], Tensor]) -> None:
    """What inference mode leaves in the caches must not break training in the same process."""
    for cached in (fields._sampling_frame, fields._gaussian_matrix):
        cached.cache_clear()
    with torch.inference_mode():
        operation(smooth_field(SHAPE))
    field = smooth_field(SHAPE).requires_grad_()
    operation(field).square().sum().backward()
    assert field.grad is not None
    assert field.grad.isfinite().all()
    assert field.grad.any()
