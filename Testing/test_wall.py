"""The wall of a cohort: what its page is given, what stands out, what people said of pairs."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from DeepRegAttentionLib.cohort.lock import Lock
from DeepRegAttentionLib.cohort.marks import LONGEST_COMMENT, MARKS, Mark, read_marks, save_mark
from DeepRegAttentionLib.cohort.wall import Wall, settle_marks, write_wall
from DeepRegAttentionLib.engine.errors import OptionError, OutputError, UnreadableFileError
from DeepRegAttentionLib.report.wall import MEASURES, Spread, oddness, wall_page
from DeepRegAttentionLib.terms.measures import measure_of, values_by_column
from hypothesis import given
from hypothesis import strategies as st


def data_of(page: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    data: dict[str, Any] = json.loads(found)
    return data


def row(name: str, **cells: Any) -> dict[str, str]:
    return {"name": name, "state": "done", "verdict": "pass", **{key: str(value) for key, value in cells.items()}}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    rows = [row("a", mark="", comment=""), row("b", mark="", comment=""), row("c", mark="good", comment="old")]
    with (folder / "cohort.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def table(study: Path) -> dict[str, dict[str, str]]:
    with (study / "cohort.csv").open(newline="", encoding="utf-8") as file:
        return {found["name"]: found for found in csv.DictReader(file)}


# The page


@given(st.text(max_size=60), st.text(max_size=60))
def test_whatever_pairs_are_called_and_said_the_page_holds_it_as_text(name, sentence):
    page = wall_page(Path("/study"), [row(name, sentence=sentence)])
    (pair,) = data_of(page)["pairs"]
    kept = {key: text.encode("utf-8", "replace").decode() for key, text in (("name", name), ("sentence", sentence))}
    assert pair.get("name", "") == kept["name"]
    assert pair.get("sentence", "") == kept["sentence"]


def test_nothing_that_a_table_says_becomes_part_of_the_page():
    evil = "</script><img src=x onerror=alert(1)>"
    page = wall_page(Path(f"/a {evil}"), [row(evil, sentence=evil, group=evil, fixed=evil, comment=evil)])
    assert "<img" not in page
    assert page.count("</script>") == 2
    assert not re.search(r"(src|href)=.https?:|url\(|@import", page), "it asks no other host"


def test_the_page_has_the_measures_that_there_are_and_says_what_is_to_come():
    rows = [row("a", labels_mean_dice_after=0.71234567, jacobian_fold_percent=0), row("b", state="failed", verdict="")]
    data = data_of(wall_page(Path("/data/study"), rows, total=5))
    assert (data["title"], data["study"], data["total"]) == ("study", "/data/study", 5)
    assert [(measure["name"], measure["unit"]) for measure in data["measures"]] == [
        ("Structures, mean overlap (Dice)", ""),
        ("Folds, share of the voxels", "%"),
    ]
    assert [pair["values"] for pair in data["pairs"]] == [[0.712346, 0.0], [None, None]]
    assert data_of(wall_page(Path("/data/study"), []))["pairs"] == []


def test_each_column_that_is_shown_is_one_that_registrations_fill():
    assert all(column in measure_of(column).columns for column in MEASURES)
    metrics = {
        "similarity": {"before": {"ncc": 0.1}, "after": {"ncc": 0.9}},
        "landmarks": {"before_mm": {"mean": 3.0}, "after_mm": {"mean": 1.0}},
        "jacobian": {"sd_log": 0.2},
        "verdict": {"evidence": {"gain": 0.1}},
        "seconds": {"network": 1.0},
    }
    named = set(values_by_column(metrics))
    assert {
        "similarity_ncc_after",
        "landmarks_mean_mm_after",
        "jacobian_sd_log",
        "verdict_gain",
        "seconds_all",
    } <= named
    assert {measure_of(name).section for name in named - {"seconds_network"}} == {
        "similarity",
        "deformation",
        "evidence",
        "time",
    }


# What stands out


def pairs_of(column: str, values: list[Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = data_of(
        wall_page(Path("/s"), [row(str(n), **{column: v}) for n, v in enumerate(values)])
    )["pairs"]
    return found


@pytest.mark.parametrize(
    ("column", "worse", "better"),
    [("labels_mean_dice_after", 0.4, 0.99), ("expected_error_p95_mm", 0.95, 0.3), ("jacobian_fold_percent", 5.0, 0.0)],
)
def test_what_is_much_worse_than_the_median_stands_out_and_what_is_better_does_not(column, worse, better):
    usual = [0.7 + 0.01 * n for n in range(-5, 6)]
    pairs = pairs_of(column, [*usual, worse, better, ""])
    assert [pair["name"] for pair in pairs if pair["outlying"]] == [str(len(usual))]
    assert max(pairs, key=lambda pair: pair["odd"])["name"] == str(len(usual))


def test_where_no_side_is_worse_both_stand_out():
    pairs = pairs_of("verdict_moved_percent", [5.0 + 0.1 * n for n in range(-5, 6)] + [0.0, 10.0])
    assert [pair["name"] for pair in pairs if pair["outlying"]] == ["11", "12"]


def test_few_pairs_equal_ones_and_differences_that_nobody_sees_do_not_stand_out():
    assert not any(pair["outlying"] for pair in pairs_of("labels_mean_dice_after", [0.7, 0.71, 0.2]))
    assert not any(pair["outlying"] for pair in pairs_of("labels_mean_dice_after", [0.7] * 20))
    assert not any(pair["outlying"] for pair in pairs_of("labels_mean_dice_after", [0.7] * 20 + [0.7 - 1e-5]))
    assert [pair["name"] for pair in pairs_of("labels_mean_dice_after", [0.7] * 20 + [0.3]) if pair["outlying"]] == [
        "20"
    ]


def test_the_spread_is_that_of_normal_values_without_their_outliers():
    values = np.concatenate([np.random.default_rng(3).normal(5.0, 2.0, 4000), np.full(100, 1e6), [np.nan]])
    spread = Spread.of(values)
    assert spread.median == pytest.approx(5.0, abs=0.2)
    assert spread.deviation == pytest.approx(2.0, abs=0.2)
    assert oddness(np.array([11.0, np.nan]), Spread(5.0, 2.0), measure_of("verdict_moved_percent")).tolist() == [
        3.0,
        0.0,
    ]


# Marks


def test_marks_are_saved_changed_and_taken_back(study):
    assert read_marks(study) == {}
    comment = 'twisted, “odd”, "quoted" =1+1'
    save_mark(study, "a", Mark("good"))
    save_mark(study, "b", Mark("", comment))
    save_mark(study, "a", Mark("bad"))
    assert read_marks(study) == {"a": Mark("bad"), "b": Mark("", comment)}
    save_mark(study, "a", Mark())
    assert read_marks(study) == {"b": Mark("", comment)}
    assert {path.name for path in study.iterdir()} == {"cohort.csv", MARKS}


def test_what_is_no_mark_is_refused():
    with pytest.raises(OptionError, match="“great” is neither"):
        Mark("great")
    with pytest.raises(OptionError, match=str(LONGEST_COMMENT)):
        Mark("", "x" * (LONGEST_COMMENT + 1))


@pytest.mark.parametrize(
    "content", ["nonsense\nx\n", "name,mark,comment\na,great,\n", "name,mark,comment\na\n", "\xff\n"]
)
def test_a_damaged_file_of_marks_is_said_and_kept(study, content):
    (study / MARKS).write_bytes(content.encode("latin-1"))
    with pytest.raises(UnreadableFileError, match="mend the file or move it away"):
        read_marks(study)
    with pytest.raises(UnreadableFileError):
        save_mark(study, "a", Mark("good"))
    assert (study / MARKS).read_bytes() == content.encode("latin-1")


def test_marks_that_cannot_be_written_are_said_and_leave_nothing(study, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="no space left"):
        save_mark(study, "a", Mark("good"))
    assert {path.name for path in study.iterdir()} == {"cohort.csv"}


def test_table_and_page_are_brought_in_step_with_the_marks(study):
    save_mark(study, "b", Mark("bad", "look here"))
    settle_marks(study)
    assert [(found["mark"], found["comment"]) for found in table(study).values()] == [
        ("", ""),
        ("bad", "look here"),
        ("", ""),
    ]
    marked = data_of((study / "index.html").read_text(encoding="utf-8"))["pairs"][1]
    assert (marked["mark"], marked["comment"]) == ("bad", "look here")


def test_a_table_from_before_there_were_marks_gets_their_columns(study):
    (study / "cohort.csv").write_text("name,state\na,done\n", encoding="utf-8")
    save_mark(study, "a", Mark("good"))
    settle_marks(study)
    assert table(study) == {"a": {"name": "a", "state": "done", "mark": "good", "comment": ""}}


def test_a_study_that_a_command_works_on_is_left_to_it(study):
    save_mark(study, "b", Mark("bad"))
    with Lock(study):
        settle_marks(study)
    assert table(study)["b"]["mark"] == ""


# When it is written


def test_the_page_is_written_now_and_then_and_not_for_every_pair(study, monkeypatch):
    now = [100.0]

    def slow(*given: Any) -> None:
        write_wall(*given)
        now[0] += 1.0

    monkeypatch.setattr("DeepRegAttentionLib.cohort.wall.time.monotonic", lambda: now[0])
    monkeypatch.setattr("DeepRegAttentionLib.cohort.wall.write_wall", slow)
    wall, page = Wall(study, 9), study / "index.html"
    wall.keep_up()
    assert data_of(page.read_text(encoding="utf-8"))["total"] == 9
    page.unlink()
    now[0] += 40
    wall.keep_up()
    assert not page.exists()
    now[0] += 20
    wall.keep_up()
    assert page.exists()


def test_without_a_table_there_is_no_page(tmp_path):
    write_wall(tmp_path)
    assert not list(tmp_path.iterdir())
