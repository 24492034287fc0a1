"""Looking at what is shown: slices, brightness, overlays, the deformation drawn, fixed against warped."""

from __future__ import annotations

from typing import Any, Optional

from ..scene.compare import AXES, Comparison, aligned_volume
from ..scene.deformation import default_spacing, show_deformation, show_force_arrows
from ..scene.layouts import fill_layout
from ..scene.overlays import show_overlay, value_range
from ..scene.results import Result, remove_result
from ..terms.maps import MAPS, offered
from . import stage as st
from .page import Page

_TITLES = {"after": "Warped", "before": "Moving, aligned linearly"}
_AGAINST = {"after": "Fixed against warped", "before": "Fixed against moving, aligned linearly"}
_STEPS = 200


class Slices:
    """Where the slices are, and how bright."""

    def __init__(self, page: Page) -> None:
        self._page = page
        page.set(
            orientation=st.ORIENTATIONS[0],
            offset={"value": 0.0, "min": 0.0, "max": 1.0, "step": 1.0},
            slice_value=0.0,
            crosshair=False,
            adjusting=False,
            theme="dark",
            maximized="",
            windows=[],
        )
        page.stage.on_move = self._tell_offset
        page.on_change("orientation")(self._turn)
        page.on_change("slice_value")(self._move)
        page.on_change("crosshair", "adjusting", "theme")(self._look)
        page.server.trigger("fit")(page.stage.fit)
        page.server.trigger("window")(self._set_window)

    def _turn(self) -> None:
        if self._page.state.orientation != self._page.stage.orientation:
            self._page.stage.set_orientation(self._page.state.orientation)

    def _move(self) -> None:
        wanted = float(self._page.state.slice_value)
        if abs(wanted - self._page.stage.offset()["value"]) > 1e-3:
            self._page.stage.set_offset(wanted)

    def _tell_offset(self) -> None:
        offset = {name: round(value, 3) for name, value in self._page.stage.offset().items()}
        self._page.set(offset=offset, slice_value=offset["value"], orientation=self._page.stage.orientation)

    def _look(self) -> None:
        state, stage = self._page.state, self._page.stage
        if stage.adjusting_window != bool(state.adjusting):
            stage.adjusting_window = bool(state.adjusting)
            self.tell_windows()
        stage.crosshair = bool(state.crosshair)
        stage.set_theme("light" if state.theme == "light" else "dark")

    def tell_windows(self) -> None:
        """Renew the brightness sliders from the volumes that the views show."""
        shown: dict[str, Any] = {}
        for tag, title in zip(st.SLICES, ("Fixed", "Moving", "Warped")):
            volume = self._page.stage.background(tag)
            if volume is not None and volume.GetID() not in {v.GetID() for v in shown.values()}:
                shown[title] = volume
        self._page.set(windows=[_window_entry(title, volume) for title, volume in shown.items()])

    def _set_window(self, node_id: str, low: float, high: float) -> None:
        volume = self._page.stage.scene.GetNodeByID(node_id)
        if volume is not None:
            st.set_window(volume, float(low), float(high))


def _window_entry(title: str, volume: Any) -> dict[str, Any]:
    low, high = st.value_range(volume)
    shown = st.window(volume)
    step = (high - low) / _STEPS
    return {"title": title, "id": volume.GetID(), "min": low, "max": high, "step": step, "value": list(shown)}


def _overlays(result: Result) -> list[dict[str, str]]:
    """The maps that can be laid over, as the items of a list on the page."""
    found = [{"title": entry.name, "value": entry.key} for entry in offered(result.maps)]
    return [{"title": "None", "value": "none"}, *found]


class Inspection:
    """How a result is shown: overlay, deformation, comparison."""

    def __init__(self, page: Page, slices: Slices) -> None:
        self._page = page
        self._slices = slices
        self._result: Optional[Result] = None
        self._comparison: Optional[Comparison] = None
        page.set(
            has_result=False,
            result_name="",
            can_compare=False,
            third_title="Warped",
            overlays=[],
            overlay="none",
            overlay_help="",
            opacity=0.5,
            threshold=[0.0, 1.0],
            threshold_ends={"min": 0.0, "max": 1.0, "step": 0.01},
            legend=True,
            style="none",
            grid_spacing=10.0,
            scale=100,
            deformation_3d=False,
            force=False,
            comparison="off",
            after=True,
            blend=0.5,
            swipe=0.5,
            swipe_axes=list(AXES),
            swipe_axis=AXES[0],
            tiles=8,
        )
        page.on_change("overlay")(self._choose_overlay)
        page.on_change("opacity", "threshold", "legend")(self._show_overlay)
        page.on_change("style", "deformation_3d")(self._choose_style)
        page.on_change("grid_spacing", "scale", "force")(self._show_deformation)
        page.on_change("comparison", "blend", "swipe", "swipe_axis", "tiles", "after")(self._compare)

    @property
    def result(self) -> Optional[Result]:
        """What is shown now."""
        return self._result

    def show(self, result: Result) -> None:
        """Show a result as judging it begins: warped image, no overlay, no drawing."""
        self._result = result
        fill_layout(result, self._page.stage.scene)
        complete = result.fixed is not None and result.moving is not None and result.warped is not None
        self._comparison = Comparison(result, [self._page.stage.composite(st.WARPED)]) if complete else None
        self._page.set(
            has_result=True,
            result_name=result.name,
            can_compare=complete,
            overlays=_overlays(result),
            overlay="none",
            style="none",
            force=False,
            comparison="off",
            after=True,
        )
        self._page.stage.fit()
        self._slices.tell_windows()

    def renew(self) -> None:
        """Show what the result has become, as it was shown before."""
        if self._result is None:
            return
        if self._comparison is not None:
            self._comparison.renew()
        chosen = self._page.state.overlay
        self._page.set(overlays=_overlays(self._result), overlay=chosen if chosen in self._result.maps else "none")
        self._compare()
        self._show_deformation()

    def clear(self) -> None:
        """Show no result any more; its nodes leave the scene."""
        result, self._result = self._result, None
        if result is None:
            return
        if self._comparison is not None:
            self._comparison.end()
            self._comparison = None
        self._page.set(has_result=False, result_name="", overlay="none", style="none", force=False, comparison="off")
        remove_result(result)
        self._page.stage.show(st.WARPED, None)

    # Overlay

    def _choose_overlay(self) -> None:
        name = self._page.state.overlay
        if self._result is None:
            return
        if name in MAPS:
            low, high = value_range(self._result.maps[name])
            ends = {"min": low, "max": high, "step": (high - low) / _STEPS or 1.0}
            self._page.set(overlay_help=MAPS[name].meaning, threshold_ends=ends, threshold=[low, high])
        else:
            self._page.set(overlay_help="")
        self._show_overlay()

    def _show_overlay(self) -> None:
        state = self._page.state
        if self._result is None or state.comparison != "off":
            return
        name = state.overlay if state.overlay in MAPS else None
        composites = [self._page.stage.composite(st.WARPED)]
        show_overlay(self._result.maps, name, composites, float(state.opacity), self._threshold(), bool(state.legend))
        self._page.stage.render()

    def _threshold(self) -> Optional[tuple[float, float]]:
        """What the slider says; None at both of its ends, where rounding must hide nothing."""
        (low, high), ends = self._page.state.threshold, self._page.state.threshold_ends
        return None if low <= ends["min"] and high >= ends["max"] else (float(low), float(high))

    # Deformation

    def _choose_style(self) -> None:
        state = self._page.state
        if self._result is None:
            return
        spacing = state.grid_spacing
        if state.style != "none":
            spacing = default_spacing(self._result, state.style, bool(state.deformation_3d))
        if spacing == state.grid_spacing:
            self._show_deformation()
        else:
            self._page.set(grid_spacing=spacing)

    def _show_deformation(self) -> None:
        state = self._page.state
        if self._result is None or self._result.transform is None:
            return
        shape = (float(state.grid_spacing), float(state.scale), True, bool(state.deformation_3d))
        views = [self._page.stage.view(tag).get_view_node() for tag in (st.WARPED, st.THREED)]
        show_deformation(self._result, state.style, *shape, views)
        show_force_arrows(self._result, bool(state.force), *shape, views)
        self._page.stage.render()

    # Comparison

    def _compare(self) -> None:
        state = self._page.state
        if self._result is None:
            return
        moment = "after" if state.after else "before"
        if self._comparison is None or state.comparison == "off":
            self._show_alone(moment)
        else:
            self._comparison.against(moment)
            self._show_comparison(self._comparison)
        self._page.set(third_title=(_TITLES if state.comparison == "off" else _AGAINST)[moment])
        self._page.stage.render()

    def _show_alone(self, moment: str) -> None:
        """The warped image, or the moving one as it was before, with the overlay on it."""
        assert self._result is not None
        if self._comparison is not None:
            self._comparison.end()
        volume = self._result.warped if moment == "after" else aligned_volume(self._result)
        self._page.stage.show(st.WARPED, volume)
        self._show_overlay()

    def _show_comparison(self, comparison: Comparison) -> None:
        state = self._page.state
        show_overlay(comparison.result.maps, None, [])
        if state.comparison == "blend":
            comparison.blend(float(state.blend))
        elif state.comparison == "swipe":
            comparison.swipe(float(state.swipe), state.swipe_axis)
        else:
            comparison.checkerboard(int(state.tiles))

    def press(self, key: str) -> None:
        """A key that was pressed on the page: before or after, overlay, grid, fit, next slice."""
        state = self._page.state
        if key == "b" and self._comparison is not None:
            self._page.set(after=not state.after)
        elif key == "f":
            self._page.stage.fit()
        elif key in ("arrowup", "arrowdown"):
            step = self._page.stage.offset()["step"]
            self._page.set(slice_value=state.slice_value + (step if key == "arrowup" else -step))
