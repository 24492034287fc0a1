"""The client of the worker: each of its states, the same cases under asyncio and Qt, and the real worker."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.jobs.client import PATIENCE_MS, WORKER_ARGUMENTS, BusyError, State, WorkerClient
from DeepRegAttentionLib.jobs.messages import (
    ENDINGS,
    Cancel,
    DeviceQuestion,
    Event,
    Job,
    Shutdown,
    decode_command,
    encode,
)
from DeepRegAttentionLib.jobs.signals import Signal
from DeepRegAttentionLib.terms.inputs import Inputs
from helpers.images import blob_image
from helpers.places import MODULE
from helpers.worker_client import PUPPET, AsyncioGround, Ground, PlayedGround, QtGround, hurry

JOB = Job("one", Inputs("f.nrrd", "m.nrrd"), "out")


class PlayedProcess:
    """The other end of the protocol, moved by the test."""

    on_output: Callable[[bytes], None]
    on_log: Callable[[bytes], None]
    on_ended: Callable[[int, bool], None]

    def __init__(self) -> None:
        self.commands: list[Any] = []
        self.calls: list[str] = []
        self.ends_when_asked = True

    def start(self) -> None:
        self.calls.append("start")

    def write(self, data: bytes) -> None:
        self.commands += [decode_command(line) for line in data.splitlines()]

    def close_input(self) -> None:
        self.calls.append("close_input")

    def terminate(self) -> None:
        self.calls.append("terminate")

    def kill(self) -> None:
        self.calls.append("kill")

    def wait(self, milliseconds: int) -> bool:
        self.calls.append("wait")
        return self.ends_when_asked

    def say(self, event: str, **more: Any) -> None:
        self.on_output(encode(Event(event, **more)))


class Stage:
    """A client, the processes that it started, and a clock that the test moves."""

    def __init__(self) -> None:
        self.processes: list[PlayedProcess] = []
        self.timers: list[tuple[int, Callable[[], None]]] = []
        self.heard: list[Event] = []
        self.states: list[State] = []
        self.client = WorkerClient(self._new, lambda ms, call: self.timers.append((ms, call)))
        self.client.changed.connect(lambda: self.states.append(self.client.state))

    def _new(self) -> PlayedProcess:
        self.processes.append(PlayedProcess())
        return self.processes[-1]

    @property
    def process(self) -> PlayedProcess:
        return self.processes[-1]

    def run(self, job: Job = JOB) -> None:
        self.client.submit(job, self.heard.append)

    def started(self) -> Stage:
        self.client.warm_up()
        self.process.say("ready")
        return self

    def running(self) -> Stage:
        self.started().run()
        return self

    def let_time_pass(self) -> None:
        timers, self.timers = self.timers, []
        for _, call in timers:
            call()

    def endings(self) -> list[str]:
        return [event.event for event in self.heard if event.event in ENDINGS]


@pytest.fixture
def stage() -> Stage:
    return Stage()


# Starting


def test_the_worker_is_started_once_and_kept(stage: Stage) -> None:
    stage.client.warm_up()
    stage.client.warm_up()
    assert stage.client.state is State.STARTING
    stage.process.say("ready")
    assert stage.client.state is State.READY
    stage.run()
    stage.process.say("done", id="one", folder="out")
    stage.run(Job("two", JOB.inputs, "out"))
    assert len(stage.processes) == 1
    assert [command.id for command in stage.process.commands] == ["one", "two"]


def test_a_job_waits_until_the_worker_is_ready(stage: Stage) -> None:
    stage.run()
    assert stage.process.commands == []
    stage.process.say("ready")
    assert stage.process.commands == [JOB]
    assert stage.client.state is State.RUNNING


def test_a_missing_torch_is_told_to_the_job_and_kept_for_the_panel(stage: Stage) -> None:
    stage.run()
    stage.process.say("error", code="missing-package", name="torch", message="PyTorch is missing.")
    stage.process.on_ended(1, False)
    assert stage.endings() == ["error"]
    assert (stage.heard[-1].id, stage.heard[-1].code) == ("one", "missing-package")
    assert stage.client.trouble.message == "PyTorch is missing."
    assert stage.client.state is State.OFF
    assert len(stage.processes) == 1, "a start that failed is not repeated by itself"


def test_the_trouble_is_over_with_the_next_start(stage: Stage) -> None:
    stage.client.warm_up()
    stage.process.say("error", code="missing-package", name="torch", message="PyTorch is missing.")
    stage.process.on_ended(1, False)
    stage.started()
    assert stage.client.trouble is None


def test_a_process_that_cannot_be_started_is_said(stage: Stage) -> None:
    stage.run()
    stage.process.on_ended(-1, True)
    assert stage.heard[-1].code == "no-worker"
    assert "could not start" in stage.heard[-1].message


# Running


def test_events_reach_the_job_they_belong_to(stage: Stage) -> None:
    stage.running()
    stage.process.say("progress", id="another", stage="refine", fraction=0.9)
    stage.process.say("progress", id="one", stage="network", fraction=0.5, eta_s=3.0)
    stage.process.say("map", id="one", name="warped", path="p.nrrd")
    stage.process.say("done", id="one", folder="out", metrics={"a": 1})
    assert [event.event for event in stage.heard] == ["progress", "map", "done"]
    assert stage.heard[-1].metrics == {"a": 1}
    assert stage.client.state is State.READY
    assert not stage.client.busy


def test_output_comes_in_any_pieces_and_with_strangers(stage: Stage) -> None:
    stage.running()
    line = json.dumps({"event": "progress", "id": "one", "message": "größer"}, ensure_ascii=False).encode()
    for byte in b"a library says hello\n" + line + b"\n":
        stage.process.on_output(bytes([byte]))
    assert [event.message for event in stage.heard] == ["größer"]


def test_the_log_comes_in_lines(stage: Stage) -> None:
    lines: list[str] = []
    stage.client.logged.connect(lines.append)
    stage.started().process.on_log(b"one\r\ntw")
    stage.process.on_log(b"o \xff\n")
    assert lines == ["one", "two �"]


def test_one_job_at_a_time(stage: Stage) -> None:
    stage.running()
    with pytest.raises(BusyError, match="under way"):
        stage.run()
    stage.process.say("done", id="one")
    assert stage.endings() == ["done"]


def test_the_next_job_may_be_submitted_when_one_ends(stage: Stage) -> None:
    stage.started()
    following: list[Event] = []
    stage.client.submit(JOB, lambda event: stage.client.submit(Job("two", JOB.inputs, "o"), following.append))
    stage.process.say("done", id="one")
    stage.process.say("done", id="two")
    assert [event.id for event in following] == ["two"]


# Questions


def test_questions_are_answered_also_while_a_job_runs(stage: Stage) -> None:
    answers: list[Event] = []
    question = DeviceQuestion((4, 5, 6), (1.0, 1.0, 2.0))
    stage.client.ask(question, answers.append)
    stage.process.say("ready")
    stage.run()
    assert stage.process.commands == [question, JOB]
    stage.process.say("done", id=question.id, devices={"cpu": {"name": "c"}})
    stage.process.say("done", id=question.id, devices={})
    assert [event.devices for event in answers] == [{"cpu": {"name": "c"}}]
    assert stage.client.busy


def test_a_question_that_is_put_at_the_news_of_the_start_is_put_once(stage: Stage) -> None:
    def ask() -> None:
        if stage.client.state is State.READY:
            stage.client.changed.disconnect(ask)
            stage.client.ask(DeviceQuestion(), stage.heard.append)

    stage.client.changed.connect(ask)
    stage.started()
    assert stage.process.commands == [DeviceQuestion()]


@pytest.mark.parametrize("ready", [False, True])
def test_a_question_has_an_answer_even_if_the_worker_ends(stage: Stage, ready: bool) -> None:
    stage.client.ask(DeviceQuestion(id="q"), stage.heard.append)
    if ready:
        stage.process.say("ready")
    stage.process.on_ended(1, False)
    assert [(event.event, event.id) for event in stage.heard] == [("error", "q")]
    stage.client.ask(DeviceQuestion(id="r"), stage.heard.append)
    stage.client.shutdown()
    assert [(event.event, event.id) for event in stage.heard[1:]] == [("cancelled", "r")]


# Cancelling


def test_a_cancelled_job_is_asked_then_terminated_then_killed(stage: Stage) -> None:
    stage.running().client.cancel()
    assert stage.process.commands[-1] == Cancel("one")
    assert stage.client.state is State.CANCELLING
    assert [ms for ms, _ in stage.timers] == [PATIENCE_MS] == [2000]
    process = stage.process
    stage.let_time_pass()
    assert process.calls == ["start", "terminate"]
    stage.let_time_pass()
    assert process.calls == ["start", "terminate", "kill"]
    process.on_ended(9, True)
    assert stage.endings() == ["cancelled"]
    assert stage.client.trouble is None
    assert len(stage.processes) == 2, "it is started again, to be warm for the next job"


def test_a_job_that_stops_by_itself_leaves_the_worker_warm(stage: Stage) -> None:
    stage.running().client.cancel()
    stage.process.say("cancelled", id="one")
    stage.let_time_pass()
    assert stage.process.calls == ["start"]
    assert stage.endings() == ["cancelled"]
    assert stage.client.state is State.READY


def test_the_timer_of_an_old_cancel_spares_the_next_job(stage: Stage) -> None:
    stage.running().client.cancel()
    stage.process.say("cancelled", id="one")
    stage.run(Job("two", JOB.inputs, "out"))
    stage.let_time_pass()
    assert stage.process.calls == ["start"]


def test_who_was_told_to_terminate_gets_no_other_job(stage: Stage) -> None:
    stage.running().client.cancel()
    stage.let_time_pass()
    stage.process.say("cancelled", id="one")
    assert stage.client.busy
    stage.process.on_ended(0, False)
    stage.run(Job("two", JOB.inputs, "out"))
    assert stage.endings() == ["cancelled"]
    assert len(stage.processes) == 2


def test_a_job_that_still_waits_is_cancelled_at_once(stage: Stage) -> None:
    stage.run()
    stage.client.cancel()
    assert stage.endings() == ["cancelled"]
    stage.process.say("ready")
    assert stage.process.commands == []


def test_cancelling_twice_or_nothing_changes_nothing(stage: Stage) -> None:
    stage.client.cancel()
    stage.running().client.cancel()
    stage.client.cancel()
    assert stage.process.commands == [JOB, Cancel("one")]


def test_a_job_that_was_done_before_the_cancel_arrived_is_done(stage: Stage) -> None:
    stage.running().client.cancel()
    stage.process.say("done", id="one", folder="out")
    assert stage.endings() == ["done"]


# Crashes


@pytest.mark.parametrize(
    ("code", "crashed", "words"), [(11, True, "crashed;"), (9, True, "no memory was left;"), (3, False, "exit code 3;")]
)
def test_a_crash_is_said_and_the_worker_started_again(stage: Stage, code: int, crashed: bool, words: str) -> None:
    stage.running().process.on_ended(code, crashed)
    assert stage.endings() == ["error"]
    assert stage.heard[-1].code == "worker-ended"
    assert words in stage.heard[-1].message
    assert stage.client.state is State.STARTING
    stage.process.say("ready")
    stage.run(Job("two", JOB.inputs, "out"))
    assert stage.process.commands[-1].id == "two"


def test_a_worker_that_ends_while_idle_is_started_by_the_next_job(stage: Stage) -> None:
    stage.started().process.on_ended(1, False)
    assert stage.client.state is State.OFF
    assert len(stage.processes) == 1
    stage.run()
    stage.process.say("ready")
    assert stage.client.state is State.RUNNING


def test_what_is_said_of_no_job_is_for_the_log(stage: Stage) -> None:
    lines: list[str] = []
    stage.client.logged.connect(lines.append)
    stage.started().process.say("error", code="protocol", message="There is no such command.")
    assert stage.client.trouble is None
    assert lines == ["There is no such command."]


def test_an_old_process_has_no_say(stage: Stage) -> None:
    stage.running()
    old = stage.process
    old.on_ended(1, True)
    stage.process.say("ready")
    stage.run(Job("two", JOB.inputs, "out"))
    old.say("done", id="two")
    old.on_ended(1, True)
    assert stage.client.busy
    assert stage.endings() == ["error"]


# The end


def test_shutting_down_ends_the_process_and_then_the_job(stage: Stage) -> None:
    calls_at_the_end: list[str] = []
    stage.started().client.submit(JOB, lambda event: calls_at_the_end.extend([event.event, *stage.process.calls]))
    stage.client.shutdown()
    assert stage.process.commands[-1] == Shutdown()
    assert calls_at_the_end == ["cancelled", "start", "close_input", "wait"]
    assert stage.client.state is State.OFF
    assert not stage.client.busy


def test_a_process_that_does_not_end_is_killed(stage: Stage) -> None:
    stage.started().process.ends_when_asked = False
    stage.client.shutdown()
    assert stage.process.calls[-2:] == ["kill", "wait"]


def test_every_change_is_told(stage: Stage) -> None:
    stage.running().process.say("done", id="one")
    assert [state for n, state in enumerate(stage.states) if n == 0 or state is not stage.states[n - 1]] == [
        State.STARTING,
        State.READY,
        State.RUNNING,
        State.READY,
    ]


# Signals


def test_a_signal_calls_each_slot_once_in_order() -> None:
    signal, heard = Signal(), []  # type: ignore[var-annotated]

    def leave(value: int) -> None:
        heard.append(("leave", value))
        signal.disconnect(leave)
        signal.disconnect(late)

    def late(value: int) -> None:
        heard.append(("late", value))

    signal.connect(leave)
    signal.connect(leave)
    signal.connect(late)
    signal.emit(1)
    signal.emit(2)
    assert heard == [("leave", 1)]


# The same on every ground: without a process, under asyncio, under Qt

PROGRESS = {"event": "progress", "stage": "refine", "fraction": 0.5}
DONE = {"event": "done", "folder": "out"}


def job(name: str, *said: Any, **options: Any) -> Job:
    return Job(name, JOB.inputs, "out", {"say": said, **options})


@pytest.fixture(params=[PlayedGround, AsyncioGround, QtGround])
def make_ground(request: pytest.FixtureRequest) -> Iterator[Callable[..., Ground]]:
    grounds: list[Ground] = []

    def make(*command: str) -> Ground:
        grounds.append(request.param(command or (PUPPET,)))
        return grounds[-1]

    yield make
    for ground in grounds:
        ground.close()


@pytest.fixture
def ground(make_ground: Callable[..., Ground]) -> Ground:
    return make_ground()


def test_jobs_are_done_by_one_process(ground: Ground) -> None:
    assert [event.event for event in ground.finish(job("one", PROGRESS, DONE))] == ["progress", "done"]
    assert [event.event for event in ground.finish(job("two", DONE))] == ["done"]
    assert len(ground.processes) == 1


def test_a_question_is_answered_before_and_during_a_job(ground: Ground) -> None:
    for question in (DeviceQuestion((4, 5, 6), (1.0, 1.0, 2.0), {"refine": 3}, "first"), DeviceQuestion(id="second")):
        ground.do(lambda question=question: ground.client.ask(question, ground.heard.append))
        ground.until(lambda question=question: ground.heard and ground.heard[-1].id == question.id)
        answer = ground.heard[-1]
        assert (answer.event, decode_command(json.dumps(answer.devices["asked"]).encode())) == ("done", question)
        if not ground.client.busy:
            ground.submit(job("one"))


def test_the_log_is_passed_on(ground: Ground) -> None:
    lines: list[str] = []
    ground.client.logged.connect(lines.append)
    ground.do(ground.client.warm_up)
    ground.until(lambda: len(lines) == 2)
    assert lines == ["one", "two \ufffd"]


def test_a_cancel_that_is_obeyed_keeps_the_process(ground: Ground) -> None:
    ground.submit(job("one", PROGRESS))
    ground.until(lambda: ground.heard)
    ground.do(ground.client.cancel)
    ground.until(lambda: not ground.client.busy)
    assert [event.event for event in ground.heard] == ["progress", "cancelled"]
    assert ground.finish(job("two", DONE))[-1].event == "done"
    assert len(ground.processes) == 1


def test_a_cancel_that_is_not_obeyed_ends_the_process(ground: Ground) -> None:
    with hurry():
        ground.submit(job("one", PROGRESS, deaf=True))
        ground.until(lambda: ground.heard)
        ground.do(ground.client.cancel)
        ground.until(lambda: not ground.client.busy)
    assert [event.event for event in ground.heard] == ["progress", "cancelled"]
    assert ground.processes[0].wait(0)
    assert ground.finish(job("two", DONE))[-1].event == "done"
    assert len(ground.processes) == 2


@pytest.mark.parametrize(("how", "words"), [({"exit": 3}, "exit code 3"), ({"crash": True}, "no memory was left")])
def test_a_process_that_ends_by_itself_is_replaced(ground: Ground, how: Any, words: str) -> None:
    first, last = ground.finish(job("one", PROGRESS, **how))
    assert (first.event, last.event, last.code) == ("progress", "error", "worker-ended")
    assert words in last.message
    assert ground.client.state is State.STARTING
    assert ground.finish(job("two", DONE))[-1].event == "done"
    assert len(ground.processes) == 2


def test_what_the_worker_lacks_is_the_error(make_ground: Callable[..., Ground]) -> None:
    ground = make_ground(PUPPET, "lacking")
    (error,) = ground.finish(job("one", DONE))
    assert (error.code, error.name, error.message) == ("missing-package", "torch", "PyTorch is missing.")
    assert (ground.client.state, len(ground.processes)) == (State.OFF, 1)


def test_a_worker_that_ends_as_it_starts_is_said(make_ground: Callable[..., Ground]) -> None:
    ground = make_ground("/no/such/file")
    (error,) = ground.finish(job("one", DONE))
    assert error.code == "no-worker"
    assert "could not start" in error.message
    assert (ground.client.state, len(ground.processes)) == (State.OFF, 1)


@pytest.mark.parametrize("deaf", [False, True])
def test_a_shutdown_leaves_no_process(ground: Ground, deaf: bool) -> None:
    ground.submit(job("one", PROGRESS, deaf=deaf))
    ground.until(lambda: ground.heard)
    with hurry():
        ground.do(ground.client.shutdown)
    assert ground.processes[0].wait(0)
    assert [event.event for event in ground.heard] == ["progress", "cancelled"]
    assert ground.client.state is State.OFF


def test_a_python_that_is_not_there_is_said() -> None:
    for ground in (AsyncioGround(()), QtGround(())):
        ground.interpreter = "/no/such/python"
        (error,) = ground.finish(job("one", DONE))
        assert error.code == "no-worker"
        ground.close()


def test_the_panels_worker_finds_this_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/before")
    ground = QtGround(("-c", "import sys, DeepRegAttentionLib as a; print(a.__file__, sys.path, file=sys.stderr)"))
    lines: list[str] = []
    ground.client.logged.connect(lines.append)
    ground.do(ground.client.warm_up)
    ground.until(lambda: ground.client.state is State.OFF)
    assert lines[0].startswith(str(MODULE))
    assert "'/before'" in lines[0]


# The real worker


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(MODULE))
    ground = AsyncioGround(WORKER_ARGUMENTS)
    yield ground
    ground.do(ground.client.shutdown)
    ground.close()


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    paths = []
    for name, shift in (("fixed", 0.0), ("moving", 2.0)):
        paths.append(str(tmp_path / f"{name}.nrrd"))
        sitk.WriteImage(blob_image(size=(28, 24, 20), shift=(shift, 0.0, 0.0)), paths[-1])
    return Inputs(*paths)


@pytest.mark.slow
def test_the_real_worker_answers_registers_cancels_and_survives_a_crash(
    real: Ground, inputs: Inputs, tmp_path: Path
) -> None:
    answers: list[Event] = []
    real.do(lambda: real.client.ask(DeviceQuestion(), answers.append))
    quick = {"model": "none", "refine": 2, "prealign": "none"}
    said = real.finish(Job("one", inputs, str(tmp_path / "one"), quick))
    assert said[-1].event == "done", said[-1]
    assert (tmp_path / "one" / "warped.nrrd").is_file()
    assert {event.event for event in said[:-1]} <= {"progress", "warning"}
    assert "cpu" in answers[0].devices

    long = Job("two", inputs, str(tmp_path / "two"), {**quick, "refine": 10_000}, watch=True)
    real.submit(long)
    real.until(lambda: any(event.event == "map" for event in real.heard))
    real.do(real.client.cancel)
    real.until(lambda: not real.client.busy)
    assert real.heard[-1].event == "cancelled"
    assert not list((tmp_path / "two").glob("*.nrrd"))

    real.submit(Job("three", inputs, str(tmp_path / "three"), {**quick, "refine": 10_000}))
    real.until(lambda: any(event.id == "three" and event.stage == "refine" for event in real.heard))
    real.processes[-1].kill()
    real.until(lambda: not real.client.busy)
    assert real.heard[-1].code == "worker-ended"
    assert (len(real.processes), real.client.state) == (2, State.STARTING)


def test_a_half_installed_torch_is_explained(real: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("", encoding="utf-8")  # as an interrupted installation leaves it
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(MODULE)]))
    real.do(real.client.warm_up)
    real.until(lambda: real.client.state is State.OFF)
    assert (real.client.trouble.code, real.client.trouble.name) == ("missing-package", "torch")
