"""The predicted error of a registration in mm at every place, and a bound that it keeps with a stated confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..deform import loaded_network
from ..fields import resize
from ..geometry import Grid
from ..models.listing import ModelFile
from ..working_pair import WorkingPair
from .predictor import CONFIDENCE, predictor_for
from .signs import find_signs

_WORST, _APART_MM = 5, 12.0


@dataclass(frozen=True)
class ExpectedError:
    """The error that is to be expected, on the working grid.

    Attributes
    ----------
    expected, bound : Tensor
        ``(1, 1, K, J, I)``, mm.
    there : Tensor
        ``(1, 1, K, J, I)``, bool: where there is anything, in one of the two images.
    method : str
        The model whose errors it was learned from.
    """

    expected: Tensor
    bound: Tensor
    there: Tensor
    method: str

    def maps(self) -> dict[str, Tensor]:
        """As maps ``(1, 1, K, J, I)`` by their keys."""
        return {"expected_error": self.expected, "error_bound": self.bound}


def expect_error(
    pair: WorkingPair, displacement: Tensor, spacing_mm: float, model: Optional[ModelFile], device: str = "cpu"
) -> ExpectedError:
    """Predict how far off an answer is.

    Parameters
    ----------
    pair : WorkingPair
        What was registered, on the CPU.
    displacement : Tensor
        The answer, ``(1, 3, K, J, I)`` in voxels.
    spacing_mm : float
        Of the working grid.
    model : ModelFile, optional
        What gave the answer; None is refinement alone.
    device : str
        Where the network is asked again.
    """
    predictor = predictor_for(model)
    network = None if model is None else loaded_network(model, torch.device(device))
    shape = pair.fixed.shape[2:]
    with torch.no_grad():
        signs = find_signs(pair, displacement.float(), network)
        expected, bound = (resize(spacing_mm * error, shape) for error in predictor(signs))
        there = resize(signs.there, shape) > 0.5
    return ExpectedError(expected, bound, there, predictor.method)


def error_statistics(error: ExpectedError, grid: Grid) -> dict[str, Any]:
    """What is said of the predicted error in ``metrics.json``: over the places where there is anything."""
    there = error.there if bool(error.there.any()) else torch.ones_like(error.there)
    expected, bound = error.expected[there], error.bound[there]
    return {
        "mean_mm": float(expected.mean()),
        "p95_mm": float(np.percentile(expected.numpy(), 95)),
        "confidence": CONFIDENCE,
        "bound_mean_mm": float(bound.mean()),
        "calibrated_on": error.method,
        "worst": _worst(error, there, grid),
    }


def _worst(error: ExpectedError, there: Tensor, grid: Grid) -> list[dict[str, Any]]:
    """The places of largest expected error, each the worst in its neighbourhood, the worst first."""
    values = torch.where(there, error.expected, error.expected.new_zeros(()))
    reach = max(1, round(_APART_MM / grid.spacing[0]))
    around = values
    for axis in range(3):
        window, padding = [1, 1, 1], [0, 0, 0]
        window[axis], padding[axis] = 2 * reach + 1, reach
        around = F.max_pool3d(around, window, 1, padding)
    peaks = torch.nonzero((values[0, 0] == around[0, 0]) & there[0, 0])
    order = values[0, 0][tuple(peaks.T)].argsort(descending=True)[:_WORST]
    return [_place(error, tuple(int(n) for n in peaks[row]), grid) for row in order]


def _place(error: ExpectedError, index: tuple[int, ...], grid: Grid) -> dict[str, Any]:
    return {
        "point_lps_mm": grid.points(np.array(index[::-1])).tolist(),
        "expected_mm": float(error.expected[0, 0][index]),
        "bound_mm": float(error.bound[0, 0][index]),
    }
