"""What a cohort is made of: tables, BIDS folders, pairs, the table of results, how work is shared out, the command."""

from __future__ import annotations

import csv
import itertools
import re
from pathlib import Path

import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.cli import app
from DeepRegAttentionLib.cli.cohort import show_progress, summary
from DeepRegAttentionLib.cohort import cluster
from DeepRegAttentionLib.cohort.bids import find_bids_images
from DeepRegAttentionLib.cohort.cluster import Where, share_out
from DeepRegAttentionLib.cohort.ledger import ABOUT, Ledger
from DeepRegAttentionLib.cohort.marks import Mark
from DeepRegAttentionLib.cohort.pairs import Pair, Settings, folder_name, with_unique_names
from DeepRegAttentionLib.cohort.plan import all_pairs, find_atlas, to_atlas, within_groups
from DeepRegAttentionLib.cohort.provenance import how, made_of, what_changed
from DeepRegAttentionLib.cohort.run import Cohort
from DeepRegAttentionLib.cohort.source import planned
from DeepRegAttentionLib.cohort.table import read_pairs
from DeepRegAttentionLib.cohort.work import Outcome
from DeepRegAttentionLib.dataset import ImageFiles
from DeepRegAttentionLib.engine.errors import OptionError, OutputError, UnreadableFileError
from DeepRegAttentionLib.engine.hardware import Device
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.terms.inputs import Inputs
from helpers.cohort_work import trivial
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

ALONE = RegistrationOptions(model="none", device="cpu")


def written(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


# Tables of pairs


def test_a_table_of_pairs_is_read_with_paths_from_its_folder(tmp_path):
    for name in ("a", "b"):
        written(tmp_path / "scans" / f"{name}.nii.gz")
    table = written(tmp_path / "t.csv", "fixed, moving, labels, group\nscans/a.nii.gz, scans/b.nii.gz,, one\n")
    (pair,) = read_pairs(table)
    assert pair == Pair("b_to_a", Inputs(*(str(tmp_path / "scans" / f"{n}.nii.gz") for n in "ab")), "one")


def test_pairs_of_one_name_are_told_apart_by_their_files(tmp_path):
    for name in ("x/a", "y/a", "b"):
        written(tmp_path / f"{name}.nii")
    table = written(tmp_path / "t.csv", "fixed,moving\nx/a.nii,b.nii\ny/a.nii,b.nii\n")
    first, second = read_pairs(table)
    assert first.name != second.name
    assert [first, second] == read_pairs(table)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("fixed,movin\n", "unknown column “movin” .did you mean “moving”"),
        ("fixed\na\n", "lacks the column “moving”"),
        ("fixed,moving\n", "holds no pairs"),
        ("fixed,moving\na.nii,\n", "The moving image is missing in row 2"),
        ("fixed,moving\nnowhere.nii,nowhere.nii\n", "does not exist; row 2"),
        ("fixed,moving,name\na.nii,a.nii,x\na.nii,a.nii,X\n", "more than one pair “X”"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_a_sentence(content, sentence, tmp_path):
    written(tmp_path / "a.nii")
    with pytest.raises((OptionError, UnreadableFileError), match=sentence):
        read_pairs(written(tmp_path / "t.csv", content))


@given(st.lists(st.text(max_size=200), max_size=8))
def test_every_name_becomes_a_folder_of_its_own(names):
    pairs = [Pair(folder_name(name), Inputs(fixed=str(n))) for n, name in enumerate(names)]
    found = [pair.name for pair in with_unique_names(pairs)]
    assert len({name.lower() for name in found}) == len(names)
    assert all(name and not name.startswith(".") and len(name.encode()) < 150 and "/" not in name for name in found)


# Images that form pairs


def images(*named: str) -> list[ImageFiles]:
    """Names such as ``s1/a``, with the group before the stroke."""
    return [ImageFiles(name.split("/")[1], Path(f"/{name}.nii"), group=name.split("/")[0]) for name in named]


def test_images_form_pairs():
    found = images("s1/a", "s1/b", "s2/c")
    assert [pair.name for pair in all_pairs(found)] == ["b_to_a", "c_to_a", "c_to_b"]
    assert len(all_pairs(found, both_ways=True)) == 6
    assert [(pair.name, pair.group) for pair in within_groups(found)] == [("b_to_a", "s1")]
    assert [pair.name for pair in to_atlas(found, find_atlas("b", found))] == ["a_to_b", "c_to_b"]


def test_an_atlas_may_be_a_file_with_its_labels(tmp_path):
    file = written(tmp_path / "atlas.nii.gz")
    atlas = find_atlas(str(file), images("s/a"), labels=tmp_path / "labels.nii.gz")
    assert (atlas.name, atlas.image, atlas.labels) == ("atlas", file, tmp_path / "labels.nii.gz")
    with pytest.raises(OptionError, match="no file and no image “aa” to register to"):
        find_atlas("aa", images("s/a"))
    with pytest.raises(OptionError, match="has its own label map"):
        find_atlas("a", images("s/a"), labels=file)


def test_a_bids_folder_gives_its_images_with_labels_and_masks(tmp_path):
    for subject in ("01", "02"):
        for session in ("1", "2"):
            stem = f"sub-{subject}_ses-{session}"
            folder = tmp_path / f"sub-{subject}" / f"ses-{session}" / "anat"
            for suffix in ("T1w", "T2w"):
                written(folder / f"{stem}_{suffix}.nii.gz")
            derived = tmp_path / "derivatives" / "brains" / f"sub-{subject}" / f"ses-{session}" / "anat"
            written(derived / f"{stem}_dseg.nii.gz")
            written(derived / f"{stem}_desc-brain_mask.nii.gz")
    found = find_bids_images(tmp_path)
    assert [image.name for image in found] == [f"sub-0{s}_ses-{v}_T1w" for s in (1, 2) for v in (1, 2)]
    assert found[1].group == "01"
    assert found[1].labels is not None
    assert found[1].labels.name == "sub-01_ses-2_dseg.nii.gz"
    assert found[1].mask is not None
    assert len(within_groups(found)) == 2
    assert len(find_bids_images(tmp_path, "*_T2w.nii.gz")) == 4
    with pytest.raises(UnreadableFileError, match="called like “\\*PET\\*”"):
        find_bids_images(tmp_path, "*PET*")


# What a result was made of


def test_a_touched_file_is_the_same_and_another_content_is_not(tmp_path):
    fixed, moving = (written(tmp_path / name, name) for name in ("a.nii", "b.nii"))
    paths, method = {"fixed": str(fixed), "moving": str(moving)}, how(Settings(ALONE))
    record = made_of(paths, method)
    assert what_changed(record, paths, method) == ("", record)
    moving.touch()
    assert what_changed(record, paths, method)[0] == ""
    moving.write_text("another", encoding="utf-8")
    assert what_changed(record, paths, method)[0] == "another moving image"
    assert what_changed(record, paths, how(Settings(RegistrationOptions(model="none", refine=3))))[0] == "other options"
    assert (
        what_changed(record, paths, how(Settings(RegistrationOptions(model="none", threads=3))))[0] != "other options"
    )


# The table of results


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_grows_by_rows_and_columns_and_ends_in_order(tmp_path):
    table = tmp_path / "cohort.csv"
    table.write_text("an earlier one\n", encoding="utf-8")
    (tmp_path / "partial").mkdir()
    ledger = Ledger(table, tmp_path / "partial")
    ledger.append({"name": "b", "dice": 0.123456789})
    assert table.read_text(encoding="utf-8") == "an earlier one\n"
    ledger.publish()
    ledger.append({"name": "a", "sentence": 'with “,” and\n"lines"', "tre": 2.0})
    assert [row["name"] for row in rows_of(table)] == ["b", "a"]
    ledger.finish(["a", "b"], {"b": Mark("bad", "twisted, “odd”")})
    first, second = rows_of(table)
    assert (first["mark"], second["mark"], second["comment"]) == ("", "bad", "twisted, “odd”")
    assert list(first) == [*ABOUT, "dice", "tre"]
    assert (first["sentence"], first["tre"], first["dice"]) == ('with “,” and\n"lines"', "2", "")
    assert (second["name"], second["dice"]) == ("b", "0.123457")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
def test_a_row_for_which_there_is_no_room_is_not_there_in_part(tmp_path, monkeypatch):
    (tmp_path / "partial").mkdir()
    ledger = Ledger(tmp_path / "cohort.csv", tmp_path / "partial")
    ledger.publish()
    ledger.append({"name": "first"})
    kept = ledger._file
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123
        ledger._file = full
        monkeypatch.setattr("os.fstat", lambda _: kept is not None and (tmp_path / "cohort.csv").stat())
        with pytest.raises(OutputError, match="no space left"):
            ledger.append({"name": "second"})
    ledger.append({"name": "third"})
    assert [row["name"] for row in rows_of(tmp_path / "cohort.csv")] == ["first", "third"]


# How work is shared out


@pytest.mark.parametrize(
    ("cores", "free", "pairs", "expected"),
    [(8, 64.0, 100, (8, 1)), (8, 2.0, 100, (3, 2)), (8, 64.0, 2, (2, 4)), (1, 0.1, 9, (1, 1))],
)
def test_workers_are_as_many_as_memory_cores_and_pairs_allow(cores, free, pairs, expected, monkeypatch):
    monkeypatch.setattr(cluster, "usable_threads", lambda: cores)
    monkeypatch.setattr(cluster, "largest_need", lambda *_: 0.5)
    monkeypatch.setattr("DeepRegAttentionLib.engine.hardware.list_devices", lambda: {"cpu": Device("cpu", free, 64.0)})
    plan = share_out(Where(), [Pair("p", Inputs())] * pairs, ALONE)
    assert (plan.workers, plan.threads) == expected


def test_a_worker_needs_more_for_larger_images_and_for_structures(tmp_path, make_image):
    pairs = {}
    for name, size in (("small", (30, 30, 30)), ("large", (100, 100, 90))):
        path = tmp_path / f"{name}.nrrd"
        sitk.WriteImage(make_image(size), str(path))
        pairs[name] = Pair(name, Inputs(str(path), str(path)))
        pairs[f"{name} labels"] = Pair(name, Inputs(str(path), str(path), labels=str(path)))
    needs = {name: cluster.largest_need([pair], ALONE) for name, pair in pairs.items()}
    assert 0.5 < needs["small"] < 1 < needs["large"] < needs["large labels"]
    assert cluster.largest_need([pairs["small"], pairs["large"]], ALONE) == needs["large"]
    missing = Pair("none", Inputs(str(tmp_path / "none.nrrd"), str(tmp_path / "none.nrrd")))
    assert 0.5 < cluster.largest_need([missing], ALONE) < 5


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"scheduler": "tcp://x:1", "batch_system": "slurm"}, "not both"),
        ({"batch_system": "slurmm"}, "did you mean “slurm”"),
        ({"workers": 0}, "at least one worker"),
    ],
)
def test_a_place_to_work_that_makes_no_sense_is_refused(given, sentence):
    with pytest.raises(OptionError, match=sentence):
        Where(**given)


@pytest.mark.slow
def test_pairs_are_handed_out_a_few_at_a_time_and_whoever_stops_asking_stops_the_study(tmp_path):
    fixed = written(tmp_path / "a.nii")
    pairs = [Pair(f"p{n:03}", Inputs(str(fixed), str(fixed))) for n in range(60)]
    cohort = Cohort(pairs, Settings(ALONE), tmp_path / "study", Where(workers=1), trivial)
    outcomes = iter(cohort)
    for _ in range(5):
        next(outcomes)
    outcomes.close()
    complete = len(list((tmp_path / "study" / "pairs").iterdir()))
    assert 5 <= complete < 15
    assert len(rows_of(tmp_path / "study" / "cohort.csv")) == 5
    assert not (tmp_path / "study" / ".lock").exists()
    assert len(list(cohort)) == 60
    assert [row["name"] for row in rows_of(tmp_path / "study" / "cohort.csv")] == [pair.name for pair in pairs]


# The command


def test_the_command_says_what_is_missing_or_said_twice(tmp_path):
    folder = tmp_path / "cases"
    for name in "abc":
        written(folder / "images" / f"{name}.nii")
    table = written(tmp_path / "t.csv", "fixed,moving\ncases/images/a.nii,cases/images/b.nii\n")
    arguments = {"images": None, "atlas": None, "of_atlas": (None, None), "both_ways": False}
    ways = {"within_subject": False, "all_pairs": False}
    assert len(planned(folder, **arguments, **{**ways, "all_pairs": True})) == 3
    with pytest.raises(OptionError, match="Images need one of"):
        planned(folder, **arguments, **ways)
    with pytest.raises(OptionError, match="--all-pairs is for images alone"):
        planned(table, **arguments, **{**ways, "all_pairs": True})
    with pytest.raises(OptionError, match="--images chooses files of a BIDS folder"):
        planned(folder, **{**arguments, "images": "*"}, **{**ways, "all_pairs": True})


def test_a_table_that_is_not_there_is_said_in_one_line(tmp_path):
    result = CliRunner().invoke(app, ["cohort", str(tmp_path / "none.csv"), "-o", str(tmp_path / "study")])
    assert result.exit_code == 3
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "study").exists()


def test_where_there_is_no_terminal_a_line_each_minute_says_what_is_done_and_left(monkeypatch, capsys):
    clock = itertools.count(step=20)
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    judged = {"verdict": {"grade": "review"}}
    ended = [Outcome(Pair("p", Inputs()), *how) for how in [("kept",)] * 50 + [("done", None, judged)] * 10]
    assert list(show_progress(ended, 80)) == ended
    first, *_, last = [line for line in capsys.readouterr().err.splitlines() if " of 80: " in line]
    assert "left" not in first, "what was kept took no time"
    # 20 s each by this clock, and 20 or 21 of them.
    assert re.search(r"^(59|60) of 80: (9|10) review, 50 kept; .*; about 7 min left$", last)


def test_the_counts_are_said_in_one_order():
    from collections import Counter

    assert summary(Counter({"failed": 1, "pass": 12, "review": 3})).startswith("12 pass, 3 review, 1 without a result")
