"""The deformable part: network, then refinement, on the working grid and on the best device that has room."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Callable, Optional, Tuple

import torch
from torch import Tensor

from .clock import Clock
from .errors import MemoryLimitError, RegistrationWarning
from .hardware import choose_device, choose_precision
from .method import Method
from .models import load_model
from .networks.blocks import NetworkOutput
from .options import RegistrationOptions
from .refine import Objective, refine


@dataclass(frozen=True)
class WorkingPair:
    """Both images on the working grid, ``(1, 1, K, J, I)`` in 0..1, and what guides the refinement there.

    ``mask`` and ``strength`` have the images' shape, ``landmarks`` are ``(P, 3)`` in voxels (k, j, i).
    """

    fixed: Tensor
    moving: Tensor
    mask: Optional[Tensor] = None
    strength: Optional[Tensor] = None
    landmarks: Optional[Tuple[Tensor, Tensor]] = None

    def to(self, device: torch.device) -> WorkingPair:
        """A copy on a device."""
        images = [image if image is None else image.to(device) for image in (self.mask, self.strength)]
        points = self.landmarks and (self.landmarks[0].to(device), self.landmarks[1].to(device))
        return WorkingPair(self.fixed.to(device), self.moving.to(device), images[0], images[1], points)


@dataclass(frozen=True)
class Deformation:
    """The answer on the working grid, on the CPU.

    ``displacement`` is ``(1, 3, K, J, I)`` in voxels; ``output`` is what the network said, if there is one.
    """

    displacement: Tensor
    output: Optional[NetworkOutput]
    device: str
    precision: str


def deform(pair: WorkingPair, method: Method, options: RegistrationOptions, clock: Clock) -> Deformation:
    """Find the displacement; on a GPU whose memory does not suffice it warns and goes on with the CPU.

    Raises
    ------
    MemoryLimitError
        The computation does not fit into memory.
    """
    device = choose_device(options.device)
    if device.type != "cpu":
        try:
            return _deform_on(device, pair, method, options, clock)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        if device.type == "cuda":
            torch.cuda.empty_cache()
        message = "The GPU has too little free memory; the registration went on on the CPU."
        warnings.warn(message, RegistrationWarning, stacklevel=2)
    try:
        return _deform_on(torch.device("cpu"), pair, method, options, clock)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        message = "The images do not fit into memory; choose a coarser working spacing or crop them."
        raise MemoryLimitError(message) from error


def _is_out_of_memory(error: Exception) -> bool:
    # torch has a class of its own for CUDA only; MPS and the CPU say it in words.
    words = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words


def _deform_on(
    device: torch.device, pair: WorkingPair, method: Method, options: RegistrationOptions, clock: Clock
) -> Deformation:
    precision = choose_precision(options.precision, device)
    pair = pair.to(device)
    output = None
    if method.model is not None:
        with clock.stage("network"):
            output = _run_network(method, pair, device, precision)
    with clock.stage("refine") as report:
        displacement = _refined(pair, method, options, output, report)
    said = None if output is None else output.to("cpu")
    return Deformation(displacement.cpu(), said, str(device), str(precision).removeprefix("torch."))


def _run_network(method: Method, pair: WorkingPair, device: torch.device, precision: torch.dtype) -> NetworkOutput:
    assert method.model is not None
    network = load_model(method.model, device)
    mixed = nullcontext() if precision is torch.float32 else torch.autocast(device.type, precision)
    with torch.inference_mode(), mixed:
        output: NetworkOutput = network(pair.fixed, pair.moving)
    return output


def _refined(
    pair: WorkingPair,
    method: Method,
    options: RegistrationOptions,
    output: Optional[NetworkOutput],
    report: Callable[[float], None],
) -> Tensor:
    if output is not None and method.steps == 0:
        return output.displacement
    strength = pair.strength if pair.strength is not None else (output.regularization if output else None)
    objective = Objective(
        pair.fixed,
        pair.moving,
        options.similarity,
        method.regularization,
        pair.mask,
        None if strength is None else strength.clone(),
        pair.landmarks if options.landmark_weight else None,
        options.landmark_weight,
    )
    return refine(objective, None if output is None else output.displacement, method.steps, report)
