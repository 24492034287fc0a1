"""How the viewer deals with the process that registers, also when it misbehaves."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Awaitable, Callable, List

import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.jobs.messages import PATIENCE_S, Event, Job
from DeepRegAttentionLib.terms.inputs import Inputs
from DeepRegAttentionLib.viewer.runner import Runner
from helpers.places import MODULE

LIMIT_S = 120.0

# Programs that break the rules of the protocol, as a worker might.
DEAF = "import sys, time\nfor line in sys.stdin: time.sleep(600)"
CRASHING = (
    'import sys, os\nsys.stdin.readline()\nprint(\'{"event": "progress", "id": "job"}\', flush=True)\nos._exit(3)'
)
KILLED = "import sys, os, signal\nsys.stdin.readline()\nos.kill(os.getpid(), signal.SIGKILL)"
LACKING = (
    "import sys\n"
    'print(\'{"event": "error", "code": "no-torch", "message": "The Python package torch is not installed."}\')\n'
    "sys.exit(1)"
)
CHATTY = (
    "import sys, json\n"
    "id = json.loads(sys.stdin.readline())['id']\n"
    'print(\'a stray line\'); print(\'{"event": "done", "id": "another"}\'); print(\'x\' * 100000)\n'
    "print(json.dumps({'event': 'done', 'id': id}), flush=True)\n"
    "sys.stdin.read()"
)


def job(folder: Path) -> Job:
    return Job("job", Inputs("fixed.nii.gz", "moving.nii.gz"), str(folder))


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), LIMIT_S)

    asyncio.run(limited())


async def events_of(runner: Runner, wanted: Job) -> List[Event]:
    return [event async for event in runner.run(wanted)]


def runner_of(code: str, folder: Path) -> Runner:
    return Runner(folder / "log.txt", (sys.executable, "-c", code))


def test_a_process_that_does_not_hear_is_ended(tmp_path: Path) -> None:
    async def check() -> None:
        runner = runner_of(DEAF, tmp_path)
        running = asyncio.ensure_future(events_of(runner, job(tmp_path)))
        await asyncio.sleep(0.5)
        began = time.monotonic()
        await runner.cancel("job")
        assert [event.event for event in await running] == ["cancelled"]
        assert time.monotonic() - began < 2 * PATIENCE_S + 2

    run(check)


@pytest.mark.parametrize(("code", "why"), [(CRASHING, "code 3"), (KILLED, "out of memory")])
def test_a_process_that_ends_by_itself_is_an_error(tmp_path: Path, code: str, why: str) -> None:
    async def check() -> None:
        runner = runner_of(code, tmp_path)
        last = (await events_of(runner, job(tmp_path)))[-1]
        assert last.event == "error"
        assert "ended by itself" in (last.message or "")
        assert why in (last.message or "")
        # The next job starts a new one.
        assert (await events_of(runner, job(tmp_path)))[-1].event == "error"

    run(check)


def test_what_the_process_said_before_it_ended_is_the_error(tmp_path: Path) -> None:
    async def check() -> None:
        last = (await events_of(runner_of(LACKING, tmp_path), job(tmp_path)))[-1]
        assert (last.event, last.code) == ("error", "no-torch")
        assert last.message == "The Python package torch is not installed."

    run(check)


def test_only_the_events_of_the_job_are_passed_on(tmp_path: Path) -> None:
    async def check() -> None:
        runner = runner_of(CHATTY, tmp_path)
        assert [event.event for event in await events_of(runner, job(tmp_path))] == ["done"]
        await runner.close()

    run(check)


def test_a_real_job_and_the_devices(tmp_path: Path, make_image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(MODULE))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name, shift in (("fixed", 0.0), ("moving", 3.0)):
        sitk.WriteImage(make_image((24, 20, 18), shift=(shift, 0, 0)), str(tmp_path / f"{name}.nrrd"))
    options = {"model": "none", "prealign": "none", "refine": 2, "spacing": 5.0}
    inputs = Inputs(str(tmp_path / "fixed.nrrd"), str(tmp_path / "moving.nrrd"))

    async def check() -> None:
        runner = Runner(tmp_path / "log.txt")
        devices = await runner.devices()
        assert devices is not None
        assert "cpu" in devices
        events = await events_of(runner, Job("job", inputs, str(tmp_path / "out"), options))
        assert events[-1].event == "done"
        assert "progress" in {event.event for event in events}
        assert (tmp_path / "out" / "metrics.json").is_file()
        bad = Job("bad", Inputs("missing.nii.gz", str(inputs.moving)), str(tmp_path / "bad"))
        assert "missing.nii.gz" in ((await events_of(runner, bad))[-1].message or "")
        await runner.close()

    run(check)
