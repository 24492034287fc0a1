"""The fixed image against the moving one, before and after: blend, swipe, checkerboard, flick."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Optional

import numpy as np
import slicer
import vtk

from ..engine.errors import ImageError
from .nodes import (
    add_node,
    array_image,
    array_matrix,
    copy_window,
    image_array,
    remove_node,
    set_grid,
    show_range,
    voxel_to_world,
    voxels,
)
from .results import Result
from .transforms import linear_transform

AXES = ("left-right", "front-back", "head-feet")
"""Directions in which a swipe moves: from the left of the screen (the patient's right), the front, the head."""


class Comparison:
    """Fixed image against the warped one (or the moving one after the linear alignment alone) in slice views.

    Every call shows what it says at once; swipe and checkerboard are put together in a volume of their own, from
    both images as their windows (brightness, contrast) show them at the first call.

    Parameters
    ----------
    result : Result
        With its fixed volume, and the warped or the moving one.
    composites : sequence of vtkMRMLSliceCompositeNode
        Of the slice views that are used.

    Attributes
    ----------
    foreground_is_free : bool
        True (at first): a blend is the other image in the foreground layer, and everything else empties that layer.
        False: the foreground belongs to an overlay and is left alone; every comparison is in the background.

    Raises
    ------
    ImageError
        The fixed volume is gone.
    """

    def __init__(self, result: Result, composites: Sequence[slicer.vtkMRMLSliceCompositeNode]) -> None:
        if result.fixed is None:
            raise ImageError("The fixed volume of this registration is gone: there is nothing to compare with.")
        self.result = result
        self.composites = list(composites)
        self.foreground_is_free = True
        self._fixed = result.fixed
        self._state = "after" if result.warped is not None else "before"
        self._greys: dict[str, np.ndarray] = {}
        self._mixed: Optional[slicer.vtkMRMLScalarVolumeNode] = None

    def renew(self) -> None:
        """Have the next call show the images as they are by then: one of them has changed."""
        self._greys.clear()

    def against(self, state: str) -> None:
        """Compare with the moving image ``"before"`` (linear alignment only) or ``"after"`` the deformation."""
        self._state = state

    def blend(self, opacity: float = 0.5) -> None:
        """Fixed image below, the other one on top with this opacity, 0 to 1."""
        if self.foreground_is_free:
            self._show(self._fixed, self._other(), opacity)
        elif 0 < opacity < 1:
            self._show_mixed(_mean(self._grey("fixed"), self._grey(self._state), opacity))
        else:
            self._show(self._other() if opacity > 0 else self._fixed, None, 0.0)

    def flick(self, after: bool) -> None:
        """Show the warped image (after) or the linearly aligned moving one (before), in place."""
        self.against("after" if after else "before")
        self.blend(1.0)

    def swipe(self, fraction: float = 0.5, axis: str = "left-right") -> None:
        """The fixed image from the left (front, head) up to a fraction of the way, the other one beyond it.

        Parameters
        ----------
        fraction : float
            0: all of the other image, 1: all of the fixed one.
        axis : str
            One of ``AXES``; the axis of the fixed grid nearest to it is used.
        """
        fixed, other = self._grey("fixed"), self._grey(self._state)
        direction, forwards = self._grid_axis(AXES.index(axis))
        numpy_axis = 2 - direction
        size = fixed.shape[numpy_axis]
        edge = round(np.clip(fraction, 0, 1) * size)
        # RAS axes increase towards the patient's right, front and head.
        inside = slice(size - edge, size) if forwards else slice(0, edge)
        mixed = other.copy()
        where = tuple(inside if n == numpy_axis else slice(None) for n in range(3))
        mixed[where] = fixed[where]
        self._show_mixed(mixed)

    def checkerboard(self, tiles: int = 8) -> None:
        """Fixed and other image in turn, in cubes; ``tiles`` of them along the longest side of the image."""
        fixed, other = self._grey("fixed"), self._grey(self._state)
        spacing = self._fixed.GetSpacing()[::-1]
        edge = max(n * mm for n, mm in zip(fixed.shape, spacing)) / max(1, tiles)
        mixed = fixed.copy()
        cuts = [_cuts(n, edge / mm) for n, mm in zip(fixed.shape, spacing)]
        for numbers in np.ndindex(*map(len, cuts)):
            if sum(numbers) % 2:
                where = tuple(part[n] for part, n in zip(cuts, numbers))
                mixed[where] = other[where]
        self._show_mixed(mixed)

    def end(self) -> None:
        """Fixed image below, nothing on top; the volume that swipe and checkerboard were shown in is removed."""
        self._show(self._fixed, None, 0.0)
        remove_node(self.result.scene, self._mixed)
        self._mixed = None
        self._greys.clear()

    def _show(
        self,
        background: slicer.vtkMRMLVolumeNode,
        foreground: Optional[slicer.vtkMRMLVolumeNode],
        opacity: float,
    ) -> None:
        for composite in self.composites:
            unchanged = composite.StartModify()
            composite.SetBackgroundVolumeID(background.GetID())
            if self.foreground_is_free:
                composite.SetForegroundVolumeID(foreground.GetID() if foreground is not None else None)
                composite.SetForegroundOpacity(opacity)
            composite.EndModify(unchanged)

    def _other(self) -> slicer.vtkMRMLScalarVolumeNode:
        if self._state == "after" and self.result.warped is not None:
            return self.result.warped
        return aligned_volume(self.result)

    def _grey(self, which: str) -> np.ndarray:
        """An image as 8-bit greys, the way its window shows it."""
        if which not in self._greys:
            node = self._fixed if which == "fixed" else self._other()
            self._greys[which] = _greys(node)
        return self._greys[which]

    def _grid_axis(self, world_axis: int) -> tuple[int, bool]:
        """The axis of the fixed grid nearest to a RAS axis, and whether it increases with it."""
        along = voxel_to_world(self._fixed)[:3, :3]
        cosines = (along / np.linalg.norm(along, axis=0))[world_axis]
        axis = int(np.argmax(np.abs(cosines)))
        return axis, bool(cosines[axis] > 0)

    def _show_mixed(self, values: np.ndarray) -> None:
        if self._mixed is None or self._mixed.GetScene() is None:
            self._mixed = self._new_mixed(values)
        else:
            voxels(self._mixed)[:] = values
            self._mixed.GetImageData().GetPointData().GetScalars().Modified()
            # Views are drawn again for the node's sake alone.
            self._mixed.Modified()
        self._show(self._mixed, None, 0.0)

    def _new_mixed(self, values: np.ndarray) -> slicer.vtkMRMLScalarVolumeNode:
        node = add_node(self.result.scene, "vtkMRMLScalarVolumeNode", f"{self.result.name} comparison")
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        node.SetAndObserveImageData(array_image(values))
        set_grid(node, self._fixed)
        node.SetAndObserveTransformNodeID(self._fixed.GetTransformNodeID())
        show_range(node, 0, 255, None)
        node.GetDisplayNode().SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
        node.GetDisplayNode().SetSaveWithScene(False)
        return node


def _cuts(size: int, edge: float) -> list[slice]:
    """Voxels 0 to size, cut into parts that are ``edge`` long but for the last."""
    ends = [round(n * edge) for n in range(math.ceil(size / edge) + 1)]
    return [slice(start, min(end, size)) for start, end in zip(ends, ends[1:]) if start < size]


def aligned_volume(result: Result) -> slicer.vtkMRMLScalarVolumeNode:
    """The moving image on the fixed grid by the linear alignment alone; made once.

    Raises
    ------
    ImageError
        The moving or the fixed volume is gone, or under a transform that is not linear.
    """
    node = result.extra("aligned")
    if node is not None:
        return node
    if result.moving is None or result.fixed is None:
        raise ImageError("The moving volume of this registration is gone: it cannot be shown as it was before.")
    node = add_node(result.scene, "vtkMRMLScalarVolumeNode", f"{result.moving.GetName()} aligned to fixed")
    node.SetAndObserveImageData(_resampled(result.moving, result.fixed, result.linear))
    node.SetIJKToRASMatrix(array_matrix(voxel_to_world(result.fixed)))
    copy_window(node, result.moving)
    result.keep("aligned", node)
    return node


def _resampled(
    moving: slicer.vtkMRMLScalarVolumeNode, fixed: slicer.vtkMRMLScalarVolumeNode, linear: np.ndarray
) -> vtk.vtkImageData:
    """The moving image in each voxel of the fixed one, its least value outside of it."""
    to_moving = np.linalg.inv(voxel_to_world(moving)) @ linear @ voxel_to_world(fixed)
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(moving.GetImageData())
    reslice.SetResliceTransform(linear_transform(to_moving))
    reslice.SetOutputExtent(fixed.GetImageData().GetExtent())
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetInterpolationModeToLinear()
    reslice.SetBackgroundLevel(moving.GetImageData().GetScalarRange()[0])
    reslice.Update()
    image = vtk.vtkImageData()
    image.ShallowCopy(reslice.GetOutput())
    return image


def _mean(a: np.ndarray, b: np.ndarray, weight: float) -> np.ndarray:
    """The mean of two images of 8-bit greys, with this weight, 0 to 1, on the second one."""
    parts, mean = round(256 * weight), np.empty_like(a)
    # Slice by slice: what is in between fits into the cache.
    for one, other, between in zip(a, b, mean):
        total = np.multiply(one, 256 - parts, dtype=np.uint16)
        total += np.multiply(other, parts, dtype=np.uint16)
        between[:] = total >> 8
    return mean


def _greys(node: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """In one pass and all threads: numpy takes three times as long."""
    display = node.GetDisplayNode()
    low, high = display.GetWindowLevelMin(), display.GetWindowLevelMax()
    voxels(node)
    scale = vtk.vtkImageShiftScale()
    scale.SetInputData(node.GetImageData())
    scale.SetShift(-low)
    scale.SetScale(255 / max(high - low, 1e-12))
    scale.SetOutputScalarTypeToUnsignedChar()
    scale.ClampOverflowOn()
    scale.Update()
    greys: np.ndarray = image_array(scale.GetOutput()).copy()
    return greys
