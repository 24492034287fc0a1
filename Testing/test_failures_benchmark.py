"""The benchmark of the verdict: images are spoiled as they should be, limits keep their promise, tables count right."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.engine.trust.verdict import judge
from helpers.images import blob_image
from helpers.places import REPOSITORY, real_data

sys.path.insert(0, str(REPOSITORY / "Testing" / "benchmarks"))
import limits
import trials
import verdicts
from spoiled import Subject


@pytest.fixture(scope="module")
def subject() -> Subject:
    """An oblique, anisotropic object that lies off centre, and its bright part as a label."""
    image = blob_image(size=(40, 36, 32))
    return Subject(image, sitk.Cast(image > 0.6, sitk.sitkUInt8))


def spoil(subject: Subject, name: str, seed: int = 4) -> Subject:
    return trials.SPOILS[name](subject, np.random.default_rng(seed))


def array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


@pytest.mark.parametrize("name", trials.SPOILS)
def test_spoiling_changes_a_copy_in_the_same_way_each_time(subject: Subject, name: str) -> None:
    before = array(subject.image), subject.image.GetOrigin(), subject.image.GetDirection()
    one, other = spoil(subject, name), spoil(subject, name)
    np.testing.assert_array_equal(array(one.image), array(other.image))
    assert one.image.GetDirection() == other.image.GetDirection()
    np.testing.assert_array_equal(array(subject.image), before[0])
    assert (subject.image.GetOrigin(), subject.image.GetDirection()) == before[1:]
    same = one.image.GetSize() == subject.image.GetSize() and one.image.GetDirection() == before[2]
    assert not (same and np.array_equal(array(one.image), before[0])), "something is spoiled"


@pytest.mark.parametrize("name", ["mirrored", "half", "left", "turned"])
def test_structures_go_where_the_image_goes(subject: Subject, name: str) -> None:
    found = spoil(subject, name)
    assert found.labels is not None
    np.testing.assert_array_equal(array(found.labels), array(sitk.Cast(found.image > 0.6, sitk.sitkUInt8)))
    assert found.labels.GetOrigin() == found.image.GetOrigin()
    assert found.labels.GetDirection() == found.image.GetDirection()


@pytest.mark.parametrize("name", ["lesion", "bias", "motion", "inverted"])
def test_structures_stay_where_the_patient_stays(subject: Subject, name: str) -> None:
    found = spoil(subject, name)
    assert found.labels is subject.labels
    assert found.image.GetOrigin() == subject.image.GetOrigin()


def test_half_of_the_field_of_view_lies_where_it_lay(subject: Subject) -> None:
    half = spoil(subject, "half").image
    assert np.prod(half.GetSize()) == np.prod(subject.image.GetSize()) / 2
    there = sitk.Resample(subject.image, half)
    np.testing.assert_allclose(array(there), array(half), atol=1e-5)


def test_mirroring_exchanges_left_and_right(subject: Subject) -> None:
    twice = spoil(spoil(subject, "mirrored"), "mirrored")
    np.testing.assert_array_equal(array(twice.image), array(subject.image))
    np.testing.assert_array_equal(array(spoil(subject, "mirrored").image), np.flip(array(subject.image), 2))


def test_turning_is_by_60_degrees_about_the_middle(subject: Subject) -> None:
    found = spoil(subject, "turned").image
    before, after = (np.array(image.GetDirection()).reshape(3, 3) for image in (subject.image, found))
    cosine = (np.trace(after @ before.T) - 1) / 2
    assert np.degrees(np.arccos(cosine)) == pytest.approx(60, abs=1e-3)
    middle = [(n - 1) / 2 for n in found.GetSize()]
    points = [image.TransformContinuousIndexToPhysicalPoint(middle) for image in (subject.image, found)]
    np.testing.assert_allclose(*points, atol=1e-6)


def test_left_and_right_halves_make_the_whole(subject: Subject) -> None:
    halves = [array(spoil(subject, side).image) for side in ("left", "right")]
    np.testing.assert_allclose(sum(halves), array(subject.image), atol=1e-6)
    assert all(half.any() for half in halves)


def test_a_lesion_is_inside_and_local(subject: Subject) -> None:
    change = np.abs(array(spoil(subject, "lesion").image) - array(subject.image))
    assert change.max() > 0.15
    assert 0.002 < (change > 0.1).mean() < 0.2
    assert change[array(subject.image) < 0.02].mean() < 0.05


# Limits


def evidence(count: int, seed: int = 0) -> list[dict[str, float]]:
    noise = np.random.default_rng(seed)
    return [{"similarity": float(noise.normal(0.8, 0.05)), "moved_percent": float(np.exp(noise.normal(1.0, 0.2)))}
            for _ in range(count)]  # fmt: skip


def test_limits_spare_good_pairs_and_notice_others() -> None:
    fitted = limits.fit(evidence(60))
    others = [judge(one, fitted)[0] for one in evidence(400, seed=1)]
    assert np.mean([grade != "pass" for grade in others]) < 0.05
    assert judge({"similarity": 0.3, "moved_percent": 3.0}, fitted)[0] == "fail"
    assert judge({"similarity": 0.8, "moved_percent": 30.0}, fitted)[0] == "fail"
    assert judge({"similarity": 0.99, "moved_percent": 0.1}, fitted)[0] == "pass", "better than usual is no reason"


def test_pairs_that_are_very_alike_set_no_narrow_limits() -> None:
    fitted = limits.fit([{"similarity": 0.9, "rotation_deg": 0.1, "size": 1.02}] * 20)
    assert judge({"similarity": 0.88, "rotation_deg": 25.0, "size": 1.5}, fitted)[0] == "pass"
    assert judge({"similarity": 0.9, "rotation_deg": 60.0, "size": 1.0}, fitted)[0] == "review"
    assert judge({"similarity": 0.9, "rotation_deg": 0.0, "size": 3.0}, fitted)[0] == "fail"


def test_what_nobody_has_fitted_gets_the_loosest_limits() -> None:
    one, other = (
        limits.fit(evidence(60)),
        limits.fit([{**e, "similarity": e["similarity"] - 0.3} for e in evidence(60)]),
    )
    common = limits.loosest({"one": one, "other": other})
    assert common["similarity"].review == other["similarity"].review
    assert common["moved_percent"].review == max(one["moved_percent"].review, other["moved_percent"].review)
    assert judge({"similarity": 0.45, "moved_percent": 3.0}, common)[0] == "pass"


# Tables


def row(kind: str, grade: str, dice: Any, pair: int = 0, model: str = "hippocampus-mr") -> dict[str, Any]:
    reasons = [] if grade == "pass" else ["similarity"]
    names = {"fixed": ["hippocampus", f"f{pair}"], "moving": ["hippocampus", f"m{pair}"]}
    return {"kind": kind, "model": model, "grade": grade, "dice": dice, "reasons": reasons, **names}


def test_the_table_counts_what_is_wrong_and_what_is_noticed() -> None:
    rows = [row("good", "pass", 0.8, n) for n in range(4)]
    rows += [row("mirrored", "fail", 0.3, 0), row("mirrored", "pass", 0.5, 1), row("mirrored", "review", 0.79, 2)]
    rows += [row("organ", "fail", None, 3), row("lesion", "pass", 0.78, 0)]
    lines = {line.split(" | ")[0]: line for line in verdicts.failure_table(rows)}
    assert "| 3 | 0.80 → 0.53 | 2 | 67 % | 50 % | 33 % | local correlation |" in lines["| **left and right exchanged**"]
    assert "| 1 | – | 1 | 100 % | 100 % | 100 % |" in lines["| **another organ**"]
    assert "| 1 | 0.80 → 0.78 | 0 | 0 % | – | 0 % |" in lines["| a lesion in one image"]
    assert "| 4 | 0.80 → 0.53 | 3 | 75 % | 67 % | 50 % |" in lines["| all gross failures (bold)"]
    alarms = verdicts.alarm_table([*rows, row("good", "review", 0.8, 5)])
    assert alarms[-1] == "| all | 5 | 20 % | 0 % |"


def test_a_trial_that_was_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(verdicts, "prepare_process", lambda: None)
    monkeypatch.setattr(verdicts, "run", lambda trial, cases: {"kind": done.append(trial.kind) or trial.kind})
    some = [trials.Trial("good", "none", ("heart", "a"), ("heart", name)) for name in "bcb"]
    for count in (1, 3):
        rows = verdicts.done(some[:count], None, tmp_path / "new" / "rows.jsonl")
    assert [found["key"] for found in rows] == [some[0].key, some[1].key]
    assert len(done) == 2


def test_what_reports_was_never_fitted_or_trained_on() -> None:
    root = real_data("lpba40").parent
    cases = trials.Cases(root)
    for task in (*trials.RECIPES, trials.OTHER_BRAINS):
        parts = [set(cases.names(task, part)) for part in ("fit", "report", "trained")]
        assert not parts[1] & (parts[0] | parts[2])
        assert parts[0]
        assert parts[1]
    fit, report = ({case for trial in trials.good_trials(cases, part, 30) for case in (trial.fixed, trial.moving)}
                   for part in trials.PARTS)  # fmt: skip
    bad = {case for trial in trials.bad_trials(cases, "report", 4) for case in (trial.fixed, trial.moving)}
    assert not fit & (report | bad)
    kinds = {trial.kind for trial in trials.bad_trials(cases, "report", 4)}
    assert kinds == set(trials.KINDS) - {trials.GOOD_INVERTED}
