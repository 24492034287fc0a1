"""``deepreg-attention train``: from a configuration and a folder of images to a model file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from ..engine.errors import RegistrationError
from .console import ReadableErrors, readable_warnings, results, say

if TYPE_CHECKING:
    from ..training.options import TrainingOptions

Configuration = Annotated[Path, typer.Argument(metavar="CONFIG", help="Training configuration (YAML).")]
DataRoot = Annotated[
    Optional[Path],
    typer.Option(
        help="Folder in which the configuration's “data” lies.", show_default="the configuration's “data.root”"
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the model file, checkpoints and logs.")]
TunedPreset = Annotated[Optional[str], typer.Option(help="A best.json of “tune”; it wins over CONFIG.")]
Start = Annotated[Optional[str], typer.Option("--from", help="Fine-tune: name or file of the model to start from.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")]
Devices = Annotated[str, typer.Option(help="How many devices on each node, or auto.")]
Nodes = Annotated[int, typer.Option(min=1, help="How many nodes.")]
Strategy = Annotated[str, typer.Option(help="How they share the work: auto, ddp, fsdp, … of Lightning.")]
Accelerator = Annotated[str, typer.Option(help="What they are: auto, cpu, gpu, … of Lightning.")]


@ReadableErrors()
def train(
    config: Configuration,
    output: Output,
    data_root: DataRoot = None,
    preset: TunedPreset = None,
    start: Start = None,
    resume: Resume = False,
    devices: Devices = "auto",
    nodes: Nodes = 1,
    strategy: Strategy = "auto",
    accelerator: Accelerator = "auto",
) -> None:
    """Train a model (needs the extra “train”).

    The best model so far, by its validation, always lies in the output folder, with a checkpoint for --resume, the
    logs (TensorBoard, CSV) and pictures. Started by torchrun or SLURM, the run is shared by their processes.
    """
    with training_packages():
        from ..training.run import Machines, is_first_process
        from ..training.run import train as run

        options = read_configuration(config, data_root, preset)
    from ..engine.result import require_writable

    require_writable(output)
    machines = Machines(devices, nodes, strategy, accelerator)
    with readable_warnings(), quiet_lightning():
        model = run(options, output, resume, start, machines)
    if is_first_process():
        say("model", str(model.resolve()), "bold", results)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's remarks on itself from between the lines of progress, unless debugging."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    if not ReadableErrors.debug:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


@contextmanager
def training_packages() -> Iterator[None]:
    """Turn a failed import in the block into a sentence that says what to install."""
    try:
        yield
    except ImportError as error:
        raise RegistrationError(
            f"Training needs more packages ({error.name} is missing): pip install 'deepreg-attention[train]'."
        ) from error


def read_configuration(config: Path, data_root: Optional[Path] = None, preset: Optional[str] = None) -> TrainingOptions:
    """The options of a training configuration, of a preset that wins over it, and of the folder of the data.

    Raises
    ------
    UnreadableFileError
        The configuration cannot be read.
    OptionError
        It is not valid YAML, or names an unknown setting; or the preset is missing or damaged.
    """
    from ..terms.presets import read_preset
    from ..training.options import read_training_options

    options = read_training_options(config, None if preset is None else read_preset(preset))
    if data_root is None:
        return options
    return replace(options, data=replace(options.data, root=str(data_root)))
