"""The benchmark of the expected error: distances are right, truths are true, and no subject has two purposes."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.dataset import ImageFiles
from DeepRegAttentionLib.engine.fields import warp
from DeepRegAttentionLib.engine.working_pair import WorkingPair
from helpers.images import texture
from helpers.places import REPOSITORY, real_data

sys.path.insert(0, str(REPOSITORY / "Testing" / "benchmarks"))
import error_fit
import trials
import truths
from documents import replace_part


def slab(start: float, spacing: tuple[float, float, float] = (1.0, 1.5, 2.0)) -> sitk.Image:
    """A label of 1 between two planes across the first axis, far inside the image."""
    values = np.zeros((16, 20, 40), np.uint8)
    values[4:12, 5:15, round(start) : round(start) + 12] = 1
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    return image


@pytest.mark.parametrize("voxels", [0, 1, 4])
def test_surfaces_are_as_far_apart_as_they_were_moved(voxels: int) -> None:
    ((place, distance),) = truths.surface_distances(slab(10), slab(10 + voxels))
    across = (place[:, 0] == 10) & (abs(place[:, 1] - 9.5) < 3) & (abs(place[:, 2] - 7.5) < 2)
    np.testing.assert_allclose(distance[across], voxels, atol=0.25)


def test_a_known_deformation_is_undone_by_its_truth() -> None:
    image = texture(32, 32, 32, sigma=2.0)
    pair, truth = truths.moved(WorkingPair(image, image), np.random.default_rng(2), "none")
    inside = (slice(None), slice(None), *[slice(4, -4)] * 3)

    def alike(moving: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([pair.fixed[inside].flatten(), moving[inside].flatten()]))[0, 1])

    assert 1 - alike(warp(pair.moving, truth)) < 0.7 * (1 - alike(pair.moving))


def test_where_the_images_were_acquired_is_moved_and_kept_with_them(tmp_path: Path) -> None:
    image, view = torch.rand(1, 1, 16, 16, 16), torch.zeros(1, 1, 16, 16, 16)
    view[..., 4:12] = 1
    pair, truth = truths.moved(WorkingPair(image, image, fixed_view=view), np.random.default_rng(2), "none")
    assert torch.equal(pair.fixed_view, view)
    assert float((warp(pair.moving_view, truth) - view).abs().mean()) < 0.1
    trial = truths.Trial("none", "fit", truths.MOVED, "brain", ImageFiles("one", tmp_path), ImageFiles("one", tmp_path))
    path = tmp_path / "none" / f"{trial.key}.npz"
    truths.keep(
        path, fixed=pair.fixed, moving=pair.moving, error=truth[:, :1], displacement=truth, spacing=torch.tensor(1.0),
        **truths.views(pair),
    )  # fmt: skip
    kept = truths.known(trial, tmp_path).pair
    assert torch.equal(kept.fixed_object, pair.fixed_object)
    assert kept.moving_view.shape == kept.mask.shape == view.shape


def test_what_lies_beyond_the_image_is_not_counted() -> None:
    truth = torch.zeros(1, 3, 6, 6, 6)
    truth[:, 2] = 2.0
    seen = truths.in_view(truth)[0, 0]
    assert seen[..., :4].all()
    assert not seen[..., 4:].any()


def test_errors_at_borders_are_means_of_patches() -> None:
    errors = torch.full((5, 5, 5), torch.nan)
    errors[2, 2, 1], errors[2, 2, 2] = 1.0, 3.0
    patches = error_fit.mean_of_patches(errors)
    assert patches.isfinite().sum() == 2
    assert patches[2, 2, 1] == patches[2, 2, 2] == pytest.approx(2.0)


def test_no_subject_has_two_purposes_and_none_that_judges_trained_a_model() -> None:
    root = real_data("lpba40").parent
    subjects, cases = truths.Subjects(root), trials.Cases(root)
    for task in trials.RECIPES:
        parts = [set(subjects.everyone(task, role)) for role in truths.ROLES]
        groups = [{case.group or case.name for case in part} for part in parts]
        assert all(groups)
        assert not (groups[0] & groups[1])
        assert not (groups[0] & groups[2])
        assert not (groups[1] & groups[2])
        trained = {name for _, name in cases.names(task, "trained")}
        assert not trained & {case.name for part in parts[1:] for case in part}


@pytest.mark.slow
def test_what_a_method_recommends_refines_it() -> None:
    root = real_data("hippocampus").parent
    assert not list(truths.refined_trials(root, "hippocampus-mr"))
    refined = next(truths.refined_trials(root, "none"))
    plain = dataclasses.replace(refined, refined=False)
    assert plain in set(truths.trials(root, "none", "report"))
    assert plain.key != refined.key
    ours, other = (truths.registered(trial) for trial in (refined, plain))
    assert torch.equal(ours.pair.moving, other.pair.moving)
    assert not torch.equal(ours.displacement, other.displacement)


def test_a_part_of_a_page_is_replaced_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x -->\nold\n<!-- end of x -->\nb\n", encoding="utf-8")
    replace_part(page, "x", "new\n")
    assert page.read_text(encoding="utf-8") == "a\n<!-- x -->\nnew\n<!-- end of x -->\nb\n"
