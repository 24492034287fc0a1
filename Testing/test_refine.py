"""Instance optimisation on synthetic textured objects whose deformation is known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import NamedTuple

import pytest
import torch
from DeepRegAttentionLib.engine.fields import exponentiate, gradient, jacobian_determinant, smooth, warp
from DeepRegAttentionLib.engine.refine import Objective, landmark_distance, refine
from DeepRegAttentionLib.engine.similarity import SIMILARITY_LOSSES
from torch import Tensor

SHAPE = (32, 24, 32)


class Pair(NamedTuple):
    """A pair and the deformation between them."""

    fixed: Tensor
    moving: Tensor
    truth: Tensor
    inside: Tensor


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@cache
def pair(shape: tuple[int, int, int] = SHAPE, amplitude: float = 2.5) -> Pair:
    """An ellipsoid full of texture, moved by a smooth diffeomorphism of at most `amplitude` voxels."""
    axes = [torch.linspace(-1, 1, n) for n in shape]
    radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    body = torch.sigmoid(20 * (0.8 - radius))[None, None]
    texture = smooth(noise(1, 1, *shape, seed=1), 1.5)
    moving = body * (0.5 + 0.15 * texture / texture.std()).clamp(0, 1)
    velocity = smooth(noise(1, 3, *shape, seed=2), 6.0)
    truth = exponentiate(amplitude * velocity / velocity.abs().max())
    return Pair(warp(moving, truth), moving, truth, radius < 0.7)


def error(displacement: Tensor, known: Pair) -> float:
    """Mean error in voxels inside the object."""
    return float((displacement - known.truth).norm(dim=1)[0][known.inside].mean())


def landmarks(known: Pair) -> tuple[Tensor, Tensor]:
    """Points of the fixed image and where they are in the moving one, voxels (k, j, i)."""
    points = known.inside.nonzero()[::301].float()
    k, j, i = points.long().T
    return points, points + known.truth[0][:, k, j, i].T


@pytest.mark.slow
@pytest.mark.parametrize("similarity", ["lncc", "mse", "mind", "mi"])
def test_recovers_a_known_deformation_from_zero(similarity: str) -> None:
    known = pair()
    # The squared differences are a hundred times smaller than the other losses.
    weight = 0.003 if similarity == "mse" else 0.1
    found = refine(Objective(known.fixed, known.moving, similarity, weight), None, steps=25)
    zero = torch.zeros_like(found)
    share = {"lncc": 0.5, "mse": 0.5, "mind": 0.6, "mi": 0.8}[similarity]
    assert error(found, known) < share * error(zero, known)
    loss = SIMILARITY_LOSSES[similarity]
    assert float(loss(known.fixed, warp(known.moving, found), None)) < float(loss(known.fixed, known.moving, None))
    assert (jacobian_determinant(found) > 0).all()


@pytest.mark.slow
def test_improves_on_a_start() -> None:
    known = pair()
    start = 0.5 * known.truth
    found = refine(Objective(known.fixed, known.moving, weight=0.1), start, steps=25)
    assert error(found, known) < 0.5 * error(start, known)
    assert (jacobian_determinant(found) > 0).all()


def test_is_never_worse_than_its_start() -> None:
    known = pair()
    objective = Objective(known.fixed, known.moving, weight=0.1)
    for steps in (0, 1, 3):
        found = refine(objective, known.truth, steps=steps)
        assert float(objective(found)) <= float(objective(known.truth)) + 1e-6
    assert torch.equal(refine(objective, known.truth, steps=0), known.truth)


def test_no_steps_from_zero_is_zero() -> None:
    known = pair()
    found = refine(Objective(known.fixed, known.moving), None, steps=0)
    assert found.shape == known.truth.shape
    assert not found.any()


@pytest.mark.slow
def test_is_the_same_every_time() -> None:
    known = pair()
    objective = Objective(known.fixed, known.moving)
    assert torch.equal(refine(objective, None, steps=3), refine(objective, None, steps=3))


def test_accepts_the_answer_of_an_inference() -> None:
    known = pair()
    with torch.inference_mode():
        start = 0.5 * known.truth
        strength = torch.ones_like(known.fixed)
    found = refine(Objective(known.fixed, known.moving, strength=strength), start, steps=2)
    assert not found.requires_grad
    assert not torch.equal(found, start)


@pytest.mark.parametrize("shape", [(21, 18, 25), (5, 17, 20), (4, 4, 4)])
def test_any_shape_from_zero(shape: tuple[int, int, int]) -> None:
    known = pair(shape, amplitude=1.0)
    objective = Objective(known.fixed, known.moving, similarity="mse", weight=0.01)
    found = refine(objective, None, steps=10)
    assert found.shape == (1, 3, *shape)
    assert float(objective(found)) < float(objective(torch.zeros_like(found)))


@pytest.mark.slow
def test_only_what_the_mask_marks_is_matched() -> None:
    known = pair()
    mask = torch.zeros_like(known.fixed)
    mask[..., :16] = 1
    spoilt = torch.where(mask > 0, known.fixed, torch.rand_like(known.fixed))
    clean, hidden, seen = (
        refine(Objective(fixed, known.moving, weight=0.1, mask=where), None, 10)
        for fixed, where in ((known.fixed, mask), (spoilt, mask), (spoilt, None))
    )
    torch.testing.assert_close(hidden, clean, atol=1e-3, rtol=0)
    assert (seen - clean).abs().max() > 0.3
    near = known._replace(inside=known.inside & (mask[0, 0] > 0))
    assert error(clean, near) < 0.7 * error(torch.zeros_like(clean), near)


@pytest.mark.slow
def test_landmarks_pull_where_images_say_nothing() -> None:
    known = pair()
    flat = torch.full_like(known.fixed, 0.5)
    points = landmarks(known)
    objective = Objective(flat, flat, weight=0.02, landmarks=points, landmark_weight=1.0)
    found = refine(objective, None, steps=30)
    before = landmark_distance(torch.zeros_like(found), *points).mean()
    assert landmark_distance(found, *points).mean() < 0.5 * before
    assert not refine(replace(objective, landmarks=None), None, steps=5).any()


def test_landmark_distance_is_that_of_the_moved_points() -> None:
    known = pair()
    fixed, moving = landmarks(known)
    torch.testing.assert_close(
        landmark_distance(known.truth, fixed, moving), torch.zeros(len(fixed)), atol=1e-4, rtol=0
    )
    still = landmark_distance(torch.zeros_like(known.truth), fixed, moving)
    torch.testing.assert_close(still, (fixed - moving).norm(dim=1))


def test_landmarks_keep_their_place_on_a_coarser_grid() -> None:
    """Voxel 0 of a grid twice as coarse covers voxels 0 and 1, so its centre was 0.5."""
    known = pair()
    points = torch.tensor([[0.5, 0.5, 0.5], [10.5, 4.5, 20.5]])
    coarse = Objective(known.fixed, known.moving, landmarks=(points, points), mask=known.fixed).coarser(2)
    assert coarse.landmarks is not None
    torch.testing.assert_close(coarse.landmarks[0], torch.tensor([[0.0, 0, 0], [5, 2, 10]]))
    assert coarse.mask is not None
    assert coarse.fixed.shape == coarse.moving.shape == coarse.mask.shape == (1, 1, 16, 12, 16)


@pytest.mark.slow
def test_strength_decides_where_the_field_is_stiff() -> None:
    known = pair()
    strength = torch.full_like(known.fixed, 0.1)
    strength[..., 16:] = 10.0
    objective = Objective(known.fixed, known.moving, weight=0.1)
    even, uneven = refine(objective, None, 15), refine(replace(objective, strength=strength), None, 15)

    def roughness(found: Tensor, where: slice) -> float:
        return float(gradient(found)[..., where].square().mean())

    left, right = slice(0, 14), slice(18, None)
    assert roughness(uneven, right) < 0.5 * roughness(even, right)
    assert roughness(uneven, left) > roughness(even, left)


@pytest.mark.slow
def test_more_weight_is_smoother() -> None:
    known = pair()
    rough, stiff = (refine(Objective(known.fixed, known.moving, weight=weight), None, 15) for weight in (0.02, 10.0))
    assert gradient(stiff).square().mean() < 0.3 * gradient(rough).square().mean()


def test_stops_once_nothing_improves() -> None:
    known = pair()
    calls: list[float] = []
    refine(
        Objective(known.fixed, known.fixed, similarity="mse"),
        torch.zeros_like(known.truth),
        500,
        calls.append,
    )
    assert 10 < len(calls) < 60


@pytest.mark.parametrize("from_zero", [True, False])
def test_progress_rises_to_one(from_zero: bool) -> None:
    known = pair()
    calls: list[float] = []
    start = None if from_zero else torch.zeros_like(known.truth)
    refine(Objective(known.fixed, known.moving), start, 4, calls.append)
    assert calls == sorted(calls)
    assert calls[0] > 0
    assert calls[-1] == pytest.approx(1)


def test_progress_that_raises_stops_it() -> None:
    class Stopped(Exception):  # noqa: N818
        pass

    calls: list[float] = []

    def stop(fraction: float) -> None:
        calls.append(fraction)
        if len(calls) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        refine(Objective(pair().fixed, pair().moving), None, 50, stop)
    assert len(calls) == 3
