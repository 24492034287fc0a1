"""The accuracy benchmark: whom it measures, that a method's field means what it says, what it writes and records."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
import torch
from conftest import REPOSITORY, blob_image
from DeepRegAttentionLib.engine.images import warp_image
from DeepRegAttentionLib.engine.intensity import IntensityRecipe
from DeepRegAttentionLib.engine.metrics import dice, mean_over_labels
from DeepRegAttentionLib.engine.models import ModelInfo, find_model, list_models, register_model, save_model
from DeepRegAttentionLib.engine.networks import build_network
from training_common import tiny, write_blobs

sys.path.insert(0, str(REPOSITORY / "Testing" / "benchmarks"))
import accuracy


def rows_of(model: str, method: str, *overlaps: float) -> list[dict[str, Any]]:
    common = {"model": model, "method": method, "moving": "m", "hd95_mm": 2.5, "seconds": 3.0, "peak_gib": 1.0}
    regularity = {} if method == "unregistered" else {"folds_percent": 0.0, "sd_log_jacobian": 0.1}
    return [{**common, **regularity, "fixed": f"f{n}", "dice": value} for n, value in enumerate(overlaps)]


@pytest.mark.parametrize("model", [model.info.name for model in list_models()])
def test_each_shipped_model_is_measured_on_what_it_held_out(model: str, data_folder: Path) -> None:
    options, pairs = accuracy.reporting_pairs(model, data_folder, 5)
    assert 2 <= len(pairs) <= 5
    named = {case.name for pair in pairs for case in pair} | {case.group for pair in pairs for case in pair}
    assert named & set(options.test)
    assert not named & set(options.validation)
    assert all(case.labels is not None for pair in pairs for case in pair)


def test_demons_on_an_oblique_pair_bring_the_labels_together() -> None:
    fixed, moving = blob_image(), blob_image(shift=(4.0, -3.0, 3.0))
    labels = [sitk.Cast(image > 0.4, sitk.sitkInt16) for image in (fixed, moving)]
    found = accuracy.demons(fixed, moving, "")
    before = mean_over_labels(dice(labels[0], labels[1]))
    after = mean_over_labels(dice(labels[0], warp_image(labels[1], fixed, found.transform, nearest=True)))
    assert after > before + 0.05
    assert found.jacobian is not None
    assert sitk.GetArrayViewFromImage(found.jacobian).min() > 0


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
    row = accuracy._measure_pair(accuracy.unregistered, pair, "tiny", options)
    assert 0.3 < row["dice"] < 1
    assert row["dice"] == pytest.approx((row["dice_outside"] + row["dice_core"]) / 2)
    assert row["hd95_mm"] > 0
    assert "folds_percent" not in row


def test_the_results_are_written_as_table_text_and_figure(tmp_path: Path) -> None:
    rows = rows_of("a", "unregistered", 0.5, 0.7) + rows_of("a", "network", 0.8, 0.9) + rows_of("b", "network", 0.75)
    accuracy.write(rows, tmp_path / "out")
    with (tmp_path / "out" / "accuracy.csv").open(newline="") as file:
        assert [row["dice"] for row in csv.DictReader(file)] == ["0.5", "0.7", "0.8", "0.9", "0.75"]
    text = (tmp_path / "out" / "accuracy.md").read_text(encoding="utf-8")
    assert "## a, 2 pairs" in text
    assert "| unregistered | 0.600 ± 0.100 | 2.5 |  |  | 3 | 1 |" in text
    assert "| network | 0.850 ± 0.050 | 2.5 | 0 | 0.1 | 3 | 1 |" in text
    assert (tmp_path / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_the_accuracy_is_recorded_in_the_model_and_its_list(tmp_path: Path) -> None:
    configuration = {"channels": [4, 8]}
    torch.manual_seed(1)
    network = build_network("drivenmorph", configuration)
    extent = (40.0, 40.0, 40.0)
    info = ModelInfo("tiny", "drivenmorph", configuration, IntensityRecipe(), 2.0, 2, 1.0, "MR", "x", extent, True)
    save_model(network, info, tmp_path / "tiny.safetensors")
    register_model(tmp_path / "tiny.safetensors", tmp_path)
    write_blobs(tmp_path)
    rows = rows_of("tiny", accuracy.NETWORK, 0.8, 0.9) + rows_of("tiny", accuracy.REFINED, 0.9)
    accuracy.record(find_model("tiny", tmp_path), rows, tiny(tmp_path, test=["case0", "case1"]))
    kept = find_model("tiny", tmp_path).info.accuracy
    assert kept["network"] == {
        "pairs": 2,
        "dice": 0.85,
        "dice_sd": 0.05,
        "hd95_mm": 2.5,
        "folds_percent": 0.0,
        "sd_log_jacobian": 0.1,
    }
    assert kept["with_20_steps"]["dice"] == 0.9
    assert kept["cases"] == ["case0", "case1"]
    assert find_model(str(tmp_path / "tiny.safetensors")).info.accuracy == kept
    assert json.loads((tmp_path / "models.json").read_text())["models"][0]["accuracy"] == kept
