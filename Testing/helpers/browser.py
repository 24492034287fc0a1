"""The viewer as a process, and a real browser for it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .places import MODULE

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]  # fmt: skip


def require_browser() -> None:
    """Skip a module of tests where the viewer or the browser is missing."""
    pytest.importorskip("trame_slicer", reason="the viewer is not installed (extra “viewer”)")
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra “test”)")
    if CHROMIUM is None:
        pytest.skip("there is no chromium", allow_module_level=True)


class Server:
    """``deepreg-attention view`` as a process."""

    def __init__(self, log: Path, *arguments: str) -> None:
        temporary = log.parent / f"{log.stem}-temporary"
        temporary.mkdir()
        self.temporary = temporary
        environment = {**os.environ, "PYTHONPATH": str(MODULE), "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary),
                       "OMP_WAIT_POLICY": "passive", "COLUMNS": "1000"}  # fmt: skip
        command = [sys.executable, "-c", "from DeepRegAttentionLib.cli import main; main()", "view", *arguments]
        self._errors = log.open("wb")
        self.process = subprocess.Popen(
            [*command, "--no-browser"],
            env=environment,
            stdout=-1,
            stderr=self._errors,
            encoding="utf-8",
            # A suite that was started in the background ignores the signal, and hands that on.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, log.read_text(encoding="utf-8")
        self.url = found.group()

    def sessions(self) -> list[Path]:
        """Folders of the pages that are open."""
        return sorted(self.temporary.glob("deepreg-view-*"))

    def stop(self) -> None:
        """End it as Ctrl+C does."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        self._errors.close()
