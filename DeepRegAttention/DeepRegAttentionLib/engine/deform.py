"""The deformable part: network, then refinement, on the working grid and on the best device that has room."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn

from .acceptance import doubt
from .clock import Clock, Report, share
from .errors import RegistrationWarning
from .fields import resize_field
from .hardware import choose_device, choose_precision, is_out_of_memory, memory_errors
from .method import STEPS, Doubt, Method
from .models.files import load_model
from .models.listing import ModelFile
from .networks.blocks import NetworkOutput
from .networks.structures import RecognisingStructures
from .options import RegistrationOptions
from .refine import Objective, Structures, Watch, recognised, refine
from .working_pair import WorkingPair


@dataclass(frozen=True)
class Deformation:
    """The answer on the working grid, on the CPU.

    ``displacement`` is ``(1, 3, K, J, I)`` in voxels; ``output`` is what the network said, if there is one;
    ``structures`` are those that were recognised and aligned, if any.
    """

    displacement: Tensor
    output: Optional[NetworkOutput]
    device: str
    precision: str
    structures: Optional[Structures] = None


def deform(
    pair: WorkingPair, method: Method, options: RegistrationOptions, clock: Clock, watch: Optional[Watch] = None
) -> Union[Deformation, Doubt]:
    """Find the displacement; on a GPU whose memory does not suffice it warns and goes on with the CPU.

    Networks stay loaded: the next registration with the same model on the same device does not read it again.

    Returns
    -------
    Deformation or Doubt
        Why the network's answer is not taken, if it is not and the method says what to do otherwise.

    Raises
    ------
    MemoryLimitError
        The computation does not fit into memory.
    """
    device = choose_device(options.device)
    if device.type != "cpu":
        try:
            return _deform_on(device, pair, method, options, clock, watch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if device.type == "cuda":
            torch.cuda.empty_cache()
        message = "The GPU has too little free memory; the registration went on on the CPU."
        warnings.warn(message, RegistrationWarning, stacklevel=2)
    with memory_errors():
        return _deform_on(torch.device("cpu"), pair, method, options, clock, watch)


def _deform_on(
    device: torch.device,
    pair: WorkingPair,
    method: Method,
    options: RegistrationOptions,
    clock: Clock,
    watch: Optional[Watch],
) -> Union[Deformation, Doubt]:
    """What was found, or why it is not to be trusted where there is another method."""
    precision = choose_precision(options.precision, device)
    pair = pair.to(device)
    output = None
    if method.model is not None:
        with clock.stage("network") as report:
            output = _run_network(loaded_network(method.model, device), pair, precision, report)
            if method.otherwise is not None:
                found = doubt(_objective(pair, method, options), output.displacement)
                if found is not None:
                    return found
    with clock.stage("refine") as report:
        structures = _structures(pair, method, precision) if output is not None and method.steps else None
        displacement = _refined(pair, method, options, output, structures, report, watch)
    said = None if output is None else output.to("cpu")
    seen = None if structures is None else structures.cpu()
    return Deformation(displacement.cpu(), said, str(device), str(precision).removeprefix("torch."), seen)


@lru_cache(maxsize=4)
def loaded_network(model: ModelFile, device: torch.device) -> nn.Module:
    """The network of a model on a device, read when it is first asked for."""
    return load_model(model, device)


def _run_network(network: nn.Module, pair: WorkingPair, precision: torch.dtype, report: Report) -> NetworkOutput:
    with torch.inference_mode(), _mixed(precision, pair.fixed.device), _followed(network, report):
        output: NetworkOutput = network(pair.fixed, pair.moving)
    return output


@contextmanager
def _followed(network: nn.Module, report: Report) -> Iterator[None]:
    """Report before and after each part of the network runs; what the report raises stops the network."""
    parts = list(network.modules())
    passed = 0

    def step(*_: object) -> None:
        nonlocal passed
        passed += 1
        # Some parts run for each image: how many runs there will be is not known before the end.
        report(min(0.99, passed / (3 * len(parts))))

    hooks = [part.register_forward_pre_hook(step) for part in parts]
    hooks += [part.register_forward_hook(step) for part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _refined(
    pair: WorkingPair,
    method: Method,
    options: RegistrationOptions,
    output: Optional[NetworkOutput],
    structures: Optional[Structures],
    report: Report,
    watch: Optional[Watch],
) -> Tensor:
    if output is not None and method.steps == 0:
        return output.displacement
    strength = None if output is None else output.regularization
    objective = _objective(pair, method, options, strength)
    if output is None:
        return _without_network(objective, method.steps, report, watch)
    return refine(replace(objective, structures=structures), output.displacement, method.steps, report, watch)


def _structures(pair: WorkingPair, method: Method, precision: torch.dtype) -> Optional[Structures]:
    """What the model recognises in both images, if its refinement is to align that."""
    model = method.model
    if model is None or not model.info.structures_share:
        return None
    network = loaded_network(model, pair.fixed.device)
    assert isinstance(network, RecognisingStructures)
    with _mixed(precision, pair.fixed.device):
        return recognised(network.structures, pair.fixed, pair.moving, model.info.structures_share, pair.mask)


def _mixed(precision: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    return nullcontext() if precision is torch.float32 else torch.autocast(device.type, precision)


def _without_network(objective: Objective, steps: int, report: Report, watch: Optional[Watch]) -> Tensor:
    """Refinement from zero, most of it on half as fine a grid: there a step sees farther and fits less noise.

    With no steps for the working grid, what the coarser grids say is the answer.
    """
    shape = objective.fixed.shape[2:]
    if min(shape) < 16 or any(n % 2 for n in shape):
        return refine(objective, None, steps or STEPS, report, watch)
    coarse_steps = 2 * steps or STEPS
    # A step costs as much as its grid has voxels, and those of all coarser grids are a seventh.
    begun = coarse_steps / (coarse_steps + 7 * steps)
    coarse = refine(objective.coarser(2), None, coarse_steps, share(report, 0.0, begun), watch)
    start = resize_field(coarse, shape)
    return refine(objective, start, steps, share(report, begun, 1.0), watch) if steps else start


def _objective(
    pair: WorkingPair, method: Method, options: RegistrationOptions, learned: Optional[Tensor] = None
) -> Objective:
    """What is minimised; a map of the smoothness that was given wins over the network's own."""
    strength = learned if pair.strength is None else pair.strength
    return Objective(
        pair.fixed,
        pair.moving,
        options.similarity,
        method.regularization,
        pair.mask,
        None if strength is None else strength.clone(),
        pair.landmarks if options.landmark_weight else None,
        options.landmark_weight,
    )
