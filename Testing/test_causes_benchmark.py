"""The benchmark of causes: parts that are taken out are out, places are whole blocks, forces point the right way."""

from __future__ import annotations

import sys

import pytest
import torch
from DeepRegAttentionLib.engine.networks import NETWORKS, build_network
from helpers.places import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "Testing" / "benchmarks"))
import causes


def blob(shift: float) -> torch.Tensor:
    axes = torch.meshgrid(*[torch.arange(16.0) - 7.5] * 3, indexing="ij")
    return torch.exp(-((axes[0] - shift) ** 2 + axes[1] ** 2 + axes[2] ** 2) / 18)[None, None]


def test_the_classic_force_points_to_where_the_moving_image_shows_the_place() -> None:
    fixed, moving = blob(0.0), blob(2.0)
    force = causes.classic_demons(fixed, moving)
    inside = (fixed > 0.3)[0, 0]
    assert force[0, 0][inside].mean() > 0.2
    assert abs(float(force[0, 1][inside].mean())) < 1e-4
    assert float(causes.classic_demons(fixed, fixed).abs().max()) == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_every_part_of_a_network_can_be_taken_out_and_is_back_afterwards(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, {"channels": [8, 8, 8]}).eval()
    fixed, moving = blob(0.0), blob(1.0)
    whole = causes.answer(network, fixed, moving).displacement
    parts = {part: (kind, change) for part, (kind, change) in causes.PARTS.items()
             if any(isinstance(module, kind) for module in network.modules())}  # fmt: skip
    assert len(parts) >= 2
    for kind, change in parts.values():
        with causes.changed_parts(network, kind, change):
            without = causes.answer(network, fixed, moving).displacement
        assert not torch.equal(without, whole)
    torch.testing.assert_close(causes.answer(network, fixed, moving).displacement, whole)


def test_without_its_force_drivenmorph_does_not_move() -> None:
    network = build_network("drivenmorph", {"channels": [8, 8, 8]}).eval()
    with causes.changed_parts(network, *causes.PARTS["without the driving force"]):
        assert float(causes.answer(network, blob(0.0), blob(2.0)).displacement.abs().max()) == 0


def test_chosen_places_are_whole_blocks() -> None:
    where = causes._mask(torch.tensor([0, 3]), torch.zeros(1, 1, 5, 4, 4), 2)
    assert where.shape == (1, 1, 5, 4, 4)
    assert where[0, 0, :2, :2, :2].all()
    assert where[0, 0, :2, 2:, 2:].all()
    assert int(where.sum()) == 16
