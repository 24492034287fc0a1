"""From a configuration to a model file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional, Union

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..engine.errors import CancelledError, OptionError
from ..engine.hardware import choose_device, choose_precision, prepare_process
from ..engine.models.files import find_model, load_model
from ..engine.networks import STRUCTURES
from ..engine.networks.blocks import RegistrationNetwork
from ..engine.networks.structures import RecognisingStructures
from .data import EpochSampler, Item, split_pairs, training_items, validation_items
from .export import BestModel, model_info
from .module import RegistrationTraining
from .options import TrainingOptions
from .pictures import Pictures
from .progress import TrainingProgress

Loader = DataLoader[dict[str, Tensor]]
CHECKPOINT = "last.ckpt"


@dataclass(frozen=True)
class Machines:
    """What a run is spread over, in Lightning's own terms; torchrun and SLURM are recognised by it.

    Attributes
    ----------
    devices : str
        How many on each node, or ``auto``. Anything else raises OptionError.
    nodes : int
        How many.
    strategy : str
        Such as ``ddp`` or ``fsdp``.
    accelerator : str
        Such as ``cpu`` or ``gpu``.
    """

    devices: str = "auto"
    nodes: int = 1
    strategy: str = "auto"
    accelerator: str = "auto"

    def __post_init__(self) -> None:
        if self.devices != "auto" and not (self.devices.isdecimal() and int(self.devices)):
            raise OptionError(f"devices must be a number above 0 or auto; “{self.devices}” is not.")


class TrainingData(lightning.LightningDataModule):
    """The loaders of a run: the share of this device in the draws of each epoch and in the validation pairs."""

    def __init__(self, options: TrainingOptions, multiple: int) -> None:
        super().__init__()
        self.options = options
        self.multiple = multiple
        self.split = split_pairs(options)

    @property
    def judged(self) -> bool:
        """Whether there are pairs to validate with."""
        return bool(self.split.validation) or self.options.data.synthetic is not None

    def train_dataloader(self) -> Loader:
        """Random pairs, one a batch: grids differ in size."""
        options, (rank, devices) = self.options, self._place()
        start_draws = options.start_steps * options.accumulate * devices
        dataset = training_items(options, self.split.training, self.multiple, start_draws)
        return self._loader(dataset, EpochSampler(options.epoch_steps * options.accumulate, rank, devices))

    def val_dataloader(self) -> list[Loader]:
        """The share of this device in the validation pairs; no loader if there are none."""
        if not self.judged:
            return []
        rank, devices = self._place()
        dataset = validation_items(self.options, self.split.validation, self.multiple)
        return [self._loader(dataset, range(rank, len(dataset), devices))]  # type: ignore[arg-type]

    def _loader(self, dataset: Dataset[Item], sampler: Union[EpochSampler, range]) -> Loader:
        workers = self.options.workers
        return DataLoader(
            dataset,
            sampler=sampler,
            num_workers=workers,
            # Forking a process whose libraries have threads may hang.
            multiprocessing_context="spawn" if workers else None,
            persistent_workers=workers > 0,
        )

    def _place(self) -> tuple[int, int]:
        """Which device it is and of how many."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def train(
    options: TrainingOptions,
    output: Path,
    resume: bool = False,
    start: Optional[str] = None,
    machines: Optional[Machines] = None,
) -> Path:
    """Train and write ``output/NAME.safetensors``; returns its path.

    The network of the best validation score is kept (see :func:`~.validation.measure`). The cases named in
    ``test`` are never looked at.

    Parameters
    ----------
    options : TrainingOptions
        What to train, on what.
    output : Path
        Folder for the model file, the checkpoint ``last.ckpt``, the logs and pictures.
    resume : bool
        Go on from the checkpoint in the folder, exactly as if the run had not been stopped.
    start : str, optional
        Name or path of the model whose weights the run starts from; otherwise they are random.
    machines : Machines, optional
        What to run on; the best device of this computer without.

    Raises
    ------
    OptionError
        The folder holds a run that is not to be resumed, or none that could be, or one with other settings; the
        cases do not suffice; the model to start from is another network; or the machines are none that Lightning
        knows.
    ModelError
        The model to start from is missing or damaged.
    CancelledError
        Interrupted from the keyboard.
    """
    checkpoint = _checkpoint(output, resume)
    options = with_settled_precision(options, checkpoint)
    prepare_process()
    torch.manual_seed(options.seed)
    module = RegistrationTraining(options)
    if start is not None:
        load_start(module, start)
    # What is missing for the model file is said now and not after the training.
    model_info(options, module.multiple, 0, {})
    data = TrainingData(options, module.multiple)
    model = output / f"{options.name}.safetensors"
    callbacks = make_callbacks(options, output, model, data.judged)
    table = TensorBoardLogger(output, name="log")
    loggers = [table, CSVLogger(output, name="log", version=table.version)]
    every = min(10, options.epoch_steps)
    trainer = make_trainer(options, machines, callbacks=callbacks, logger=loggers, log_every_n_steps=every)
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise CancelledError("The training was stopped; it can be resumed.") from stop
        raise
    return model


def is_first_process() -> bool:
    """Whether this process speaks for all of a run that is shared."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


def _checkpoint(output: Path, resume: bool) -> Optional[Path]:
    checkpoint = output / CHECKPOINT
    if checkpoint.exists() and not resume:
        raise OptionError(f"{output} already holds a training; resume it or choose another folder.")
    if resume and not checkpoint.exists():
        raise OptionError(f"{output} holds no training to resume.")
    return checkpoint if resume else None


def with_settled_precision(options: TrainingOptions, checkpoint: Optional[Path]) -> TrainingOptions:
    """The options with ``auto`` replaced by what this computer is fast with, or what the run was begun with."""
    if options.precision != "auto":
        return options
    if checkpoint is not None:
        begun: str = torch.load(checkpoint, map_location="cpu", weights_only=True)["options"]["precision"]
        return replace(options, precision=begun)
    chosen = choose_precision("auto", choose_device("auto"))
    return replace(options, precision=str(chosen).removeprefix("torch."))


def load_start(module: RegistrationTraining, model: str) -> None:
    """Take the weights of a model file; OptionError if it is another network than the configuration's.

    A network that is to recognise structures may start from one that does not: then it begins to with the features
    that see both images.
    """
    found = find_model(model)
    weights = load_model(found).state_dict()
    network: RegistrationNetwork = module.network
    recognising: Optional[RecognisingStructures] = None
    if isinstance(network, RecognisingStructures) and STRUCTURES not in found.info.configuration:
        recognising, network = network, network.network
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if {name: tensor.shape for name, tensor in weights.items()} != shapes:
        info = found.info
        raise OptionError(
            f"The model {info.name} is another network: the configuration must say network: {info.network}, "
            f"configuration: {info.configuration}."
        )
    network.load_state_dict(weights)
    if recognising is not None:
        recognising.begin()
    module.earlier_steps.fill_(found.info.steps)


def make_callbacks(options: TrainingOptions, output: Path, model: Path, judged: bool) -> list[Callback]:
    """What happens beside the steps: the model file, progress, pictures, early stop, the checkpoint (last)."""
    callbacks: list[Callback] = [BestModel(model, judged), TrainingProgress()]
    if judged:
        callbacks.append(Pictures(output / "pictures"))
    if judged and options.patience is not None:
        callbacks.append(EarlyStopping("val/score", mode="max", patience=options.patience))
    name = CHECKPOINT[: -len(".ckpt")]
    return [*callbacks, ModelCheckpoint(output, name, save_on_train_epoch_end=True, enable_version_counter=False)]


def make_trainer(options: TrainingOptions, machines: Optional[Machines] = None, **more: Any) -> lightning.Trainer:
    """A trainer for a run; ``more`` goes to it as it is.

    Raises
    ------
    OptionError
        The machines are none that Lightning knows or finds.
    """
    machines = machines or Machines()
    precision = choose_precision(options.precision, choose_device("auto"))
    try:
        return lightning.Trainer(
            accelerator=machines.accelerator,
            devices=machines.devices,
            num_nodes=machines.nodes,
            strategy=machines.strategy,
            max_epochs=options.epochs,
            accumulate_grad_batches=options.accumulate,
            precision="bf16-mixed" if precision is torch.bfloat16 else "32-true",
            num_sanity_val_steps=0,
            gradient_clip_val=1.0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            **more,
        )
    except (MisconfigurationException, ValueError) as error:
        raise OptionError(f"The training cannot run on these machines: {str(error).splitlines()[0]}") from error
