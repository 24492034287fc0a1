"""Which model, on which grid, with how many steps: the method for one pair, decided in one place."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Optional

import SimpleITK as sitk

from .errors import ModelError, OptionError, RegistrationWarning, suggestion
from .geometry import Grid, working_grid
from .intensity import IntensityRecipe
from .models.choice import Consent, ModelChoice, choose_models, model_for_contrasts, models_for_field
from .models.files import find_model
from .models.listing import ModelFile, list_models
from .options import RegistrationOptions

# Without a model: about so many voxels on the working grid, padded to this multiple.
_VOXELS, _MULTIPLE = 600_000, 8
_REGULARIZATION = 0.3

STEPS = 30
"""Of refinement on the working grid, without a model and where the options leave them open."""


class Doubt(Enum):
    """Why a network's answer is not taken."""

    POOR = "a few coarse steps of refinement explain the images better"
    CONTRAST = "the two images are of different contrast, and the network was made for one"


@dataclass(frozen=True)
class Method:
    """How the deformable part of one registration is done.

    Attributes
    ----------
    model : ModelFile, optional
        The network; without one the refinement works from zero, on coarser grids first.
    reason : str
        Why this model, for people.
    recipe : IntensityRecipe
        Intensities to 0..1.
    grid : Grid
        The working grid.
    steps : int
        Of refinement on the working grid.
    regularization : float
        Weight of the smoothness in the refinement.
    otherwise : Method, optional
        What is done instead if the network's answer does not explain the images; None takes any answer.
    for_contrasts : Method, optional
        What is done instead if the images are of different contrast; None: what is done otherwise.
    """

    model: Optional[ModelFile]
    reason: str
    recipe: IntensityRecipe
    grid: Grid
    steps: int
    regularization: float
    otherwise: Optional[Method] = None
    for_contrasts: Optional[Method] = None

    def instead(self, doubt: Doubt) -> Method:
        """The method that follows where this one's answer is not taken."""
        following = self.for_contrasts if doubt is Doubt.CONTRAST and self.for_contrasts else self.otherwise
        assert following is not None
        return following


def choose_method(fixed: sitk.Image, moving: sitk.Image, options: RegistrationOptions) -> Method:
    """The method that the options ask for, or that suits the images where they leave it open.

    Raises
    ------
    ModelError
        The model is unknown or damaged.
    OptionError
        A licence is accepted of a model that there is not.
    LicenceError
        The model that suits the images is one about which the user is to be asked.
    """
    *tried, last = _with_what_was_dropped(_choices(fixed, moving, options))
    general = model_for_contrasts(list_models()) if tried else None
    method = _method(last, fixed, options)
    for choice in reversed(tried):
        following = _method_for_contrasts(general, choice, fixed, options)
        method = replace(_method(choice, fixed, options), otherwise=method, for_contrasts=following)
    return method


def _method_for_contrasts(
    model: Optional[ModelFile], choice: ModelChoice, fixed: sitk.Image, options: RegistrationOptions
) -> Optional[Method]:
    """What is done with the model for any contrast, if there is one, where another was chosen and is of no use."""
    if model is None or choice.model is None:
        return None
    reason = f"{choice.model.info.name} fitted by size, but the two images are of different contrast."
    return _method(ModelChoice(model, reason), fixed, options)


def _method(choice: ModelChoice, fixed: sitk.Image, options: RegistrationOptions) -> Method:
    model, reason = choice
    by_size = _spacing_for(fixed.GetSize(), fixed.GetSpacing())
    weight, steps = options.regularization, options.refine
    if model is None:
        grid = working_grid(fixed, options.spacing or by_size, _MULTIPLE)
        weight = _REGULARIZATION if weight is None else weight
        return Method(None, reason, IntensityRecipe(), grid, STEPS if steps is None else steps, weight)
    info = model.info
    # A network that learned on voxels of one size knows how sharp they are.
    on_voxels = info.spacing is not None
    grid = working_grid(fixed, options.spacing or info.spacing or by_size, info.shape_multiple, on_voxels)
    weight = info.regularization if weight is None else weight
    return Method(model, reason, info.intensity, grid, info.refine if steps is None else steps, weight)


def _choices(fixed: sitk.Image, moving: sitk.Image, options: RegistrationOptions) -> list[ModelChoice]:
    """What is tried, one after the other."""
    if options.model == "none":
        return [ModelChoice(None, "No model was asked for.")]
    if options.model != "auto":
        return [ModelChoice(find_model(options.model), "The model was asked for.")]
    try:
        models = list_models()
    except ModelError as error:
        warnings.warn(str(error), RegistrationWarning, stacklevel=2)
        return [ModelChoice(None, "The list of models cannot be used.")]
    _require_known(options.accepted_licences, [model.info.name for model in models])
    return choose_models(fixed, moving, models, Consent(options.accepted_licences, options.undecided_licences))


def _with_what_was_dropped(choices: Sequence[ModelChoice]) -> list[ModelChoice]:
    """The choices, each with a sentence on those that it comes after."""
    told = []
    for n, (model, reason) in enumerate(choices):
        dropped = " and ".join(before.model.info.name for before in choices[:n] if before.model is not None)
        if dropped and model is None:
            reason = _DROPPED.format(dropped)
        elif dropped:
            reason = f"{_DROPPED.format(dropped)} {reason}"
        told.append(ModelChoice(model, reason))
    return told


_DROPPED = "{} fitted by size, but explained the images less well than a few coarse steps of refinement."


def _require_known(accepted: Sequence[str], names: Sequence[str]) -> None:
    for name in accepted:
        if name not in names:
            raise OptionError(f"There is no model “{name}” to accept the licence of{suggestion(name, names)}.")


def likely_steps(options: RegistrationOptions) -> int:
    """Steps of refinement, before the images are known: the most of any model where the options leave it open.

    Raises ModelError if the model is unknown or damaged.
    """
    if options.refine is not None:
        return options.refine
    if options.model == "none":
        return STEPS
    if options.model != "auto":
        return find_model(options.model).info.refine
    # Without the list the registration goes on, too.
    with suppress(ModelError):
        return max([STEPS, *(model.info.refine for model in list_models() if model.info.extent_mm is not None)])
    return STEPS


def _spacing_for(size: Sequence[int], spacing: Sequence[float]) -> float:
    """The finest isotropic spacing in mm that keeps the working grid at a size that is quick to refine."""
    volume = math.prod(float(n * s) for n, s in zip(size, spacing))
    coarse: float = max(min(spacing), (volume / _VOXELS) ** (1 / 3))
    return coarse


def working_voxels(size: Sequence[int], spacing: Sequence[float], options: RegistrationOptions) -> dict[str, int]:
    """Voxels of the working grid for a fixed image of this size and spacing (mm), before the images are known.

    By the network that works on it, ``"none"`` without one. Where the options leave the model open, the largest grids
    that may come of it: that of no model, and those of the models whose objects have room in such an image. Raises
    ModelError if the model is unknown or damaged.
    """
    extents = [n * s for n, s in zip(size, spacing)]
    by_size = _spacing_for(size, spacing)
    grids: list[tuple[str, float, int]] = []
    if options.model in ("auto", "none"):
        grids.append(("none", by_size, _MULTIPLE))
    if options.model != "none":
        models = models_for_field(extents, list_models()) if options.model == "auto" else [find_model(options.model)]
        grids += [(m.info.network, m.info.spacing or by_size, m.info.shape_multiple) for m in models]
    voxels: dict[str, int] = {}
    for network, suits, multiple in grids:
        step = options.spacing or suits
        count = math.prod(math.ceil(e / step / multiple) * multiple for e in extents)
        voxels[network] = max(count, voxels.get(network, 0))
    return voxels
