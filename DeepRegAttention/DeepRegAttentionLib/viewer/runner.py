"""The process that registers, as this page's own: started early, asked by messages, ended when nobody waits."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any, AsyncIterator, Dict, Optional, Sequence

from ..jobs.messages import ENDINGS, PATIENCE_S, Event, Job, decode_event, encode

WORKER_COMMAND = (sys.executable, "-m", "DeepRegAttentionLib.worker")


class Runner:
    """Keeps one worker process and passes on what it says.

    Parameters
    ----------
    log : Path
        Where its standard error goes.
    command : sequence of str
        How it is started.
    """

    def __init__(self, log: Path, command: Sequence[str] = WORKER_COMMAND) -> None:
        self._log = log
        self._command = command
        self._process: Optional[asyncio.subprocess.Process] = None
        self._reader: Optional[asyncio.Task[None]] = None
        self._waiting: Dict[str, asyncio.Queue[Event]] = {}
        self._cancelled: Optional[str] = None

    async def start(self) -> None:
        """Have a process ready; the next job then costs only its computation."""
        if self._process is not None and self._process.returncode is None:
            return
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=2**24,
            )
        self._reader = asyncio.create_task(self._read(self._process))

    async def run(self, job: Job) -> AsyncIterator[Event]:
        """Everything that is said of a job; the last event is one of ``ENDINGS``."""
        async for event in self._ask(job.id, job.command()):
            yield event

    async def devices(self) -> Optional[Dict[str, Any]]:
        """What the worker says of this computer's devices; None if it does not start."""
        async for event in self._ask("devices", {"id": "devices", "command": "device"}):
            if event.event in ENDINGS:
                return event.devices
        return None

    async def _ask(self, key: str, command: Dict[str, Any]) -> AsyncIterator[Event]:
        queue = self._waiting[key] = asyncio.Queue()
        try:
            await self.start()
            await self._send(command)
            while True:
                event = await queue.get()
                yield event
                if event.event in ENDINGS:
                    return
        finally:
            del self._waiting[key]

    async def cancel(self, job_id: str) -> None:
        """Stop a job: ask for it; after ``PATIENCE_S`` end the process, which the next job starts anew."""
        queue = self._waiting.get(job_id)
        if queue is None:
            return
        self._cancelled = job_id
        await self._send({"id": job_id, "command": "cancel"})
        for _ in range(20):
            await asyncio.sleep(PATIENCE_S / 20)
            if self._waiting.get(job_id) is not queue:
                return
        await self._force_end()

    async def close(self) -> None:
        """End the process."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), PATIENCE_S)
        except asyncio.TimeoutError:
            await self._force_end()

    async def _force_end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), PATIENCE_S)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()

    async def _send(self, command: Dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        # If it has ended, its reader tells everybody who waits.
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(encode(command))
            await self._process.stdin.drain()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Hand each event to whom it is for; an end without a word is an error for all who wait."""
        assert process.stdout is not None
        last_words: Optional[Event] = None
        async for line in process.stdout:
            event = decode_event(line)
            if event is None:
                continue
            queue = self._waiting.get(event.id or "")
            if queue is not None:
                queue.put_nowait(event)
            elif event.event == "error" and event.id is None:
                last_words = event
        code = await process.wait()
        for key, queue in self._waiting.items():
            queue.put_nowait(self._farewell(key, code, last_words))
        self._cancelled = None

    def _farewell(self, key: str, code: int, last_words: Optional[Event]) -> Event:
        if key == self._cancelled:
            return Event("cancelled", id=key)
        if last_words is not None:
            return Event("error", id=key, code=last_words.code, message=last_words.message, detail=last_words.detail)
        why = "out of memory" if code == -9 else f"code {code}"
        return Event("error", id=key, code="worker", message=f"The registration process ended by itself ({why}).")
