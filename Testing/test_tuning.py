"""Tuning: its search space, the score, pruning, a study that goes on and is shared, and the presets it writes."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
import yaml
from DeepRegAttentionLib.cli import app
from DeepRegAttentionLib.cli.settings import read_options
from DeepRegAttentionLib.cli.train import read_configuration
from DeepRegAttentionLib.engine.errors import OptionError, OutputError
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.training.module import RegistrationTraining
from DeepRegAttentionLib.training.options import TrainingOptions, read_training_options
from DeepRegAttentionLib.training.run import TrainingData, make_trainer
from DeepRegAttentionLib.training.tuning import TuningOptions, open_study, run_trial, tune
from DeepRegAttentionLib.training.validation import FOLD_PENALTY, dice_by_label, measure
from helpers import training
from optuna.trial import TrialState, create_trial
from typer.testing import CliRunner

CONFIGURATION: dict[str, Any] = {
    **training.CONFIGURATION,
    "configuration": {"channels": [4, 8], "spatially_varying": True},
    "tune": {
        "weights.diffusion": {"low": 0.1, "high": 1.0, "log": True},
        "hyperprior": ["beta", "gaussian"],
        "regularization": {"low": 0.1, "high": 1.0},
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    training.write_blobs(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(CONFIGURATION), encoding="utf-8")
    return tmp_path


@pytest.fixture
def options(folder: Path) -> TrainingOptions:
    return read_configuration(folder / "tiny.yaml", folder)


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump({**CONFIGURATION, **changes}), encoding="utf-8")
    return path


def command(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_shipped_configurations_can_be_read():
    shipped = Path(__file__).resolve().parents[1] / "DeepRegAttention" / "Resources" / "Training"
    found = {path.stem: read_training_options(path) for path in shipped.glob("*.yaml")}
    search = found["hippocampus-tune"].tune
    assert search["hyperprior"].choices == ("beta", "gaussian", "determinant")
    assert search["weights.diffusion"].log
    assert {"weights.strength", "weights.hyperprior", "regularization"} < set(search)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"weights.difusion": {"low": 0.1, "high": 1}}, "did you mean “weights.diffusion”"),
        ({"steps": {"low": 1, "high": 3}}, "cannot be tuned"),
        ({"weights.diffusion": {"lwo": 0.1, "high": 1}}, "did you mean “low”"),
        ({"weights.diffusion": {"low": 1, "high": 0.1}}, "0 <= low < high"),
        ({"weights.diffusion": {"low": "a", "high": 1}}, "“tune.weights.diffusion.low” must be a number"),
        ({"weights.diffusion": {"high": 1}}, "two numbers"),
        ({"weights.diffusion": {"low": 0, "high": 1, "log": True}}, "low above 0"),
        ({"weights.diffusion": 0.1}, "must hold low and high"),
        ({"weights.diffusion": ["beta", "gaussian"]}, "must hold low and high"),
        ({"hyperprior": ["beta", "gausian"]}, "choices among beta, gaussian, determinant"),
        ({"hyperprior": ["beta"]}, "at least two"),
        ({"hyperprior": {"low": 0, "high": 1}}, "choices among"),
        (["weights.diffusion"], "settings and their ranges"),
    ],
)
def test_a_search_space_that_makes_no_sense_is_refused(search: Any, message: str, tmp_path: Path):
    with pytest.raises(OptionError, match=message):
        read_training_options(written(tmp_path, tune=search))


def test_values_are_set_by_their_names(options: TrainingOptions):
    changed = options.with_values({"weights.diffusion": 7.0, "hyperprior": "gaussian"})
    assert changed.weights == replace(options.weights, diffusion=7.0)
    assert replace(changed, weights=options.weights, hyperprior="beta") == options


def test_a_preset_holds_sections_for_register_and_train(folder: Path):
    sections = {"register": {"regularization": 0.3, "refine": 5}, "train": {"weights": {"diffusion": 4.0}}}
    preset = folder / "best.json"
    preset.write_text(json.dumps(sections), encoding="utf-8")
    assert RegistrationOptions.from_mapping(sections) == RegistrationOptions(regularization=0.3, refine=5)
    assert read_options(str(preset), {"refine": 9}) == RegistrationOptions(regularization=0.3, refine=9)
    config = written(folder, weights={"diffusion": 1.0, "force": 0.2})
    weights = read_configuration(config, folder, str(preset)).weights
    assert (weights.diffusion, weights.force) == (4.0, 0.2)


def test_a_preset_with_unknown_or_no_settings_is_refused(folder: Path):
    with pytest.raises(OptionError, match="did you mean “refine”"):
        RegistrationOptions.from_mapping({"register": {"refien": 3}})
    with pytest.raises(OptionError, match="no section “train”"):
        read_training_options(folder / "tiny.yaml", {"refine": 3})
    with pytest.raises(OptionError, match=r"did you mean “diffusion”"):
        read_training_options(folder / "tiny.yaml", {"train": {"weights": {"difusion": 3}}})


def test_the_score_is_dice_else_landmarks_else_similarity_minus_the_folds():
    labels = torch.zeros(1, 1, 6, 6, 6, dtype=torch.int16)
    labels[..., 1:5, 1:3] = 1
    images = {"fixed": torch.rand(1, 1, 6, 6, 6), "moving": torch.rand(1, 1, 6, 6, 6)}
    points = torch.tensor([[[2.0, 2, 2]]])
    spacing = torch.tensor([2.0])
    marked = {**images, "fixed_landmarks": points, "moving_landmarks": points + 1, "spacing": spacing}
    labelled = {**marked, "fixed_labels": labels, "moving_labels": labels.roll(1, 4)}
    still = torch.zeros(1, 3, 6, 6, 6)
    assert measure(still, labelled)["score"] == pytest.approx(0.5)
    assert measure(still, marked)["score"] == pytest.approx(-2 * 3**0.5)
    assert measure(still, images)["score"] == measure(still, images)["similarity"] < 0
    folded = still.clone()
    folded[:, 2, :, :, 3] = -4.0
    found = measure(folded, images)
    assert found["folds_percent"] > 0
    assert found["score"] == pytest.approx(found["similarity"] - FOLD_PENALTY * found["folds_percent"])


def test_dice_leaves_out_the_background():
    fixed, warped = torch.tensor([0, 1, 1, 2, 3, 3]), torch.tensor([0, 1, 0, 2, 0, 0])
    assert dice_by_label(fixed, warped) == pytest.approx({1: 2 / 3, 2: 1.0, 3: 0.0})
    assert dice_by_label(torch.zeros(4, dtype=torch.int32), torch.zeros(4, dtype=torch.int32)) == {}


def test_named_structures_are_measured_one_by_one():
    labels = torch.zeros(1, 1, 6, 6, 6, dtype=torch.int32)
    labels[..., 1:5, 1:3] = 4
    images = {"fixed": torch.rand(1, 1, 6, 6, 6), "moving": torch.rand(1, 1, 6, 6, 6)}
    batch = {**images, "fixed_labels": labels, "moving_labels": labels}
    found = measure(torch.zeros(1, 3, 6, 6, 6), batch, {"ear": 4, "absent": 9})
    assert found["dice_ear"] == found["dice"] == 1
    assert "dice_absent" not in found


def test_training_uses_labels_landmarks_and_the_hyperprior_that_have_a_weight(options: TrainingOptions):
    chosen = options.with_values({"weights.labels": 0.5, "weights.landmarks": 0.1, "hyperprior": "gaussian"})
    module = RegistrationTraining(replace(chosen, steps=2))
    trainer = make_trainer(replace(chosen, steps=2), logger=False, enable_checkpointing=False)
    trainer.fit(module, TrainingData(replace(chosen, steps=2), module.multiple))
    terms = {"similarity", "diffusion", "force", "hyperprior", "strength", "labels", "landmarks", "total"}
    assert {f"train/{name}" for name in terms} <= set(trainer.callback_metrics)
    measures = {"score", "dice", "tre_mm", "similarity", "folds_percent"}
    assert {f"val/{name}" for name in measures} <= set(trainer.callback_metrics)
    without = TrainingData(replace(options, weights=replace(options.weights, landmarks=0.0)), 2).train_dataloader()
    assert set(next(iter(without))) == {"fixed", "moving", "fixed_mask"}


def test_landmarks_are_where_the_centred_images_show_them(options: TrainingOptions):
    batch = next(iter(TrainingData(options, 2).val_dataloader()[0]))
    # Both grids are centred on the same point, so the shift of the object is left: case 3 to case 4, 4 mm voxels.
    turn = np.deg2rad(20)
    to_axes = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    shift = to_axes @ (np.array([-3, 1, 1]) - np.array([2, 2, -4])) / 4
    moved = (batch["moving_landmarks"] - batch["fixed_landmarks"])[0].numpy()
    np.testing.assert_allclose(moved, np.tile(shift[::-1], (2, 1)), atol=1e-4)
    assert float(batch["spacing"]) == 4.0


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_study_writes_its_results_goes_on_and_keeps_to_its_settings(options: TrainingOptions, folder: Path):
    output = folder / "tuned"
    tuning = TuningOptions(trials=2, sampler="tpe", refine=1)
    best = tune(options, tuning, output)
    rows = rows_of(output / "trials.csv")
    assert [row["state"] for row in rows] == ["complete", "complete"]
    assert all(0 < float(row["dice"]) <= 1 and row["hyperprior"] in ("beta", "gaussian") for row in rows)
    assert all((output / name).read_bytes().startswith(b"\x89PNG") for name in ("history.png", "importance.png"))
    top = max(rows, key=lambda row: float(row["score"]))
    found = read_options(str(best), {})
    assert found.regularization == pytest.approx(float(top["regularization"]))
    assert (found.refine, found.similarity) == (1, "lncc")
    again = read_configuration(folder / "tiny.yaml", folder, str(best))
    assert again.weights.diffusion == pytest.approx(float(top["weights.diffusion"]))
    assert again.hyperprior == top["hyperprior"]

    tune(options, replace(tuning, trials=3, sampler="gp"), output)
    more = rows_of(output / "trials.csv")
    assert more[:2] == rows
    assert len(more) == 3
    with pytest.raises(OptionError, match="other settings"):
        tune(replace(options, steps=5), tuning, output)


@pytest.mark.slow
def test_two_processes_work_on_one_study(folder: Path):
    output = folder / "shared"
    search = {"weights.diffusion": CONFIGURATION["tune"]["weights.diffusion"]}
    config = written(folder, tune=search, steps=2)
    storage = f"sqlite:///{folder / 'study.db'}"
    where = ["--data-root", folder, "--output", output, "--storage", storage]
    run = command("tune", config, *where, "--trials", 4, "--jobs", 2)
    assert run.exit_code == 0, run.output
    # Both may begin the last trial at once.
    rows = rows_of(output / "trials.csv")
    assert 4 <= len(rows) <= 5
    assert {row["state"] for row in rows} <= {"complete", "pruned"}
    assert len({row["weights.diffusion"] for row in rows}) == len(rows)
    assert json.loads((output / "best.json").read_text(encoding="utf-8"))["register"] == {}
    assert not (output / "study.journal").exists()


def test_a_trial_far_below_the_others_is_stopped(options: TrainingOptions, folder: Path):
    study = open_study(str(folder / "study.journal"), options, TuningOptions())
    for _ in range(5):
        study.add_trial(create_trial(value=9.0, intermediate_values={2: 9.0}))
    study.optimize(lambda trial: run_trial(trial, options, TuningOptions()), n_trials=1)
    stopped = study.get_trials()[-1]
    assert stopped.state == TrialState.PRUNED
    assert list(stopped.intermediate_values) == [1, 2]
    assert 0 <= stopped.intermediate_values[2] <= 1


def test_an_output_folder_that_cannot_be_made_is_named(options: TrainingOptions, folder: Path):
    with pytest.raises(OutputError, match=r"tiny\.yaml.* cannot be written"):
        tune(options, TuningOptions(), folder / "tiny.yaml" / "out")


def test_what_tuning_needs_is_asked_for(options: TrainingOptions, folder: Path):
    with pytest.raises(OptionError, match="section “tune”"):
        tune(replace(options, tune={}), TuningOptions(), folder)
    with pytest.raises(OptionError, match="make no pair"):
        tune(replace(options, validation=("case3",)), TuningOptions(), folder)
    with pytest.raises(OptionError, match="needs cases under “validation”"):
        tune(replace(options, validation=()), TuningOptions(), folder)
    trial = optuna.create_study().ask()
    with pytest.raises(OptionError, match="is called “a”"):
        run_trial(trial, replace(options, validation=("a", "b")), TuningOptions())
    with pytest.raises(OptionError, match="gp, tpe"):
        TuningOptions(sampler="grid")
    with pytest.raises(OutputError, match="cannot be kept"):
        open_study("nosuchdatabase://x", options, TuningOptions())


def test_the_command_says_in_a_line_what_is_wrong(folder: Path):
    where = ["--data-root", folder, "--output", folder / "out"]
    run = command("tune", written(folder, tune={}), *where)
    assert run.exit_code == 2
    assert "section “tune”" in run.stderr
    missing = command("tune", folder / "missing.yaml", *where)
    assert missing.exit_code == 3
