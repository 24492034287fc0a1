"""Regularity of displacement and velocity fields ``(N, 3, K, J, I)``, as scalar losses.

Spatially varying regularization (arXiv 2412.17982; 2303.06168) is a hierarchical model. The displacement u
has the prior N(0, Lambda^-1), Lambda being the weighted graph Laplacian of a local strength lambda(x):

    -log p(u | lambda) = 1/2 u^T Lambda u - 1/2 log det Lambda + constant,
    u^T Lambda u = sum over neighbours x, y of (lambda(x) + lambda(y)) / 2 |u(x) - u(y)|^2.

The strength is lambda(x) = maximum w(x) with the relative strength w in (0, 1), which has a hyperprior of its
own. Without one, w = 0 everywhere would be best. All terms are means over the voxels.
"""

from __future__ import annotations

from typing import Any, Callable, Optional

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .fields import jacobian_determinant


def forward_differences(field: Tensor) -> list[Tensor]:
    """The three one-voxel differences; each is one voxel shorter along its own axis."""
    return [_Difference.apply(field, axis) for axis in (2, 3, 4)]


class _Difference(torch.autograd.Function):
    # torch's own gradient makes a volume of zeros for each of the two slices.

    @staticmethod
    def forward(context: Any, field: Tensor, axis: int) -> Tensor:
        context.axis = axis
        return field.diff(dim=axis)

    @staticmethod
    @once_differentiable
    def backward(context: Any, change: Tensor) -> tuple[Tensor, None]:
        axis, n = context.axis, change.shape[context.axis]
        end = torch.zeros_like(change.narrow(axis, 0, 1))
        total = torch.cat([end, change], dim=axis)
        total.narrow(axis, 0, n).sub_(change)
        return total, None


def diffusion(field: Tensor, strength: Optional[Tensor] = None) -> Tensor:
    """Mean squared first derivative, summed over components and axes.

    Parameters
    ----------
    field : Tensor
        ``(N, 3, K, J, I)``, voxels.
    strength : Tensor, optional
        Local weight lambda(x) ``(N, 1, K, J, I)``: each difference is weighted by the mean of its two ends,
        so that the sum is ``u^T Lambda u`` with Lambda the weighted graph Laplacian. Each axis is divided
        by the number of its own edges.
    """
    total = field.new_zeros(())
    for axis, difference in zip((2, 3, 4), forward_differences(field)):
        squared = difference.float() ** 2
        if strength is not None:
            squared = squared * edge_mean(strength, axis)
        total = total + squared.sum(dim=1).mean()
    return total


def edge_mean(values: Tensor, axis: int) -> Tensor:
    """Mean of neighbouring voxels along an axis: a weight for each edge of the grid."""
    n = values.shape[axis] - 1
    return (values.narrow(axis, 0, n) + values.narrow(axis, 1, n)) / 2


def folding(displacement: Tensor, margin: float = 0.05) -> Tensor:
    """Mean depth by which the Jacobian determinant falls below ``margin``."""
    with torch.no_grad():
        lowest = jacobian_determinant(displacement).amin()
    if lowest >= margin:  # the rule, and then there is no gradient either
        return displacement.new_zeros(())
    return torch.relu(margin - jacobian_determinant(displacement)).mean()


def beta_hyperprior(strength: Tensor, a: float = 2.0) -> Tensor:
    """Mean of -(a - 1) log w(x): w has the distribution Beta(a, 1), up to a constant.

    Where the gradient of u costs e(x) = maximum |grad u(x)|^2, the best w(x) is min(1, (a - 1) / e(x)): a place
    that deforms little keeps the full strength, one that deforms much never loses all of it.

    Parameters
    ----------
    strength : Tensor
        w(x), ``(N, 1, K, J, I)``, in (0, 1).
    a : float
        Above 1; the larger, the closer to 1 is w.
    """
    return -(a - 1) * strength.clamp_min(1e-6).log().mean()


def gaussian_hyperprior(strength: Tensor, deviation: float = 0.5**0.5) -> Tensor:
    """Mean of (1 - w(x))^2 / (2 s^2): w is Gaussian around the maximum with the standard deviation s.

    The best w(x) is max(0, 1 - s^2 e(x)), e as in :func:`beta_hyperprior`: strong deformation loses all of it.
    """
    return (1 - strength).square().mean() / (2 * deviation**2)


def log_determinant(strength: Tensor) -> Tensor:
    """Mean of -log(Lambda_xx / d_x) over the voxels: the normaliser of the prior, by Hadamard's inequality.

    Lambda_xx is the sum of the d_x edge weights that meet in x. As log det Lambda is at most
    sum_x log Lambda_xx, half of this sum never exceeds the true -1/2 log det by more than a constant, and it
    changes in the same way with the scale of lambda. In the units of the prior above, with three components,
    its weight is 3/2; it acts like a Beta hyperprior on the mean of w over the neighbours.

    Parameters
    ----------
    strength : Tensor
        ``(N, 1, K, J, I)``, positive, at least two voxels.
    """
    return -(_degree(strength) / _degree(torch.ones_like(strength))).clamp_min(1e-6).log().mean()


def _degree(strength: Tensor) -> Tensor:
    """The diagonal of the weighted graph Laplacian: the sum of the edge weights that meet in each voxel."""
    total = torch.zeros_like(strength)
    for axis in (2, 3, 4):
        weight = edge_mean(strength, axis)
        end = torch.zeros_like(strength.narrow(axis, 0, 1))
        total = total + torch.cat([weight, end], dim=axis) + torch.cat([end, weight], dim=axis)
    return total


def strength_smoothness(strength: Tensor) -> Tensor:
    """Mean squared gradient of the local strength ``(N, 1, K, J, I)``, summed over the axes."""
    return diffusion(strength)


Hyperprior = Callable[[Tensor], Tensor]

HYPERPRIORS: dict[str, Hyperprior] = {
    "beta": beta_hyperprior,
    "gaussian": gaussian_hyperprior,
    "determinant": log_determinant,
}
"""Each with unit weight: a weight is a - 1 of the Beta, 1 / (2 s^2) of the Gaussian hyperprior."""
