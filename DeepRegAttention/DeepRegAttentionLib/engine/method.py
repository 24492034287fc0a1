"""Which model, on which grid, with how many steps: the method for one pair, decided in one place."""

from __future__ import annotations

import math
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import SimpleITK as sitk

from .errors import ModelError, OptionError, RegistrationWarning, suggestion
from .geometry import Grid, working_grid
from .intensity import IntensityRecipe
from .models.choice import Consent, choose_model, nearest_in_size
from .models.files import find_model
from .models.listing import ModelFile, list_models
from .options import RegistrationOptions

# Without a model: about so many voxels on the working grid, padded to this multiple, so many steps.
_VOXELS, _MULTIPLE, _STEPS = 600_000, 8, 60
_REGULARIZATION = 0.3


@dataclass(frozen=True)
class Method:
    """How the deformable part of one registration is done.

    Attributes
    ----------
    model : ModelFile, optional
        The network; without one the refinement works from zero.
    reason : str
        Why this model, for people.
    recipe : IntensityRecipe
        Intensities to 0..1.
    grid : Grid
        The working grid.
    steps : int
        Of refinement.
    regularization : float
        Weight of the smoothness in the refinement.
    """

    model: Optional[ModelFile]
    reason: str
    recipe: IntensityRecipe
    grid: Grid
    steps: int
    regularization: float


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
    model, reason = _choose_model(fixed, moving, options)
    by_size = _spacing_for(fixed.GetSize(), fixed.GetSpacing())
    weight, steps = options.regularization, options.refine
    if model is not None:
        info = model.info
        grid = working_grid(fixed, options.spacing or info.spacing or by_size, info.shape_multiple)
        weight = info.regularization if weight is None else weight
        steps = info.refine if steps is None else steps
        return Method(model, reason, info.intensity, grid, steps, weight)
    if steps == 0:
        message = f"{reason} The images are registered by {_STEPS} steps of refinement."
        warnings.warn(message, RegistrationWarning, stacklevel=2)
    grid = working_grid(fixed, options.spacing or by_size, _MULTIPLE)
    weight = _REGULARIZATION if weight is None else weight
    return Method(None, reason, IntensityRecipe(), grid, steps or _STEPS, weight)


def _choose_model(
    fixed: sitk.Image, moving: sitk.Image, options: RegistrationOptions
) -> tuple[Optional[ModelFile], str]:
    if options.model == "none":
        return None, "No model was asked for."
    if options.model != "auto":
        return find_model(options.model), "The model was asked for."
    try:
        models = list_models()
    except ModelError as error:
        warnings.warn(str(error), RegistrationWarning, stacklevel=2)
        return None, "The list of models cannot be used."
    _require_known(options.accepted_licences, [model.info.name for model in models])
    return choose_model(fixed, moving, models, Consent(options.accepted_licences, options.undecided_licences))


def _require_known(accepted: Sequence[str], names: Sequence[str]) -> None:
    for name in accepted:
        if name not in names:
            raise OptionError(f"There is no model “{name}” to accept the licence of{suggestion(name, names)}.")


def likely_steps(options: RegistrationOptions) -> int:
    """Steps of refinement, before the images are known: the most of any model where the options leave it open.

    Raises ModelError if the model is unknown or damaged.
    """
    if options.model == "none":
        return options.refine or _STEPS
    if options.refine is not None:
        return options.refine
    if options.model != "auto":
        return find_model(options.model).info.refine
    # Without the list the registration goes on, too.
    with suppress(ModelError):
        return max((model.info.refine for model in list_models()), default=_STEPS)
    return _STEPS


def _spacing_for(size: Sequence[int], spacing: Sequence[float]) -> float:
    """The finest isotropic spacing in mm that keeps the working grid at a size that is quick to refine."""
    volume = math.prod(float(n * s) for n, s in zip(size, spacing))
    return max(min(spacing), (volume / _VOXELS) ** (1 / 3))


def working_voxels(size: Sequence[int], spacing: Sequence[float], options: RegistrationOptions) -> int:
    """Voxels of the working grid for a fixed image of this size and spacing (mm), before the images are known.

    Where the options leave the model open, those of the larger grid of two: that of no model, and that of the model
    whose objects are nearest to this size. Raises ModelError if the model is unknown or damaged.
    """
    extents = [n * s for n, s in zip(size, spacing)]
    by_size = _spacing_for(size, spacing)
    grids: List[Tuple[float, int]] = []
    if options.model in ("auto", "none"):
        grids.append((options.spacing or by_size, _MULTIPLE))
    if options.model != "none":
        model = nearest_in_size(extents, list_models()) if options.model == "auto" else find_model(options.model)
        if model is not None:
            grids.append((options.spacing or model.info.spacing or by_size, model.info.shape_multiple))
    return max(math.prod(math.ceil(e / step / multiple) * multiple for e in extents) for step, multiple in grids)
