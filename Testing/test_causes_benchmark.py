"""The benchmark of causes: parts that are taken out are out, places are whole blocks, forces point the right way."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from DeepRegAttentionLib.dataset import all_pairs, find_cases
from DeepRegAttentionLib.engine.intensity import IntensityRecipe
from DeepRegAttentionLib.engine.models.files import save_model
from DeepRegAttentionLib.engine.models.info import ModelInfo
from DeepRegAttentionLib.engine.networks import NETWORKS, build_network
from helpers.places import REPOSITORY
from helpers.training import write_blobs

sys.path.insert(0, str(REPOSITORY / "Testing" / "benchmarks"))
import causes
import causes_parts as parts
import causes_tables as tables


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
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    fixed, moving = blob(0.0), blob(1.0)
    whole = causes.answer(network, fixed, moving).displacement
    own = [part for part in parts.PARTS.values() if any(isinstance(module, part[0]) for module in network.modules())]
    assert len(own) == 3
    for kind, change in own:
        with parts.changed_parts(network, kind, change):
            without = causes.answer(network, fixed, moving).displacement
        assert not torch.equal(without, whole)
    torch.testing.assert_close(causes.answer(network, fixed, moving).displacement, whole)


def test_without_its_force_drivenmorph_does_not_move() -> None:
    network = build_network("drivenmorph", {"channels": [8, 8, 8]}).eval()
    with parts.changed_parts(network, *parts.PARTS["without the driving force"]):
        assert float(causes.answer(network, blob(0.0), blob(2.0)).displacement.abs().max()) == 0


def test_chosen_places_are_whole_blocks() -> None:
    where = causes._mask(torch.tensor([0, 3]), torch.zeros(1, 1, 5, 4, 4), 2)
    assert where.shape == (1, 1, 5, 4, 4)
    assert where[0, 0, :2, :2, :2].all()
    assert where[0, 0, :2, 2:, 2:].all()
    assert int(where.sum()) == 16


def test_inside_and_outside_keep_away_from_the_border_and_know_no_holes() -> None:
    image = torch.zeros(1, 1, 20, 20, 20)
    image[..., 4:16, 4:16, 4:16] = 1
    image[..., 9:11, 9:11, 9:11] = 0
    within, without = causes.inside_and_outside(image, 2.0)
    expected = torch.zeros_like(image, dtype=torch.bool)
    expected[..., 6:14, 6:14, 6:14] = True
    assert torch.equal(within, expected)
    assert without[0, 0, 1, 1, 1]
    assert without[0, 0, 1, 10, 10]
    assert not without[0, 0, 2:18, 4:16, 4:16].any()


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The file of a network that has learned nothing."""
    configuration, extent = {"channels": [4, 8]}, (40.0, 40.0, 40.0)
    torch.manual_seed(0)
    info = ModelInfo(
        "tiny", request.param, configuration, IntensityRecipe(), 4.0, 2, 1.0, 5, "MR", "blob", extent, True
    )
    save_model(build_network(request.param, configuration), info, tmp_path / "trained otherwise.safetensors")
    return str(tmp_path / "trained otherwise.safetensors")


@pytest.mark.parametrize("model", NETWORKS, indirect=True)
def test_every_experiment_is_done_with_the_network_of_a_file_and_told_under_its_name(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_blobs(tmp_path)
    monkeypatch.setattr(causes, "REFINEMENT_STEPS", 2)
    pairs = all_pairs(find_cases(tmp_path / "blobs"))[:1]
    rows = [row for name in causes.EXPERIMENTS for row in causes.measure(name, "heart", model, pairs, set())]
    tables.write(rows, tmp_path / "out")
    kept = tables.read(tmp_path / "out")
    assert {row.model for row in kept} == {"trained otherwise"}
    assert {row.pair for row in kept} == {f"{fixed.name} {moving.name}" for fixed, moving in pairs}
    still = [row.value for row in kept if (row.experiment, row.what) == ("equal", "as it is")]
    assert len(still) == 2
    assert max(still) < 1e-3
    areas = {row.what for row in kept if row.measure == tables.AREA}
    assert {"attention", tables.DIFFERENCE, tables.MOTION} <= areas
    text = (tmp_path / "out" / "causes.md").read_text(encoding="utf-8")
    assert "| `trained otherwise` | heart | attention | 1 |" in text
    assert (tmp_path / "out" / "causes.png").stat().st_size > 1000


def rows_of(experiment: str, model: str, value: float) -> list[tables.Measured]:
    found = {
        "equal": [("as it is", "mean mm")],
        "inside": [("attention", "inside over outside")],
        "knockout": [("whole", "Dice"), ("whole", "lost"), ("without it", "lost")],
        "structures": [("network alone", "Dice"), ("without", "Dice")],
        "differing": [("structures", share) for share in ("2%", "5%", "10%", "20%")],
        "deletion": [(what, share) for what in ("attention", tables.MOTION) for share in ("2%", "5%", "10%", "20%")],
        "force": [(f"pass {n}, 1/8", f"force, {goal}") for n in (1, 2) for goal in ("refined", "network")],
    }  # fmt: skip
    return [tables.Measured(experiment, "heart", model, f"a {pair}", what, measure, round(value + 0.2 * pair, 4))
            for pair in range(2) for what, measure in found[experiment]]  # fmt: skip


def test_the_tables_hold_the_means_of_what_belongs_there() -> None:
    rows = [row for experiment in causes.EXPERIMENTS for row in rows_of(experiment, "cardiac-mr", 0.4)]
    assert tables.table("knockout", rows) == (
        "| model | images | pairs | Dice, whole | without it: lost |\n|---|---|---|---|---|\n"
        "| `cardiac-mr` | heart | 2 | 0.500 | 0.500 |\n"
    )
    assert tables.table("force", rows) == (
        "| model | images | force | pairs | 1/8 |\n|---|---|---|---|---|\n| `cardiac-mr` | heart | force | 2 | 0.50 |\n"
    )
    assert tables.table("structures", rows) == (
        "| model | images | pairs | network alone | without |\n|---|---|---|---|---|\n"
        "| `cardiac-mr` | heart | 2 | 0.500 | 0.500 |\n"
    )
    assert tables.table("inside", rows_of("equal", "cardiac-mr", 0.4)) == ""


def test_what_was_measured_before_stays_and_what_is_measured_again_is_replaced(tmp_path: Path) -> None:
    before = rows_of("equal", "old", 0.4) + rows_of("knockout", "cardiac-mr", 0.4)
    tables.write(before, tmp_path)
    now = rows_of("knockout", "cardiac-mr", 0.6)
    together = tables.in_order([*tables.measured_before(tmp_path, now), *now])
    assert together == rows_of("equal", "old", 0.4) + now


def test_one_command_remakes_the_section_between_its_marks_alone(tmp_path: Path) -> None:
    document = tmp_path / "docs" / "accuracy.md"
    for folder in (document.parent, tmp_path / "Resources", tmp_path / "Testing" / "benchmarks"):
        folder.mkdir(parents=True)
    marks = "".join(f"words\n<!-- {name} -->\nold\n<!-- end of {name} -->\n" for name in causes.EXPERIMENTS)
    document.write_text(marks, encoding="utf-8")
    tables.write([row for name in ("equal", "deletion") for row in rows_of(name, "cardiac-mr", 1.0)], tmp_path / "out")
    tables.publish(tmp_path / "out", document)
    text = document.read_text(encoding="utf-8")
    assert text.count("words\n") == len(causes.EXPERIMENTS)
    assert "old" not in text
    assert "| `cardiac-mr` | heart | 2 | 1.100 |" in text
    assert "| `cardiac-mr` | heart | attention | 2 | 1.10 |" in text
    assert (tmp_path / "Resources" / "causes.png").is_file()
    assert tables.read(tmp_path / "Testing" / "benchmarks") == tables.read(tmp_path / "out")


def test_the_tables_of_the_documentation_are_those_of_the_measurements() -> None:
    rows, text = tables.read(REPOSITORY / "Testing" / "benchmarks"), tables.DOCUMENT.read_text(encoding="utf-8")
    assert rows
    for name in causes.EXPERIMENTS:
        assert text.split(f"<!-- {name} -->\n")[1].split(f"<!-- end of {name} -->")[0] == tables.table(name, rows)


def test_models_that_suit_the_task_and_files_are_chosen() -> None:
    suitable = causes.models_for("heart")
    assert causes.chosen("heart", None) == suitable
    asked = ["hippocampus-mr", "runs/other.safetensors", suitable[0]]
    assert causes.chosen("heart", asked) == asked[1:]
