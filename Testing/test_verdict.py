"""The verdict on a pair: its rules, what each reason takes to be one, and what people are told."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.case import say_verdict
from DeepRegAttentionLib.cli import app
from DeepRegAttentionLib.engine.errors import ModelError
from DeepRegAttentionLib.engine.evaluation import evaluate_labels
from DeepRegAttentionLib.engine.fields import warp
from DeepRegAttentionLib.engine.geometry import Grid
from DeepRegAttentionLib.engine.hardware import limited_threads
from DeepRegAttentionLib.engine.models.files import find_model
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.engine.resources import resource_folder
from DeepRegAttentionLib.engine.result import RegistrationResult
from DeepRegAttentionLib.engine.trust.evidence import Answer, gather
from DeepRegAttentionLib.engine.trust.verdict import GRADES, MANY, Limit, judge, read_limits
from DeepRegAttentionLib.engine.working_pair import WorkingPair
from DeepRegAttentionLib.report.verdict import verdict_box
from DeepRegAttentionLib.terms.palettes import GRADE_COLOURS
from DeepRegAttentionLib.terms.verdict import direction_text, reason_text, verdict_of, worst_places
from helpers.images import blob_image, rotation, textured_ball
from torch import Tensor
from typer.testing import CliRunner

LIMITS = read_limits(resource_folder("Trust") / "verdict.json")
ONE_MODEL = "brain-t1"
FAST = RegistrationOptions(model="none", prealign="none", refine=2, spacing=3.0, maps=False)


def evidence_at(limits: dict[str, Limit], badness: dict[str, float]) -> dict[str, float]:
    """Evidence that is so bad: 0 at the limit of review, 1 at that of fail; usual where nothing is said."""
    worse = {key: limits[key].review + bad * (limits[key].fail - limits[key].review) for key, bad in badness.items()}
    return {**{key: limit.usual for key, limit in limits.items()}, **worse}


@pytest.fixture(scope="module")
def found() -> RegistrationResult:
    return register(blob_image(), blob_image(shift=(2.0, -1.0, 1.0)), FAST)


# The rules


@pytest.mark.parametrize("method", LIMITS)
def test_usual_evidence_passes_and_each_piece_can_fail_alone(method: str) -> None:
    limits = LIMITS[method]
    assert judge(evidence_at(limits, {}), limits) == ("pass", [])
    for key in limits:
        for badness, grade in ((-0.1, "pass"), (0.3, "review"), (1.2, "fail")):
            got, reasons = judge(evidence_at(limits, {key: badness}), limits)
            assert got == grade
            assert [(reason.key, reason.grade) for reason in reasons] == ([] if grade == "pass" else [(key, grade)])


def test_worse_evidence_never_makes_a_better_grade_or_fewer_reasons() -> None:
    rng = np.random.default_rng(2)
    limits = LIMITS["any"]
    for _ in range(200):
        before = dict(zip(limits, rng.normal(-0.5, 0.8, len(limits))))
        after = {key: bad + max(0.0, rng.normal()) for key, bad in before.items()}
        (grade, reasons), (worse, more) = (judge(evidence_at(limits, bad), limits) for bad in (before, after))
        assert GRADES.index(worse) >= GRADES.index(grade)
        assert {reason.key for reason in reasons} <= {reason.key for reason in more}
        assert (grade == "pass") == (not reasons)


def test_many_reasons_to_look_are_one_to_refuse() -> None:
    limits = LIMITS["any"]
    for count, grade in ((1, "review"), (MANY - 1, "review"), (MANY, "fail")):
        assert judge(evidence_at(limits, dict.fromkeys(list(limits)[:count], 0.5)), limits)[0] == grade


def test_the_worst_reason_comes_first_and_absent_evidence_is_no_reason() -> None:
    limits = LIMITS["any"]
    one, other = list(limits)[:2]
    evidence = evidence_at(limits, {one: 0.2, other: 0.9})
    assert [reason.key for reason in judge(evidence, limits)[1]] == [other, one]
    del evidence[other]
    assert [reason.key for reason in judge(evidence, limits)[1]] == [one]


@pytest.mark.parametrize("limits", [(1.0, 1.0, 0.0), (1.0, 0.5, 0.5), (1.0, 0.5, 0.7), (1.0, 2.0, math.nan)])
def test_limits_that_make_no_order_are_refused(limits: tuple[float, float, float]) -> None:
    with pytest.raises(ModelError):
        Limit(*limits)


def test_a_damaged_file_of_limits_is_told(tmp_path: Path) -> None:
    (tmp_path / "verdict.json").write_text('{"methods": [{"method": "any"}]}', encoding="utf-8")
    with pytest.raises(ModelError, match=r"verdict\.json cannot be read"):
        read_limits(tmp_path / "verdict.json")


# What is taken for a reason


def texture(seed: int = 0) -> Tensor:
    return textured_ball(32, 40, 36, sigma=1.6, seed=seed)


def answer_of(fixed: Tensor, moving: Tensor, displacement: Optional[Tensor] = None, **other: Any) -> Answer:
    """An answer on an oblique grid of 2 mm, far from the origin."""
    shape = fixed.shape[2:]
    direction = tuple(rotation((5.0, -8.0, 6.0)).flatten().tolist())
    grid = Grid((shape[2], shape[1], shape[0]), (2.0,) * 3, (30.0, -80.0, 200.0), direction)
    found = torch.zeros(1, 3, *shape) if displacement is None else displacement
    mask = other.pop("mask", None)
    volume = 8.0 * float((moving > 0.02).sum())
    given = {"linear": sitk.AffineTransform(3), "moving_mm3": volume, "expected_error": {"p95_mm": 2.5}, **other}
    return Answer(WorkingPair(fixed, moving, mask), found, grid, **given)


def reasons_of(answer: Answer) -> dict[str, str]:
    """Grades by evidence, by the limits of a model for one anatomy."""
    return {reason.key: reason.grade for reason in judge(gather(answer), LIMITS[ONE_MODEL])[1]}


def wavy(shape: tuple[int, ...], voxels: float, period: float) -> Tensor:
    """A displacement along j that goes up and down by so many voxels."""
    waves = voxels * torch.sin(2 * math.pi * torch.arange(shape[1]) / period)
    displacement = torch.zeros(1, 3, *shape)
    displacement[:, 1] = waves[:, None]
    return displacement


def turned(degrees: float, stretch: float = 1.0) -> sitk.AffineTransform:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix((rotation((0.0, 0.0, degrees)) @ np.diag((stretch, 1.0, 1.0))).flatten().tolist())
    return transform


def failures() -> dict[str, tuple[str, Answer]]:
    """For each piece of evidence an answer that it should speak against, by how the test is called."""
    one, other = texture(), texture(seed=1)
    shape = tuple(one.shape[2:])
    inside = (one > 0).float()
    half = torch.ones_like(one)
    half[..., : shape[2] // 2] = 0
    large = find_model(ONE_MODEL).info
    moved_on = torch.zeros(1, 3, *shape)
    moved_on[:, 2] = 14.0
    return {
        "another object": ("similarity", answer_of(one, other)),
        "a deformation that spoils": ("gain", answer_of(one, one, wavy(shape, 3.0, 14.0))),
        "a negative": ("contrast", answer_of(one, inside * (1.1 - one))),
        "objects beside each other": ("overlap", answer_of(one, one.roll(14, 4))),
        "half of the fixed object seen": ("seen", answer_of(one, one * half, mask=half)),
        "a part of the moving object": ("seen", answer_of(one, one, moving_mm3=4 * 8.0 * float(inside.sum()))),
        "left and right exchanged": ("handedness", answer_of(one, one.flip(4))),
        "turned": ("rotation_deg", answer_of(one, one, linear=turned(75.0))),
        "stretched": ("stretch", answer_of(one, one, linear=turned(0.0, 1.9))),
        "moved far": ("moved_percent", answer_of(one, one, 2 * moved_on)),
        "an object of another size": ("size", answer_of(one, one, made_for=large)),
        "folds": ("folds_percent", answer_of(one, one, wavy(shape, 3.0, 8.0))),
        "squeezed": ("shrinking", answer_of(one, one, wavy(shape, 3.0, 8.0))),
        "blown up": ("growing", answer_of(one, one, wavy(shape, 40.0, 12.0))),
        "a large error expected": ("expected_voxels", answer_of(one, one, expected_error={"p95_mm": 14.0})),
    }


def test_an_answer_that_is_right_gives_no_reason() -> None:
    assert reasons_of(answer_of(texture(), texture())) == {}
    shifted = torch.zeros(1, 3, 32, 40, 36)
    shifted[:, 2] = 1.5
    moved = warp(texture(), -shifted)
    assert reasons_of(answer_of(texture(), moved, shifted)) == {}


@pytest.mark.parametrize("name", failures())
def test_each_kind_of_evidence_speaks_against_its_failure(name: str) -> None:
    key, answer = failures()[name]
    assert key in reasons_of(answer)


def test_every_piece_of_evidence_has_its_failure() -> None:
    assert {key for key, _ in failures().values()} == set(LIMITS[ONE_MODEL])


def test_where_an_alignment_was_given_to_start_from_it_speaks_against_nothing() -> None:
    image = texture()
    assert reasons_of(answer_of(image, image, linear=None)) == {}
    assert not {"rotation_deg", "stretch"} & set(gather(answer_of(image, image, linear=None)))


def test_empty_images_are_judged_and_do_not_pass() -> None:
    nothing = torch.zeros(1, 1, 16, 16, 16)
    evidence = gather(answer_of(nothing, nothing))
    assert all(math.isfinite(value) for value in evidence.values())
    assert judge(evidence, LIMITS[ONE_MODEL])[0] == "fail"


def test_intensities_and_where_the_images_lie_do_not_matter() -> None:
    one, other = texture(), texture(seed=1)
    first = gather(answer_of(one, other))
    again = gather(replace(answer_of(one, other), grid=replace(answer_of(one, other).grid, origin=(-900.0, 5.0, 7.0))))
    assert again == pytest.approx(first)


# In words


@pytest.mark.parametrize("method", LIMITS)
def test_every_reason_is_a_sentence_with_its_number(method: str) -> None:
    for key, limit in LIMITS[method].items():
        _, reasons = judge(evidence_at(LIMITS[method], {key: 1.5}), {key: limit})
        sentence = reason_text(vars(reasons[0]))
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        assert any(character.isdigit() for character in sentence)
        assert "{" not in sentence


def test_directions_are_those_of_the_patient() -> None:
    centre, half = (10.0, 20.0, 30.0), (70.0, 90.0, 60.0)
    assert direction_text((-40.0, -50.0, 31.0), centre, half) == "right anterior part"
    assert direction_text((60.0, 25.0, 70.0), centre, half) == "left superior part"
    assert direction_text((12.0, 100.0, -20.0), centre, half) == "posterior inferior part"
    assert direction_text((12.0, 22.0, 28.0), centre, half) == "middle"


def metrics_with(grade: str, reasons: list[dict[str, Any]], folds: float = 0.0, label: int = 0) -> dict[str, Any]:
    place = {"point_lps_mm": [-60.0, 0.0, 0.0], "expected_mm": 6.2, "bound_mm": 11.4, "label": label}
    frame = {"centre_lps_mm": [0.0, 0.0, 0.0], "half_extent_mm": [70.0, 90.0, 60.0]}
    return {
        "verdict": {"grade": grade, "reasons": reasons, "evidence": {}, "object": frame},
        "expected_error": {"confidence": 0.9, "worst": [place]},
        "jacobian": {"fold_percent": folds},
    }


FEW = {"key": "overlap", "grade": "review", "value": 0.71, "usual": 0.98, "limit": 0.85}


def test_a_verdict_says_why_and_where() -> None:
    passed = verdict_of(metrics_with("pass", []))
    assert passed is not None
    assert passed.title == "Pass"
    assert passed.sentence == "The right part may be off by 6 mm; folds: none."
    judged = verdict_of(metrics_with("review", [FEW], folds=0.123, label=7), {7: "Right temporal pole"})
    assert judged is not None
    assert judged.sentence == f"{judged.reasons[0]} Right temporal pole may be off by 6 mm; folds: 0.12 %."
    assert "0.71" in judged.reasons[0]
    unnamed = verdict_of(metrics_with("pass", [], label=7))
    assert unnamed is not None
    assert unnamed.sentence == passed.sentence, "a number says less than a direction"
    assert judged.colour == GRADE_COLOURS["review"]
    assert verdict_of({"jacobian": {"fold_percent": 0.0}}) is None


def test_each_of_the_worst_places_has_a_sentence() -> None:
    (place,) = worst_places(metrics_with("pass", []))
    assert (place.text, place.bounded) == ("The right part may be off by 6 mm", "bound 11 mm at 90 %")
    assert worst_places({}) == []


def test_the_report_shows_verdict_reasons_and_places() -> None:
    box = verdict_box(metrics_with("review", [FEW, {**FEW, "key": "seen"}]), {})
    assert "Review" in box
    assert box.count("<li>") == 2
    assert "may be off by 6 mm, bound 11 mm" in box
    assert verdict_box({}, {}) == ""


# Of registrations


def test_every_registration_is_judged(found: RegistrationResult) -> None:
    judged = found.metrics["verdict"]
    assert judged["grade"] in GRADES
    assert set(judged["evidence"]) == set(LIMITS[ONE_MODEL]) - {"size"}, "which size is right only a model knows"
    assert all(math.isfinite(value) for value in judged["evidence"].values())
    assert "sentence" not in judged
    say_verdict(found)
    assert found.metrics["verdict"]["sentence"] == verdict_of(found.metrics).sentence
    assert json.loads(json.dumps(found.plain_metrics()))["verdict"] == found.metrics["verdict"]


def test_where_the_object_lies_is_told_in_patient_coordinates(found: RegistrationResult) -> None:
    frame = found.metrics["verdict"]["object"]
    np.testing.assert_allclose(frame["centre_lps_mm"], (31.0, -57.0, 112.0), atol=8)
    assert all(10 < half < 60 for half in frame["half_extent_mm"])


def test_places_are_told_by_the_structures_in_which_they_lie(found: RegistrationResult) -> None:
    fixed, moving = blob_image(), blob_image(shift=(2.0, -1.0, 1.0))
    first, *others = found.metrics["expected_error"]["worst"]
    index = np.clip(fixed.TransformPhysicalPointToIndex(first["point_lps_mm"]), 0, np.array(fixed.GetSize()) - 1)
    labels = sitk.Image(fixed.GetSize(), sitk.sitkUInt8)
    labels.CopyInformation(fixed)
    labels[index.tolist()] = 9
    evaluate_labels(found, moving, sitk.Cast(moving > 0.5, sitk.sitkUInt8), labels)
    assert first["label"] == 9
    assert all(place["label"] in (0, 9) for place in others)
    assert worst_places(found.metrics, {9: "Nucleus"})[0].text.startswith("Nucleus may be off by")
    for place in (first, *others):
        del place["label"]


# The command line


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    paths = [str(folder / f"{name}.nii.gz") for name in ("fixed", "moving")]
    for path, shift in zip(paths, (0.0, 2.0)):
        sitk.WriteImage(blob_image(shift=(shift, 0.0, 0.0)), path)
    return paths


@pytest.mark.parametrize(
    ("grade", "asked", "status"),
    [("pass", "pass", 0), ("review", "review", 0), ("review", "pass", 8), ("fail", "review", 8), ("fail", None, 0)],
)
def test_a_grade_can_be_required(
    grade: str, asked: str, status: int, images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    badness = {"pass": -1.0, "review": 0.5, "fail": 1.5}[grade]
    monkeypatch.setattr(
        "DeepRegAttentionLib.engine.trust.verdict.gather",
        lambda answer: evidence_at(LIMITS["none"], {"overlap": badness}),
    )
    how = ["--model", "none", "--prealign", "none", "--refine", "1", "--spacing", "5", "--no-maps"]
    with limited_threads(None):
        required = [] if asked is None else ["--require", asked]
        called = CliRunner().invoke(app, ["register", *images, "-o", str(tmp_path / "out"), *how, *required])
    assert called.exit_code == status
    assert f"{grade}: " in called.stdout
    assert json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["verdict"]["grade"] == grade


def test_what_cannot_be_required_is_told_before_anything_is_done(images: list[str], tmp_path: Path) -> None:
    called = CliRunner().invoke(app, ["register", *images, "-o", str(tmp_path / "out"), "--require", "pas"])
    assert called.exit_code == 2
    assert "did you mean “pass”" in called.stderr
    assert not (tmp_path / "out").exists()
