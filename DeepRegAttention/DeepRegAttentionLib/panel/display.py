"""One result in the slice and 3D views, as a ``View`` says."""

from __future__ import annotations

from typing import Any, Callable, Optional

import qt
import slicer

from ..scene import compare, deformation, layouts, overlays, results, surfaces
from ..terms.maps import offered
from .parameters import View
from .turns import in_turns

_TILES = (2, 20)
"""Fewest and most tiles of a checkerboard."""


class Display:
    """Shows one result: the comparison in the background, an overlay in the foreground, the deformation on top; in 3D
    the slices and the structures.

    Parameters
    ----------
    result : Result
        What is shown.
    is_beside : callable
        Whether the layout for comparing is shown.
    """

    def __init__(self, result: results.Result, is_beside: Callable[[], bool]) -> None:
        self.result, self._is_beside = result, is_beside
        self._comparison: Optional[compare.Comparison] = None
        self._to_draw: Optional[View] = None
        self._surfaces: Optional[str] = None
        self._makes_surfaces = False

    def show(self, view: View, before: Optional[View]) -> None:
        """Only what changed: a new deformation grid takes longer than a new opacity."""
        if before is None or _layers(view) != _layers(before):
            self.show_layers(view, before)
        if before is None or _drawing(view) != _drawing(before):
            # In a turn of its own, so that the window answers in between.
            self._to_draw = view
            qt.QTimer.singleShot(0, self._draw)
        if before is None or _solid(view) != _solid(before):
            self._show_solid(view)

    def _draw(self) -> None:
        """Draw the deformation, unless it was hidden meanwhile."""
        view = self._to_draw
        if view is not None and slicer.mrmlScene.IsNodePresent(self.result.node):
            self.show_deformation(view)

    def fill_layout(self, overlay: str) -> None:
        """Put the volumes into the layout for comparing."""
        layouts.fill_layout(self.result, slicer.mrmlScene, overlay, aligned=True)

    def renew(self) -> None:
        """The volumes have other values now; :meth:`show` follows."""
        self._surfaces = None
        if self._comparison is not None:
            self._comparison.renew()

    def hide(self) -> None:
        """Take away what was drawn."""
        if not slicer.mrmlScene.IsNodePresent(self.result.node):
            return
        self.hide_deformation()
        self._surfaces = None
        surfaces.show_surfaces(self.result, None)
        overlays.show_overlay(self.result.maps, None, slice_composites())
        if self._comparison is not None:
            self._comparison.foreground_is_free = True
            self._comparison.end()

    def show_layers(self, view: View, before: Optional[View]) -> None:
        """The comparison below, the overlay above; without an overlay a blend may use both layers."""
        name = view.overlay if view.overlay in self.result.maps else None
        if name is None and before is not None and before.overlay is not None:
            overlays.show_overlay(self.result.maps, None, slice_composites())
        if before is None or self._comparing(view) != self._comparing(before):
            self._compare(view, name is None)
        if name is not None:
            composites = [*slice_composites(), *self._layout_composites()]
            overlays.show_overlay(self.result.maps, name, composites, view.opacity, view.threshold, view.legend)
        else:
            self._show_overlay_beside(view)

    def _comparing(self, view: View) -> tuple[Any, ...]:
        """What the comparison depends on: all of the volumes is mixed anew for it."""
        return view.comparison, view.amount, view.before, view.overlay in self.result.maps

    def _show_overlay_beside(self, view: View) -> None:
        """The layout for comparing has a view for an overlay, also when none is chosen."""
        available = offered(self.result.maps)
        if self._layout_composites() and available:
            composites = self._layout_composites()
            overlays.show_overlay(self.result.maps, available[0].key, composites, view.opacity, None, view.legend)

    def _layout_composites(self) -> list[Any]:
        """Layers of the view that the layout for comparing has for an overlay, while it is shown."""
        node = layouts.view_composites(slicer.mrmlScene).get(layouts.OVERLAY)
        return [node] if node is not None and self._is_beside() else []

    def _compare(self, view: View, foreground_is_free: bool) -> None:
        result = self.result
        if result.fixed is None or (result.warped is None and result.moving is None):
            return
        if self._comparison is None:
            self._comparison = compare.Comparison(result, slice_composites())
        comparison = self._comparison
        comparison.foreground_is_free = foreground_is_free
        comparison.against("before" if view.before else "after")
        if view.comparison == "blend":
            comparison.blend(view.amount)
        elif view.comparison == "swipe":
            comparison.swipe(view.amount)
        elif view.comparison == "checkerboard":
            comparison.checkerboard(tiles_of(view.amount))
        else:
            comparison.end()

    def _show_solid(self, view: View) -> None:
        """Slices and structures in 3D views."""
        for node in slice_nodes():
            node.SetSliceVisible(view.solid_slices)
        self._surfaces = ("before" if view.before else "after") if view.surfaces else None
        if self._surfaces is not None and not self._makes_surfaces:
            self._makes_surfaces = True
            in_turns(surfaces.surface_steps(self.result), self._is_wanted, self._show_surfaces)
        else:
            self._show_surfaces()

    def _is_wanted(self) -> bool:
        wanted = self._surfaces is not None and bool(slicer.mrmlScene.IsNodePresent(self.result.node))
        self._makes_surfaces = wanted
        return wanted

    def _show_surfaces(self) -> None:
        """Once they are there, what was chosen meanwhile."""
        self._makes_surfaces = False
        surfaces.show_surfaces(self.result, self._surfaces)

    def hide_deformation(self) -> None:
        """Take away the drawing of the deformation alone."""
        self._to_draw = None
        deformation.show_deformation(self.result, "none")
        deformation.show_force_arrows(self.result, False)

    def show_deformation(self, view: View) -> None:
        """Draw the deformation, or the force."""
        self._to_draw = None
        how = (view.spacing_mm, view.scale_percent, view.slices, view.threed)
        force = view.deformation == "force"
        deformation.show_deformation(self.result, "none" if force else view.deformation, *how)
        deformation.show_force_arrows(self.result, force, *how)


def suitable_spacing(result: results.Result, view: View) -> float:
    """The spacing in mm of lines or arrows that suits the way to draw."""
    style = "arrows" if view.deformation == "force" else view.deformation
    return deformation.default_spacing(result, style, view.threed)


def tiles_of(amount: float) -> int:
    """How many tiles of a checkerboard the slider's position (0 to 1) means."""
    fewest, most = _TILES
    return round(fewest + amount * (most - fewest))


def slice_composites() -> list[slicer.vtkMRMLSliceCompositeNode]:
    """The layers of the usual slice views; those of the layout for comparing have their own content."""
    nodes = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    own = {tag for tag, title in layouts.VIEWS}
    return [node for node in nodes if node.GetLayoutName() not in own]


def slice_nodes() -> list[slicer.vtkMRMLSliceNode]:
    """The usual slice views; those of the layout for comparing go their own way."""
    own = {tag for tag, title in layouts.VIEWS}
    return [node for node in slicer.util.getNodesByClass("vtkMRMLSliceNode") if node.GetLayoutName() not in own]


def _layers(view: View) -> tuple[Any, ...]:
    return view.comparison, view.amount, view.before, view.overlay, view.opacity, view.threshold, view.legend


def _drawing(view: View) -> tuple[Any, ...]:
    return view.deformation, view.spacing_mm, view.scale_percent, view.slices, view.threed


def _solid(view: View) -> tuple[Any, ...]:
    return view.solid_slices, view.surfaces, view.before
