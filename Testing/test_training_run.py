"""A training run: its files, that it goes on exactly where it was stopped, and that two processes act as one."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from DeepRegAttentionLib.cli import app
from DeepRegAttentionLib.engine.errors import CancelledError, ModelError, OptionError
from DeepRegAttentionLib.engine.models.files import find_model, load_model
from DeepRegAttentionLib.engine.networks import build_network
from DeepRegAttentionLib.training import run
from DeepRegAttentionLib.training.export import BestModel, validation_means
from DeepRegAttentionLib.training.module import RegistrationTraining
from DeepRegAttentionLib.training.pictures import draw_pair
from DeepRegAttentionLib.training.progress import TrainingProgress, duration
from DeepRegAttentionLib.training.run import (
    Machines,
    TrainingData,
    load_start,
    make_callbacks,
    make_trainer,
    train,
    with_settled_precision,
)
from helpers import distributed
from helpers.places import MODULE, REPOSITORY
from helpers.training import CONFIGURATION, tiny, write_blobs, write_configuration
from typer.testing import CliRunner


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_blobs(tmp_path)
    return tmp_path


RICH: dict[str, Any] = {
    "weights": {"labels": 1.0, "landmarks": 0.05},
    "structures": {"outside": 1, "core": 2},
    "augmentation": {"affine": {"probability": 1.0}, "noise": {"probability": 0.5, "range": [0, 0.05]}},
    "accumulate": 2,
    "steps": 4,
    "validate_every": 2,
}


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_a_run_leaves_model_checkpoint_logs_and_pictures(folder: Path) -> None:
    output = folder / "out"
    model = train(tiny(folder, **RICH), output)
    assert model == output / "tiny.safetensors"
    info = find_model(model).info
    measured = info.accuracy["validation"]
    assert set(measured) == {"dice", "dice_core", "dice_outside", "folds_percent", "similarity", "tre_mm"}
    assert 0.3 < measured["dice"] <= 1
    assert info.accuracy["cases"] == ["case3", "case4"]
    assert info.steps in (2, 4)
    load_model(model)
    assert (output / "last.ckpt").exists()
    (table,) = output.glob("log/*/metrics.csv")
    with table.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["val/dice"]]
    assert len(rows) == 2
    assert max(float(row["val/dice"]) for row in rows) == pytest.approx(measured["dice"], abs=1e-4)
    assert list(output.glob("log/*/events.out.tfevents*"))
    pictures = sorted(path.name for path in (output / "pictures").iterdir())
    assert pictures == ["step-000002.png", "step-000004.png"]


class PowerCut(TrainingProgress):
    """Ends the run when its second epoch begins."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("power cut")


def weights_of(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    return state


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_exactly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = tiny(folder, **RICH)
    train(options, folder / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(run, "TrainingProgress", PowerCut)
        with pytest.raises(RuntimeError, match="power cut"):
            train(options, folder / "halves")
    stopped = weights_of(folder / "halves" / "last.ckpt")
    assert stopped["global_step"] == 2
    with pytest.raises(OptionError, match="already holds a training"):
        train(options, folder / "halves")
    train(options, folder / "halves", resume=True)

    whole, halves = (weights_of(folder / name / "last.ckpt") for name in ("whole", "halves"))
    assert whole["global_step"] == halves["global_step"] == 4
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(halves["state_dict"][name], value, rtol=0, atol=0)
        assert not torch.equal(value, stopped["state_dict"][name]) or name.endswith(("key.bias", "earlier_steps"))
    moments = [state["optimizer_states"][0]["state"] for state in (whole, halves)]
    for n, values in moments[0].items():
        torch.testing.assert_close(moments[1][n]["exp_avg_sq"], values["exp_avg_sq"], rtol=0, atol=0)
    assert whole["lr_schedulers"] == halves["lr_schedulers"]
    best = [find_model(folder / name / "tiny.safetensors").info.accuracy for name in ("whole", "halves")]
    assert best[0] == best[1]


def test_a_resumed_run_keeps_the_precision_that_it_began_with(folder: Path) -> None:
    checkpoint = folder / "last.ckpt"
    for begun in ("bfloat16", "float32"):
        torch.save({"options": {"precision": begun}}, checkpoint)
        assert with_settled_precision(tiny(folder, precision="auto"), checkpoint).precision == begun
    assert with_settled_precision(tiny(folder, precision="auto"), None).precision in ("bfloat16", "float32")
    assert with_settled_precision(tiny(folder, precision="float32"), checkpoint).precision == "float32"


def test_a_run_with_other_settings_or_none_is_not_resumed(folder: Path) -> None:
    with pytest.raises(OptionError, match="holds no training to resume"):
        train(tiny(folder), folder / "out", resume=True)
    train(tiny(folder, steps=1, validation=[]), folder / "out")
    with pytest.raises(OptionError, match="begun with another “learning_rate”"):
        train(tiny(folder, steps=1, validation=[], learning_rate=0.5), folder / "out", resume=True)


def test_the_recommended_refinement_may_still_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = {"steps": 2, "validate_every": 1, "validation": []}
    with monkeypatch.context() as patched:
        patched.setattr(run, "TrainingProgress", PowerCut)
        with pytest.raises(RuntimeError, match="power cut"):
            train(tiny(folder, **short), folder / "out")
    model = train(tiny(folder, **short, refine=7, regularization=0.4), folder / "out", resume=True)
    info = find_model(model).info
    assert (info.refine, info.regularization) == (7, 0.4)


def test_without_validation_the_last_network_is_the_model(folder: Path) -> None:
    model = train(tiny(folder, steps=1, validation=[], network="adregnet"), folder / "out")
    info = find_model(model).info
    assert (info.accuracy, info.steps, info.network) == ({}, 1, "adregnet")
    weights = weights_of(folder / "out" / "last.ckpt")["state_dict"]
    for name, value in load_model(model).state_dict().items():
        torch.testing.assert_close(value, weights[f"network.{name}"].half().float())


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, r"“metadata\.modality” is missing"),
        ({**CONFIGURATION["metadata"], "license": "BSD"}, r"no setting “metadata\.license” .did you mean “licence”"),
        ({**CONFIGURATION["metadata"], "steps": 3}, r"no setting “metadata\.steps”"),
    ],
)
def test_what_the_model_file_lacks_is_said_before_the_training(folder: Path, metadata: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        train(tiny(folder, metadata=metadata), folder / "out")


def test_the_best_model_is_kept(folder: Path) -> None:
    options = tiny(folder)
    module = RegistrationTraining(options)
    keep = BestModel(folder / "best.safetensors", validated=True)
    trainer = make_trainer(options, callbacks=[keep], logger=False, enable_checkpointing=False)
    written = []
    for score in (0.5, 0.4, 0.6):
        trainer.callback_metrics.update({"val/score": torch.tensor(score), "val/dice": torch.tensor(score)})
        keep.on_validation_end(trainer, module)
        written.append(find_model(keep.path).info.accuracy["validation"]["dice"])
    assert written == pytest.approx([0.5, 0.5, 0.6])
    again = BestModel(folder / "best.safetensors", validated=True)
    again.load_state_dict(keep.state_dict())
    assert again.best == pytest.approx(0.6)
    assert validation_means({"val/a": torch.tensor(2.0), "train/b": torch.tensor(1.0)}) == {"a": 2.0}


def test_a_run_that_no_longer_improves_ends_early(folder: Path) -> None:
    # A step of length zero: no validation is better than the first.
    options = tiny(folder, steps=6, validate_every=1, patience=1, learning_rate=1e-30)
    train(options, folder / "out")
    assert weights_of(folder / "out" / "last.ckpt")["global_step"] == 2


def test_fine_tuning_starts_from_the_weights_of_a_model(folder: Path) -> None:
    first = train(tiny(folder, steps=1, validation=[]), folder / "first")
    again = train(tiny(folder, steps=1, validation=[], learning_rate=1e-30), folder / "again", start=str(first))
    before, after = load_model(first).state_dict(), load_model(again).state_dict()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0)
    assert find_model(again).info.steps == 2
    other = RegistrationTraining(tiny(folder, configuration={"channels": [4, 12]}))
    with pytest.raises(OptionError, match=r"must say network: drivenmorph, configuration: \{'channels': \[4, 8\]\}"):
        load_start(other, str(first))
    with pytest.raises(ModelError, match="There is no model “brian-t1”"):
        load_start(other, "brian-t1")


@pytest.mark.slow
def test_what_is_kept_stays_as_it_was_and_the_rest_learns(folder: Path) -> None:
    first = train(tiny(folder, steps=1, validation=[]), folder / "first")
    again = train(tiny(folder, steps=1, validation=[], keep=["encoder"]), folder / "again", start=str(first))
    before, after = (load_model(find_model(model)).state_dict() for model in (first, again))
    changed = {name for name, weights in before.items() if not torch.equal(weights, after[name])}
    assert any(name.startswith("encoder.") for name in before)
    assert changed
    assert not any(name.startswith("encoder.") for name in changed)


@pytest.mark.parametrize(
    ("keep", "words"), [(["encode"], "no part of the network; its parts are encoder"), (["all"], "nothing is left")]
)
def test_parts_that_are_none_or_all_are_refused(folder: Path, keep: list[str], words: str) -> None:
    network = build_network("drivenmorph", CONFIGURATION["configuration"])
    parts = [name for name, _ in network.named_children()] if keep == ["all"] else keep
    with pytest.raises(OptionError, match=words):
        RegistrationTraining(tiny(folder, keep=parts))


@pytest.mark.slow
def test_loader_processes_see_the_same_pairs(folder: Path) -> None:
    options = tiny(folder, **{**RICH, "steps": 1, "validate_every": 1, "accumulate": 1, "validation": []})
    here = list(TrainingData(options, 2).train_dataloader())
    there = list(
        TrainingData(
            tiny(folder, **{**RICH, "steps": 1, "validate_every": 1, "accumulate": 1, "validation": [], "workers": 1}),
            2,
        ).train_dataloader()
    )
    assert len(here) == len(there) == 1
    for name, value in here[0].items():
        torch.testing.assert_close(there[0][name], value, rtol=0, atol=0)


def test_synthetic_pairs_are_trained_on(folder: Path) -> None:
    data = {"synthetic": {"shape": [16, 16, 16], "shapes": 4}, "validation_pairs": 1}
    weights = {"similarity": 0.0, "labels": 1.0}
    model = train(tiny(folder, data=data, weights=weights, validation=[], steps=1), folder / "out")
    assert 0 < find_model(model).info.accuracy["validation"]["dice"] < 1


def test_volumes_smaller_than_a_kernel_are_trained_in_full_precision(folder: Path) -> None:
    module = RegistrationTraining(tiny(folder))
    seen: list[torch.dtype] = []
    module.network.encoder.stem.register_forward_hook(lambda *called: seen.append(called[2].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        for size in (4, 6):
            image = torch.rand(1, 1, 8, size, 8)
            module._register({"fixed": image, "moving": image})
    # Two images a registration; the coarsest level of the first is two voxels wide.
    assert seen == [torch.float32] * 2 + [torch.bfloat16] * 2


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_with_the_same_two_pairs(folder: Path) -> None:
    distributed.step(folder, 1)
    alone, alone_metrics = distributed.taken_from(folder)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "Testing"), str(MODULE)]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run(
        [*torchrun, "-m", "helpers.distributed", str(folder), "2"],
        env=environment,
        check=True,
        capture_output=True,
        timeout=300,
    )
    shared, shared_metrics = distributed.taken_from(folder)
    assert alone.keys() == shared.keys()
    largest = max(float(gradient.abs().max()) for gradient in alone.values())
    for name, gradient in alone.items():
        torch.testing.assert_close(shared[name], gradient, rtol=1e-4, atol=1e-6 * largest)
    for name in ("val/dice", "val/score", "val/tre_mm"):
        assert shared_metrics[name] == pytest.approx(alone_metrics[name], rel=1e-4)


def test_machines_that_are_none_are_refused(folder: Path) -> None:
    for machines in (Machines(strategy="ddpp"), Machines(accelerator="abacus")):
        with pytest.raises(OptionError, match="cannot run on these machines"):
            make_trainer(tiny(folder), machines, logger=False)
    for devices in ("-3", "0", "two"):
        with pytest.raises(OptionError, match="devices must be a number above 0 or auto"):
            Machines(devices=devices)


def test_an_interrupt_from_the_keyboard_is_a_cancellation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(TrainingProgress):
        def on_train_batch_start(self, *_: Any) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "TrainingProgress", Impatient)
    with pytest.raises(CancelledError, match="can be resumed"):
        train(tiny(folder), folder / "out")


def test_the_callbacks_end_with_the_checkpoint(folder: Path) -> None:
    options = tiny(folder, patience=3)
    kinds = [type(one).__name__ for one in make_callbacks(options, folder, folder / "m.safetensors", judged=True)]
    assert kinds == ["BestModel", "TrainingProgress", "Pictures", "EarlyStopping", "ModelCheckpoint"]


def test_durations_are_for_people() -> None:
    assert [duration(s) for s in (20, 100, 3600, 11100)] == ["20 s", "2 min", "1 h 00 min", "3 h 05 min"]


def test_the_picture_of_a_pair_has_four_parts_and_bent_lines() -> None:
    field = torch.zeros(1, 3, 8, 12, 16)
    field[:, 2] = 2 * torch.sin(torch.arange(12.0) / 2)[:, None]
    figure = draw_pair(torch.rand(1, 1, 8, 12, 16), torch.rand(1, 1, 8, 12, 16), field)
    assert [ax.get_title() for ax in figure.axes] == ["fixed", "moving", "warped", "grid"]
    lines = [path.vertices for part in figure.axes[3].collections for path in part.get_paths() if len(path.vertices)]
    assert (
        max(float(line[:, 0].ptp() if hasattr(line, "ptp") else line[:, 0].max() - line[:, 0].min()) for line in lines)
        > 2
    )


def test_heads_that_do_not_share_the_channels_are_refused_at_once() -> None:
    with pytest.raises(ModelError, match="10 channels on the coarsest level are no multiple of the 4 heads"):
        build_network("drivenmorph", {"channels": [4, 10]})


def test_the_command_trains_and_says_where_the_model_is(folder: Path) -> None:
    config = write_configuration(folder, steps=1, validation=[])
    done = command("train", config, "--data-root", folder, "--output", folder / "out")
    assert done.exit_code == 0, done.output
    assert "tiny.safetensors" in done.stdout
    assert "step 1 of 1" in done.stderr
    again = command("train", config, "--data-root", folder, "--output", folder / "out")
    assert (again.exit_code, "resume it or choose another folder" in again.stderr) == (2, True)
    refused = command("train", config, "--data-root", folder, "--output", folder / "b", "--strategy", "ddpp")
    assert (refused.exit_code, "cannot run on these machines" in refused.stderr) == (2, True)
