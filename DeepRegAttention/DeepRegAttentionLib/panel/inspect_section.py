"""The section Inspect: which result is looked at, and how."""

from __future__ import annotations

from typing import Any, Callable, Optional

import qt
import slicer
from slicer.i18n import tr as _

from ..engine.errors import RegistrationError
from ..scene import layouts, overlays, results
from ..terms.choices import Choice, comparison_choices, deformation_choices
from ..terms.maps import VECTORS, offered
from . import choices
from .correct_section import CorrectSection
from .display import Display, suitable_spacing
from .parameters import Parameters, View, view_of
from .places_section import PlacesSection
from .registration import Registrations
from .verdicts import show_verdict

KEY = "A"
"""Before or after; the slice views of 3D Slicer leave this one free."""

_STRAIGHT = 0.999


class InspectSection:
    """Lets a person choose a result and how it is shown, and keeps the views in step with the parameters."""

    def __init__(
        self, ui: Any, registrations: Registrations, changed: Callable[[Optional[results.Result]], None]
    ) -> None:
        """``changed`` is told what is looked at whenever that was decided anew."""
        self._ui, self._changed = ui, changed
        self._parameters: Optional[Parameters] = None
        self._display: Optional[Display] = None
        self._shown: Optional[View] = None
        self._drawn_as: Optional[tuple[str, bool]] = None
        self._layout_before = 0
        self._places = PlacesSection(ui, self._put_beside)
        self._correct = CorrectSection(ui, registrations, self._renewed)
        choices.fill(ui.comparisonSelector, [*comparison_choices(), _fixed_alone()])
        choices.fill(ui.deformationSelector, deformation_choices())
        choices.fill(ui.overlaySelector, [_no_overlay()])
        ui.resultSelector.connect("activated(int)", self._choose_result)
        ui.thresholdRange.connect("valuesChanged(double,double)", self._choose_threshold)
        ui.layoutButton.connect("toggled(bool)", self._toggle_layout)
        self._shortcut = _shortcut(ui.beforeButton)

    @property
    def result(self) -> Optional[results.Result]:
        """What is looked at."""
        return self._display.result if self._display is not None else None

    def use(self, parameters: Optional[Parameters]) -> None:
        """Work on these parameters from now on."""
        self._parameters = parameters
        if parameters is None:
            self._correct.show(None)
        self._forget()

    def activate(self, on: bool) -> None:
        """Have the key work while the module is open."""
        if self._shortcut is not None:
            self._shortcut.setEnabled(on)

    def end(self) -> None:
        """Take the key back, and correct nothing any more."""
        self._correct.show(None)
        if self._shortcut is not None:
            self._shortcut.deleteLater()
            self._shortcut = None

    def _renewed(self, result: results.Result) -> None:
        """The nodes of what is looked at have changed."""
        if self._display is not None:
            self._display.renew()
        show_verdict(self._ui.inspectVerdict, result)
        self._places.renew(result)
        self._offer(result)
        self._forget()
        self.refresh()
        self._changed(result)

    # Which result

    def find(self) -> None:
        """Read the results of the scene anew."""
        found = results.find_results(slicer.mrmlScene)
        entries = [Choice(result.node.GetID(), result.name) for result in found]
        choices.fill(self._ui.resultSelector, [Choice("", _("None") if found else _("None yet")), *entries])
        wanted = self._parameters.result if self._parameters is not None else None
        self._take(next((result for result in found if result.node is wanted), None))
        self._changed(self.result)

    def show_none(self) -> None:
        """Take away what is drawn of a result."""
        self._look_at(None)

    def show_newest(self, result: results.Result) -> None:
        """Look at a result that has just been made, at its worst place."""
        parameters = self._parameters
        if parameters is not None:
            with slicer.util.NodeModify(parameters.parameterNode):
                parameters.result = result.node
                parameters.gridSpacing = suitable_spacing(result, view_of(parameters))
        self.find()
        self._forget()
        self.refresh()
        _look_into_3d_views()
        self._places.go()

    def _choose_result(self, index: int) -> None:
        chosen = choices.value_of(self._ui.resultSelector)
        self._look_at(slicer.mrmlScene.GetNodeByID(chosen) if chosen else None)

    def _look_at(self, node: Optional[slicer.vtkMRMLScriptedModuleNode]) -> None:
        if self._parameters is not None:
            self._parameters.result = node
            self.find()
            self.refresh()

    def _take(self, result: Optional[results.Result]) -> None:
        before, after = self.result, None if result is None else result.node
        if before is None or before.node is not after:
            if self._display is not None:
                self._display.hide()
            self._display = None if result is None else Display(result, lambda: bool(self._ui.layoutButton.checked))
            self._forget()
            self._places.show(result)
            self._correct.show(result)
            show_verdict(self._ui.inspectVerdict, result)
            self._fill_layout()
        elif self._display is not None and result is not None:
            self._display.result = result
        choices.select(self._ui.resultSelector, "" if result is None else result.node.GetID())
        if result is not None:
            self._offer(result)

    def _forget(self) -> None:
        """What the views show is no longer known."""
        self._shown = self._drawn_as = None

    def _offer(self, result: results.Result) -> None:
        """What can be shown of a result: its maps, and its force if it has one."""
        entries = [Choice(entry.key, entry.name, entry.meaning) for entry in offered(result.maps)]
        choices.fill(self._ui.overlaySelector, [_no_overlay(), *entries])
        force = [_force_arrows()] if VECTORS in result.maps else []
        choices.fill(self._ui.deformationSelector, [*deformation_choices(), *force])

    # What is shown

    def refresh(self) -> None:
        """Show the parameters, and what they say in the views if that changed."""
        parameters, display = self._parameters, self._display
        if parameters is None:
            return
        if display is not None:
            self._suit_spacing(parameters, display.result)
            self._suit_threshold(parameters, display.result)
        view = view_of(parameters)
        self._enable(view)
        if display is None or view == self._shown:
            return
        before, self._shown = self._shown, view
        try:
            display.show(view, before)
        except RegistrationError as error:
            self._ui.statusLabel.text = str(error)

    def _suit_spacing(self, parameters: Parameters, result: results.Result) -> None:
        """Another spacing for another way to draw: in 3D the time to draw grows with the cube of its fineness."""
        view = view_of(parameters)
        before, self._drawn_as = self._drawn_as, (view.deformation, view.threed)
        if before not in (None, self._drawn_as) and view.deformation != "none":
            parameters.gridSpacing = suitable_spacing(result, view)

    def _suit_threshold(self, parameters: Parameters, result: results.Result) -> None:
        """From the least to the largest value of another overlay; one that was saved with a scene is kept."""
        before, view = self._shown, view_of(parameters)
        name = view.overlay
        if name not in result.maps or (before is not None and before.overlay == name):
            return
        ends = overlays.value_range(result.maps[name])
        kept = before is None and view.threshold is not None
        chosen = (parameters.thresholdLow, parameters.thresholdHigh) if kept else ends
        self._show_range(ends, chosen)
        self._choose_threshold(*chosen)

    def _enable(self, view: View) -> None:
        ui, here = self._ui, self._display is not None
        for widget in (
            ui.comparisonSelector,
            ui.overlaySelector,
            ui.deformationSelector,
            ui.layoutButton,
            ui.solidSlicesCheckBox,
        ):
            widget.enabled = here
        ui.surfacesCheckBox.enabled = self._display is not None and self._display.result.labels is not None
        ui.beforeButton.enabled = here and view.comparison != "none"
        ui.amountSlider.enabled = ui.beforeButton.enabled
        ui.overlayOptions.visible = here and view.overlay is not None
        ui.deformationOptions.visible = here and view.deformation != "none"
        ui.thresholdRange.enabled = view.threshold is not None
        ui.scaleSlider.enabled = view.deformation != "contours"

    # Threshold and layout

    def _show_range(self, ends: tuple[float, float], chosen: tuple[float, float]) -> None:
        slider = self._ui.thresholdRange
        was = slider.blockSignals(True)
        slider.setRange(*ends)
        slider.singleStep = max((ends[1] - ends[0]) / 200, 0.001)
        slider.setValues(*chosen)
        slider.blockSignals(was)

    def _choose_threshold(self, low: float, high: float) -> None:
        if self._parameters is not None:
            with slicer.util.NodeModify(self._parameters.parameterNode):
                self._parameters.thresholdLow, self._parameters.thresholdHigh = low, high

    def _put_beside(self) -> None:
        """Bring the fixed and the warped volume side by side."""
        self._ui.layoutButton.checked = True

    def _toggle_layout(self, on: bool) -> None:
        manager = slicer.app.layoutManager()
        if manager is None or self._display is None:
            return
        # Views that take their places would draw it again at each step.
        self._display.hide_deformation()
        if on:
            self._layout_before = manager.layout
            layouts.register_layout(manager.layoutLogic().GetLayoutNode())
            manager.setLayout(layouts.COMPARISON_LAYOUT)
            overlays.forget_legends(self._display.result.maps.values())
        elif manager.layout == layouts.COMPARISON_LAYOUT:
            manager.setLayout(self._layout_before)
        # New views go to slice 0 when they have their place, and take all others along once they are linked.
        qt.QTimer.singleShot(0, self._fill_and_draw)

    def _fill_and_draw(self) -> None:
        self._fill_layout()
        self._places.go_again()
        qt.QTimer.singleShot(0, self._draw_again)

    def _draw_again(self) -> None:
        if self._display is not None and self._parameters is not None:
            self._display.show_deformation(view_of(self._parameters))

    def _fill_layout(self) -> None:
        """Put what is looked at into the layout for comparing, if that is shown."""
        if self._display is not None and self._parameters is not None and self._ui.layoutButton.checked:
            self._display.fill_layout(self._parameters.overlay)
            self._display.show_layers(view_of(self._parameters), self._shown)


def _no_overlay() -> Choice:
    return Choice("none", _("None"), _("No map on top of the volumes."))


def _fixed_alone() -> Choice:
    return Choice("none", _("None"), _("The fixed volume alone."))


def _force_arrows() -> Choice:
    return Choice("force", _("Driving force as arrows"), _("What pulled the moving volume, before it was smoothed."))


def _look_into_3d_views() -> None:
    """Have 3D views show all of what is in them, from a corner: at first they look straight at an empty box."""
    manager = slicer.app.layoutManager()
    for n in range(manager.threeDViewCount if manager is not None else 0):
        view = manager.threeDWidget(n).threeDView()
        view.resetFocalPoint()
        # It turns to the nearest axis, too, from which two of three slices would be seen from their edges.
        view.resetCamera()
    for node in slicer.util.getNodesByClass("vtkMRMLCameraNode"):
        camera = node.GetCamera()
        if max(map(abs, camera.GetDirectionOfProjection())) > _STRAIGHT:
            camera.Azimuth(35)
            camera.Elevation(25)
            camera.OrthogonalizeViewUp()


def _shortcut(button: qt.QPushButton) -> Optional[qt.QShortcut]:
    window = slicer.util.mainWindow()
    if window is None:
        return None
    shortcut = qt.QShortcut(qt.QKeySequence(KEY), window)
    shortcut.connect("activated()", button.click)
    shortcut.setEnabled(False)
    return shortcut
