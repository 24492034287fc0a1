"""The runner of the worker: its states with a process that the test plays, and the real worker behind it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, Callable, Deque, Dict, List, Tuple

import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.jobs.client import PATIENCE_MS, BusyError, Runner, State
from DeepRegAttentionLib.jobs.messages import ENDINGS, Event, Job, decode_command, encode
from DeepRegAttentionLib.jobs.signals import Signal
from DeepRegAttentionLib.terms.inputs import Inputs
from helpers.images import blob_image
from helpers.places import MODULE

JOB = Job("one", Inputs("f.nrrd", "m.nrrd"), "out")


class PlayedProcess:
    """The other end of the protocol, moved by the test."""

    on_output: Callable[[bytes], None]
    on_log: Callable[[bytes], None]
    on_ended: Callable[[int, bool], None]

    def __init__(self) -> None:
        self.commands: List[Any] = []
        self.calls: List[str] = []
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
        self.on_output(encode({"event": event, **more}))


class Stage:
    """A runner, the processes that it started, and a clock that the test moves."""

    def __init__(self) -> None:
        self.processes: List[PlayedProcess] = []
        self.timers: List[Tuple[int, Callable[[], None]]] = []
        self.heard: List[Event] = []
        self.states: List[State] = []
        self.runner = Runner(self._new, lambda ms, call: self.timers.append((ms, call)))
        self.runner.changed.connect(lambda: self.states.append(self.runner.state))

    def _new(self) -> PlayedProcess:
        self.processes.append(PlayedProcess())
        return self.processes[-1]

    @property
    def process(self) -> PlayedProcess:
        return self.processes[-1]

    def run(self, job: Job = JOB) -> None:
        self.runner.submit(job, self.heard.append)

    def started(self) -> Stage:
        self.runner.warm_up()
        self.process.say("ready")
        return self

    def running(self) -> Stage:
        self.started().run()
        return self

    def let_time_pass(self) -> None:
        timers, self.timers = self.timers, []
        for _, call in timers:
            call()

    def endings(self) -> List[str]:
        return [event.event for event in self.heard if event.event in ENDINGS]


@pytest.fixture
def stage() -> Stage:
    return Stage()


# Starting


def test_the_worker_is_started_once_and_kept(stage: Stage) -> None:
    stage.runner.warm_up()
    stage.runner.warm_up()
    assert stage.runner.state is State.STARTING
    stage.process.say("ready")
    assert stage.runner.state is State.READY
    stage.run()
    stage.process.say("done", id="one", folder="out")
    stage.run(Job("two", JOB.inputs, "out"))
    assert len(stage.processes) == 1
    assert [command.id for command in stage.process.commands] == ["one", "two"]


def test_a_job_waits_until_the_worker_is_ready(stage: Stage) -> None:
    stage.run()
    assert stage.process.commands == []
    stage.process.say("ready")
    assert [command.job for command in stage.process.commands] == [JOB]
    assert stage.runner.state is State.RUNNING


def test_a_missing_torch_is_told_to_the_job_and_kept_for_the_panel(stage: Stage) -> None:
    stage.run()
    stage.process.say("error", code="missing-package", name="torch", message="PyTorch is missing.")
    stage.process.on_ended(1, False)
    assert stage.endings() == ["error"]
    assert (stage.heard[-1].id, stage.heard[-1].code) == ("one", "missing-package")
    assert stage.runner.trouble.message == "PyTorch is missing."
    assert stage.runner.state is State.OFF
    assert len(stage.processes) == 1, "a start that failed is not repeated by itself"


def test_the_trouble_is_over_with_the_next_start(stage: Stage) -> None:
    stage.runner.warm_up()
    stage.process.say("error", code="missing-package", name="torch", message="PyTorch is missing.")
    stage.process.on_ended(1, False)
    stage.started()
    assert stage.runner.trouble is None


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
    assert stage.runner.state is State.READY
    assert not stage.runner.busy


def test_output_comes_in_any_pieces_and_with_strangers(stage: Stage) -> None:
    stage.running()
    line = encode({"event": "progress", "id": "one", "stage": "refine", "fraction": 0.25, "message": "größer"})
    for byte in b"a library says hello\n" + line:
        stage.process.on_output(bytes([byte]))
    assert [event.message for event in stage.heard] == ["größer"]


def test_the_log_comes_in_lines(stage: Stage) -> None:
    lines: List[str] = []
    stage.runner.logged.connect(lines.append)
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
    following: List[Event] = []
    stage.runner.submit(JOB, lambda event: stage.runner.submit(Job("two", JOB.inputs, "o"), following.append))
    stage.process.say("done", id="one")
    stage.process.say("done", id="two")
    assert [event.id for event in following] == ["two"]


# Questions


def test_questions_are_answered_also_while_a_job_runs(stage: Stage) -> None:
    answers: List[Event] = []
    stage.runner.ask("device", answers.append, size=[4, 5, 6], spacing=[1.0, 1.0, 2.0])
    stage.process.say("ready")
    stage.run()
    question = stage.process.commands[0]
    assert question.question.size == (4, 5, 6)
    stage.process.say("done", id=question.id, devices={"cpu": {"name": "c"}})
    stage.process.say("done", id=question.id, devices={})
    assert [event.devices for event in answers] == [{"cpu": {"name": "c"}}]
    assert stage.runner.busy


# Cancelling


def test_a_cancelled_job_is_asked_then_terminated_then_killed(stage: Stage) -> None:
    stage.running().runner.cancel()
    assert stage.process.commands[-1].command == "cancel"
    assert stage.runner.state is State.CANCELLING
    assert [ms for ms, _ in stage.timers] == [PATIENCE_MS] == [2000]
    process = stage.process
    stage.let_time_pass()
    assert process.calls == ["start", "terminate"]
    stage.let_time_pass()
    assert process.calls == ["start", "terminate", "kill"]
    process.on_ended(9, True)
    assert stage.endings() == ["cancelled"]
    assert stage.runner.trouble is None
    assert len(stage.processes) == 2, "it is started again, to be warm for the next job"


def test_a_job_that_stops_by_itself_leaves_the_worker_warm(stage: Stage) -> None:
    stage.running().runner.cancel()
    stage.process.say("cancelled", id="one")
    stage.let_time_pass()
    assert stage.process.calls == ["start"]
    assert stage.endings() == ["cancelled"]
    assert stage.runner.state is State.READY


def test_the_timer_of_an_old_cancel_spares_the_next_job(stage: Stage) -> None:
    stage.running().runner.cancel()
    stage.process.say("cancelled", id="one")
    stage.run(Job("two", JOB.inputs, "out"))
    stage.let_time_pass()
    assert stage.process.calls == ["start"]


def test_a_job_that_still_waits_is_cancelled_at_once(stage: Stage) -> None:
    stage.run()
    stage.runner.cancel()
    assert stage.endings() == ["cancelled"]
    stage.process.say("ready")
    assert stage.process.commands == []


def test_cancelling_twice_or_nothing_changes_nothing(stage: Stage) -> None:
    stage.runner.cancel()
    stage.running().runner.cancel()
    stage.runner.cancel()
    assert [command.command for command in stage.process.commands] == ["register", "cancel"]


def test_a_job_that_was_done_before_the_cancel_arrived_is_done(stage: Stage) -> None:
    stage.running().runner.cancel()
    stage.process.say("done", id="one", folder="out")
    assert stage.endings() == ["done"]


# Crashes


@pytest.mark.parametrize(("code", "crashed", "words"), [(139, True, "crashed"), (3, False, "exit code 3")])
def test_a_crash_is_said_and_the_worker_started_again(stage: Stage, code: int, crashed: bool, words: str) -> None:
    stage.running().process.on_ended(code, crashed)
    assert stage.endings() == ["error"]
    assert stage.heard[-1].code == "worker-ended"
    assert words in stage.heard[-1].message
    assert stage.runner.state is State.STARTING
    stage.process.say("ready")
    stage.run(Job("two", JOB.inputs, "out"))
    assert stage.process.commands[-1].id == "two"


def test_a_worker_that_ends_while_idle_is_started_by_the_next_job(stage: Stage) -> None:
    stage.started().process.on_ended(1, False)
    assert stage.runner.state is State.OFF
    assert len(stage.processes) == 1
    stage.run()
    stage.process.say("ready")
    assert stage.runner.state is State.RUNNING


def test_an_old_process_has_no_say(stage: Stage) -> None:
    stage.running()
    old = stage.process
    old.on_ended(1, True)
    stage.process.say("ready")
    stage.run(Job("two", JOB.inputs, "out"))
    old.say("done", id="two")
    old.on_ended(1, True)
    assert stage.runner.busy
    assert stage.endings() == ["error"]


# The end


def test_shutting_down_ends_the_process_and_then_the_job(stage: Stage) -> None:
    calls_at_the_end: List[str] = []
    stage.started().runner.submit(JOB, lambda event: calls_at_the_end.extend([event.event, *stage.process.calls]))
    stage.runner.shutdown()
    assert stage.process.commands[-1].command == "shutdown"
    assert calls_at_the_end == ["cancelled", "start", "close_input", "wait"]
    assert stage.runner.state is State.OFF
    assert not stage.runner.busy


def test_a_process_that_does_not_end_is_killed(stage: Stage) -> None:
    stage.started().process.ends_when_asked = False
    stage.runner.shutdown()
    assert stage.process.calls[-1] == "kill"


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


# The real worker


class RealProcess:
    """The worker as a subprocess; what it says is handed over where the test asks for it."""

    on_output: Callable[[bytes], None]
    on_log: Callable[[bytes], None]
    on_ended: Callable[[int, bool], None]

    def __init__(self, events: Deque[Callable[[], None]], environment: Dict[str, str]) -> None:
        self._events, self._environment = events, environment

    def start(self) -> None:
        command = [sys.executable, "-m", "DeepRegAttentionLib.worker"]
        self.popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self._environment
        )
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        while chunk := os.read(self.popen.stdout.fileno(), 65536):
            self._events.append(lambda chunk=chunk: self.on_output(chunk))
        code = self.popen.wait()
        self._events.append(lambda: self.on_ended(code, code < 0))

    def write(self, data: bytes) -> None:
        try:
            self.popen.stdin.write(data)
            self.popen.stdin.flush()
        except BrokenPipeError:
            pass  # as QProcess: the end is told by on_ended

    def close_input(self) -> None:
        self.popen.stdin.close()

    def terminate(self) -> None:
        self.popen.terminate()

    def kill(self) -> None:
        self.popen.kill()

    def wait(self, milliseconds: int) -> bool:
        try:
            self.popen.wait(milliseconds / 1000)
        except subprocess.TimeoutExpired:
            return False
        return True


class Real:
    """A runner with the real worker, and the event loop that goes with it."""

    def __init__(self, **environment: str) -> None:
        self.events: Deque[Callable[[], None]] = deque()
        settings = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        paths = [environment.pop("before", ""), str(MODULE)]
        path = os.pathsep.join(path for path in paths if path)
        everything = {**os.environ, **settings, "PYTHONPATH": path, **environment}
        self.processes: List[RealProcess] = []
        self.timers: List[Tuple[float, Callable[[], None]]] = []
        self.runner = Runner(lambda: self._new(everything), self._later)

    def _new(self, environment: Dict[str, str]) -> RealProcess:
        self.processes.append(RealProcess(self.events, environment))
        return self.processes[-1]

    def _later(self, ms: int, call: Callable[[], None]) -> None:
        self.timers.append((time.monotonic() + ms / 1000, call))

    def until(self, condition: Callable[[], Any], seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            while self.events:
                self.events.popleft()()
            for timer in [timer for timer in self.timers if timer[0] <= time.monotonic()]:
                self.timers.remove(timer)
                timer[1]()
            time.sleep(0.005)


@pytest.fixture
def real() -> Any:
    stage = Real()
    yield stage
    stage.runner.shutdown()
    for process in stage.processes:
        process.popen.wait(10)


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    paths = []
    for name, shift in (("fixed", 0.0), ("moving", 2.0)):
        paths.append(str(tmp_path / f"{name}.nrrd"))
        sitk.WriteImage(blob_image(size=(28, 24, 20), shift=(shift, 0.0, 0.0)), paths[-1])
    return Inputs(*paths)


def test_the_real_worker_registers_cancels_and_survives_a_crash(real: Real, inputs: Inputs, tmp_path: Path) -> None:
    heard: List[Event] = []
    quick = {"model": "none", "refine": 2, "prealign": "none"}
    real.runner.submit(Job("one", inputs, str(tmp_path / "one"), quick), heard.append)
    real.until(lambda: not real.runner.busy)
    assert heard[-1].event == "done", heard[-1]
    assert (tmp_path / "one" / "warped.nrrd").is_file()
    assert {event.event for event in heard[:-1]} <= {"progress", "warning"}

    long = Job("two", inputs, str(tmp_path / "two"), {**quick, "refine": 10_000}, watch=True)
    real.runner.submit(long, heard.append)
    real.until(lambda: any(event.event == "map" for event in heard))
    real.runner.cancel()
    real.until(lambda: not real.runner.busy, 10)
    assert heard[-1].event == "cancelled"
    assert not list((tmp_path / "two").glob("*.nrrd"))

    real.runner.submit(Job("three", inputs, str(tmp_path / "three"), {**quick, "refine": 10_000}), heard.append)
    real.until(lambda: any(event.id == "three" and event.stage == "refine" for event in heard))
    real.processes[-1].kill()
    real.until(lambda: not real.runner.busy, 10)
    assert heard[-1].code == "worker-ended"
    assert (len(real.processes), real.runner.state) == (2, State.STARTING)


def test_a_half_installed_torch_is_explained(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("")  # as an interrupted installation leaves it
    real = Real(before=str(tmp_path))
    real.runner.warm_up()
    real.until(lambda: real.runner.state is State.OFF)
    assert (real.runner.trouble.code, real.runner.trouble.name) == ("missing-package", "torch")
