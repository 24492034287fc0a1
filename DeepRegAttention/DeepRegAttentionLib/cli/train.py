"""``deepreg-attention train``: from a configuration and a folder of images to a model file."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Iterator, Optional

import typer

from ..engine.errors import OptionError, RegistrationError, UnreadableFileError
from .console import ReadableErrors, results, say

if TYPE_CHECKING:
    from ..training.options import TrainingOptions

Configuration = Annotated[Path, typer.Argument(metavar="CONFIG", help="Training configuration (YAML).")]
DataRoot = Annotated[Path, typer.Option(help="Folder in which the configuration's “data” (images/ and labels/) lies.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the model file, checkpoints and logs.")]
TunedPreset = Annotated[Optional[str], typer.Option(help="A best.json of “tune”; it wins over CONFIG.")]


@ReadableErrors()
def train(config: Configuration, data_root: DataRoot, output: Output, preset: TunedPreset = None) -> None:
    """Train a model (needs the extra “train”)."""
    with training_packages():
        from ..training.run import train as run

        options = read_configuration(config, data_root, preset)
    from .files import require_writable

    require_writable(output)
    model = run(options, output)
    say("model", str(model.resolve()), "bold", results)


@contextmanager
def training_packages() -> Iterator[None]:
    """Turn a failed import in the block into a sentence that says what to install."""
    try:
        yield
    except ImportError as error:
        raise RegistrationError(
            f"Training needs more packages ({error.name} is missing): pip install 'deepreg-attention[train]'."
        ) from error


def read_configuration(config: Path, data_root: Path, preset: Optional[str] = None) -> TrainingOptions:
    """The options of a training configuration, and of a preset that wins over it.

    Raises
    ------
    UnreadableFileError
        The configuration cannot be read.
    OptionError
        It is not valid YAML, or names an unknown setting; or the preset is missing or damaged.
    """
    import yaml

    from ..training.options import read_training_options
    from .settings import read_preset

    try:
        options = read_training_options(config, None if preset is None else read_preset(preset))
    except OSError as error:
        raise UnreadableFileError(f"{config} cannot be read: {(error.strerror or '').lower()}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"{config} is not valid YAML: {error}.") from error
    return replace(options, data=str(data_root / options.data))
