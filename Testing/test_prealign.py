"""Linear alignment: precision, capture range, masks, starts, cancelling and refusals."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.engine.errors import EmptyImageError, MaskError, OptionError, OverlapError, RegistrationWarning
from DeepRegAttentionLib.engine.geometry import affine_matrix
from DeepRegAttentionLib.engine.prealign import prealign
from helpers.images import blob_image
from helpers.places import real_data

MIDDLE = np.array((31.0, -57.0, 112.0))
OTHER_GRID = {"size": (50, 52, 46), "spacing": (1.9, 1.4, 1.6), "degrees": (-25.0, 8.0, -14.0)}


def off(shift: tuple[float, float, float]) -> np.ndarray:
    return MIDDLE + np.array(shift)


def affine(
    axis: tuple[float, float, float] = (0.0, 0.0, 1.0),
    degrees: float = 0.0,
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
    scale: float = 1.0,
    shear: float = 0.0,
) -> sitk.AffineTransform:
    """Turn, stretch and shear about the object's middle, then shift (mm)."""
    turn = sitk.VersorTransform(axis, float(np.deg2rad(degrees))).GetMatrix()
    stretch = np.array([[scale, shear, 0], [0, scale, shear], [0, 0, scale]])
    result = sitk.AffineTransform(3)
    result.SetCenter(MIDDLE.tolist())
    result.SetMatrix((np.reshape(turn, (3, 3)) @ stretch).flatten().tolist())
    result.SetTranslation(shift)
    return result


def carry(image: sitk.Image, rigid: sitk.AffineTransform) -> sitk.Image:
    """Move an image rigidly by its header alone, which costs no precision."""
    result = sitk.Image(image)
    turned = np.reshape(rigid.GetMatrix(), (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))
    result.SetDirection(turned.flatten().tolist())
    result.SetOrigin(rigid.TransformPoint(image.GetOrigin()))
    return result


def resampled(image: sitk.Image, truth: sitk.Transform, middle: np.ndarray = MIDDLE) -> sitk.Image:
    """The moving image that `truth` (fixed to moving points) aligns, on a larger grid of its own."""
    grid = blob_image(size=(76, 80, 84), spacing=(1.3, 1.2, 1.1), degrees=(5.0, 9.0, -4.0), centre=tuple(middle))
    return sitk.Resample(image, grid, truth.GetInverse(), sitk.sitkBSpline, 0.0)


def object_points() -> list[tuple[float, float, float]]:
    rng = np.random.default_rng(1)
    return [tuple(point) for point in MIDDLE + rng.uniform(-1, 1, (60, 3)) * (14, 16, 19)]


def error(found: sitk.Transform, truth: sitk.Transform) -> float:
    """Mean distance, mm, over points inside the object."""
    distances = [np.subtract(found.TransformPoint(p), truth.TransformPoint(p)) for p in object_points()]
    return float(np.linalg.norm(distances, axis=1).mean())


def determinant(transform: sitk.AffineTransform) -> float:
    return float(np.linalg.det(np.reshape(transform.GetMatrix(), (3, 3))))


def ball(image: sitk.Image, middle: np.ndarray, radius: float) -> np.ndarray:
    k, j, i = np.meshgrid(*[np.arange(n) for n in reversed(image.GetSize())], indexing="ij")
    direction = np.reshape(image.GetDirection(), (3, 3))
    points = (np.stack([i, j, k], -1) * image.GetSpacing()) @ direction.T + image.GetOrigin()
    return np.linalg.norm(points - middle, axis=-1) < radius


def like(image: sitk.Image, values: np.ndarray) -> sitk.Image:
    result = sitk.GetImageFromArray(values)
    result.CopyInformation(image)
    return result


def test_none_without_initial_is_identity() -> None:
    result = prealign(blob_image(), blob_image(**OTHER_GRID), "none")
    assert error(result, sitk.AffineTransform(3)) == 0


def test_none_returns_initial_itself() -> None:
    initial = affine(degrees=4, shift=(1, 2, 3))
    assert prealign(blob_image(), blob_image(), "none", initial=initial) is initial


def test_centre_joins_the_centres() -> None:
    moving = blob_image(**OTHER_GRID, shift=(12, -9, 7))
    result = prealign(blob_image(), moving, "centre")
    assert isinstance(result, sitk.AffineTransform)
    assert error(result, affine(shift=(12, -9, 7))) < 2


def test_centre_joins_the_centres_of_masks() -> None:
    fixed, moving = blob_image(), blob_image(**OTHER_GRID)
    masks = [ball(fixed, off((5, 0, 0)), 9), ball(moving, off((0, 6, 0)), 9)]
    fixed_mask, moving_mask = (
        like(fixed, masks[0].astype(np.uint8)),
        like(moving, masks[1].astype(np.float32)),
    )
    result = prealign(fixed, moving, "centre", fixed_mask=fixed_mask, moving_mask=moving_mask)
    assert error(result, affine(shift=(-5, 6, 0))) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("axis", [(0, -1, 0), (1, -1, 1)])
def test_rigid_finds_30_degrees_and_50_mm(axis: tuple[float, float, float]) -> None:
    truth = affine(axis, 30, (30, -30, 26.5))
    result = prealign(blob_image(), carry(blob_image(**OTHER_GRID), truth), "rigid")
    assert error(result, truth) < 0.5
    assert determinant(result) == pytest.approx(1, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("contrast", [lambda v: 3 - v, lambda v: 800 * np.sin(3 * v) + 60])
def test_affine_is_precise_for_any_contrast(contrast) -> None:
    truth = affine((0.6, 0.64, 0.48), 10, (12, -12, 10.6), 1.1, 0.05)
    fixed = blob_image(size=(60, 50, 36))
    moving = resampled(fixed, truth, off((12, -12, 10.6)))
    moving = like(moving, contrast(sitk.GetArrayFromImage(moving)))
    result = prealign(fixed, moving, "affine")
    assert isinstance(result, sitk.AffineTransform)
    assert error(result, truth) < 0.5


@pytest.mark.slow
def test_integer_images() -> None:
    truth = affine((0, 1, 0), 12, (9, 4, -6))
    images = [sitk.Cast(image * 90, sitk.sitkInt16) for image in (blob_image(), blob_image(**OTHER_GRID))]
    assert error(prealign(images[0], carry(images[1], truth), "rigid"), truth) < 0.5


@pytest.mark.slow
def test_mirror_image_is_not_mirrored_back() -> None:
    moving = blob_image()
    mirrored = like(moving, sitk.GetArrayFromImage(moving)[:, :, ::-1].copy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RegistrationWarning)
        assert determinant(prealign(blob_image(), mirrored, "affine")) > 0


def distracted() -> tuple[sitk.Image, sitk.Image, sitk.Image, sitk.Image, sitk.Transform]:
    """A pair in which a strong second object, only outside the masks, moves against the first."""
    truth = affine((0, 0, 1), 8, (4, -3, 2))
    fixed = blob_image(size=(70, 60, 40))
    moving = blob_image(size=(84, 80, 76), spacing=(1.3, 1.2, 1.4), degrees=(4, 2, -7))
    values = [sitk.GetArrayFromImage(image) for image in (fixed, moving)]
    values[0][ball(fixed, off((38, 0, 0)), 12)] += 6
    values[1][ball(moving, off((0, 38, 0)), 12)] += 6
    masks = [like(image, ball(image, MIDDLE, 24).astype(np.uint8)) for image in (fixed, moving)]
    fixed, moving = like(fixed, values[0]), like(moving, values[1])
    return fixed, carry(moving, truth), masks[0], carry(masks[1], truth), truth


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rigid", "affine"])
def test_images_that_lie_on_each_other_stay(method: str) -> None:
    image = blob_image()
    assert np.array_equal(affine_matrix(prealign(image, image, method)), np.eye(4))


@pytest.mark.slow
def test_noise_alone_moves_nothing() -> None:
    fixed = sitk.ReadImage(str(min((real_data("hippocampus") / "images").iterdir())), sitk.sitkFloat32)
    values = sitk.GetArrayFromImage(fixed)
    noise = 0.02 * np.ptp(values) * np.random.default_rng(1).standard_normal(values.shape)
    assert np.array_equal(affine_matrix(prealign(fixed, like(fixed, values + noise), "affine")), np.eye(4))
    moved = sitk.Image(fixed)
    moved.SetOrigin((np.array(fixed.GetOrigin()) + np.array([0.3, 0.0, 0.0])).tolist())
    found = affine_matrix(prealign(fixed, moved, "rigid"))
    np.testing.assert_allclose(
        found[:3, 3] + found[:3, :3] @ middle_of(fixed) - middle_of(fixed), (0.3, 0, 0), atol=0.05
    )


def middle_of(image: sitk.Image) -> np.ndarray:
    return np.array(image.TransformContinuousIndexToPhysicalPoint([n / 2 for n in image.GetSize()]))


@pytest.mark.slow
def test_masks_keep_a_distractor_out() -> None:
    fixed, moving, fixed_mask, moving_mask, truth = distracted()
    without = prealign(fixed, moving, "rigid")
    within = prealign(fixed, moving, "rigid", fixed_mask=fixed_mask, moving_mask=moving_mask)
    assert error(within, truth) < 0.15 < 0.25 < error(without, truth)


@pytest.mark.slow
def test_linear_initial_is_where_it_starts() -> None:
    truth = affine((0.6, 0.0, 0.8), 150, (50, 20, -40))
    moving = carry(blob_image(**OTHER_GRID), truth)
    initial = sitk.Euler3DTransform(MIDDLE.tolist())
    initial.SetMatrix(affine((0.6, 0.0, 0.8), 141).GetMatrix())
    initial.SetTranslation((47.0, 24.0, -38.0))
    result = prealign(blob_image(), moving, "rigid", initial=initial)
    assert isinstance(result, sitk.AffineTransform)
    assert error(result, truth) < 0.5


def bend() -> sitk.DisplacementFieldTransform:
    """A smooth non-linear displacement of up to 7 mm, fixed to moving points."""
    grid = blob_image(size=(30, 30, 30), spacing=(5.0, 5.0, 5.0), degrees=(3, -8, 5))
    k, j, i = np.meshgrid(*[np.linspace(-1, 1, 30)] * 3, indexing="ij")
    hill = 7 * np.exp(-4 * (i**2 + j**2 + k**2))
    field = sitk.GetImageFromArray(np.stack([hill, -hill * j, hill * i], -1), isVector=True)
    field.CopyInformation(grid)
    return sitk.DisplacementFieldTransform(field)


def bent_pair() -> tuple[sitk.Image, sitk.Image, sitk.Transform, sitk.Transform]:
    """Fixed, moving, the truth x -> bend(turn(x)), and the bend."""
    turn = affine((0, 0.6, 0.8), 9, (5, -4, 3))
    truth = sitk.CompositeTransform([bend(), turn])
    moving = blob_image(size=(76, 80, 84), spacing=(1.3, 1.2, 1.1), degrees=(5, 9, -4))
    fixed = sitk.Resample(moving, blob_image(), truth, sitk.sitkBSpline, 0.0)
    return fixed, moving, truth, bend()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "limit"), [("affine", 0.5), ("centre", 5.5)])
def test_displacement_field_as_initial(method: str, limit: float) -> None:
    fixed, moving, truth, initial = bent_pair()
    result = prealign(fixed, moving, method, initial=initial)
    assert isinstance(result, sitk.CompositeTransform)
    assert result.GetNumberOfTransforms() == 2
    assert error(result, truth) < limit


def test_centre_lands_on_the_centre_through_a_field() -> None:
    fixed, moving, _, initial = bent_pair()
    masks = [like(image, ball(image, MIDDLE, 8).astype(np.uint8)) for image in (fixed, moving)]
    result = prealign(fixed, moving, "centre", initial=initial, fixed_mask=masks[0], moving_mask=masks[1])
    np.testing.assert_allclose(result.TransformPoint(MIDDLE.tolist()), MIDDLE, atol=0.5)


@pytest.mark.slow
def test_same_input_same_result() -> None:
    pair = blob_image(), carry(blob_image(**OTHER_GRID), affine((0, 1, 0), 20, (14, 4, -6)))
    first, second = (prealign(*pair, "affine").GetParameters() for _ in range(2))
    assert first == second


@pytest.mark.slow
def test_progress_rises_from_0_to_1() -> None:
    fractions: list[float] = []
    prealign(blob_image(), blob_image(**OTHER_GRID), "rigid", progress=fractions.append)
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert len(fractions) > 20
    assert fractions == sorted(fractions)


class StopError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0.0, 0.7])
def test_what_progress_raises_reaches_the_caller(limit: float) -> None:
    heard: list[float] = []
    stop = StopError("enough")

    def progress(fraction: float) -> None:
        heard.append(fraction)
        if fraction >= limit:
            raise stop

    with pytest.raises(StopError) as caught:
        prealign(blob_image(), blob_image(**OTHER_GRID), "affine", progress=progress)
    assert caught.value is stop
    assert sum(fraction >= limit for fraction in heard) == 1


@pytest.mark.parametrize("method", ["none", "rigid", "affine"])
def test_initial_that_misses_the_image(method: str) -> None:
    with pytest.raises(OverlapError, match="do not overlap"):
        prealign(blob_image(), blob_image(), method, initial=affine(shift=(0, 900, 0)))


def test_masks_that_miss_each_other() -> None:
    image = blob_image()
    masks = [like(image, ball(image, off((0, 0, z)), 7).astype(np.uint8)) for z in (-15, 15)]
    with pytest.raises(OverlapError):
        prealign(image, image, "none", fixed_mask=masks[0], moving_mask=masks[1])


@pytest.mark.slow
def test_distant_images_are_brought_together() -> None:
    truth = affine(shift=(2000, -900, 400))
    assert error(prealign(blob_image(), carry(blob_image(**OTHER_GRID), truth), "rigid"), truth) < 0.5


@pytest.mark.slow
def test_absurd_affine_falls_back_to_rigid() -> None:
    fixed = blob_image(size=(60, 60, 60), spacing=(2.0, 2.0, 2.0))
    moving = sitk.Image(fixed)
    moving.SetSpacing([0.45 * s for s in fixed.GetSpacing()])
    moving.SetOrigin((MIDDLE - (MIDDLE - fixed.GetOrigin()) * 0.45).tolist())
    with pytest.warns(RegistrationWarning, match="rigid"):
        result = prealign(fixed, moving, "affine")
    assert determinant(result) == pytest.approx(1, abs=1e-9)


def blank(image: sitk.Image) -> sitk.Image:
    return like(image, np.full(image.GetSize()[::-1], 7, np.float32))


@pytest.mark.parametrize("which", ["fixed", "moving"])
def test_bad_images_and_masks(which: str) -> None:
    pair = {"fixed": blob_image(), "moving": blob_image()}
    empty = like(pair[which], np.zeros(pair[which].GetSize()[::-1], np.uint8))
    with pytest.raises(MaskError, match=which):
        prealign(**pair, method="centre", **{f"{which}_mask": empty})
    pair[which] = blank(pair[which])
    with pytest.raises(EmptyImageError, match=which):
        prealign(**pair, method="rigid")


def test_unknown_method() -> None:
    with pytest.raises(OptionError, match="rigid"):
        prealign(blob_image(), blob_image(), "afine")


@pytest.mark.slow
def test_displaced_brain() -> None:
    fixed, moving = (sitk.ReadImage(str(real_data("lpba40") / "images" / f"S{n}.nii.gz")) for n in (11, 12))
    displacement = sitk.Euler3DTransform((80.0, 96.0, 80.0), 0.3, -0.3, 0.3, (30.0, -25.0, 30.0))
    as_affine = sitk.AffineTransform(3)
    as_affine.SetMatrix(displacement.GetMatrix())
    as_affine.SetTranslation(displacement.TransformPoint((0.0, 0.0, 0.0)))
    plain = prealign(fixed, moving, "affine")
    found = prealign(fixed, carry(moving, as_affine), "affine")
    corners = [(40.0, 40.0, 40.0), (120.0, 50.0, 60.0), (80.0, 150.0, 110.0), (60.0, 96.0, 120.0)]
    for corner in corners:
        expected = as_affine.TransformPoint(plain.TransformPoint(corner))
        np.testing.assert_allclose(found.TransformPoint(corner), expected, atol=1.0)


@pytest.mark.slow
def test_affine_of_a_rigid_pair_does_not_warn() -> None:
    fixed, moving, fixed_mask, moving_mask, truth = distracted()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RegistrationWarning)
        result = prealign(fixed, moving, "affine", fixed_mask=fixed_mask, moving_mask=moving_mask)
    assert error(result, truth) < 0.3
