"""A series as a study: from a 4D file, a sequence or visits to one space, kept while it would come out the same."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.cli import app
from DeepRegAttentionLib.cohort import atlases, series_study, template_study
from DeepRegAttentionLib.cohort.frames import Series, read_series, write_series
from DeepRegAttentionLib.cohort.mean_shape import Parts, inverse, written_out
from DeepRegAttentionLib.cohort.pairs import Settings
from DeepRegAttentionLib.cohort.series import SeriesOptions, planned
from DeepRegAttentionLib.cohort.series_study import SeriesStudy
from DeepRegAttentionLib.cohort.work import DONE, FAILED, Outcome
from DeepRegAttentionLib.engine.errors import DimensionError, LabelError, OptionError, RegistrationError
from DeepRegAttentionLib.engine.metrics import require_same_grid
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.result import write_transform
from helpers.cohort import GRIDS, linear, moved, points, waves
from helpers.cohort_work import workers_here
from helpers.images import blob_image
from helpers.places import REPOSITORY
from test_atlases import labels_of, rows_of, written
from typer.testing import CliRunner

# From the points of frame 0 to those of each frame.
WAYS = [
    sitk.CompositeTransform([linear((d, -d, 0.5 * d), 1 + d / 100, (d, -1.0 * d, d / 2)), waves(0.6 * d, n)])
    for n, d in enumerate((0.0, 2.0, 3.0))
]
BACK = [inverse(way, Parts.of(way).field_grid()) for way in WAYS]


def between(fixed: int, moving: int) -> sitk.Transform:
    """From the points of one frame to those of another, as one linear part and one field."""
    parts = [Parts.of(WAYS[number]) for number in (moving, fixed)]
    way = sitk.CompositeTransform([WAYS[moving], BACK[fixed]])
    return written_out(way, parts[0].linear @ np.linalg.inv(parts[1].linear), parts[0].field_grid())


def frame(number: int) -> sitk.Image:
    """The object on an oblique anisotropic grid, as it lies in one frame."""
    return sitk.Resample(blob_image(), blob_image(**GRIDS[2]), BACK[number], sitk.sitkLinear, 0.0)


class Knowing:
    """Takes the place of a cohort: it "registers" by knowing how the frames lie, and counts."""

    calls: list[list[str]]
    failing = ""

    def __init__(self, pairs, settings, folder, where) -> None:
        self._pairs, self._folder = pairs, folder

    def __iter__(self):
        self.calls.append([pair.name for pair in self._pairs])
        for pair in self._pairs:
            folder = self._folder / "pairs" / pair.name
            folder.mkdir(parents=True, exist_ok=True)
            moving, fixed = (int(name) for name in pair.name.split("_to_"))
            write_transform(between(fixed, moving), folder / "transform.h5")
            write_transform(between(moving, fixed), folder / "inverse_transform.h5")
            failed = pair.name == self.failing
            yield Outcome(pair, FAILED, sentence="Too dark.") if failed else Outcome(pair, DONE, folder)


@pytest.fixture
def knowing(monkeypatch):
    monkeypatch.setattr(series_study, "Cohort", Knowing)
    monkeypatch.setattr(Knowing, "calls", [], raising=False)
    return Knowing


def study(tmp_path: Path, *files: Path, to: str = "reference", labels: tuple[Path, ...] = (), **more) -> SeriesStudy:
    how = Settings(RegistrationOptions(model="none"))
    return SeriesStudy(files, how, tmp_path / "study", SeriesOptions(to, **more), labels)


@pytest.fixture(scope="module")
def beats(tmp_path_factory) -> Path:
    """Three frames in a 4D file, their labels in another."""
    folder = tmp_path_factory.mktemp("beats")
    frames = [frame(n) for n in range(3)]
    write_series(Series(tuple(frames), start=10.0, step=40.0), folder / "beats.nii.gz")
    drawn = [labels_of(frames[0]), labels_of(frames[1]), labels_of(frames[0]) * 0]
    write_series(Series(tuple(drawn)), folder / "labels.nii.gz")
    return folder


def test_frames_of_a_file_come_into_one_space_and_nothing_is_done_twice(beats, tmp_path, knowing):
    one = study(tmp_path, beats / "beats.nii.gz", labels=(beats / "labels.nii.gz",))
    metrics, made = one.run()
    assert made
    assert knowing.calls == [["001_to_000", "002_to_001", "000_to_002", "002_to_000"]]
    folder = one.folder / "series" / "aligned"
    for number in range(3):
        there, back = (sitk.ReadTransform(str(folder / f"{number:03}{end}.h5")) for end in ("", "_inverse"))
        # As SimpleITK takes points, from frame 0 to each frame and back.
        expected = moved(WAYS[number], moved(BACK[0], points()))
        np.testing.assert_allclose(moved(there, points()), expected, atol=0.1)
        np.testing.assert_allclose(moved(back, expected), points(), atol=0.2)
    first, second, third = metrics["frames"]
    assert "dice_after" not in first
    assert second["dice_after"] > 0.85 > second["dice_before"]
    assert "dice_after" not in third
    assert third["ncc_after"] > 0.98 > third["ncc_before"]
    assert max(frame["cycle_mm"]["mean"] for frame in metrics["frames"]) < 0.2
    aligned = read_series([folder / "aligned.nii.gz"])
    assert (aligned.start, aligned.step) == (10.0, 40.0)
    for number, image in enumerate(aligned.frames):
        require_same_grid(image, frame(0))
        expected = sitk.Resample(frame(number), frame(0), between(0, number))
        inside = sitk.GetArrayFromImage(expected) > 0.2
        np.testing.assert_allclose(
            sitk.GetArrayFromImage(image)[inside], sitk.GetArrayFromImage(expected)[inside], atol=0.02
        )
    require_same_grid(sitk.ReadImage(str(folder / "mean_after.nii.gz")), frame(0))
    rows = rows_of(one.folder / "series.csv")
    assert [row["frame"] for row in rows] == ["0", "1", "2"]
    assert float(rows[2]["cycle_mean_mm"]) < 0.2
    again, made = one.run()
    assert (again, made) == (metrics, False)
    one.options = SeriesOptions("neighbour", reference=1)
    assert one.run()[1]
    assert len(knowing.calls[-1]) == 3


def test_visits_stay_on_their_own_grids_and_a_sequence_stays_one(tmp_path, knowing):
    visits = [blob_image(), frame(1)]
    for number, image in enumerate(visits):
        sitk.WriteImage(image, str(tmp_path / f"visit{number}.nii.gz"))
    one = study(tmp_path, *(tmp_path / f"visit{n}.nii.gz" for n in range(2)), cycle=False)
    metrics, _ = one.run()
    assert knowing.calls == [["001_to_000"]]
    assert "cycle_mm" not in metrics["frames"][1]
    require_same_grid(read_series([one.folder / "series/aligned/aligned.nii.gz"]).frames[1], visits[0])
    notes = {"axis 0 index type": "numeric", "axis 0 index values": "0 40 95"}
    write_series(Series(tuple(frame(n) for n in range(3)), notes=notes), tmp_path / "a.seq.nrrd")
    other = study(tmp_path / "other", tmp_path / "a.seq.nrrd", cycle=False)
    other.run()
    found = read_series([other.folder / "series/aligned/aligned.seq.nrrd"])
    assert found.notes["axis 0 index values"] == "0 40 95"


def test_what_is_no_series_is_refused_in_a_sentence(beats, tmp_path, knowing, monkeypatch):
    single = tmp_path / "one.nii.gz"
    sitk.WriteImage(blob_image(), str(single))
    with pytest.raises(DimensionError, match="is a single volume; a series needs a 4D file, or several files"):
        study(tmp_path, single).run()
    with pytest.raises(OptionError, match="There is no frame 3"):
        study(tmp_path, beats / "beats.nii.gz", reference=3).run()
    with pytest.raises(LabelError, match="There are 2 frames, but 3 label maps"):
        study(tmp_path, single, single, labels=(beats / "labels.nii.gz",)).run()
    with pytest.raises(DimensionError, match="at least 3 frames; there are 2"):
        study(tmp_path, single, single, to="template", cycle=False).run()
    assert knowing.calls == []
    monkeypatch.setattr(Knowing, "failing", "002_to_001")
    with pytest.raises(RegistrationError, match=r"could not be registered \(002_to_001\): Too dark\."):
        study(tmp_path, beats / "beats.nii.gz").run()


class Standing:
    """Takes the place of a cohort: nothing is moved."""

    def __init__(self, pairs, settings, folder, where=None, work=None) -> None:
        self._pairs, self._folder = pairs, folder

    def __iter__(self):
        for pair in self._pairs:
            folder = self._folder / "pairs" / pair.name
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("transform", "inverse_transform"):
                write_transform(sitk.Transform(3, sitk.sitkIdentity), folder / f"{name}.h5")
            fixed = sitk.ReadImage(pair.inputs.fixed)
            sitk.WriteImage(sitk.Resample(sitk.ReadImage(pair.inputs.moving), fixed), str(folder / "warped.nii.gz"))
            if pair.inputs.labels:
                drawn = sitk.Resample(
                    sitk.ReadImage(pair.inputs.labels), fixed, sitk.Transform(), sitk.sitkNearestNeighbor
                )
                sitk.WriteImage(drawn, str(folder / "warped_labels.nii.gz"))
            yield Outcome(pair, DONE, folder)


def test_what_the_page_says_of_python_is_true(beats, tmp_path, monkeypatch, capsys):
    for module in (atlases, series_study, template_study):
        monkeypatch.setattr(module, "Cohort", Standing)
    monkeypatch.chdir(tmp_path)
    lines = ["name,image,labels"]
    for number in range(3):
        case = written(tmp_path, f"c{number}", size=(24, 22, 20), spacing=(2.5, 2.5, 2.5), shift=(number, 0.0, 0.0))
        lines.append(f"{case.name},{case.image},{case.labels}")
    (tmp_path / "images.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "beats.nii.gz").write_bytes((beats / "beats.nii.gz").read_bytes())
    page = (REPOSITORY / "docs" / "cohorts.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "SeriesStudy" in block)
    exec(compile(code, "cohorts.md", "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out.splitlines()
    # Where nothing moves, one turn is enough.
    assert len(said) == 6 + 3 + 2 + 1
    assert said[6].startswith("c0 0.")
    assert (tmp_path / "template" / "template.nii.gz").exists()


def test_each_registration_is_planned_once():
    assert planned(2, SeriesOptions()) == [(0, 1), (1, 0)]
    assert planned(4, SeriesOptions(reference=2, cycle=False)) == [(2, 0), (2, 1), (2, 3)]
    assert planned(3, SeriesOptions("template", cycle=False)) == []


# The command


@pytest.mark.slow
@pytest.mark.parametrize("to", ["reference", "template"])
def test_the_command_brings_frames_together(beats, tmp_path, to):
    arguments = ["series", str(beats / "beats.nii.gz"), "-o", str(tmp_path / "study"), "--to", to, "--no-cycle"]
    arguments += ["--model", "none", "--refine", "0", "--spacing", "6", "--prealign", "centre"]
    for end in ("after", "after; kept"):
        with workers_here() as scheduler:
            result = CliRunner().invoke(app, [*arguments, "--scheduler", scheduler])
        assert result.exit_code == 0, result.output
        assert f"series: 3 frames to their {to}, correlation" in result.stdout
        assert f"{end}\n" in result.stdout
    assert len(rows_of(tmp_path / "study" / "series.csv")) == 3


def test_a_single_volume_is_said_in_one_line(tmp_path):
    sitk.WriteImage(blob_image(), str(tmp_path / "one.nii.gz"))
    result = CliRunner().invoke(app, ["series", str(tmp_path / "one.nii.gz"), "-o", str(tmp_path / "study")])
    assert (result.exit_code, result.stderr.count("\n")) == (3, 1)
    assert "is a single volume" in result.stderr
    assert not (tmp_path / "study").exists()
