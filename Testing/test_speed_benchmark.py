"""The speed benchmark: what it keeps and repeats, what a row holds, and what its made body looks like."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.images import blob_image
from helpers.places import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "Testing" / "benchmarks"))
import speed

METHOD = "brain-t1"


def row(load: str, **measured: object) -> speed.Row:
    return {"pair": "96x96x96", "load": load, "method": METHOD, **measured}


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *more: str) -> None:
    command = ["speed.py", ".", "--output", str(folder), "--pairs", "96x96x96", "--methods", METHOD, *more]
    monkeypatch.setattr(sys, "argv", command)
    speed.main()


def test_what_was_measured_is_kept_and_what_failed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed.write([row("none", total=1.5), row("two", failed="no memory")], tmp_path)
    asked: list[str] = []
    monkeypatch.setattr(speed, "prepared", lambda *what: (Path("f"), Path("m")))
    monkeypatch.setattr(speed, "measure", lambda load, *rest: asked.append(load) or {"total": 3.0, "peak_gib": 1.25})
    run(monkeypatch, tmp_path, "--loads", "none", "two")
    assert asked == ["two"]
    assert [(r["load"], r["total"]) for r in speed.read_rows(tmp_path)] == [("none", "1.5"), ("two", "3.0")]
    assert "| two | 3 | " in (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert "| 2.00 |" in (tmp_path / "speed.md").read_text(encoding="utf-8")
    run(monkeypatch, tmp_path, "--loads", "none", "--again")
    assert asked == ["two", "none"]


@pytest.mark.slow
def test_a_row_that_fails_says_why(tmp_path: Path) -> None:
    for name in ("fixed.nrrd", "moving.nrrd"):
        (tmp_path / name).write_text("no image", encoding="utf-8")
    failed = speed.measure("none", METHOD, (tmp_path / "fixed.nrrd", tmp_path / "moving.nrrd"), 60)
    assert list(failed) == ["failed"]
    assert failed["failed"]
    speed.write([row("none", **failed)], tmp_path)
    assert speed.read_rows(tmp_path)[0]["failed"] == failed["failed"]


def test_a_row_holds_every_stage_and_what_was_written(tmp_path: Path) -> None:
    images = [tmp_path / f"{role}.nii.gz" for role in ("fixed", "moving")]
    for path, shift in zip(images, (0.0, 2.0)):
        sitk.WriteImage(blob_image(shift=(shift, 0, 0)), str(path))
    measured = speed.ours(f"{METHOD} + 1 steps", *images)
    stages = {"prealign", "network", "refine", "warp", "trust", "maps"}
    assert stages <= set(measured) <= set(speed.MEASURES)
    total = float(str(measured["total"]))
    assert sum(float(str(measured[name])) for name in stages) == pytest.approx(total, rel=0.2)
    assert float(str(measured["written_mb"])) > 0.5


def test_a_body_is_a_ct_of_a_thorax_and_breathes() -> None:
    still, moved = (speed.body((64, 64, 40), breath, seed=1) for breath in (0.0, 1.0))
    assert (still.GetPixelID(), still.GetSize()) == (sitk.sitkInt16, (64, 64, 40))
    values, other = sitk.GetArrayFromImage(still), sitk.GetArrayFromImage(moved)
    for low, high, least in ((-1024, -950, 0.2), (-900, -700, 0.05), (0, 90, 0.1), (300, 900, 0.005)):
        assert ((values >= low) & (values <= high)).mean() > least
    assert 20 < np.abs(values.astype(float) - other).mean() < 200


def test_every_size_has_methods_and_the_smaller_ones_other_programs() -> None:
    with_others = [name for name, images in speed.PAIRS.items() if set(speed._OTHERS) <= set(images.methods)]
    assert with_others == ["96x96x96", "160x192x160"]
    assert all({speed.FAST, speed.COMMAND} <= set(images.methods) for images in speed.PAIRS.values())
