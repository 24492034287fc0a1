"""The worker as its clients meet it: a real process, spoken to in lines."""

from __future__ import annotations

import json
import math
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.cohort.ledger import ABOUT, read_rows
from DeepRegAttentionLib.cohort.pairs import Settings
from DeepRegAttentionLib.cohort.run import Cohort
from DeepRegAttentionLib.cohort.time_left import TimeLeft
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
from DeepRegAttentionLib.engine.result import MAP_NAMES
from DeepRegAttentionLib.jobs.messages import (
    CORRECTION_STAGES,
    ENDINGS,
    STAGES,
    Cancel,
    CohortJob,
    Command,
    CorrectionJob,
    DeviceQuestion,
    Event,
    Job,
    Shutdown,
    decode_event,
    encode,
)
from DeepRegAttentionLib.terms.inputs import Inputs
from DeepRegAttentionLib.worker import process
from DeepRegAttentionLib.worker.cohort_run import pairs_of
from DeepRegAttentionLib.worker.memory import Memory
from helpers.images import blob_image
from helpers.places import MODULE

FAST: dict[str, Any] = {"model": "none", "prealign": "none", "refine": 2, "spacing": 5.0, "threads": 1}
NETWORK = {**FAST, "model": "cardiac-mr", "refine": 1}

# Files in the folder of a job make things go wrong, or slow, in it. All else is the worker as it is.
WITH_MISHAPS = """
import os, subprocess, sys, time
from DeepRegAttentionLib.worker import process as worker

log = os.open(os.environ["MISHAPS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def note(event, arguments):
    if event == "import" or event == "open" and str(arguments[0]).endswith(".safetensors"):
        os.write(log, f"{event} {arguments[0]}\\n".encode())

def progress(run, stage, fraction):
    if (run.folder / "talkative").exists():
        print("a stray print")
        os.write(1, b'{"event": "done", "id": "stray"}\\n')
        subprocess.run(["echo", "of a child"])
    if (run.folder / f"slow-{stage}").exists():
        time.sleep(0.1)
    if (run.folder / "huge").exists():
        import torch
        torch.zeros(2**56)
    if (run.folder / "mistaken").exists():
        {}["nothing"]
    usual(run, stage, fraction)

usual, worker.Run.progress = worker.Run.progress, progress
sys.addaudithook(note)
sys.exit(worker.main())
"""


class Client:
    """Speaks to a worker; everything that it says is in ``events``, lines that are no events in ``strays``."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.log = log
        environment = {**os.environ, "PYTHONPATH": str(MODULE), "MISHAPS_LOG": str(log), "OMP_NUM_THREADS": "1"}
        self.errors = log.with_suffix(".stderr")
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *arguments], env=environment, stdin=-1, stdout=-1, stderr=errors
            )
        self.events: list[Event] = []
        self.strays: list[bytes] = []
        self._new: queue.Queue[Event] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = decode_event(line)
            if event is None:
                self.strays.append(line)
            else:
                self.events.append(event)
                self._new.put(event)

    def send(self, command: Command) -> None:
        self.send_line(encode(command))

    def send_line(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def next(self, *kinds: str, id: Optional[str] = None, stage: Optional[str] = None, timeout: float = 90) -> Event:
        """The next event of one of these kinds (of this job, in this stage)."""
        end = time.monotonic() + timeout
        while True:
            event = self._new.get(timeout=max(0.01, end - time.monotonic()))
            if event.event in kinds and id in (None, event.id) and stage in (None, event.stage):
                return event

    def ask(self, asked: Union[Job, CohortJob, Cancel, DeviceQuestion]) -> Event:
        self.send(asked)
        return self.next(*ENDINGS, id=asked.id)

    def of(self, id: str, kind: str) -> list[Event]:
        return [event for event in self.events if (event.id, event.event) == (id, kind)]

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.process.wait(timeout=10)
        self._listener.join()
        return code


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts workers, and ends those that a test left."""
    clients = []

    def _start(*arguments: str) -> Client:
        log = tmp_path_factory.mktemp("worker") / "log.txt"
        clients.append(Client(log, *(arguments or ("-c", WITH_MISHAPS))))
        return clients[-1]

    yield _start
    for client in clients:
        client.process.kill()
        client.process.wait()


@pytest.fixture(scope="module")
def shared(start) -> Client:
    client = start()
    assert client.next("ready", "error").event == "ready"
    return client


@pytest.fixture
def worker(shared) -> Client:
    """The warm worker, which must be idle and alive after each test."""
    yield shared
    assert shared.ask(DeviceQuestion()).event == "done"


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("images")
    pair = {"fixed": blob_image(), "moving": blob_image(size=(40, 40, 30), degrees=(5, 10, -9), shift=(2, 1, -2))}
    paths = {}
    for name, image in pair.items():
        labels = "labels" if name == "moving" else "fixed_labels"
        paths.update({name: str(folder / f"{name}.nrrd"), labels: str(folder / f"{labels}.nrrd")})
        sitk.WriteImage(image, paths[name])
        sitk.WriteImage(sitk.Cast(image > 0.5, sitk.sitkUInt8), paths[labels])
    return paths


@pytest.fixture
def make_job(images, tmp_path, request):
    """A job on the two images, with these mishaps in its folder."""
    count = 0

    def _make(options: dict[str, Any], *mishaps: str, files: tuple = ("fixed", "moving"), **more: Any) -> Job:
        nonlocal count
        count += 1
        folder = tmp_path / f"job {count}"
        folder.mkdir()
        for name in mishaps:
            (folder / name).touch()
        inputs = Inputs(**{name: images[name] for name in files})
        return Job(f"{request.node.name}-{count}", inputs, str(folder), options, **more)

    return _make


def files_in(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


# A job


def test_a_job_leaves_what_register_returns(worker, make_job, images):
    options = {**NETWORK, "precision": "float32"}
    job = make_job(options, files=tuple(images))
    done = worker.ask(job)
    assert (done.event, done.folder) == ("done", job.folder), done
    moving = sitk.ReadImage(images["moving"])
    expected = register(sitk.ReadImage(images["fixed"]), moving, RegistrationOptions(**options))
    folder = Path(job.folder)
    wanted = {"warped", "warped_labels", *expected.maps}
    others = {"transform.h5", "inverse_transform.h5", "metrics.json"}
    assert set(files_in(job.folder)) == {f"{name}.nrrd" for name in wanted} | others
    assert {"jacobian", "attention", "driving_force"} <= wanted & set(MAP_NAMES)
    found = {"warped": expected.warped, **expected.maps}
    for name, image in found.items():
        np.testing.assert_allclose(array(folder / f"{name}.nrrd"), sitk.GetArrayFromImage(image), atol=1e-4)
    assert b"encoding: raw" in (folder / "warped.nrrd").read_bytes()[:2000]
    point = (31.0, -57.0, 112.0)
    transform = sitk.ReadTransform(str(folder / "transform.h5"))
    assert transform.TransformPoint(point) == pytest.approx(expected.transform.TransformPoint(point), abs=1e-3)
    assert done.metrics == json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert done.metrics["labels"]["after"]["mean_dice"] > 0.5


def test_progress_rises_through_the_stages(worker, make_job, images):
    job = make_job({**NETWORK, "prealign": "affine"}, files=tuple(images))
    assert worker.ask(job).event == "done"
    said = worker.of(job.id, "progress")
    order = [STAGES.index(event.stage) for event in said]
    assert order == sorted(order)
    assert {event.stage for event in said} == set(STAGES)
    fractions = [event.fraction for event in said]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < 0.3 < 0.9 < fractions[-1] <= 1
    left = [event.eta_s for event in said if event.eta_s is not None]
    assert len(left) > 5
    assert left[-1] < 1
    assert all(seconds >= 0 for seconds in left)


def test_progress_is_said_ten_times_a_second_at_most(make_job, monkeypatch):
    now, said = [100.0], []
    monkeypatch.setattr(process.time, "monotonic", lambda: now[0])
    run = process.Run(make_job(FAST), said.append, Memory())
    for step in range(100):
        now[0] = 100 + step / 64
        run.progress("refine", step / 100)
    assert len(said) == 15  # every seventh
    run.progress("refine", 1.0)
    run.progress("warp", 0.0)
    assert [event.stage for event in said[15:]] == ["refine", "warp"]  # what ends or begins is said at once


def test_the_second_job_neither_imports_nor_reads_the_model(worker, make_job):
    jobs = [make_job({**NETWORK, "prealign": "centre"}) for _ in range(2)]
    assert worker.ask(jobs[0]).event == "done"
    before = worker.log.read_text(encoding="utf-8")
    assert "open" in before
    assert "import torch" in before
    assert worker.ask(jobs[1]).event == "done"
    assert worker.log.read_text(encoding="utf-8") == before


def test_what_libraries_print_does_not_reach_the_client(worker, make_job):
    job = make_job(FAST, "talkative")
    assert worker.ask(job).event == "done"
    assert worker.strays == []
    assert not [event for event in worker.events if event.id == "stray"]
    errors = worker.errors.read_text(encoding="utf-8")
    assert "a stray print" in errors
    assert "of a child" in errors


def test_watching_shows_whole_images_that_become_better(worker, make_job, images):
    options = {**FAST, "refine": 14, "spacing": 4.0}
    job = make_job(options, "slow-refine", watch=True)
    worker.send(job)
    fixed, seen = sitk.ReadImage(images["fixed"]), []
    while (event := worker.next("map", *ENDINGS, id=job.id)).event == "map":
        assert event.name == "warped"
        shown = sitk.ReadImage(event.path)
        seen.append((time.monotonic(), sitk.Resample(shown, fixed)))
    assert event.event == "done"
    assert len(seen) >= 3
    assert np.diff([when for when, _ in seen]).min() > 0.8
    assert "preview.nrrd" not in files_in(job.folder)
    goal = sitk.GetArrayFromImage(fixed).ravel()
    alike = [np.corrcoef(goal, sitk.GetArrayFromImage(image).ravel())[0, 1] for _, image in seen]
    assert alike[-1] > alike[0] + 0.01
    warped = array(Path(job.folder) / "warped.nrrd")
    assert np.abs(sitk.GetArrayFromImage(seen[-1][1]) - warped).mean() < 0.05 * np.ptp(warped)


def test_who_does_not_watch_is_shown_nothing(worker, make_job):
    job = make_job(FAST)
    assert worker.ask(job).event == "done"
    assert worker.of(job.id, "map") == []


@pytest.mark.parametrize(("model", "steps"), [("hippocampus-mr", 0), ("brain-t1", 20)])
def test_steps_that_are_left_open_are_the_models_own(model, steps, worker, make_job):
    job = make_job({**FAST, "model": model, "refine": None}, watch=True)
    ended = worker.ask(job)
    assert (ended.event, ended.metrics["refinement_steps"]) == ("done", steps)
    assert bool(worker.of(job.id, "map")) == bool(steps)
    fractions = [event.fraction for event in worker.of(job.id, "progress")]
    assert fractions == sorted(fractions)
    assert fractions[-1] > 0.9


@pytest.mark.slow
def test_a_report_is_written_on_request(worker, make_job):
    job = make_job(FAST, report=True)
    assert worker.ask(job).event == "done"
    assert "report.html" in files_in(job.folder)


def test_a_warning_of_the_engine_is_an_event_of_its_job(worker, make_job, tmp_path):
    job = make_job({**FAST, "model": "hippocampus-mr", "refine": None})
    stiff = tmp_path / "stiff.nrrd"
    sitk.WriteImage(sitk.Cast(sitk.ReadImage(job.inputs.fixed) * 0 + 1, sitk.sitkFloat32), str(stiff))
    job = replace(job, inputs=replace(job.inputs, regularization_map=str(stiff)))
    assert worker.ask(job).event == "done"
    (warning,) = worker.of(job.id, "warning")
    assert "recommends no refinement" in warning.message


# A correction

POINTS = ((31.0, -57.0, 112.0), (35.0, -56.0, 111.0))


def correction_of(job: Job, *pairs: Any, id: str = "") -> CorrectionJob:
    return CorrectionJob(id or f"{job.id}-corrected-{len(pairs)}", job.inputs, job.folder, pairs)


def test_a_result_is_corrected_where_it_lies_and_comes_back(worker, make_job):
    job = make_job(FAST)
    found = worker.ask(job)
    names = files_in(job.folder)
    before = {name: (Path(job.folder) / name).read_bytes() for name in names}
    done = worker.ask(correction_of(job, POINTS))
    assert (done.event, done.folder) == ("done", job.folder), done
    assert files_in(job.folder) == sorted([*names, "correction.nrrd", "uncorrected"])
    transform = sitk.ReadTransform(str(Path(job.folder) / "transform.h5"))
    assert transform.TransformPoint(POINTS[0]) == pytest.approx(POINTS[1], abs=0.01)
    (told,) = done.metrics["corrections"]
    assert told["error_before_mm"] > 2 > told["error_after_mm"]
    assert json.loads((Path(job.folder) / "metrics.json").read_text(encoding="utf-8")) == done.metrics
    stages = [event.stage for event in worker.of(done.id, "progress")]
    assert {"correct", "write"} <= set(stages)
    assert set(stages) <= set(CORRECTION_STAGES)
    # Both images and the result were still known.
    assert "read" not in stages
    back = worker.ask(correction_of(job))
    assert back.metrics == found.metrics
    assert {name: (Path(job.folder) / name).read_bytes() for name in files_in(job.folder)} == before


def test_a_worker_that_was_started_anew_reads_what_it_needs(worker, start, make_job, images):
    job = make_job(FAST, files=tuple(images))
    assert worker.ask(job).event == "done"
    known = worker.ask(correction_of(job, POINTS))
    warped = array(Path(job.folder) / "warped.nrrd")
    assert worker.ask(correction_of(job, id="none")).event == "done"
    other = start()
    done = other.ask(correction_of(job, POINTS))
    assert done.event == "done", done
    np.testing.assert_allclose(array(Path(job.folder) / "warped.nrrd"), warped, atol=1e-5)
    assert done.metrics["labels"]["after"]["mean_dice"] == known.metrics["labels"]["after"]["mean_dice"]
    assert {"read", "correct", "measure", "write"} == {event.stage for event in other.of(done.id, "progress")}


@pytest.mark.parametrize(
    ("pair", "phrase"),
    [
        (((1e4, 0, 0), POINTS[1]), "outside the fixed image"),
        ((POINTS[0], (31.0, -57.0, 142.0)), "more than the 18 mm that can be corrected"),
    ],
)
def test_a_correction_that_cannot_be_made_changes_nothing(worker, make_job, pair, phrase):
    job = make_job(FAST)
    worker.ask(job)
    before = files_in(job.folder)
    error = worker.ask(correction_of(job, pair))
    assert (error.event, error.code) == ("error", "correction"), error
    assert phrase in error.message
    assert files_in(job.folder) == before


def test_what_is_no_correction_is_refused(worker, make_job, images):
    job = make_job(FAST)
    error = worker.ask(correction_of(job, POINTS))
    assert (error.event, error.code) == ("error", "unreadable")
    assert "holds no result" in error.message
    for corrections in (None, 3, [{"fixed": [1, 2]}], [{"fixed": [1, 2, 3], "moving": [1, 2, "x"]}], [[1, 2, 3]]):
        line = {"command": "correct", "id": "x", "inputs": {"fixed": "f", "moving": "m"}, "folder": "f"}
        worker.send_line(json.dumps({**line, "corrections": corrections}).encode() + b"\n")
        said = worker.next("error", id="x")
        assert said.code == "protocol"
        assert "orrection" in said.message


# Several jobs


def test_jobs_are_done_one_after_the_other(worker, make_job):
    jobs = [make_job(FAST, "slow-refine"), make_job(FAST)]
    for job in jobs:
        worker.send(job)
    assert worker.ask(DeviceQuestion()).event == "done"
    for job in jobs:
        assert worker.next("done", id=job.id).folder == job.folder
    ids = [event.id for event in worker.events if event.id in (jobs[0].id, jobs[1].id)]
    assert ids == sorted(ids)


def test_a_question_is_answered_while_a_job_runs(worker, make_job):
    job = make_job(FAST, "slow-refine", "slow-maps")
    worker.send(job)
    worker.next("progress", id=job.id, stage="refine")
    assert worker.ask(DeviceQuestion()).event == "done"
    assert not worker.of(job.id, "done")
    worker.next("done", id=job.id)


def test_a_waiting_job_can_be_cancelled_alone(worker, make_job):
    first, second = make_job(FAST, "slow-refine"), make_job(FAST)
    for message in (first, second, Cancel(second.id)):
        worker.send(message)
    assert worker.next(*ENDINGS).id == second.id
    assert worker.next(*ENDINGS, id=first.id).event == "done"
    assert [event.event for event in worker.events if event.id == second.id] == ["cancelled"]
    assert files_in(second.folder) == []


def test_an_id_that_is_taken_is_refused_and_the_first_job_goes_on(worker, make_job):
    job = make_job(FAST, "slow-refine")
    for _ in range(2):
        worker.send(job)
    refusal = worker.next("error")
    assert (refusal.id, refusal.code) == (None, "protocol")
    assert worker.next(*ENDINGS, id=job.id).event == "done"


# Cancelling


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "measure"])
def test_a_job_is_cancelled_at_any_stage(stage, worker, make_job):
    job = make_job({**NETWORK, "prealign": "affine"}, f"slow-{stage}", watch=True)
    worker.send(job)
    worker.next("progress", id=job.id, stage=stage)
    worker.send(Cancel(job.id))
    assert worker.next(*ENDINGS, id=job.id).event == "cancelled"
    assert files_in(job.folder) == [f"slow-{stage}"]


def test_cancelling_while_the_labels_are_measured(worker, make_job, images):
    job = make_job(FAST, "slow-measure", files=tuple(images))
    worker.send(job)
    worker.next("progress", id=job.id, stage="measure")
    assert worker.ask(Cancel(job.id)).event == "cancelled"


def test_a_job_that_has_ended_is_not_cancelled_again(worker, make_job):
    job = make_job(FAST)
    assert worker.ask(job).event == "done"
    worker.send(Cancel(job.id))
    assert worker.ask(DeviceQuestion()).event == "done"
    assert [event.event for event in worker.events if event.id == job.id and event.event in ENDINGS] == ["done"]


@pytest.mark.slow
def test_a_killed_worker_leaves_nothing_that_the_next_cannot_clear(start, worker, make_job):
    job = make_job(FAST, "slow-write")
    doomed = start()
    doomed.send(job)
    doomed.next("progress", id=job.id, stage="write")
    doomed.process.send_signal(signal.SIGKILL)
    doomed.process.wait(timeout=5)
    assert [name for name in files_in(job.folder) if name.startswith(".writing")]
    assert "warped.nrrd" not in files_in(job.folder)
    assert worker.ask(job).event == "done"
    assert not [name for name in files_in(job.folder) if name.startswith(".writing")]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["input closed", "shutdown"])
def test_it_ends_in_the_middle_of_a_job(how, start, make_job):
    job = make_job(FAST, "slow-write", watch=True)
    client = start()
    client.send(job)  # before it is ready: it waits
    client.next("progress", id=job.id, stage="write")
    if how == "shutdown":
        client.send(Shutdown())
        assert client.process.wait(timeout=10) == 0
    else:
        assert client.end() == 0
    assert files_in(job.folder) == ["slow-write"]


# What goes wrong


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        (b"no JSON at all", "one JSON object"),
        (b"\xff\xfe\n", "one JSON object"),
        (b"[1, 2]", "one JSON object"),
        (b"[" * 100_000, "one JSON object"),
        (b'{"id": "bad"}', "no command None"),
        (b'{"id": "bad", "command": "registr"}', "register, cohort, correct, cancel"),
        (b'{"command": "device"}', "needs an id"),
        (b'{"id": 7, "command": "device"}', "must be a text"),
        (b'{"id": "bad", "command": "register"}', "“inputs” is missing"),
        (b'{"id": "bad", "command": "register", "inputs": {}, "folder": "f"}', "“fixed” is missing"),
        (b'{"id": "bad", "command": "register", "inputs": {"fixed": 3}, "folder": "f"}', "path of a file"),
        (b'{"id": "bad", "command": "register", "inputs": {"mask": "m"}, "folder": "f"}', "no input “mask”"),
        (b'{"id": "bad", "command": "register", "inputs": {"fixed": "a", "moving": "b"}}', "“folder” is missing"),
        (b'{"id": "bad", "command": "cohort", "folder": "f"}', "“source” is missing"),
        (b'{"id": "bad", "command": "cohort", "source": "s", "folder": "f", "pairing": "some"}', "must be one of to-a"),
        (b'{"id": "bad", "command": "device", "size": [1, 2, 3]}', "belong together"),
        (b'{"id": "bad", "command": "device", "size": [1, 2], "spacing": [1, 1, 1]}', "three positive"),
    ],
)
def test_a_bad_line_is_answered_and_survived(line, phrase, worker):
    worker.send_line(line.rstrip(b"\n") + b"\n")
    error = worker.next("error")
    assert (error.code, error.id) == ("protocol", "bad" if b'"bad"' in line else None)
    assert phrase in error.message


@pytest.mark.parametrize(
    ("change", "code", "phrase"),
    [
        ({"options": {"refin": 3}}, "option", "did you mean “refine”"),
        ({"options": {"refine": "many"}}, "option", "refine must be"),
        ({"options": {"model": "liver"}}, "model", "There is no model “liver”"),
        (
            {"options": {"landmark_weight": 1.0}},
            "option",
            "The landmark weight cannot be used without the landmarks of the fixed",
        ),
        ({"inputs": {"fixed": "absent.nrrd"}}, "unreadable", "absent.nrrd does not exist"),
        ({"inputs": {"fixed_labels": "labels.nrrd"}}, "option", "without the label map of the moving image"),
        ({"folder": "/dev/null/result"}, "output", "is a file"),
    ],
)
def test_each_mistake_is_one_sentence_and_a_code(change, code, phrase, worker, make_job):
    message = make_job(FAST).to_dict()
    for key, value in change.items():
        message[key] = {**message[key], **value} if isinstance(value, dict) else value
    worker.send_line(json.dumps(message).encode() + b"\n")
    error = worker.next(*ENDINGS, id=message["id"])
    assert (error.event, error.code) == ("error", code), error
    assert phrase in error.message
    assert error.message.count(". ") == 0
    assert error.message.endswith(".")


def test_a_model_that_asks_for_consent_is_named(worker, make_job, tmp_path):
    values = np.zeros((18, 36, 36), np.float32)
    values[1:-1, 2:-2, 2:-2] = np.random.default_rng(0).uniform(1, 2, (16, 32, 32))
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((6, 6, 6))
    sitk.WriteImage(image, str(tmp_path / "heart.nrrd"))
    job = make_job({"undecided_licences": ["cardiac-mr"], "threads": 1})
    inputs = Inputs(fixed=str(tmp_path / "heart.nrrd"), moving=str(tmp_path / "heart.nrrd"))
    error = worker.ask(replace(job, inputs=inputs))
    assert (error.event, error.code, error.name) == ("error", "licence", "cardiac-mr")
    assert error.message.startswith("The model cardiac-mr suits these images, but asks for consent first.")
    assert not Path(job.folder, "metrics.json").exists()


def test_no_memory_is_said_and_the_next_job_works(worker, make_job):
    job = make_job(FAST, "huge")
    error = worker.ask(job)
    assert (error.event, error.code) == ("error", "memory"), error
    assert "coarser working spacing" in error.message
    assert "allocat" in error.detail
    assert worker.ask(make_job(FAST)).event == "done"


def test_a_mistake_in_the_program_is_told_with_its_place(worker, make_job):
    error = worker.ask(make_job(FAST, "mistaken"))
    assert (error.event, error.code) == ("error", "internal")
    assert "KeyError" in error.message
    assert "\n" not in error.message
    assert "in progress" in error.detail
    assert "Traceback" in worker.errors.read_text(encoding="utf-8")


PRETENCE = """
import sys, types
class Broken:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            raise OSError("[WinError 126] The specified module could not be found")
whole, half = types.ModuleType("torch"), types.ModuleType("torch")
whole.__version__ = whole.__file__ = "9"
{how}
from DeepRegAttentionLib.worker import process as worker
sys.exit(worker.main())
"""


@pytest.mark.parametrize(
    ("how", "name", "phrase"),
    [
        ("sys.modules['torch'] = None", "torch", "is not installed"),
        ("sys.modules['torch'] = half", "torch", "not completely installed"),
        ("sys.modules['torch._C'] = None", "torch", "not completely installed"),
        ("sys.meta_path.insert(0, Broken())", "torch", "not completely installed"),
        ("sys.modules['torch'] = whole; sys.modules['safetensors'] = None", "safetensors", "is not installed"),
        ("sys.modules['SimpleITK'] = None", "SimpleITK", "is not installed"),
    ],
)
def test_a_missing_package_is_named_and_the_process_ends(how, name, phrase, start):
    client = start("-c", PRETENCE.format(how=how))
    error = client.next("error", "ready", timeout=30)
    assert (error.event, error.code, error.name, error.id) == ("error", "missing-package", name, None)
    assert phrase in error.message
    assert f"pip install {'--force-reinstall ' if 'completely' in phrase else ''}{name}" in error.message
    assert error.detail
    assert client.process.wait(timeout=5) == 1


# Cohorts


@pytest.fixture
def cohort(images, tmp_path) -> CohortJob:
    """Three small images, each to be moved onto those before it."""
    for name in "abc":
        (tmp_path / "images").mkdir(exist_ok=True)
        shutil.copy(images["fixed" if name == "a" else "moving"], tmp_path / "images" / f"{name}.nrrd")
    return CohortJob("many", str(tmp_path), str(tmp_path / "study"), options={**FAST, "maps": False})


@pytest.mark.slow
def test_a_cohort_is_told_pair_by_pair_stopped_and_gone_on_with(start, cohort):
    client = start("-m", "DeepRegAttentionLib.worker")
    client.send(cohort)
    assert client.next("progress", id="many").count == 3
    first = client.next("pair", *ENDINGS, id="many")
    assert (first.event, first.count, first.fraction) == ("pair", 3, 0.3333), first
    assert set(first.pair) == set(ABOUT)
    assert client.ask(Cancel("many")).event == "cancelled"
    study = Path(cohort.folder)
    assert {path.name for path in study.iterdir()} == {"cohort.csv", "index.html", "pairs"}
    complete = {row["name"] for row in read_rows(study)}
    assert first.pair["name"] in complete
    assert client.ask(replace(cohort, id="again")).event == "done"
    told = client.of("again", "pair")
    assert {event.pair["name"] for event in told} == {"b_to_a", "c_to_a", "c_to_b"}
    assert [event.fraction for event in told] == [0.3333, 0.6667, 1.0]
    assert read_rows(study) == sorted((row for row in read_rows(study)), key=lambda row: row["name"])
    assert len(read_rows(study)) == 3
    # The command keeps what the worker made, as it is made alike.
    settings = Settings(RegistrationOptions.from_mapping(cohort.options))
    assert [outcome.state for outcome in Cohort(pairs_of(cohort), settings, study)] == ["kept"] * 3


@pytest.mark.slow
def test_nothing_unfinished_is_left_when_nobody_listens_any_more(start, cohort):
    client = start("-m", "DeepRegAttentionLib.worker")
    client.send(replace(cohort, options={**cohort.options, "refine": 2000, "spacing": 2.0}))
    client.next("progress", id="many")
    study = Path(cohort.folder)
    while not list(study.glob(".partial/*/*.1")):
        time.sleep(0.05)
    assert client.process.stdin is not None
    client.process.stdin.close()
    assert client.process.wait(timeout=60) == 0
    assert {path.name for path in study.iterdir()} == {"cohort.csv", "index.html", "pairs"}
    assert list((study / "pairs").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "code", "phrase"),
    [
        ({"source": "nowhere"}, "unreadable", "nowhere"),
        ({"pairing": "to-atlas", "atlas": "z"}, "option", "no file and no image “z”"),
        ({"options": {"refine": -3}}, "option", "refine"),
    ],
)
def test_a_cohort_that_cannot_start_says_why_in_a_sentence(change, code, phrase, worker, cohort):
    error = worker.ask(replace(cohort, id=f"not {phrase}", **change))
    assert (error.event, error.code) == ("error", code), error
    assert phrase in error.message
    assert not Path(cohort.folder).exists()


def test_a_table_of_pairs_leaves_nothing_to_choose(cohort, tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text("fixed,moving\nimages/a.nrrd,images/b.nrrd\n", encoding="utf-8")
    (pair,) = pairs_of(replace(cohort, source=str(table), pairing="to-atlas", atlas="z"))
    assert pair.name == "b_to_a"


def test_without_dask_a_cohort_names_it_and_the_worker_lives_on(start, cohort):
    client = start("-c", PRETENCE.format(how="sys.modules['distributed'] = None"))
    error = client.ask(cohort)
    assert (error.event, error.code, error.name) == ("error", "missing-package", "distributed")
    assert client.ask(DeviceQuestion()).event == "done"


def test_the_time_left_is_known_after_two_pairs_and_does_not_count_what_was_kept():
    now = [0.0]
    left = TimeLeft(10, lambda: now[0])
    said = []
    for kept, seconds in ((True, 1), (True, 1), (False, 60), (False, 5), (False, 7)):
        now[0] += seconds
        said.append(left.after(kept))
    assert said == [None, None, None, 30.0, 30.0]
    assert left.fraction == 0.5


# Questions


def test_the_devices_have_a_name_and_memory(worker):
    devices = worker.ask(DeviceQuestion()).devices
    assert devices["cpu"]["name"]
    assert 0 < devices["cpu"]["free_gib"] < devices["cpu"]["total_gib"]
    assert all(math.isfinite(device["total_gib"]) for device in devices.values())
