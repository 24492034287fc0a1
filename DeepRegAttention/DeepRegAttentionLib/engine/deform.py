"""The deformable part: network, then refinement, on the working grid and on the best device that has room."""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Iterator, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from .clock import Clock, Report, share
from .errors import RegistrationWarning
from .fields import resize_field, warp
from .hardware import choose_device, choose_precision, is_out_of_memory, memory_errors
from .method import STEPS, Method
from .models.files import load_model
from .models.listing import ModelFile
from .networks.blocks import NetworkOutput
from .options import RegistrationOptions
from .refine import Objective, Watch, refine
from .similarity import contrast_agreement


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


def deform(
    pair: WorkingPair, method: Method, options: RegistrationOptions, clock: Clock, watch: Optional[Watch] = None
) -> Optional[Deformation]:
    """Find the displacement; on a GPU whose memory does not suffice it warns and goes on with the CPU.

    Networks stay loaded: the next registration with the same model on the same device does not read it again.

    Returns
    -------
    Deformation, optional
        None if the network's answer does not explain the images and the method says what to do otherwise.

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
) -> Optional[Deformation]:
    """What was found, or None where the network's answer is not to be trusted and there is another method."""
    precision = choose_precision(options.precision, device)
    pair = pair.to(device)
    output = None
    if method.model is not None:
        with clock.stage("network") as report:
            output = _run_network(_network(method.model, device), pair, precision, report)
            if method.otherwise is not None and not explains(_objective(pair, method, options), output.displacement):
                return None
    with clock.stage("refine") as report:
        displacement = _refined(pair, method, options, output, report, watch)
    said = None if output is None else output.to("cpu")
    return Deformation(displacement.cpu(), said, str(device), str(precision).removeprefix("torch."))


@lru_cache(maxsize=4)
def _network(model: ModelFile, device: torch.device) -> nn.Module:
    return load_model(model, device)


def _run_network(network: nn.Module, pair: WorkingPair, precision: torch.dtype, report: Report) -> NetworkOutput:
    device = pair.fixed.device.type
    mixed = nullcontext() if precision is torch.float32 else torch.autocast(device, precision)
    with torch.inference_mode(), mixed, _followed(network, report):
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


def explains(objective: Objective, displacement: Tensor) -> bool:
    """Whether an answer explains most of what a few steps of refinement from zero explain, or more.

    Both are judged on a coarse grid by the similarity that the refinement maximises, and by folds; not by
    smoothness, since what was learned from labels deforms more than any smoothness prior would have it. Images
    of different contrast are explained by no network that expects one modality: it would make bright what is
    bright, and be praised for that.

    Parameters
    ----------
    objective : Objective
        Of the working grid.
    displacement : Tensor
        The answer, ``(1, 3, K, J, I)`` in voxels of the working grid.
    """
    coarse = objective.coarser(_judging_factor(objective.fixed.shape[2:]))
    rival = refine(coarse, None, _RIVAL_STEPS)
    if not _of_one_contrast(objective, rival):
        return False
    judge = replace(coarse, weight=0.0, landmarks=None)
    with torch.no_grad():
        answer = resize_field(displacement.clone().float(), coarse.fixed.shape[2:])
        alone, found, refined = (float(judge(u)) for u in (torch.zeros_like(answer), answer, rival))
    return alone - found >= _SHARE * (alone - refined) - _NOISE


# So much of what its rival gains a network must gain, give or take the differences of images that lie on each other.
_SHARE, _NOISE = 0.75, 0.001

# How long the rival of a network is refined, and on about so many voxels: a tenth of a network's time.
_RIVAL_STEPS, _RIVAL_VOXELS = 15, 6000


def _of_one_contrast(objective: Objective, rival: Tensor) -> bool:
    """By the alignment that the refinement has found, whose similarity does not care for the sign of a contrast."""
    half = objective.coarser(min(2, _judging_factor(objective.fixed.shape[2:])))
    with torch.no_grad():
        warped = warp(half.moving, resize_field(rival, half.fixed.shape[2:]))
        return contrast_agreement(half.fixed, warped) > _AGREEMENT


# Of brains, hippocampi and hearts of one modality it is above 0.9, of a brain and its negative below -0.3.
_AGREEMENT = 0.5


def _judging_factor(shape: Sequence[int]) -> int:
    """4, or 2 on a small grid; 1 on one that cannot be halved."""
    factor = 4 if math.prod(shape) / 4**3 >= _RIVAL_VOXELS else 2
    return factor if all(n % factor == 0 for n in shape) else 1


def _refined(
    pair: WorkingPair,
    method: Method,
    options: RegistrationOptions,
    output: Optional[NetworkOutput],
    report: Report,
    watch: Optional[Watch],
) -> Tensor:
    if output is not None and method.steps == 0:
        return output.displacement
    strength = None if output is None else output.regularization
    objective = _objective(pair, method, options, strength)
    if output is None:
        return _without_network(objective, method.steps, report, watch)
    return refine(objective, output.displacement, method.steps, report, watch)


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
