"""Which method two images get: the model that is tried, whether its answer is taken, what is done without one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.engine import deform as deform_module
from DeepRegAttentionLib.engine import method as method_module
from DeepRegAttentionLib.engine.acceptance import doubt
from DeepRegAttentionLib.engine.fields import warp
from DeepRegAttentionLib.engine.images import read_image
from DeepRegAttentionLib.engine.method import Doubt
from DeepRegAttentionLib.engine.metrics import dice, mean_over_labels
from DeepRegAttentionLib.engine.models.choice import foreground_extent
from DeepRegAttentionLib.engine.models.files import ModelFile, find_model, save_model
from DeepRegAttentionLib.engine.networks import build_network
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.refine import Objective
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.engine.resampling import warp_image
from helpers.images import blob_image, texture
from helpers.places import real_data
from torch import Tensor

SHAPE = (32, 40, 36)


def bulge(voxels: float) -> Tensor:
    """A smooth displacement that is largest in the middle."""
    k, j, i = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    size = voxels * torch.exp(-3 * (k**2 + j**2 + i**2))
    return torch.stack([size, -0.5 * size, 0.7 * size])[None]


@pytest.fixture(scope="module")
def objective() -> Objective:
    """Of images of which the one is the other, moved by a bulge."""
    moving = texture(*SHAPE, seed=1)
    return Objective(warp(moving, bulge(3.0)), moving, weight=0.3)


def test_the_true_displacement_explains_the_images(objective: Objective) -> None:
    assert doubt(objective, bulge(3.0)) is None
    assert doubt(objective, bulge(2.6)) is None


@pytest.mark.parametrize("answer", ["nothing", "the wrong way", "another place", "folds"])
def test_a_wrong_displacement_does_not(objective: Objective, answer: str) -> None:
    noise = torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(2))
    answers = {
        "nothing": 0 * bulge(1.0),
        "the wrong way": bulge(-3.0),
        "another place": bulge(3.0).roll(9, 4),
        "folds": bulge(3.0) + 4 * noise,
    }
    assert doubt(objective, answers[answer]) is Doubt.POOR


def test_a_negative_is_explained_by_no_network_of_one_modality(objective: Objective) -> None:
    negative = dataclasses.replace(objective, moving=1.02 - objective.moving)
    assert doubt(negative, bulge(3.0)) is Doubt.CONTRAST


def test_images_that_lie_on_each_other_keep_their_network(objective: Objective) -> None:
    same = dataclasses.replace(objective, moving=objective.fixed)
    assert doubt(same, bulge(0.02)) is None


def test_what_a_network_inferred_can_be_judged(objective: Objective) -> None:
    with torch.inference_mode():
        answer = bulge(3.0).to(torch.bfloat16)
    assert doubt(objective, answer) is None


# The whole way


@pytest.fixture(scope="module")
def pair() -> tuple[sitk.Image, sitk.Image]:
    return blob_image(), blob_image(shift=(3.0, -2.0, 2.0))


@pytest.fixture
def wrong_model(pair: tuple[sitk.Image, sitk.Image], tmp_path: Any) -> ModelFile:
    """As large as the objects, and moves hardly anything: nobody has trained it."""
    shipped = find_model("brain-t1").info
    extent = foreground_extent(pair[0])
    changes: dict[str, Any] = {"name": "untrained", "extent_mm": extent, "background": None, "spacing": 2.5}
    info = dataclasses.replace(shipped, configuration={"channels": [4, 8]}, structures_share=0.0, **changes)
    torch.manual_seed(0)
    save_model(build_network(info.network, info.configuration), info, tmp_path / "untrained.safetensors")
    return find_model(str(tmp_path / "untrained.safetensors"))


OPEN = RegistrationOptions(prealign="none", spacing=2.5)


def test_a_model_that_explains_too_little_is_dropped_and_the_result_says_so(
    pair: tuple[sitk.Image, sitk.Image], wrong_model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method_module, "list_models", lambda: [wrong_model])
    result = register(*pair, OPEN)
    alone = register(*pair, dataclasses.replace(OPEN, model="none"))
    assert result.metrics["model"] is None
    assert "untrained fitted by size, but explained the images less well" in result.metrics["model_choice"]
    assert result.metrics["similarity"]["after"] == pytest.approx(alone.metrics["similarity"]["after"], abs=1e-3)


def test_who_asks_for_a_model_gets_its_answer_whatever_it_explains(
    pair: tuple[sitk.Image, sitk.Image], wrong_model: ModelFile
) -> None:
    result = register(*pair, dataclasses.replace(OPEN, model=str(wrong_model.path)))
    assert result.metrics["model"]["name"] == "untrained"


def test_the_next_model_is_tried_before_none(
    pair: tuple[sitk.Image, sitk.Image], wrong_model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = dataclasses.replace(wrong_model.info, name="second", anatomy="another organ")
    monkeypatch.setattr(
        method_module, "list_models", lambda: [wrong_model, dataclasses.replace(wrong_model, info=info)]
    )
    doubts = iter([Doubt.POOR, None])
    monkeypatch.setattr(deform_module, "doubt", lambda *answer: next(doubts))
    metrics = register(*pair, OPEN).metrics
    assert metrics["model"]["name"] == "second"
    assert metrics["model_choice"].startswith("untrained fitted by size, but")
    assert "second fits: " in metrics["model_choice"]


def test_images_of_two_contrasts_get_the_model_for_any(
    pair: tuple[sitk.Image, sitk.Image], wrong_model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    general = find_model("any-contrast")
    monkeypatch.setattr(method_module, "list_models", lambda: [wrong_model, general])
    fixed, moving = pair
    negative = sitk.Mask(float(sitk.GetArrayViewFromImage(moving).max()) * 1.02 - moving, moving > 0)
    metrics = register(fixed, negative, dataclasses.replace(OPEN, refine=0)).metrics
    assert metrics["model"]["name"] == "any-contrast"
    assert metrics["model_choice"] == "untrained fitted by size, but the two images are of different contrast."


# Real images


def heart(patient: int) -> list[sitk.Image]:
    """End-diastole and end-systole and their labels, in a field of view as the scanner gives it."""
    folder = real_data("acdc") / f"patient{patient:03d}"
    facts = dict(
        line.split(": ") for line in (folder / "Info.cfg").read_text(encoding="utf-8").splitlines() if ": " in line
    )
    names = [f"patient{patient:03d}_frame{int(facts[phase]):02d}" for phase in ("ED", "ES")]
    images = [read_image(next(folder.glob(f"{name}.nii*"))) for name in names]
    labels = [read_image(next(folder.glob(f"{name}_gt.nii*"))) for name in names]
    full = [round((mm / s - n) / 2) for mm, s, n in zip((295, 350), images[0].GetSpacing(), images[0].GetSize())]
    pad = [*full, 0]
    noise = np.random.default_rng(3)
    wide = [sitk.MirrorPad(image, pad, pad) for image in images]
    for n, image in enumerate(wide):
        array = sitk.GetArrayFromImage(image).astype(np.float32)
        array += noise.normal(0, 0.01 * array.max(), array.shape).astype(np.float32)
        wide[n] = sitk.GetImageFromArray(array)
        wide[n].CopyInformation(image)
    return [*wide, *(sitk.ConstantPad(image, pad, pad, 0) for image in labels)]


def test_the_heart_in_a_full_field_of_view_gets_its_model_with_consent() -> None:
    fixed, moving, fixed_labels, moving_labels = heart(97)
    options = RegistrationOptions(prealign="none", maps=False, accepted_licences=("cardiac-mr",))
    result = register(fixed, moving, options)
    assert result.metrics["model"]["name"] == "cardiac-mr"
    assert "the images show 29" in result.metrics["model_choice"]
    warped = warp_image(moving_labels, fixed_labels, result.transform, nearest=True)
    before, after = (mean_over_labels(dice(fixed_labels, labels)) for labels in (moving_labels, warped))
    assert after > before + 0.1
