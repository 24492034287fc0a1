"""The template as a study: turn by turn, kept while it would come out the same, going on where it was killed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.cli import app
from DeepRegAttentionLib.cohort import template_study
from DeepRegAttentionLib.cohort.pairs import Settings
from DeepRegAttentionLib.cohort.template import TemplateOptions
from DeepRegAttentionLib.cohort.template_study import TemplateStudy, compared, through_template
from DeepRegAttentionLib.cohort.work import DONE, Outcome
from DeepRegAttentionLib.dataset import ImageFiles
from DeepRegAttentionLib.engine.errors import ImageError, OptionError
from DeepRegAttentionLib.engine.metrics import dice, mean_over_labels, require_same_grid
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.result import write_transform
from helpers.cohort import GRIDS, linear, moved, points, waves
from helpers.cohort_work import workers_here
from helpers.images import blob_image
from test_atlases import labels_of, rows_of, written
from typer.testing import CliRunner

SHIFTS = ((5.0, 1.0, -4.0), (-2.0, 3.0, 2.0), (1.0, -4.0, 3.0), (-4.0, 0.0, -1.0))


@pytest.fixture
def cases(tmp_path: Path) -> list[ImageFiles]:
    """Four subjects with label maps, on awkward grids, in different places."""
    return [
        written(tmp_path / "cases", f"s{n}", **grid, shift=shift) for n, (grid, shift) in enumerate(zip(GRIDS, SHIFTS))
    ]


class Knowing:
    """Takes the place of a cohort: it "registers" by knowing where each subject lies, and counts."""

    calls: list[str]

    def __init__(self, pairs, settings, folder, where=None, work=None) -> None:
        self._pairs, self._folder = pairs, folder

    def __iter__(self):
        self.calls.append(self._folder.name)
        for pair in self._pairs:
            folder = self._folder / "pairs" / pair.name
            folder.mkdir(parents=True, exist_ok=True)
            moving = int(Path(pair.inputs.moving).name[1])
            shift = sitk.TranslationTransform(3, np.subtract(SHIFTS[moving], self._at(pair)).tolist())
            deformable = not self._folder.name.startswith("linear")
            write_transform(
                sitk.CompositeTransform([shift, waves(2.0, moving)]) if deformable else shift, folder / "transform.h5"
            )
            yield Outcome(pair, DONE, folder, {"labels": {"after": {"mean_dice": 0.5}}})

    def _at(self, pair) -> tuple[float, float, float]:
        """Where the fixed image shows the object: the first target is a subject, all others lie in the middle."""
        return SHIFTS[self.first] if self._folder.name == "linear-1" else tuple(np.mean(SHIFTS, axis=0))

    first = 0


@pytest.fixture
def study(cases, tmp_path, monkeypatch) -> TemplateStudy:
    monkeypatch.setattr(template_study, "Cohort", Knowing)
    monkeypatch.setattr(template_study, "median_extent", lambda images: Knowing.first)
    Knowing.calls = []
    how = Settings(RegistrationOptions(model="none"), ".nii.gz")
    return TemplateStudy(cases, how, tmp_path / "study", TemplateOptions(turns=1, tolerance=0, spacing=3.0))


def test_turn_by_turn_a_template_with_its_atlas(study):
    turns = list(study.run())
    assert [(turn.number, turn.made) for turn in turns] == [(0, True), (1, True)]
    assert Knowing.calls == ["linear-1", "linear-2", "1", "pairwise"]
    table = rows_of(study.folder / "template.csv")
    assert [row["turn"] for row in table] == ["0", "1"]
    assert float(table[0]["dice_through"]) > 0.8
    assert float(table[1]["shift_mm"]) > 0.1
    summary = json.loads((study.folder / "template.json").read_text(encoding="utf-8"))
    assert (summary["turns"], summary["dice_pairwise"], summary["pairs_compared"]) == (1, 0.5, 4)
    template, labels, votes = (
        sitk.ReadImage(str(study.folder / f"{name}.nii.gz")) for name in ("template", "labels", "votes")
    )
    for image in (labels, votes):
        require_same_grid(image, template)
    assert template.GetSpacing() == pytest.approx((3.0,) * 3)
    assert set(np.unique(sitk.GetArrayViewFromImage(labels))) == {0, 1, 2}
    assert {path.name for path in study.folder.iterdir()} == {
        *("turns", "registrations", "template.csv", "template.json"),
        *("template.nii.gz", "labels.nii.gz", "votes.nii.gz"),
    }
    # The subjects lie around it, as the files have it.
    where = points(spread=10.0)
    found = [sitk.ReadTransform(str(study.folder / "turns" / "1" / f"s{n}.h5")) for n in range(4)]
    means = np.mean([moved(one, where) for one in found], axis=0)
    assert np.linalg.norm(means - where, axis=1).mean() < 0.1


def test_nothing_is_done_twice_and_a_killed_one_goes_on(study):
    list(study.run())
    before = (study.folder / "turns" / "1" / "template.nii.gz").read_bytes()
    Knowing.calls = []
    assert not any(turn.made for turn in study.run())
    assert Knowing.calls == ["pairwise"]
    # As after a death in the last turn.
    shutil.rmtree(study.folder / "turns" / "1")
    assert [turn.made for turn in study.run()] == [False, True]
    assert (study.folder / "turns" / "1" / "template.nii.gz").read_bytes() == before
    # More turns go on.
    study.options = TemplateOptions(turns=2, tolerance=0, spacing=3.0)
    assert [turn.made for turn in study.run()] == [False, False, True]
    assert float(rows_of(study.folder / "template.csv")[2]["moved_mm"]) < 0.1
    study.options = TemplateOptions(turns=1, tolerance=0, spacing=3.0)
    # Another image makes another template.
    sitk.WriteImage(blob_image(**GRIDS[1], shift=SHIFTS[1]) * 3, str(study.images[1].image))
    assert all(turn.made for turn in study.run())


def test_what_registrations_are_given_is_the_same_bytes_each_time(study):
    """So that a cohort that was killed keeps what it has."""
    files = []
    for _ in range(2):
        shutil.rmtree(study.folder, ignore_errors=True)
        list(study.run())
        paths = sorted(path for path in (study.folder / "registrations").glob("*/**/*") if path.is_file())
        files.append({path: path.read_bytes() for path in paths if "pairs" not in path.parts})
    assert len(files[0]) == 11
    assert files[0] == files[1]


def test_a_damaged_image_is_left_out_with_its_sentence(study):
    study.images[3].image.write_bytes(study.images[3].image.read_bytes()[:300])
    turns = list(study.run())
    assert turns[-1].metrics["subjects"] == ["s0", "s1", "s2"]
    assert "is damaged" in study.left_out["s3"]
    study.images[2].image.unlink()
    with pytest.raises(ImageError, match=r"at least 3 images; there are 2\. .*s2.* does not exist"):
        list(study.run())


def test_without_labels_there_is_no_atlas(study):
    study.images = [ImageFiles(one.name, one.image) for one in study.images]
    assert "dice_through" not in list(study.run())[-1].metrics
    assert not (study.folder / "labels.nii.gz").exists()
    assert "pairwise" not in Knowing.calls


def test_too_few_images_and_two_of_one_name_are_refused(cases, tmp_path):
    with pytest.raises(ImageError, match=r"at least 3 images; there are 2\."):
        TemplateStudy(cases[:2], Settings(), tmp_path)
    with pytest.raises(OptionError, match="have one name"):
        TemplateStudy([*cases, cases[0]], Settings(), tmp_path)


def test_subjects_overlap_through_the_template_as_simpleitk_has_it():
    fixed, moving = (labels_of(blob_image(**grid)) for grid in GRIDS[1:3])
    ways = [
        sitk.CompositeTransform([linear((6.0, -4.0, 9.0), 1.04, (3.0, -2.0, 4.0)), waves(3.0, 2)]),
        sitk.CompositeTransform([linear((-3.0, 2.0, 5.0), 0.97, (-1.0, 2.0, 1.0)), waves(2.0, 5)]),
    ]
    back = sitk.DisplacementFieldTransform(
        sitk.InvertDisplacementField(_field(ways[0]), maximumNumberOfIterations=50, maxErrorToleranceThreshold=0.01)
    )
    carried = sitk.Resample(
        moving, fixed, sitk.CompositeTransform([ways[1], back]), sitk.sitkNearestNeighbor, 0.0, moving.GetPixelID()
    )
    expected = mean_over_labels(dice(fixed, carried))
    assert through_template(fixed, moving, *ways) == pytest.approx(expected, abs=0.02)
    assert through_template(fixed, moving, None, ways[1]) is None


def _field(transform: sitk.Transform) -> sitk.Image:
    grid = blob_image(size=(44, 44, 44), spacing=(2.5, 2.5, 2.5), degrees=(0.0, 0.0, 0.0))
    target = grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
    return sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, *target)


def test_at_most_twenty_pairs_are_compared():
    subjects = [ImageFiles(str(n), Path(str(n)), Path("l") if n % 2 else None) for n in range(100)]
    pairs = compared(subjects)
    assert len(set(pairs)) == 20
    assert all(a % 2 and b % 2 and a != b for a, b in pairs)
    assert compared(subjects[:2]) == []


# The command


@pytest.mark.slow
def test_the_command_makes_a_template_and_says_what_came_of_it(cases, tmp_path):
    fast = ["--refine", "1", "--spacing", "6", "--prealign", "centre", "--template", "--turns", "1"]
    with workers_here() as scheduler:
        arguments = ["cohort", str(tmp_path / "cases"), "-o", str(tmp_path / "study"), "--scheduler", scheduler]
        result = CliRunner().invoke(app, [*arguments, *fast])
    assert result.exit_code == 0, result.output
    assert "linear: 4 subjects, sharpness" in result.stdout
    assert "turn 1: 4 subjects, points moved" in result.stdout
    assert "registered directly; 4 pairs" in result.stdout
    with (tmp_path / "study" / "registrations" / "1" / "cohort.csv").open(newline="", encoding="utf-8") as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["done"] * 4


def test_the_command_says_what_makes_no_sense(tmp_path, cases):
    for more, sentence in (
        (["--template", "--all-pairs"], "--all-pairs has no meaning for --template"),
        (["--all-pairs", "--turns", "2"], "--turns has no meaning for pairs"),
        (["--template", "--turns", "0"], "turns must lie between 1 and 100"),
    ):
        result = CliRunner().invoke(app, ["cohort", str(tmp_path / "cases"), "-o", str(tmp_path / "study"), *more])
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert sentence in result.stderr
    assert not (tmp_path / "study").exists()
