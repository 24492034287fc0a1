"""Whatever goes wrong in a cohort: nothing is lost, nothing done twice, nothing left behind, and the table is true."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.cohort.cluster import Where
from DeepRegAttentionLib.cohort.lock import Lock, StudyInUseError
from DeepRegAttentionLib.cohort.pairs import Pair, Settings
from DeepRegAttentionLib.cohort.run import Cohort
from DeepRegAttentionLib.engine.errors import OutputError
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.terms.inputs import Inputs
from helpers.cohort_work import work
from helpers.images import blob_image
from helpers.places import MODULE

pytestmark = pytest.mark.slow

SETTINGS = Settings(RegistrationOptions(model="none", prealign="none", refine=1, spacing=6.0, maps=False), ".nrrd")
STAGES = ("refine", "warp", "complete", "end")


@pytest.fixture
def around(tmp_path: Path) -> Path:
    """The folder around the study, with two images."""
    (tmp_path / "mishaps").mkdir()
    for name, shift in (("fixed", (0.0, 0.0, 0.0)), ("moving", (3.0, 2.0, 0.0))):
        sitk.WriteImage(blob_image(shift=shift), str(tmp_path / f"{name}.nrrd"))
    return tmp_path


def cohort_of(around: Path, names: list[str], workers: int = 2) -> Cohort:
    inputs = Inputs(fixed=str(around / "fixed.nrrd"), moving=str(around / "moving.nrrd"))
    pairs = [Pair(name, inputs) for name in names]
    return Cohort(pairs, SETTINGS, around / "study", Where(workers=workers), work)


def table(around: Path) -> dict[str, dict[str, str]]:
    with (around / "study" / "cohort.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def logged(around: Path) -> Counter[str]:
    log = around / "log"
    return Counter(log.read_text(encoding="utf-8").splitlines() if log.exists() else [])


def require_true_and_tidy(around: Path, done: set[str], others: dict[str, str]) -> None:
    """Only results that are whole, all of them in the table, and nothing else in the folder."""
    rows = table(around)
    assert {name for name, row in rows.items() if row["state"] == "done"} == done
    assert {name: row["state"] for name, row in rows.items() if row["state"] != "done"} == others
    assert all(row["similarity_ncc_after"] for row in rows.values() if row["state"] == "done")
    assert all(row["sentence"] for name, row in rows.items() if name in others)
    study = around / "study"
    assert {path.name for path in study.iterdir()} == {"cohort.csv", "index.html", "pairs"}
    assert {path.name for path in (study / "pairs").iterdir()} == done
    for name in done:
        folder = study / "pairs" / name
        record = json.loads((folder / "pair.json").read_text(encoding="utf-8"))
        assert {path.name for path in folder.iterdir()} == {*record["files"], "pair.json"}


def test_workers_that_die_at_every_stage_a_pair_that_kills_and_a_damaged_image(around):
    good = [f"good-{n}" for n in range(2)]
    dying = [f"dies-{stage}" for stage in STAGES]
    for stage in STAGES:
        (around / "mishaps" / f"dies-{stage}").write_text(f"die {stage}", encoding="utf-8")
    (around / "mishaps" / "deadly").write_text("die always", encoding="utf-8")
    cohort = cohort_of(around, [*dying, "deadly", *good])
    (around / "damaged.nrrd").write_bytes((around / "moving.nrrd").read_bytes()[:300])
    damaged = Pair("damaged", Inputs(fixed=str(around / "fixed.nrrd"), moving=str(around / "damaged.nrrd")))
    cohort.pairs = [damaged, *cohort.pairs]
    outcomes = {outcome.pair.name: outcome for outcome in cohort}
    assert len(outcomes) == len(cohort.pairs)
    assert "cannot be read" in outcomes["damaged"].sentence
    assert "died" in outcomes["deadly"].sentence
    require_true_and_tidy(around, {*good, *dying}, {"damaged": "failed", "deadly": "set aside"})
    assert list(table(around)) == [pair.name for pair in cohort.pairs]
    assert all(logged(around)[f"done {name}"] == 1 for name in [*good, *dying])
    # Again: only what has no result is tried.
    (around / "mishaps" / "deadly").unlink()
    before = logged(around)
    states = {outcome.pair.name: outcome.state for outcome in cohort}
    assert states == {**dict.fromkeys([*good, *dying], "kept"), "damaged": "failed", "deadly": "done"}
    assert set(logged(around) - before) == {"begun damaged", "begun deadly", "done deadly"}
    require_true_and_tidy(around, {*good, *dying, "deadly"}, {"damaged": "failed"})


COMMAND = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from test_cohort_faults import cohort_of
if __name__ == "__main__":
    for outcome in cohort_of(Path(sys.argv[3]), sys.argv[4:], workers=1):
        pass
"""


def command(around: Path, names: list[str]) -> subprocess.Popen[bytes]:
    script = around / "command.py"
    script.write_text(COMMAND, encoding="utf-8")
    here = Path(__file__).parent
    return subprocess.Popen([sys.executable, str(script), str(MODULE), str(here), str(around), *names])


def test_the_command_is_killed_and_started_again(around):
    names = ["first", "second", "third"]
    for name in names[1:]:
        (around / "mishaps" / name).write_text("wait 60", encoding="utf-8")
    process = command(around, names)
    while not logged(around)["done first"] or sum(logged(around).values()) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    shutil.rmtree(around / "mishaps")
    states = {outcome.pair.name: outcome.state for outcome in cohort_of(around, names, workers=1)}
    assert states == {"first": "kept", "second": "done", "third": "done"}
    assert [logged(around)[f"done {name}"] for name in names] == [1, 1, 1]
    require_true_and_tidy(around, set(names), {})


def alive(group: int) -> list[str]:
    """The commands of a process group that run; whoever has ended and was not asked for how does not."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, fields = stat.read_text(encoding="utf-8").partition(") ")
            state, _, process_group = fields.split()[:3]
            if int(process_group) == group and state != "Z":
                found.append(name)
    return found


@pytest.mark.skipif(not Path("/proc").exists(), reason="the system does not list its processes in /proc")
def test_ctrl_c_ends_the_command_cleanly_and_the_same_command_goes_on(around):
    with (around / "pairs.csv").open("w", encoding="utf-8") as file:
        file.write("name,fixed,moving\nfirst,fixed.nrrd,moving.nrrd\nsecond,fixed.nrrd,later.nrrd\n")
    # Its worker waits for somebody to write into this one.
    os.mkfifo(around / "later.nrrd")
    options = "--workers 1 --model none --prealign none --refine 1 --spacing 6 --no-maps --format nrrd"
    arguments = [str(around / "pairs.csv"), "-o", str(around / "study"), *options.split()]
    code = "from DeepRegAttentionLib.cli import main; main()"
    started = subprocess.Popen(
        [sys.executable, "-c", code, "cohort", *arguments],
        env={**os.environ, "PYTHONPATH": str(MODULE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        # As in a terminal, where the signal goes to all processes of the command; a suite in the background ignores it.
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    study = around / "study"
    try:
        while not (
            list(study.glob(".partial/*/second.1")) and (study / "cohort.csv").exists() and "first" in table(around)
        ):
            assert started.poll() is None
            time.sleep(0.05)
        os.killpg(started.pid, signal.SIGINT)
        said, complained = started.communicate()
    except BaseException:
        os.killpg(started.pid, signal.SIGKILL)
        raise
    assert started.returncode == 130
    assert re.search(r"stopped after [01] of 2 pairs; the same command goes on with the others", complained)
    assert "Traceback" not in complained
    assert not said
    for _ in range(100):
        if not alive(started.pid):
            break
        time.sleep(0.1)
    assert not alive(started.pid)
    require_true_and_tidy(around, {"first"}, {})
    (around / "later.nrrd").unlink()
    shutil.copy(around / "moving.nrrd", around / "later.nrrd")
    done = subprocess.run(
        [sys.executable, "-c", code, "cohort", *arguments], env={**os.environ, "PYTHONPATH": str(MODULE)}, check=False
    )
    assert done.returncode == 0
    require_true_and_tidy(around, {"first", "second"}, {})


def test_a_full_disk_stops_in_a_sentence_and_goes_on_later(around):
    (around / "mishaps" / "second").write_text("full", encoding="utf-8")
    cohort = cohort_of(around, ["first", "second"], workers=1)
    with pytest.raises(OutputError, match="is full; make room and start the command again"):
        list(cohort)
    require_true_and_tidy(around, {"first"}, {"second": "failed"})
    assert [outcome.state for outcome in cohort] == ["kept", "done"]
    require_true_and_tidy(around, {"first", "second"}, {})


def test_half_a_folder_another_image_or_other_options_are_done_again_and_copies_are_not(around):
    cohort = cohort_of(around, ["first", "second"], workers=1)
    list(cohort)
    (around / "study" / "pairs" / "first" / "transform.h5").unlink()
    assert [outcome.state for outcome in cohort] == ["kept", "done"]
    for name in ("fixed", "moving"):
        content = (around / f"{name}.nrrd").read_bytes()
        (around / f"{name}.nrrd").unlink()
        (around / f"{name}.nrrd").write_bytes(content)
    assert [outcome.state for outcome in cohort] == ["kept", "kept"]
    sitk.WriteImage(blob_image(shift=(2.0, 2.0, 1.0)), str(around / "moving.nrrd"))
    cohort.pairs = [cohort.pairs[1]]
    assert [outcome.state for outcome in cohort] == ["done"]


def test_the_second_command_on_a_study_is_told_and_a_dead_owner_keeps_nothing(around):
    cohort = cohort_of(around, ["first"], workers=1)
    (around / "study").mkdir()
    with Lock(around / "study"), pytest.raises(StudyInUseError, match=f"process {os.getpid()} on"):
        list(cohort)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with Lock(around / "study") as lock:
        content = json.loads(lock.path.read_text(encoding="utf-8"))
    (around / "study" / ".lock").write_text(json.dumps({**content, "process": dead.pid}), encoding="utf-8")
    assert [outcome.state for outcome in cohort] == ["done"]
    require_true_and_tidy(around, {"first"}, {})
