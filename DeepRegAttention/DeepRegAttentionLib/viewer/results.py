"""Results on the page: opened from a folder, measured, and downloaded."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any, Callable, Optional

from ..engine.errors import RegistrationError
from ..engine.result_folder import read_metrics, recorded_inputs
from ..scene.results import Result, load_steps
from ..terms.measures import summary_text
from .inputs import ChosenImages
from .inspection import Inspection
from .measures import histogram_svg, table_entries
from .page import Page
from .steps import in_steps
from .worst_places import WorstPlaces

RESULTS_FILE, SCENE_FILE = "registration.zip", "registration.mrb"
_NOTHING: dict[str, Any] = {"summary": "", "model_choice": "", "tables": [], "histogram": "", "download": ""}
_ABSENT = "The {roles} of this result {verb} shown: {reason}"


class Results:
    """The result that a page shows.

    Attributes
    ----------
    on_show, on_clear : callable
        Called when a result, of a folder, is shown, and before none is any more.
    """

    def __init__(self, page: Page, inputs: ChosenImages, inspection: Inspection, worst: WorstPlaces) -> None:
        self._page = page
        self._inputs = inputs
        self._inspection = inspection
        self._worst = worst
        self._folder: Optional[Path] = None
        self.on_show: Callable[[Result, Path], None] = lambda result, folder: None
        self.on_clear: Callable[[], None] = lambda: None
        page.set(**_NOTHING, preparing=False)
        inputs.before_change = self.clear
        page.server.trigger("prepare")(self.prepare)

    def clear(self) -> None:
        """Show no result any more."""
        self.on_clear()
        self._inspection.clear()
        self._worst.clear()
        self._folder = None
        self._page.set(**_NOTHING)

    async def open(self, folder: Path) -> None:
        """Show a result folder, with the images that it was made of where they still are and may be read.

        Raises
        ------
        UnreadableFileError
            It holds no result, or a damaged one.
        """
        paths = recorded_inputs(read_metrics(folder))
        for role in ("fixed", "moving"):
            self._inputs.forget(role)
        lacking = {role: why for role in ("fixed", "moving") if (why := self._adopt(role, paths.get(role)))}
        await self.show(folder)
        if lacking:
            self._page.set(notice=_absence(lacking))

    def _adopt(self, role: str, path: Optional[Path]) -> Optional[str]:
        """Show an image that a result was made of; returns the reason if that cannot be."""
        if path is None:
            return "it does not say where they are."
        try:
            self._inputs.adopt(role, self._page.access.image(path))
        except RegistrationError as error:
            return str(error)
        return None

    async def show(self, folder: Path) -> None:
        """Show a result of the images that are chosen, in place of an earlier one."""
        self.clear()
        scene, images = self._page.stage.scene, (self._inputs.node("fixed"), self._inputs.node("moving"))
        try:
            result = await in_steps(load_steps(scene, folder, *images), self._say)
        finally:
            self._page.set(progress_text="")
        self._inspection.show(result)
        self._tell(result, folder)
        self._page.set(tab="inspect")
        self._worst.show(result.metrics)
        self.on_show(result, folder)

    def renew(self, folder: Path) -> None:
        """Show what has become of the result by its corrections, which lie in this folder; the views stay."""
        result = self._inspection.result
        if result is not None:
            self._inspection.renew()
            self._tell(result, folder)
            self._worst.renew(result.metrics)

    def _tell(self, result: Result, folder: Path) -> None:
        self._folder = folder
        self._page.set(
            tables=table_entries(result.metrics),
            histogram=histogram_svg(result.tables["histogram"]) if "histogram" in result.tables else "",
            summary=summary_text(result.metrics),
            model_choice=str(result.metrics.get("model_choice") or ""),
            download="",
        )

    def _say(self, step: str) -> None:
        self._page.set(progress_text=f"Showing the result: {step}")

    async def prepare(self, kind: str) -> None:
        """Make a file to download: ``"results"``, the result folder; ``"scene"``, all nodes for 3D Slicer."""
        if self._folder is None or self._page.state.preparing:
            return
        self._page.set(preparing=True)
        downloads = self._page.folder / "downloads"
        shutil.rmtree(downloads, ignore_errors=True)
        downloads.mkdir()
        try:
            name = await self._make_download(kind, downloads)
        finally:
            self._page.set(preparing=False)
        self._page.set(download=name)

    async def _make_download(self, kind: str, downloads: Path) -> str:
        assert self._folder is not None
        if kind == "scene":
            self._page.stage.save(downloads / SCENE_FILE)
            return SCENE_FILE
        base = str(downloads / Path(RESULTS_FILE).stem)
        await asyncio.to_thread(shutil.make_archive, base, "zip", self._folder)
        return RESULTS_FILE


def _absence(lacking: dict[str, str]) -> str:
    """One sentence on the images that a result cannot be shown with."""
    both = len(lacking) == 2
    roles = "fixed and moving images" if both else f"{next(iter(lacking))} image"
    return _ABSENT.format(roles=roles, verb="are not" if both else "is not", reason=next(iter(lacking.values())))
