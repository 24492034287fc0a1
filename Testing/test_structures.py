"""Structures recognised in each image: how they are learned, and how the refinement aligns them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest
import torch
from DeepRegAttentionLib.engine.errors import ModelError, OptionError
from DeepRegAttentionLib.engine.fields import jacobian_determinant, warp
from DeepRegAttentionLib.engine.models.files import find_model, load_model, save_model
from DeepRegAttentionLib.engine.networks import build_network
from DeepRegAttentionLib.engine.networks.structures import RecognisingStructures, StructureNetwork
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.refine import Objective, Structures, recognised, refine
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.training.module import RegistrationTraining
from DeepRegAttentionLib.training.objective import structure_loss, structure_overlap
from DeepRegAttentionLib.training.run import load_start, train
from helpers.images import blob_image
from helpers.training import tiny, write_blobs
from torch import Tensor

SETTINGS = {"channels": [4, 8], "structures": {"labels": [1, 2]}}
SHAPE = (16, 16, 24)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_blobs(tmp_path)
    return tmp_path


def ball(middle: float, shape: tuple[int, int, int] = SHAPE, radius: float = 4.0) -> Tensor:
    """How much of each voxel a ball fills whose middle lies at this i, ``(1, 1, K, J, I)``."""
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij")
    distance = torch.stack([axes[0] - 7.5, axes[1] - 7.5, axes[2] - middle]).norm(dim=0)
    return torch.sigmoid(2 * (radius - distance))[None, None]


@pytest.mark.parametrize("name", ["drivenmorph", "adregnet"])
@pytest.mark.parametrize("more", [{}, {"spatially_varying": True}, {"passes": 2}], ids=str)
def test_any_network_may_also_recognise_structures(name: str, more: dict[str, Any]) -> None:
    network = build_network(name, {**SETTINGS, **more}).eval()
    assert isinstance(network, RecognisingStructures)
    fixed, moving = torch.rand(2, 1, 1, *SHAPE)
    shares = network.structures(fixed)
    assert shares.shape == (1, 3, *SHAPE)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(1, *SHAPE))
    torch.testing.assert_close(
        network(fixed, moving).displacement, network.network(fixed, moving).displacement, msg="registration is its own"
    )


def test_structures_may_end_at_half_the_resolution() -> None:
    network = build_network("adregnet", {"channels": [4, 8, 8], "structures": {"labels": [3], "level": 1}})
    assert network.structures(torch.rand(2, 1, *SHAPE)).shape == (2, 2, 8, 8, 12)
    with pytest.raises(ModelError, match="level from 0 to 1"):
        build_network("adregnet", {"channels": [4, 8, 8], "structures": {"labels": [3], "level": 2}})


@pytest.mark.parametrize("labels", [[], 2, [0, 1], [1, 1], ["1"], [True], {"a": 1}], ids=str)
def test_labels_that_are_none_are_refused(labels: Any) -> None:
    with pytest.raises(ModelError, match="must hold labels, a list of different ones above 0"):
        build_network("adregnet", {"structures": {"labels": labels}})


@pytest.mark.parametrize(
    "structures", [[1, 2], {"level": 1}, {"labels": [1], "levels": 1}, {"labels": [1], "level": True}]
)
def test_structures_without_labels_are_refused(structures: Any) -> None:
    with pytest.raises(ModelError, match="“structures” of the network adregnet must hold labels"):
        build_network("adregnet", {"structures": structures})


def labels() -> Tensor:
    maps = torch.zeros(1, 1, *SHAPE, dtype=torch.int32)
    maps[..., 4:8], maps[..., 11:17] = 5, 7
    return maps


def exactly(maps: Tensor, *present: int) -> Tensor:
    """What would be recognised by who knows the map."""
    shares = torch.nn.functional.avg_pool3d(torch.cat([maps == label for label in present], dim=1).float(), 2)
    return torch.cat([1 - shares.sum(dim=1, keepdim=True), shares], dim=1)


def test_the_loss_of_structures_is_least_where_they_are_recognised() -> None:
    """Also of voxels that a structure fills in part: the second one begins and ends amid a larger voxel."""
    truth = exactly(labels(), 5, 7)
    best = structure_loss(truth, labels(), [5, 7])
    for share in (0.1, 0.5):
        other = torch.lerp(truth, torch.full_like(truth, 1 / 3), share)
        assert structure_loss(other, labels(), [5, 7]) > best + 0.5 * share**2
    assert structure_loss(truth, labels(), [7, 5]) > best + 0.5
    assert float(structure_overlap(truth, labels(), [5, 7])) == pytest.approx(1)


def test_structures_that_a_map_lacks_count_as_background_and_not_in_the_overlap() -> None:
    truth = exactly(labels(), 5, 7, 9)
    assert float(structure_overlap(truth, labels(), [5, 7, 9])) == pytest.approx(1)
    assert float(structure_overlap(truth, torch.zeros_like(labels()), [5, 7, 9])) == 1
    wrong = truth[:, [0, 1, 3, 2]]
    assert structure_loss(wrong, labels(), [5, 7, 9]) > structure_loss(truth, labels(), [5, 7, 9]) + 0.3


def test_a_network_learns_to_recognise() -> None:
    torch.manual_seed(3)
    network = StructureNetwork([4, 8, 8], 1)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for step in range(40):
        image = ball(8.0 + step % 8)
        loss = structure_loss(network(image), (image > 0.5).int() * 3, [3])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    unseen = ball(9.5)
    with torch.no_grad():
        assert float(structure_overlap(network.eval()(unseen), (unseen > 0.5).int() * 3, [3])) > 0.85


def middle(image: Tensor) -> float:
    return float((image.sum(dim=(0, 1, 2, 3)) * torch.arange(float(image.shape[-1]))).sum() / image.sum())


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_refinement_aligns_structures_that_the_images_do_not_show(share: float) -> None:
    """Half as fine as the images, and off by less than one of its voxels: no shift by half a voxel either."""
    flat = torch.full((1, 1, *SHAPE), 0.5)
    fixed, moving = (torch.nn.functional.avg_pool3d(ball(i), 2) for i in (10.0, 11.5))
    objective = Objective(flat, flat, weight=0.01, structures=Structures(fixed, moving, share))
    found = refine(objective, torch.zeros(1, 3, *SHAPE), 40)
    warped = warp(ball(11.5), found)
    assert middle(warped) == pytest.approx(middle(ball(10.0)), abs=0.1)
    assert (jacobian_determinant(found) > 0).all()
    # Without them nothing moves.
    still = refine(replace(objective, structures=None), torch.zeros(1, 3, *SHAPE), 5)
    assert float(still.abs().max()) < 1e-3


def test_structures_with_no_share_change_nothing() -> None:
    fixed, moving = ball(10.0), ball(11.5)
    plain = Objective(fixed, moving)
    ignored = replace(plain, structures=Structures(ball(3.0), ball(9.0), 0.0))
    u = torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert float(ignored(u)) == pytest.approx(float(plain(u)))


def test_what_is_not_there_does_not_count() -> None:
    def see(image: Tensor) -> Tensor:
        return torch.cat([1 - image, 0.9 * image, 0.1 * image], dim=1)

    found = recognised(see, ball(10.0), ball(11.0), 0.5)
    assert found is not None
    assert found.fixed.shape == found.moving.shape == (1, 1, *SHAPE)
    assert recognised(see, 0 * ball(10.0), ball(11.0), 0.5) is None


def test_a_mask_says_where_structures_count() -> None:
    """What lies beyond it neither is missed nor pulls."""
    mask = torch.zeros(1, 1, *SHAPE)
    mask[..., :10] = 1
    found = recognised(lambda image: torch.cat([1 - image, image], dim=1), ball(10.0), ball(11.0), 1.0, mask)
    assert found is not None
    moving = found.moving.clone()
    moving[..., 14:] = torch.rand(moving[..., 14:].shape)
    still = torch.zeros(1, 3, *SHAPE)
    assert float(replace(found, moving=moving).unlike(still)) == pytest.approx(float(found.unlike(still)))
    assert float(found.differing(still)[..., 10:].max()) == 0 < float(found.differing(still)[..., :10].max())
    pull = still.clone().requires_grad_()
    found.coarser(2).unlike(pull).backward()
    assert float(pull.grad[..., 14:].abs().max()) == 0 < float(pull.grad[..., :8].abs().max())


def test_on_a_coarser_grid_a_displacement_means_the_same() -> None:
    structures = Structures(ball(10.0), ball(12.0))
    shift = torch.zeros(1, 3, *SHAPE)
    shift[:, 2] = 2.0
    assert float(structures.unlike(shift)) < 0.01
    assert float(structures.coarser(2).unlike(shift)) < 0.01
    assert float(structures.unlike(0 * shift)) > 0.15


def test_where_structures_differ_is_between_their_borders() -> None:
    """A ball of radius 5 that is four voxels off: little differs in its middle, most at its flanks, nothing beside."""
    fixed, moving = (torch.nn.functional.avg_pool3d(ball(i, radius=5.0), 2) for i in (10.0, 14.0))
    shift = torch.zeros(1, 3, *SHAPE)
    differing = Structures(fixed, moving).differing(shift)[0, 0, 7]
    assert differing.shape == (16, 24)
    assert float(differing[7, 12]) < 0.1 < 0.6 < min(float(differing[7, 6]), float(differing[7, 17]))
    assert float(differing.max()) <= 1
    assert float(differing[7, :3].max()) < 0.05
    shift[:, 2] = 4.0
    assert float(Structures(fixed, moving).differing(shift).max()) < 0.05


def test_one_structure_in_place_of_another_differs_as_much_as_one_in_place_of_none() -> None:
    one, other = torch.zeros(1, 2, 2, 2, 2), torch.zeros(1, 2, 2, 2, 2)
    one[:, 0, 0], other[:, 1, 0], one[:, 0, 1] = 1, 1, 0.5
    differing = Structures(one, other).differing(torch.zeros(1, 3, 2, 2, 2))
    torch.testing.assert_close(differing[0, 0], torch.tensor([1.0, 0.5])[:, None, None].expand(2, 2, 2))


LEARN = {"learn": "structures", "configuration": SETTINGS, "structures": {"outside": 1, "core": 2}}


@pytest.mark.slow
def test_what_learns_structures_leaves_the_registration_as_it_is(folder: Path) -> None:
    begun = train(tiny(folder, name="begun", configuration={"channels": [4, 8]}), folder / "begun")
    model = train(tiny(folder, **LEARN, structures_share=0.5, refine=3, steps=12), folder / "out", start=str(begun))
    before, after = load_model(begun).state_dict(), load_model(model)
    assert isinstance(after, RecognisingStructures)
    for name, weights in after.network.state_dict().items():
        torch.testing.assert_close(weights, before[name])
    info = find_model(model).info
    assert (info.structures_share, info.refine) == (0.5, 3)
    assert 0 < info.accuracy["validation"]["recognised"] <= 1


def test_it_begins_with_the_features_of_the_registration(folder: Path) -> None:
    begun = train(tiny(folder, name="begun", configuration={"channels": [4, 8]}, steps=1), folder / "begun")
    module = RegistrationTraining(tiny(folder, **LEARN))
    load_start(module, str(begun))
    own = module.network.network.encoder.state_dict()
    for name, weights in module.network.structures.encoder.state_dict().items():
        torch.testing.assert_close(weights, own[name])


def test_what_learns_to_register_leaves_the_structures_as_they_are(folder: Path) -> None:
    module = RegistrationTraining(tiny(folder, **{**LEARN, "learn": "registration"}))
    assert not any(weights.requires_grad for weights in module.network.structures.parameters())
    assert all(weights.requires_grad for weights in module.network.network.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learn": "structures"}, "needs “configuration.structures”"),
        ({"learn": "everything"}, "learn"),
        ({"structures_share": 0.5}, "“structures_share” must be from 0 to 1, and 0 without"),
        ({"structures_share": 2, "configuration": SETTINGS}, "“structures_share” must be from 0 to 1"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_get_a_sentence(folder: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        tiny(folder, **changes)


@pytest.mark.parametrize(("bias", "steps", "said"), [
    ([0.0, 9.0, 0.0], 2, {"recognised": 1, "share": 0.5}), ([9.0, 0.0, 0.0], 2, None), ([0.0, 9.0, 0.0], 0, None),
])  # fmt: skip
def test_a_result_says_which_structures_were_aligned(
    tmp_path: Path, bias: list[float], steps: int, said: Optional[dict[str, float]]
) -> None:
    info = replace(find_model("cardiac-mr").info, configuration=SETTINGS, structures_share=0.5, spacing=4.0)
    network = build_network(info.network, info.configuration)
    with torch.no_grad():
        network.structures.classes.weight.zero_()
        network.structures.classes.bias.copy_(torch.tensor(bias))
    save_model(network, info, tmp_path / "own.safetensors")
    options = RegistrationOptions(model=str(tmp_path / "own.safetensors"), prealign="none", refine=steps)
    result = register(blob_image(), blob_image(shift=(2.0, 0.0, 0.0)), options)
    assert result.metrics["structures"] == said
    assert ("structures" in result.maps) == (said is not None)


def test_a_model_that_recognises_nothing_has_no_share(folder: Path) -> None:
    info = find_model("brain-t1").info
    with pytest.raises(ModelError, match="structures_share"):
        replace(info, configuration={"channels": [4, 8]}, structures_share=0.5)


def test_a_model_file_keeps_its_structures(tmp_path: Path) -> None:
    info = replace(find_model("cardiac-mr").info, configuration=SETTINGS, structures_share=1.0)
    network = build_network(info.network, info.configuration)
    save_model(network, info, tmp_path / "own.safetensors")
    loaded = load_model(tmp_path / "own.safetensors")
    image = torch.rand(1, 1, *SHAPE)
    torch.testing.assert_close(loaded.structures(image), network.eval().structures(image), rtol=0.02, atol=0.01)
