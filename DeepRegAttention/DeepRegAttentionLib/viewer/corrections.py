"""Correcting a result on the page: two clicks say where something is seen and where it belongs."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Optional

import slicer

from ..engine.errors import RegistrationError
from ..jobs.client import WorkerClient
from ..jobs.messages import CorrectionJob
from ..scene import correction_lines as lines
from ..scene.corrections import corrections_of, refresh_steps, to_lps
from ..scene.results import Result
from ..terms.corrections import correction_cells, correction_tip, placing_text
from ..terms.inputs import INPUTS, Inputs
from ..terms.wording import progress_text
from . import stage as st
from .inputs import ChosenImages
from .page import Page
from .register_tab import events_of
from .steps import in_steps

Pairs = tuple[lines.Pair, ...]
_SAME_MM = 0.01
_Kind = slicer.vtkMRMLMarkupsNode


class Corrections:
    """Places lines in the views, lists them, takes them back, and has the result follow.

    Parameters
    ----------
    page : Page
        Where it is shown.
    inputs : ChosenImages
        What the result was made of.
    client : WorkerClient
        Computes, in turn with registrations.
    on_renewed : callable
        Given the result folder once the nodes have changed.
    """

    def __init__(
        self, page: Page, inputs: ChosenImages, client: WorkerClient, on_renewed: Callable[[Path], None]
    ) -> None:
        self._page, self._inputs, self._client = page, inputs, client
        self._on_renewed = on_renewed
        self._result: Optional[Result] = None
        self._folder: Optional[Path] = None
        self._line: Any = None
        self._watched: list[tuple[Any, int]] = []
        self._wish: Optional[Pairs] = None
        self._works = False
        page.set(can_correct=False, correcting=False, correction_text="", corrections=[])
        page.server.trigger("correct")(page.telling(self.toggle))
        page.server.trigger("take_back")(page.telling(self.take_back))
        page.server.trigger("see_correction")(self.look_at)

    def show(self, result: Result, folder: Path) -> None:
        """Correct this result from now on."""
        self._result, self._folder = result, folder
        possible = result.fixed is not None and result.moving is not None and result.transform is not None
        self._page.set(can_correct=possible, correction_text="")
        self._list()

    def clear(self) -> None:
        """Correct nothing any more."""
        self.give_up()
        self._watch([])
        self._result = self._folder = self._wish = None
        self._page.set(can_correct=False, correction_text="", corrections=[])

    # What the person does

    def toggle(self) -> None:
        """Begin to place a correction, or give it up."""
        if self._line is not None:
            self.give_up()
        elif self._result is not None and self._page.state.can_correct:
            # The process that computes starts meanwhile.
            self._client.warm_up()
            self._line = lines.new_line(self._result)
            self._keep_to_views(self._line)
            self._line.AddObserver(_Kind.PointPositionDefinedEvent, lambda *_: self._placed())
            self._page.set(correcting=True, adjusting=False, correction_text=placing_text(0))
            self._page.stage.place(self._line)

    def give_up(self) -> None:
        """Place nothing."""
        line, self._line = self._line, None
        if line is not None:
            self._page.stage.place(None)
            lines.remove_line(line)
        self._page.set(correcting=False, correction_text="")

    def take_back(self, number: int) -> None:
        """Take one of the corrections back."""
        placed = self._placed_lines()
        if 0 <= int(number) < len(placed):
            lines.remove_line(placed[int(number)])
            self._apply()

    def look_at(self, number: int) -> None:
        """Have the views go through a corrected place."""
        placed = self._placed_lines()
        if 0 <= int(number) < len(placed):
            self._page.set(crosshair=True)
            self._page.stage.look_at(lines.pair_of(placed[int(number)])[0])

    def _placed_lines(self) -> list[Any]:
        return [] if self._result is None else lines.lines_of(self._result)

    def _placed(self) -> None:
        """One end of the line, or both, lie where somebody clicked."""
        line = self._line
        if line is None or self._result is None:
            return
        if not lines.is_placed(line):
            self._page.set(correction_text=placing_text(1))
        elif lines.length_mm(line) < _SAME_MM:
            self.give_up()
        else:
            self._line = None
            self._page.stage.place(None)
            self._page.set(correcting=False)
            lines.complete(self._result, line)
            self._apply()

    def _apply(self) -> None:
        """Have the result follow the lines, the newest wish last."""
        placed = self._placed_lines()
        self._watch(placed)
        self._wish = tuple(lines.pair_of(line) for line in placed)
        if not self._works:
            self._works = True
            self._page.task(self._follow())

    def _watch(self, placed: Sequence[Any]) -> None:
        """Hear of ends that are dragged."""
        for line, observation in self._watched:
            line.RemoveObserver(observation)
        self._watched = [
            (line, line.AddObserver(_Kind.PointEndInteractionEvent, lambda *_: self._apply())) for line in placed
        ]

    def _keep_to_views(self, line: Any) -> None:
        """A line lies in the space of the fixed image: where the moving one is seen by itself it has no place."""
        views = [self._page.stage.view(tag).get_view_node().GetID() for tag in (st.FIXED, st.WARPED)]
        line.GetDisplayNode().SetViewNodeIDs(views)

    # What comes of it

    async def _follow(self) -> None:
        """Correct, and correct again if something else was wished for meanwhile."""
        try:
            while self._wish is not None and self._result is not None:
                wish, self._wish = self._wish, None
                await self._correct(self._result, wish)
        finally:
            self._works = False
            self._page.set(correction_text="")
            self._list()

    async def _correct(self, result: Result, pairs: Pairs) -> None:
        self._page.set(correction_text=progress_text("correct"), error="")
        folder = await self._own_folder()
        points = tuple((_point(fixed), _point(moving)) for fixed, moving in pairs)
        job = CorrectionJob(uuid.uuid4().hex, self._given(result), str(folder), points)
        async for event in events_of(self._client, job):
            if event.event == "progress":
                self._page.set(correction_text=progress_text(event.stage, event.fraction, event.eta_s))
            elif event.event == "error":
                self._page.fail(event.message or "The correction failed.")
            elif event.event == "done" and self._result is result:
                await in_steps(refresh_steps(result, folder), lambda step: None)
                self._on_renewed(folder)

    async def _own_folder(self) -> Path:
        """The folder that is changed: what others may read as well stays as it is."""
        assert self._folder is not None
        if self._page.folder not in self._folder.parents:
            own = self._page.folder / "corrected"
            await asyncio.to_thread(shutil.rmtree, own, ignore_errors=True)
            self._folder = Path(await asyncio.to_thread(shutil.copytree, self._folder, own))
        return self._folder

    def _given(self, result: Result) -> Inputs:
        """What was chosen on the page, and what else the result says that it was made of, as far as it may be read."""
        given = self._inputs.given
        recorded = result.metrics.get("inputs") or {}
        for name in INPUTS:
            if getattr(given, name) is None and isinstance(recorded.get(name), str):
                with contextlib.suppress(RegistrationError):
                    given = replace(given, **{name: str(self._page.access.image(recorded[name]))})
        return given

    def _list(self) -> None:
        """Lines and list are those of the result, unless newer ones are on their way."""
        if self._result is None or self._works:
            return
        lines.fit_lines(self._result, self._line)
        placed = self._placed_lines()
        for line in placed:
            self._keep_to_views(line)
        self._watch(placed)
        self._page.set(corrections=[
            {"cells": correction_cells(lines.length_mm(line), found.before_mm, found.after_mm),
             "tip": correction_tip(found.reach_mm)}
            for line, found in zip(placed, corrections_of(self._result))
        ])  # fmt: skip
        self._page.stage.render()


def _point(point: Sequence[float]) -> tuple[float, float, float]:
    x, y, z = to_lps(point)
    return x, y, z
