"""What is shown: Slicer's scene of one page, its views, and how they move together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import slicer
from trame_slicer.core import SlicerApp
from trame_slicer.rca_view import register_rca_factories
from trame_slicer.views import AbstractView, SliceView, ViewLayoutDefinition, ViewProps, ViewType

from ..engine.errors import UnreadableFileError
from ..scene.layouts import VIEWS
from ..scene.nodes import remove_node
from ..scene.results import prepare_scene

FIXED, MOVING, WARPED = (tag for tag, _ in VIEWS[:3])
THREED = "DeepReg3D"
SLICES = (FIXED, MOVING, WARPED)

ORIENTATIONS = ("Axial", "Coronal", "Sagittal")
BACKGROUNDS = {"dark": ("#15181c", "#2b3138"), "light": ("#e8ecf1", "#ffffff")}

_FRAMES_PER_S = 15.0
_JPEG_QUALITY = 60
_EVENT_PAUSE_S = 0.04
# Smooth edges cost ten times the rest of a 3D picture without a graphics card.
_SAMPLES_PER_PIXEL = 0

_CLOSER = 1.25

Range = tuple[float, float]


class Stage:
    """Three linked slice views of one orientation, and a 3D view with three crossing planes.

    Attributes
    ----------
    scene : vtkMRMLScene
        This page's own.
    on_move : callable
        Called when a slice view has moved, or shows another volume.
    """

    def __init__(self, server: Any) -> None:
        self.on_move: Callable[[], None] = lambda: None
        self._app = SlicerApp()
        self.scene: slicer.vtkMRMLScene = self._app.scene
        prepare_scene(self.scene)
        self._make_views(server)
        self._planes = [self._make_plane(orientation) for orientation in ORIENTATIONS]
        self._crosshair = self.scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        self._crosshair.SetCrosshairBehavior(slicer.vtkMRMLCrosshairNode.OffsetJumpSlice)
        self.composite(WARPED).AddObserver("ModifiedEvent", self._copy_layers)

    # Views

    def _make_views(self, server: Any) -> None:
        register_rca_factories(
            self._app.view_manager,
            server,
            slice_view_ui_f=_no_controls,
            three_d_view_ui_f=_no_controls,
            rca_encoder="jpeg",
            target_fps=_FRAMES_PER_S,
            blur_fps=_FRAMES_PER_S,
            interactive_quality=_JPEG_QUALITY,
            rca_event_throttle_s=_EVENT_PAUSE_S,
        )
        for tag in SLICES:
            look = ViewProps(label=tag, orientation="Axial", color="#808080", background_color="#000000")
            view = self._make_view(ViewLayoutDefinition(tag, ViewType.SLICE_VIEW, look))
            view.interactor().AddObserver("LeftButtonPressEvent", lambda *_, tag=tag: self._point_at(tag))
            self.composite(tag).SetLinkedControl(True)
            self.composite(tag).SetHotLinkedControl(True)
        self._make_view(ViewLayoutDefinition.threed_view(name=THREED, background_color=BACKGROUNDS["dark"]))
        self._app.view_manager.set_current_view_ids([*SLICES, THREED])
        self.view(FIXED).modified.connect(self._moved)
        # Legends look for the layers of their slice view only when a scene was changed as a whole.
        self.scene.StartState(slicer.vtkMRMLScene.BatchProcessState)
        self.scene.EndState(slicer.vtkMRMLScene.BatchProcessState)

    def _make_view(self, definition: ViewLayoutDefinition) -> AbstractView:
        view = self._app.view_manager.create_view(definition)
        view.render_window().SetMultiSamples(_SAMPLES_PER_PIXEL)
        return view

    def _make_plane(self, orientation: str) -> slicer.vtkMRMLSliceLogic:
        """A slice that is seen in 3D only."""
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(self._app.app_logic)
        logic.SetMRMLScene(self.scene)
        node = logic.AddSliceNode(f"DeepRegPlane{orientation}")
        node.SetOrientation(orientation)
        node.SetSliceVisible(False)
        return logic

    def view(self, tag: str) -> AbstractView:
        """A view by its tag."""
        return self._app.view_manager.get_view(tag)

    def _slices(self) -> list[SliceView]:
        return [self.view(tag) for tag in SLICES]

    def _logic(self, tag: str) -> slicer.vtkMRMLSliceLogic:
        return self._app.app_logic.GetSliceLogic(self.view(tag).get_view_node())

    def composite(self, tag: str) -> slicer.vtkMRMLSliceCompositeNode:
        """The layers of a slice view."""
        return self._logic(tag).GetSliceCompositeNode()

    def render(self) -> None:
        """Draw all views again, for changes that they do not see themselves."""
        for tag in (*SLICES, THREED):
            self.view(tag).schedule_render()

    # Content

    def load_volume(self, path: Path, name: str) -> slicer.vtkMRMLScalarVolumeNode:
        """A volume of the scene from a file that holds a valid one.

        Raises
        ------
        UnreadableFileError
            Slicer cannot read it.
        """
        volumes = self._app.io_manager.load_volumes(str(path))
        if len(volumes) != 1 or volumes[0].GetImageData() is None:
            raise UnreadableFileError(f"{name} cannot be shown: Slicer does not read it.")
        volumes[0].SetName(name)
        return volumes[0]

    def remove(self, *nodes: Optional[slicer.vtkMRMLNode]) -> None:
        """Take nodes out of the scene."""
        for node in nodes:
            remove_node(self.scene, node)

    def show(self, tag: str, volume: Optional[slicer.vtkMRMLVolumeNode]) -> None:
        """Put one volume, and nothing over it, into a slice view."""
        composite = self.composite(tag)
        composite.SetBackgroundVolumeID(volume.GetID() if volume else None)
        composite.SetForegroundVolumeID(None)

    def background(self, tag: str) -> Optional[slicer.vtkMRMLScalarVolumeNode]:
        """The volume that a slice view shows."""
        name = self.composite(tag).GetBackgroundVolumeID()
        return self.scene.GetNodeByID(name) if name else None

    def fit(self) -> None:
        """Bring what is shown into the middle of every view; what lies in one place is seen alike in all."""
        for view in self._slices():
            view.fit_view_to_content()
        together = self._lie_together()
        # Views of one group move together.
        self.view(MOVING).get_view_node().SetViewGroup(0 if together else 1)
        for tag in (MOVING, WARPED) if together else (WARPED,):
            self._align(tag)
        self._copy_layers()
        for plane in self._planes:
            plane.FitSliceToBackground()
        self._look_from_the_side()
        self.render()
        self._moved()

    def _lie_together(self) -> bool:
        """Whether the fixed and the moving image have a place in common; with one of them alone, too."""
        shown = [volume for volume in (self.background(FIXED), self.background(MOVING)) if volume is not None]
        bounds = [_bounds(volume) for volume in shown]
        return all(max(low) < min(high) for low, high in _extents(bounds))

    def _align(self, tag: str) -> None:
        """Show in a slice view what the fixed one shows, as large as there is room: equally, if both are of a size."""
        lead, node = self.view(FIXED).get_view_node(), self.view(tag).get_view_node()
        if self.background(FIXED) is None or min(*lead.GetDimensions()[:2], *node.GetDimensions()[:2]) < 1:
            return
        scale = max(lead.GetFieldOfView()[n] / node.GetDimensions()[n] for n in (0, 1))
        node.GetSliceToRAS().DeepCopy(lead.GetSliceToRAS())
        node.SetFieldOfView(*(scale * pixels for pixels in node.GetDimensions()[:2]), lead.GetFieldOfView()[2])
        node.SetXYZOrigin(0, 0, 0)
        node.UpdateMatrices()

    def _look_from_the_side(self) -> None:
        """All three planes in 3D are seen at once."""
        view = self.view(THREED)
        view.fit_view_to_content()
        camera = view.get_camera_node().GetCamera()
        camera.Azimuth(-35)
        camera.Elevation(25)
        camera.OrthogonalizeViewUp()
        view.reset_camera()
        camera.Dolly(_CLOSER)
        view.get_camera_node().ResetClippingRange()

    def _copy_layers(self, *_: Any) -> None:
        """The planes in 3D show what the warped view shows."""
        source = self.composite(WARPED)
        for plane in self._planes:
            composite = plane.GetSliceCompositeNode()
            composite.SetBackgroundVolumeID(source.GetBackgroundVolumeID())
            composite.SetForegroundVolumeID(source.GetForegroundVolumeID())
            composite.SetForegroundOpacity(source.GetForegroundOpacity())
            plane.GetSliceNode().SetSliceVisible(bool(source.GetBackgroundVolumeID()))

    # Moving

    def set_orientation(self, orientation: str) -> None:
        """Cut all slice views along one of ``ORIENTATIONS``, through the crosshair if it is shown."""
        for view in self._slices():
            view.set_orientation(orientation)
        self.fit()
        if self.crosshair:
            self._jump(self._crosshair.GetCrosshairRAS(), 0)

    @property
    def orientation(self) -> str:
        """Of all slice views."""
        return str(self.view(FIXED).get_orientation())

    def offset(self) -> dict[str, float]:
        """Where the slices are, in mm: ``value``, ``min``, ``max`` and ``step``."""
        view = self.view(FIXED)
        low, high = view.get_slice_range()
        return {"value": view.get_slice_value(), "min": low, "max": high, "step": view.get_slice_step()}

    def set_offset(self, value: float) -> None:
        """Move all slice views to a place along their normal, in mm."""
        logic = self._logic(FIXED)
        logic.StartSliceOffsetInteraction()
        logic.SetSliceOffset(value)
        logic.EndSliceOffsetInteraction()

    def _moved(self, *_: Any) -> None:
        node = self.view(FIXED).get_view_node()
        plane = self._planes[ORIENTATIONS.index(self.orientation)] if self.orientation in ORIENTATIONS else None
        if plane is not None:
            plane.SetSliceOffset(node.GetSliceOffset())
        self.on_move()

    def _point_at(self, tag: str) -> None:
        """Put the crosshair where a slice view was clicked; all slices go through it."""
        if not self.crosshair or self.adjusting_window:
            return
        view = self.view(tag)
        x, y = view.interactor().GetEventPosition()
        point = view.get_view_node().GetXYToRAS().MultiplyPoint((x, y, 0.0, 1.0))[:3]
        self._crosshair.SetCrosshairRAS(*point)
        self._jump(point, view.get_view_group())

    def look_at(self, point: Sequence[float]) -> None:
        """Have all slices go through a point (RAS mm), with the crosshair on it."""
        self.crosshair = True
        self._crosshair.SetCrosshairRAS(*point)
        self._jump(point, self.view(FIXED).get_view_group())
        for plane in self._planes:
            plane.GetSliceNode().JumpSliceByOffsetting(*point)
        self.render()

    def place(self, node: Optional[slicer.vtkMRMLMarkupsNode]) -> None:
        """Have the next clicks in the views place the points of a node; None: they place nothing any more."""
        if node is None:
            self._app.markups_logic.disable_place_mode()
        else:
            self._app.markups_logic.place_node(node)

    def _jump(self, point: Sequence[float], group: int) -> None:
        slicer.vtkMRMLSliceNode.JumpAllSlices(self.scene, *point, slicer.vtkMRMLSliceNode.OffsetJumpSlice, group)

    # Look

    @property
    def crosshair(self) -> bool:
        """Whether the crosshair is shown."""
        return bool(self._crosshair.GetCrosshairMode() != slicer.vtkMRMLCrosshairNode.NoCrosshair)

    @crosshair.setter
    def crosshair(self, shown: bool) -> None:
        kind = slicer.vtkMRMLCrosshairNode
        self._crosshair.SetCrosshairMode(kind.ShowIntersection if shown else kind.NoCrosshair)

    @property
    def adjusting_window(self) -> bool:
        """Whether dragging in a slice view changes brightness and contrast."""
        node = self._app.app_logic.GetInteractionNode()
        return bool(node.GetCurrentInteractionMode() == slicer.vtkMRMLInteractionNode.AdjustWindowLevel)

    @adjusting_window.setter
    def adjusting_window(self, adjusting: bool) -> None:
        kind = slicer.vtkMRMLInteractionNode
        mode = kind.AdjustWindowLevel if adjusting else kind.ViewTransform
        self._app.app_logic.GetInteractionNode().SetCurrentInteractionMode(mode)

    def set_theme(self, theme: str) -> None:
        """``"dark"`` or ``"light"``: the background of the 3D view; slices stay on black, as in a reading room."""
        self.view(THREED).set_background_color_from_string(BACKGROUNDS[theme])
        self.view(THREED).schedule_render()

    def save(self, path: Path) -> None:
        """Write the whole scene as ``.mrb``, for 3D Slicer."""
        self._app.io_manager.save_scene(path)


def _bounds(volume: slicer.vtkMRMLVolumeNode) -> list[float]:
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    return bounds


def _extents(bounds: list[list[float]]) -> list[tuple[list[float], list[float]]]:
    """Lower and upper ends of several boxes along each axis."""
    return [([box[2 * n] for box in bounds], [box[2 * n + 1] for box in bounds]) for n in range(3) if bounds]


def value_range(volume: slicer.vtkMRMLVolumeNode) -> Range:
    """Least and largest value of a volume."""
    low, high = volume.GetImageData().GetScalarRange()
    return float(low), float(high)


def window(volume: slicer.vtkMRMLVolumeNode) -> Range:
    """The values shown as black and as white."""
    display = volume.GetDisplayNode()
    return display.GetWindowLevelMin(), display.GetWindowLevelMax()


def set_window(volume: slicer.vtkMRMLVolumeNode, low: float, high: float) -> None:
    """Show these values as black and as white."""
    display = volume.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(low, high)


def _no_controls(*_: Any) -> None:
    """The views' own controls are on the page around them."""
