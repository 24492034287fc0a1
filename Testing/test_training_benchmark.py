"""The accuracy benchmark: whom it measures, that a method's field means what it says, what it writes and records."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.engine.fields import warp
from DeepRegAttentionLib.engine.intensity import IntensityRecipe
from DeepRegAttentionLib.engine.metrics import dice, mean_over_labels
from DeepRegAttentionLib.engine.models.files import find_model, register_model, save_model
from DeepRegAttentionLib.engine.models.info import ModelInfo
from DeepRegAttentionLib.engine.models.listing import list_models
from DeepRegAttentionLib.engine.networks import build_network
from DeepRegAttentionLib.engine.resampling import warp_image
from DeepRegAttentionLib.engine.resources import resource_folder
from DeepRegAttentionLib.training.options import LossWeights, read_training_options
from helpers.images import blob_image
from helpers.places import REPOSITORY, real_data
from helpers.training import tiny, write_blobs

sys.path.insert(0, str(REPOSITORY / "Testing" / "benchmarks"))
import accuracy
import varying


def rows_of(task: str, method: str, *overlaps: float) -> list[dict[str, Any]]:
    common = {"task": task, "method": method, "moving": "m", "hd95_mm": 2.5, "seconds": 3.0, "peak_gib": 1.0}
    smooth = {"folds_percent": 0.0, "sd_log_jacobian": 0.1, "sd_log_jacobian_learn2reg": 0.02}
    regularity = {} if method == "unregistered" else smooth
    return [{**common, **regularity, "fixed": f"f{n}", "dice": value} for n, value in enumerate(overlaps)]


@pytest.mark.parametrize("task", accuracy.TASKS)
def test_each_task_is_measured_on_what_its_models_held_out(task: str) -> None:
    data = real_data({"brain": "lpba40", "hippocampus": "hippocampus", "heart": "acdc"}[task]).parent
    options, pairs = accuracy.reporting_pairs(accuracy.TASKS[task], data, 5)
    assert 2 <= len(pairs) <= 5
    named = {case.name for pair in pairs for case in pair} | {case.group for pair in pairs for case in pair}
    assert all(case.labels is not None for pair in pairs for case in pair)
    for model in accuracy.models_for(task):
        own = read_training_options(resource_folder("Training") / f"{model}.yaml")
        if own.data.cases is not None:
            assert (own.test, own.validation) == (options.test, options.validation)
    assert named & set(options.test)
    assert not named & set(options.validation)


def test_every_shipped_model_is_measured() -> None:
    measured = {model for task in accuracy.TASKS for model in accuracy.models_for(task)}
    assert measured == {model.info.name for model in list_models()}
    for task in accuracy.TASKS:
        names = list(accuracy.methods(task))
        assert {"unregistered", "antspyx SyN", "picsl-greedy", "elastix B-spline", "SimpleITK Demons"} <= set(names)
        assert {accuracy.refined(model) for model in accuracy.models_for(task)} <= set(names)


def test_an_unknown_method_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["accuracy.py", str(tmp_path), "--tasks", "heart", "--methods", "nonsense"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        accuracy.main()
    assert "there is no method “nonsense”; the methods are ConvexAdam, SimpleITK Demons" in capsys.readouterr().err


def test_other_contrasts_keep_the_background_and_the_shape() -> None:
    image = blob_image()
    values = sitk.GetArrayFromImage(image)
    negative = sitk.GetArrayFromImage(accuracy.inverted(image))
    shown = values > 0.1 * values.max()
    assert np.corrcoef(values[shown], negative[shown])[0, 1] == pytest.approx(-1)
    assert negative[values <= 0].max(initial=0) == 0 < negative[shown].min()
    dark = sitk.GetArrayFromImage(accuracy.darkened(image))
    assert dark.max() == pytest.approx(values.max())
    np.testing.assert_allclose(dark[shown], values[shown] ** 2 / values.max(), rtol=1e-5)
    found = accuracy.changed(accuracy.inverted, accuracy.unregistered)(image, image)
    assert found.transform.TransformPoint((1.0, 2.0, 3.0)) == (1, 2, 3)


def jacobian_on_an_oblique_pair(method: accuracy.Method) -> sitk.Image:
    """That of a method, once it has brought the labels together; on the fixed grid."""
    fixed, moving = blob_image(), blob_image(shift=(4.0, -3.0, 3.0))
    labels = [sitk.Cast(image > 0.4, sitk.sitkInt16) for image in (fixed, moving)]
    found = method(fixed, moving)
    before = mean_over_labels(dice(labels[0], labels[1]))
    after = mean_over_labels(dice(labels[0], warp_image(labels[1], fixed, found.transform, nearest=True)))
    assert after > before + 0.05
    assert found.jacobian is not None
    assert found.jacobian.GetSize() == fixed.GetSize()
    return found.jacobian


@pytest.mark.slow
def test_demons_on_an_oblique_pair_bring_the_labels_together() -> None:
    assert sitk.GetArrayViewFromImage(jacobian_on_an_oblique_pair(accuracy.demons)).min() > 0


@pytest.mark.slow
def test_convex_adam_on_an_oblique_pair_brings_the_labels_together() -> None:
    pytest.importorskip("convexAdam")
    jacobian_on_an_oblique_pair(accuracy.convex_adam)


@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), (0.0, 0.0, 180.0), (15.0, 40.0, -20.0)])
def test_the_volume_change_of_a_field_does_not_depend_on_how_the_image_lies(degrees: tuple[float, ...]) -> None:
    image = blob_image(degrees=degrees)
    growth = sitk.AffineTransform(3)
    growth.SetMatrix((1.2, 0.0, 0.0, 0.0, 1.1, 0.0, 0.0, 0.0, 1.0))
    field = sitk.TransformToDisplacementField(
        growth, sitk.sitkVectorFloat32, image.GetSize(), image.GetOrigin(), image.GetSpacing(), image.GetDirection()
    )
    jacobian = accuracy._by_field(field).jacobian
    assert jacobian is not None
    np.testing.assert_allclose(sitk.GetArrayFromImage(jacobian)[2:-2, 2:-2, 2:-2], 1.2 * 1.1, atol=1e-3)


def test_a_pair_is_measured_with_its_structures_and_centred_grids(tmp_path: Path) -> None:
    write_blobs(tmp_path)
    path = str(tmp_path / "blobs" / "images" / "case1.nii.gz")
    image = sitk.ReadImage(path)
    image.SetOrigin([500.0, 0.0, 0.0])
    sitk.WriteImage(image, path)
    labels = sitk.ReadImage(path.replace("images", "labels"))
    labels.SetOrigin([500.0, 0.0, 0.0])
    sitk.WriteImage(labels, path.replace("images", "labels"))
    options = tiny(tmp_path, structures={"outside": 1, "core": 2})
    pair = accuracy.choose_pairs(accuracy.read_cases(tmp_path / "blobs"))[0]
    row = accuracy._measure_pair(accuracy.unregistered, pair, options)
    assert 0.3 < row["dice"] < 1
    assert row["dice"] == pytest.approx((row["dice_outside"] + row["dice_core"]) / 2)
    assert row["hd95_mm"] > 0
    assert -1 < row["ncc"] < 1
    assert -1 < row["ssim"] < 1
    assert "folds_percent" not in row


def test_the_results_are_written_as_table_text_and_figure(tmp_path: Path) -> None:
    rows = rows_of("a", "unregistered", 0.5, 0.7) + rows_of("a", "network", 0.8, 0.9) + rows_of("b", "network", 0.75)
    accuracy.write(rows, tmp_path / "out")
    with (tmp_path / "out" / "accuracy.csv").open(newline="", encoding="utf-8") as file:
        assert [row["dice"] for row in csv.DictReader(file)] == ["0.5", "0.7", "0.8", "0.9", "0.75"]
    text = (tmp_path / "out" / "accuracy.md").read_text(encoding="utf-8")
    assert "a, 2 pairs" in text
    assert "| unregistered | 0.600 ± 0.100 | 2.5 |  |  |  |  |  |" in text
    assert "| network | 0.850 ± 0.050 | 2.5 | 0 | 0.1 | 0.02 | 3 | 1 |" in text
    assert (tmp_path / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_the_documentation_holds_the_means_of_the_committed_measurements() -> None:
    rows = accuracy.in_order(accuracy.measured_before(REPOSITORY / "Testing" / "benchmarks", []))
    assert len(rows) > 100
    text = accuracy.DOCUMENT.read_text(encoding="utf-8")
    assert text.split(accuracy.BEGINNING)[1].split(accuracy.END)[0] == accuracy.tables(rows)


def test_centroids_are_as_far_apart_as_the_structures(make_image) -> None:
    labels = sitk.Cast(make_image() > 0.4, sitk.sitkUInt8)
    moved = sitk.Image(labels)
    moved.SetOrigin([place + step for place, step in zip(labels.GetOrigin(), (3.0, 0.0, 4.0))])
    assert accuracy.centroid_distances(labels, moved) == {1: pytest.approx(5.0)}


def test_new_measurements_replace_the_tables_of_the_documentation_alone(tmp_path: Path) -> None:
    document = tmp_path / "docs" / "accuracy.md"
    for folder in (document.parent, tmp_path / "Resources", tmp_path / "Testing" / "benchmarks"):
        folder.mkdir(parents=True)
    document.write_text(f"before\n{accuracy.BEGINNING}old\n{accuracy.END}\nafter\n", encoding="utf-8")
    rows = rows_of("brain", "brain-t1 + 20 steps", 0.8, 0.9)
    accuracy.write(rows, tmp_path / "out")
    accuracy.publish(rows, tmp_path / "out", document)
    text = document.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old\n" not in text
    assert "| `brain-t1` + 20 steps | 0.850 ± 0.050 |" in text
    assert (tmp_path / "Testing" / "benchmarks" / "accuracy.csv").is_file()
    assert (tmp_path / "Resources" / "accuracy.png").is_file()


def test_what_was_measured_before_stays_in_the_table_in_its_place(tmp_path: Path) -> None:
    before = rows_of("heart", "unregistered", 0.5) + rows_of("brain", "antspyx SyN", 0.6) + rows_of("brain", "old", 0.1)
    accuracy.write(before, tmp_path)
    now = rows_of("brain", "antspyx SyN", 0.7) + rows_of("brain", "unregistered", 0.3)
    together = accuracy.in_order([*accuracy.measured_before(tmp_path, now), *now])
    found = [(row["task"], row["method"], float(str(row["dice"]))) for row in together]
    assert found == [("brain", "unregistered", 0.3), ("brain", "antspyx SyN", 0.7), ("heart", "unregistered", 0.5)]
    accuracy.write(together, tmp_path)
    assert "folds_percent" not in accuracy.measured_before(tmp_path, [])[0]


def test_the_accuracy_is_recorded_in_the_model_and_its_list(tmp_path: Path) -> None:
    configuration = {"channels": [4, 8]}
    torch.manual_seed(1)
    network = build_network("drivenmorph", configuration)
    extent = (40.0, 40.0, 40.0)
    info = ModelInfo("tiny", "drivenmorph", configuration, IntensityRecipe(), 2.0, 2, 1.0, 5, "MR", "x", extent, True)
    save_model(network, info, tmp_path / "tiny.safetensors")
    register_model(tmp_path / "tiny.safetensors", tmp_path)
    rows = rows_of("a", "tiny", 0.8, 0.9) + rows_of("a", accuracy.refined("tiny"), 0.9) + rows_of("b", "SyN", 0.5)
    accuracy.record(find_model("tiny", tmp_path), rows)
    kept = find_model("tiny", tmp_path).info.accuracy
    assert list(kept) == ["data", "a", "a_refined"]
    assert kept["a"] == {
        "pairs": 2,
        "dice": 0.85,
        "dice_sd": 0.05,
        "hd95_mm": 2.5,
        "folds_percent": 0.0,
        "sd_log_jacobian": 0.1,
        "sd_log_jacobian_learn2reg": 0.02,
    }
    assert kept["a_refined"]["dice"] == 0.9
    assert find_model(str(tmp_path / "tiny.safetensors")).info.accuracy == kept
    assert json.loads((tmp_path / "models.json").read_text(encoding="utf-8"))["models"][0]["accuracy"] == kept


@pytest.mark.slow
def test_each_arm_of_the_study_of_the_local_strength_is_tuned_trained_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_blobs(tmp_path)
    plain = replace(tiny(tmp_path, structures={"outside": 1, "core": 2}), weights=LossWeights(), steps=1)
    pairs = accuracy.choose_pairs(accuracy.read_cases(tmp_path / "blobs"))[:3]
    monkeypatch.setattr(varying, "reporting_pairs", lambda *asked: (plain, pairs))
    monkeypatch.setattr(varying, "unsupervised", lambda *asked: plain)
    monkeypatch.setattr(varying, "SEEDS", (1, 2))
    arguments = argparse.Namespace(data=tmp_path, output=tmp_path / "study", trials=4, pairs=3)
    outcome = varying.compared("heart", arguments)
    for name, arm in outcome.arms.items():
        assert set(arm.study.best_params) == set(varying.ARMS[name])
        assert arm.study.best_value == min(trial.values[0] for trial in varying.completed(arm.study)) > 0
        assert arm.dice.shape == (2, 3)
        strength = varying.trained(varying.with_arm(plain, name))(*torch.rand(2, 1, 1, 8, 8, 8)).regularization
        assert (strength is not None) == (name != "uniform")
    text = varying.table({"heart": outcome})
    assert [row.split(" | ")[1] for row in text.splitlines()[2:]] == ["unregistered", *varying.ARMS]
    varying.write_trials({"heart": outcome}, tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open(encoding="utf-8") as file:
        assert [row["arm"] for row in csv.DictReader(file)] == [name for name in varying.ARMS for _ in range(4)]
    varying.tuning_figure({"heart": outcome}).savefig(tmp_path / "tuning.png")
    # Nothing is done twice.
    monkeypatch.setattr(varying, "trained", None)
    assert varying.table({"heart": varying.compared("heart", arguments)}) == text


def test_an_image_that_was_moved_is_brought_back_by_the_truth(tmp_path: Path) -> None:
    write_blobs(tmp_path)
    options = tiny(tmp_path)
    known = varying.moved_images(options)
    assert varying.known_error([one.truth for one in known], known, options) == 0
    still = varying.known_error([torch.zeros_like(one.truth) for one in known], known, options)
    assert still == pytest.approx(
        options.spacing * np.mean([one.truth.norm(dim=1, keepdim=True)[one.counts].mean() for one in known])
    )
    before, after = (
        sum(float((image - one.fixed)[one.counts].abs().mean()) for one, image in zip(known, images))
        for images in ([one.moving for one in known], [warp(one.moving, one.truth) for one in known])
    )
    assert after < 0.7 * before
