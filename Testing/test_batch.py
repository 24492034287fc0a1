"""A cohort as the panel follows it: what is said of it, what is known of its pairs, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from DeepRegAttentionLib.cohort.ledger import ABOUT, Ledger, read_rows
from DeepRegAttentionLib.engine.errors import UnreadableFileError
from DeepRegAttentionLib.jobs.batch import Batch
from DeepRegAttentionLib.jobs.client import BusyError, State
from DeepRegAttentionLib.jobs.messages import CohortJob, Event, decode_command, encode
from DeepRegAttentionLib.terms.cohorts import (
    PAIRINGS,
    counts_text,
    missing_of_cohort,
    outcome_title,
    pairing_choices,
    place_in_list,
)
from helpers.worker_client import PUPPET, PlayedGround


def row(name: str, verdict: str = "pass", state: str = "done") -> dict[str, str]:
    about = {**dict.fromkeys(ABOUT, ""), "name": name, "state": state, "verdict": verdict}
    return {**about, "folder": f"pairs/{name}" if state == "done" else ""}


def pair(ended: int, of: int, **more: Any) -> dict[str, Any]:
    return {"event": "pair", "pair": row(f"p{ended}", **more), "count": of, "fraction": ended / of, "eta_s": 60.0}


def job(*said: dict[str, Any]) -> CohortJob:
    return CohortJob("c", "table.csv", "study", options={"say": said})


@pytest.fixture
def ground() -> Iterator[PlayedGround]:
    ground = PlayedGround((PUPPET,))
    yield ground
    ground.close()


@pytest.fixture
def batch(ground: PlayedGround) -> Batch:
    return Batch(ground.client, ground._later)


def test_the_command_is_read_as_it_was_written() -> None:
    asked = CohortJob("c", "s", "f", "to-atlas", "a", "l", "*_T2w*", {"refine": 3})
    assert decode_command(encode(asked)) == asked


def test_the_pairs_are_known_as_they_end_and_the_worker_ends_with_them(ground: PlayedGround, batch: Batch) -> None:
    ends: list[Event] = []
    texts: list[str] = []
    batch.ended.connect(ends.append)
    batch.added.connect(lambda _: texts.append(batch.text))
    batch.know([row("p1", "fail"), row("gone")])
    start = {"event": "progress", "fraction": 0.0, "count": 3}
    batch.start(
        job(start, pair(1, 3), pair(2, 3, verdict="review"), pair(3, 3, verdict="", state="failed"), {"event": "done"})
    )
    assert batch.running
    assert (batch.text, batch.fraction) == ("", None)
    ground.until(lambda: ends)
    assert (ends[0].event, batch.running, batch.fraction) == ("done", False, None)
    assert texts[1] == "2 of 3 pairs · about 60 s left"
    assert batch.rows["p1"]["verdict"] == "pass", "instead of what was known of it"
    assert set(batch.rows) == {"p1", "p2", "p3", "gone"}
    assert batch.counts == "2 pass, 1 review, 1 without a result"
    ground.until(lambda: ground.client.state is State.OFF)
    assert len(ground.processes) == 1


def test_one_at_a_time_and_the_next_one_starts_anew(ground: PlayedGround, batch: Batch) -> None:
    batch.start(job(pair(1, 2)))
    with pytest.raises(BusyError):
        batch.start(job())
    ground.until(lambda: batch.rows)
    batch.stop()
    assert batch.stopping
    ground.until(lambda: not batch.running)
    batch.start(job({"event": "progress", "fraction": 0.0, "count": 2}, {"event": "done"}))
    ground.until(lambda: batch.text)
    assert batch.text == "0 of 2 pairs"
    ground.until(lambda: not batch.running)


def test_a_crash_is_said_and_the_application_may_end_meanwhile(ground: PlayedGround, batch: Batch) -> None:
    ends: list[Event] = []
    batch.ended.connect(ends.append)
    batch.start(CohortJob("c", "t", "s", options={"crash": True}))
    ground.until(lambda: ends)
    assert (ends[0].event, ends[0].code) == ("error", "worker-ended")
    batch.start(job(pair(1, 2)))
    ground.until(lambda: batch.rows)
    batch.end()
    assert [event.event for event in ends] == ["error", "cancelled"]
    assert all(process.wait(0) for process in ground.processes)


# The table of a study


def test_a_study_of_another_day_is_read_from_its_table(tmp_path: Path) -> None:
    assert read_rows(tmp_path) == []
    (tmp_path / "partial").mkdir()
    ledger = Ledger(tmp_path / "cohort.csv", tmp_path / "partial")
    ledger.append({**row("b"), "dice": 0.5})
    ledger.publish()
    ledger.close()
    assert read_rows(tmp_path) == [{**row("b"), "dice": "0.5"}]
    (tmp_path / "cohort.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(UnreadableFileError, match="is not the table of a study"):
        read_rows(tmp_path)
    (tmp_path / "cohort.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(UnreadableFileError, match="is not the table of a study"):
        read_rows(tmp_path)


# In words


def test_pairs_are_sorted_with_what_needs_a_look_first() -> None:
    rows = [row("a"), row("d", "fail"), row("c", "review"), row("b", "", "failed"), row("e", "")]
    assert [r["name"] for r in sorted(rows, key=place_in_list)] == ["b", "d", "c", "a", "e"]
    assert [outcome_title(r) for r in rows] == ["Pass", "Fail", "Review", "No result", "Done"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("", True, "all-pairs", "", ""), "Choose a table or a folder"),
        (("s", True, "to-atlas", "", "f"), "Choose an atlas"),
        (("s", False, "to-atlas", "", ""), "Choose a folder for the study"),
        (("s", False, "to-atlas", "", "f"), None),
        (("s", True, "within-subject", "", "f"), None),
    ],
)
def test_what_is_missing_is_said(given: tuple[str, bool, str, str, str], said: str) -> None:
    assert missing_of_cohort(*given) == said


def test_every_pairing_can_be_chosen() -> None:
    assert tuple(choice.value for choice in pairing_choices()) == PAIRINGS
    assert counts_text({"kept": 2, "set aside": 1}) == "2 kept, 1 set aside"
