"""The command line ``deepreg-attention``: one file a command, nothing heavy imported before a command needs it."""

from __future__ import annotations

import signal
from typing import Annotated, Optional

import typer

from .. import __version__
from ..engine.threads import wait_passively
from .cohort import cohort
from .console import ReadableErrors
from .correct import correct
from .demo import demo
from .evaluate import evaluate
from .fuse import fuse
from .info import info
from .models import models
from .register import register
from .series import series
from .train import train
from .tune import tune
from .view import view
from .warp import warp

_EXIT_CODES = (
    "Exit codes: 0 done; 1 unexpected error; 2 an option or its value; 3 an image, mask, label map or landmark "
    "list; 4 no overlap of the images; 5 a model; 6 the output cannot be written; 7 out of memory; 8 worse than "
    "--require asks for; 130 cancelled."
)

app = typer.Typer(
    name="deepreg-attention",
    help="Deformable registration of 3D medical images, with maps of what moved the image and where.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for _command in (register, correct, cohort, fuse, series, warp, view, models, info, demo, train, tune):
    app.command(epilog=_EXIT_CODES)(_command)
app.add_typer(evaluate)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        Optional[bool],
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = None,
) -> None:
    ReadableErrors.debug = debug


def main() -> None:
    """The entry point of the console script."""
    wait_passively()
    # Ended from outside, it tidies up as after Ctrl+C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
