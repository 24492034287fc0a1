"""What people see: errors and warnings as one line each, progress by stage."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager
from types import TracebackType
from typing import Optional

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..engine.errors import CancelledError, MemoryLimitError, RegistrationError, RegistrationWarning
from ..terms.wording import stage_text

results = Console()
"""For results, on standard output."""

messages = Console(stderr=True)
"""For progress, warnings and errors, on standard error."""


def say(kind: str, text: str, style: str, console: Console = messages) -> None:
    """Print ``kind: text`` as one line, however long."""
    line = Text.assemble((f"{kind}: ", style), " ".join(text.split()))
    console.print(line, soft_wrap=True, highlight=False)


class ReadableErrors(ContextDecorator):
    """Turns whatever a command raises into one line on standard error and an exit code.

    Attributes
    ----------
    debug : bool
        Whether the traceback is shown as well; set for the whole process.
    """

    debug = False

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        # Typer deals with its own exits, and with a reader of the output that has gone.
        if isinstance(error, (typer.Exit, BrokenPipeError)):
            return
        if isinstance(error, (Exception, KeyboardInterrupt)):
            if self.debug:
                traceback.print_exception(kind, error, trace)
            raise typer.Exit(_explain(error)) from None


def _explain(error: BaseException) -> int:
    """Say what happened; returns the exit code."""
    if isinstance(error, (KeyboardInterrupt, CancelledError)):
        messages.print("cancelled")
        return CancelledError.exit_code
    if isinstance(error, MemoryError):
        error = MemoryLimitError("The images do not fit into memory; crop them or free some memory.")
    if isinstance(error, RegistrationError):
        say("error", str(error), "bold red")
        return error.exit_code
    hint = "run “deepreg-attention --debug …” for the details"
    say("error", f"unexpected {type(error).__name__}: {error} ({hint})", "bold red")
    return RegistrationError.exit_code


@contextmanager
def readable_warnings() -> Iterator[None]:
    """Show each RegistrationWarning as one line; those of libraries are for developers, not for users."""

    def show(message: object, *_: object, **__: object) -> None:
        say("warning", str(message), "yellow")

    with warnings.catch_warnings():
        if not ReadableErrors.debug:
            warnings.simplefilter("ignore")
        warnings.simplefilter("always", RegistrationWarning)
        warnings.showwarning = show
        yield


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Keep the C libraries for files from writing to standard error; what fails is raised and said in one line."""
    if ReadableErrors.debug:
        yield
        return
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class StageProgress:
    """Progress by stage on standard error: a bar with the time left, or plain lines where there is no terminal.

    Calling it with a stage and the fraction done (0 to 1) is what ``register()`` expects of ``progress``.
    """

    def __init__(self) -> None:
        columns = SpinnerColumn(), TextColumn("{task.description:<20}"), BarColumn(), TimeRemainingColumn()
        plain = not messages.is_terminal
        self._bars = Progress(*columns, console=messages, transient=True, disable=plain)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> StageProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, stage: str, fraction: float) -> None:
        """Show how much of a stage is done."""
        if stage not in self._tasks:
            self._begin(stage)
        # Without a total the bar only shows that something goes on.
        self._bars.update(self._tasks[stage], total=1.0 if fraction > 0 else None, completed=fraction)

    def _begin(self, stage: str) -> None:
        name = stage_text(stage)
        self._tasks[stage] = self._bars.add_task(name, total=None)
        if not messages.is_terminal:
            messages.print(f"{name} …", highlight=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show a stage for as long as the block takes."""
        self(name, 0.0)
        yield
        self(name, 1.0)
