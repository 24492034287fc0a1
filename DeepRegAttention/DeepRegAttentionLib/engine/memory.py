"""How much memory a registration needs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .method import working_voxels
from .options import RegistrationOptions

# GiB: of the process itself, and of a million voxels of the fixed or the working grid where one or the other makes
# the peak: in the deformable part, or in the alignment, the difference images and the writing. Measured as the largest
# resident size of the process on Linux (x86-64, torch 2.13, two threads), writing included, for pairs of 128³ and 224³
# voxels of 1 mm on working grids of 1 and 2 mm without a network, and of 512 x 512 x 300 whole numbers; with the
# networks, for pairs of 80³ and 112³ voxels on grids of 1 mm, memory in one arena. AD-RegNet sees a pair both ways at
# once. What a network needs on any grid are its weights and the buffers of its convolutions.
_PROCESS = 0.35
_NETWORK = {"none": 0.0, "drivenmorph": 0.1, "adregnet": 0.25}
_DEFORM_FIXED, _DEFORM_WORKING = 0.008, {"none": 0.85, "drivenmorph": 1.2, "adregnet": 1.45}
_IMAGES_FIXED, _IMAGES_WORKING = 0.022, 0.3
_SIMILARITY = {"mind": 1.25}


def memory_needed(size: Sequence[int], spacing: Sequence[float], options: RegistrationOptions) -> float:
    """GiB of main memory at the peak of a registration on the CPU; an estimate, not a bound.

    Parameters
    ----------
    size : three int
        Voxels of the fixed image along i, j, k; the moving image is taken to be alike.
    spacing : three float
        mm.
    options : RegistrationOptions
        Where they leave the model open, see :func:`~.method.working_voxels`.

    Raises
    ------
    ModelError
        The model is unknown or damaged.
    """
    fixed = math.prod(size) / 1e6
    working = {network: voxels / 1e6 for network, voxels in working_voxels(size, spacing, options).items()}
    deform = max(_NETWORK[network] + _DEFORM_WORKING[network] * voxels for network, voxels in working.items())
    deform = _DEFORM_FIXED * fixed + deform * _SIMILARITY.get(options.similarity, 1.0)
    return _PROCESS + max(deform, _IMAGES_FIXED * fixed + _IMAGES_WORKING * max(working.values()))
