"""A corrected result out of the one that was found: only what lies within reach of the corrections is made anew."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cached_property
from typing import Any, Optional

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from ..clock import Report
from ..errors import CorrectionError
from ..fields import invert, jacobian_determinant
from ..geometry import Grid, to_image, to_tensor, voxels_to_mm
from ..hardware import limited_threads
from ..maps import difference_map, map_image
from ..measuring import MeasuredPair, measure
from ..registration import INVERSE_VOXELS, chain
from ..resampling import warp_image
from ..result import Maps, RegistrationResult
from ..trust.evidence import Answer, object_volume
from ..trust.expected_error import ExpectedError, error_statistics, expect_error
from ..trust.predictor import predictor_for
from ..trust.verdict import verdict
from .basis import Basis, first_field, vectors
from .pull import Pull

Box = tuple[slice, slice, slice]

# How far off a point is that a person clicked, what that stays below, and how far around it says something of other
# places; in voxels of the coarser image.
_CLICK, _CLICK_BOUND, _SAYS = 1.0, 2.0, 8.0
# Where the deformation is so near to a fold, its grid may show one after any small motion.
_NEARLY_FOLDED = 0.05
_RENEWED = ("expected_error", "error_bound", "jacobian", "difference_after")


class Renewal:
    """One correction of a result, or all that a transform alone does not say of it.

    Parameters
    ----------
    basis : Basis
        The result as it was found.
    pull : Pull, optional
        The motion of points in the moving image as it was aligned linearly, LPS mm; None: nothing is corrected.
    """

    def __init__(self, basis: Basis, pull: Optional[Pull] = None) -> None:
        self._basis, self._pull = basis, pull
        self._grid = basis.grid
        self._moved = torch.zeros_like(basis.field)
        touched = torch.zeros(len(basis.positions), dtype=torch.bool)
        if pull is not None:
            touched = pull.touches(basis.positions)
            moved = basis.positions[touched]
            self._moved.view(-1, 3)[touched] = pull(moved) - moved
        self._field = basis.field + self._moved
        self._touched = touched.reshape(self._grid.shape)

    def result(self, report: Report) -> RegistrationResult:
        """Everything that a result has; `report` gets the fraction done."""
        found = self._basis.found
        self._require_unfolded()
        report(0.1)
        transform = chain(self._basis.linear, _transform(self._field, self._grid))
        before = None if self._pull is None else found
        result = replace(found, uncorrected=before, transform=transform, maps=Maps(), warped_labels=None)
        result.warped = self._warped(transform)
        report(0.3)
        result.inverse_transform = self._inverse()
        report(0.5)
        self._add_maps(result)
        report(0.7)
        result.metrics = self._metrics(result)
        report(1.0)
        return result

    # Where

    @cached_property
    def _near(self) -> Box:
        """The nodes that moved, and those around them."""
        if self._pull is None:
            return _everything(self._grid)
        return _grown(_box_around(self._touched), 1, self._grid)

    @cached_property
    def _displacement(self) -> Tensor:
        return self._basis.in_voxels(self._field)

    def _require_unfolded(self) -> None:
        """Raise CorrectionError if the pull, as exact as the grid has it, folds what was not folded before."""
        box = self._near
        before = self._basis.in_voxels(self._basis.field)
        folded = (self._jacobian(self._displacement, box) <= 0) & (self._jacobian(before, box) > _NEARLY_FOLDED)
        if self._pull is not None and folded.any():
            index = torch.nonzero(folded[0, 0])[0].numpy() + [cut.start for cut in box]
            where = ", ".join(f"{value:.0f}" for value in self._grid.points(index[::-1]))
            message = f"These corrections would fold the deformation at ({where}) mm; take one near to it back."
            raise CorrectionError(message)

    # What

    def _warped(self, transform: sitk.Transform) -> sitk.Image:
        """The moving image, anew between the nodes that moved."""
        grid = Grid.of(self._basis.fixed)
        box = grid.covering(self._grid.part(self._near))
        part = warp_image(self._basis.moving, grid.part(box).place(_blank(grid.part(box))), transform)
        values = sitk.GetArrayFromImage(self._basis.found.warped)
        values[box] = sitk.GetArrayViewFromImage(part)
        return grid.place(sitk.GetImageFromArray(values))

    def _inverse(self) -> sitk.Transform:
        """The other direction: anew where the pull is felt, as it was elsewhere."""
        found = self._basis.found.inverse_transform
        shape = self._grid.shape
        felt = torch.ones(shape, dtype=torch.bool)
        back = torch.zeros_like(self._field)
        if found is not None and self._pull is not None:
            felt, back = self._pull.touches(self._basis.nodes).reshape(shape), vectors(first_field(found))
        box = _grown(_box_around(felt | self._touched), 2, self._grid)
        inverse = voxels_to_mm(invert(_cut(self._displacement, box), tolerance=INVERSE_VOXELS), self._grid)
        back[box][felt[box]] = inverse[0].permute(1, 2, 3, 0).double()[felt[box]]
        return chain(_transform(back, self._grid), self._basis.back)

    def _add_maps(self, result: RegistrationResult) -> None:
        basis, maps = self._basis, result.maps
        assert isinstance(maps, Maps)
        for name in basis.found.maps:
            if name not in _RENEWED:
                maps.later(name, lambda name=name: basis.found.maps[name])  # type: ignore[misc]
        box = self._to_renew("jacobian", 0)
        maps["jacobian"] = self._renewed("jacobian", self._jacobian(self._displacement, box), box)
        if self._pull is not None:
            maps["correction"] = map_image(self._moved.norm(dim=-1)[None, None], self._grid, Grid.of(basis.fixed))
        if basis.options.get("maps", True):
            for name, image in self._error_maps.items():
                maps[name] = image
            maps.later("difference_after", lambda: self._difference(result.warped))

    def _to_renew(self, name: str, voxels: int) -> Box:
        """Where a map changes that depends on displacements so many voxels away: all of it if there was none."""
        known = name in self._basis.found.maps
        return _grown(self._near, voxels, self._grid) if known else _everything(self._grid)

    def _renewed(self, name: str, values: Tensor, box: Box) -> sitk.Image:
        """A map of the result that was found, with new values ``(1, 1, k, j, i)`` in a box of the working grid."""
        fixed = Grid.of(self._basis.fixed)
        if name not in self._basis.found.maps:
            return map_image(values, self._grid, fixed)
        image, where = self._basis.found.maps[name], self._grid.covering(fixed)
        whole, common = to_tensor(image), _common(box, where)
        _cut(whole, _within(common, where)).copy_(_cut(values, _within(common, box)))
        return to_image(whole, Grid.of(image))

    def _jacobian(self, displacement: Tensor, box: Box) -> Tensor:
        around = _grown(box, 1, self._grid)
        return _cut(jacobian_determinant(_cut(displacement, around)), _within(box, around))

    def _difference(self, warped: sitk.Image) -> sitk.Image:
        with limited_threads(self._basis.options.get("threads")):
            return difference_map(self._basis.fixed, warped, self._basis.scales, None)

    # How far to trust it

    @cached_property
    def _error_maps(self) -> dict[str, sitk.Image]:
        error, fixed = self._error(), Grid.of(self._basis.fixed)
        return {name: map_image(values * error.there, self._grid, fixed) for name, values in error.maps().items()}

    def _error(self) -> ExpectedError:
        """The error that is to be expected: everywhere anew, as it is judged by all of what is seen."""
        found = expect_error(self._basis.pair, self._displacement, self._grid.spacing[0], self._basis.model)
        known, voxel = self._known(_everything(self._grid)), _voxel_mm(self._basis)
        expected = torch.lerp(found.expected, found.expected.clamp_max(_CLICK * voxel), known)
        bound = torch.lerp(found.bound, found.bound.clamp_max(_CLICK_BOUND * voxel), known)
        return replace(found, expected=expected, bound=bound)

    def _known(self, box: Box) -> Tensor:
        """How much a person's points say of each place, 0 to 1."""
        if self._pull is None:
            return torch.zeros(1)
        points = (self._basis.nodes.reshape(*self._grid.shape, 3) + self._field)[box]
        reach = _SAYS * _voxel_mm(self._basis)
        return self._pull.nearness(points.reshape(-1, 3), reach).reshape(1, 1, *points.shape[:3]).float()

    # What is measured

    def _metrics(self, result: RegistrationResult) -> dict[str, Any]:
        """Of the result that was found, with what the corrections change; label maps and landmarks are left out."""
        basis = self._basis
        metrics = {key: value for key, value in basis.found.metrics.items() if key not in _MEASURED_WITH_MORE}
        metrics = copy.deepcopy(metrics)
        pair = MeasuredPair(basis.fixed, basis.moving, basis.scales, basis.guidance.fixed_mask)
        measures = measure(result, pair, {"after": result.transform}, lambda fraction: None)
        similarity = {**metrics.get("similarity", {}), **measures.pop("similarity")}
        metrics.update(measures, similarity=similarity, expected_error=self._error_statistics())
        metrics["verdict"] = self._verdict(metrics["expected_error"])
        return metrics

    def _error_statistics(self) -> dict[str, Any]:
        expected, bound = (to_tensor(self._error_maps[name]) for name in ("expected_error", "error_bound"))
        error = ExpectedError(expected, bound, expected > 0, predictor_for(self._basis.model).method)
        return error_statistics(error, Grid.of(self._error_maps["expected_error"]))

    def _verdict(self, expected: dict[str, Any]) -> dict[str, Any]:
        basis = self._basis
        evidence = (basis.found.metrics.get("verdict") or {}).get("evidence", {})
        # Where the initial transform was given, the alignment was not judged then, and is not now.
        linear = basis.linear if "rotation_deg" in evidence else None
        made_for = None if basis.model is None else basis.model.info
        volume = object_volume(basis.moving, basis.scales[1])
        answer = Answer(basis.pair, self._displacement, self._grid, linear, volume, expected, made_for)
        return verdict(answer, basis.model)


_MEASURED_WITH_MORE = ("labels", "landmarks", "tissue_dice", "corrections")


def _transform(field: Tensor, grid: Grid) -> sitk.Transform:
    image = grid.place(sitk.GetImageFromArray(field.numpy(), isVector=True))
    return sitk.DisplacementFieldTransform(image)


def _blank(grid: Grid) -> sitk.Image:
    return sitk.Image(list(grid.size), sitk.sitkUInt8)


def _voxel_mm(basis: Basis) -> float:
    """The edge of a voxel of the coarser image, were it a cube."""
    volumes = [float(np.prod(image.GetSpacing())) for image in (basis.fixed, basis.moving)]
    return float(max(volumes) ** (1 / 3))


# Boxes of a grid, in the order k, j, i


def _box_around(where: Tensor) -> Box:
    """The box around all that is True, ``(K, J, I)``."""
    cuts = []
    for axis in range(3):
        others = [n for n in range(3) if n != axis]
        index = torch.nonzero(where.any(dim=others[1]).any(dim=others[0]))[:, 0]
        cuts.append(slice(int(index[0]), int(index[-1]) + 1))
    return cuts[0], cuts[1], cuts[2]


def _grown(box: Box, voxels: int, grid: Grid) -> Box:
    """Larger by so many voxels on each side, as far as the grid goes."""
    k, j, i = (slice(max(0, cut.start - voxels), min(n, cut.stop + voxels)) for cut, n in zip(box, grid.shape))
    return k, j, i


def _within(box: Box, around: Box) -> Box:
    """A box as seen from one around it."""
    k, j, i = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, around))
    return k, j, i


def _common(one: Box, other: Box) -> Box:
    """What two boxes have in common."""
    k, j, i = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other))
    return k, j, i


def _cut(values: Tensor, box: Box) -> Tensor:
    """The part of ``(..., K, J, I)`` in a box: a view."""
    k, j, i = box
    return values[..., k, j, i]


def _everything(grid: Grid) -> Box:
    k, j, i = (slice(0, n) for n in grid.shape)
    return k, j, i
