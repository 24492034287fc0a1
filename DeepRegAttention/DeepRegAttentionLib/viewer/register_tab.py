"""The tab that registers: settings, the one button, progress with the time left, the result."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, Callable, Optional

from ..engine.errors import LicenceError, UnreadableFileError
from ..engine.models.listing import list_models
from ..jobs.client import WorkerClient
from ..jobs.messages import ENDINGS, AnyJob, DeviceQuestion, Event, Job, make_job
from ..scene.preview import refresh_warped
from ..terms.choices import Choice
from ..terms.licences import Answered, Consents, refusal_text
from ..terms.models import model_choices, model_text
from ..terms.presets import CUSTOM, preset_choices, preset_of, preset_values, shipped_presets
from ..terms.settings import CONSENT, Settings, enabled, missing
from ..terms.wording import button_text, device_text, progress_text
from . import stage as st
from .inputs import ChosenImages
from .page import Page
from .worker_process import AsyncioProcess, later

_SETTINGS = tuple(item.name for item in fields(Settings) if item.name not in ("model_file", *CONSENT))
_TURN_S = 0.05
_OPEN = ("refine", "regularization", "spacing")
"""Fields that are empty for “the model's own”."""


class RegisterTab:
    """Has one registration done at a time.

    Parameters
    ----------
    page : Page
        Where it is shown.
    inputs : ChosenImages
        What it registers.
    on_result : callable
        Given the result folder of each registration that was finished.

    Attributes
    ----------
    client : WorkerClient
        Of the process that computes for this page.
    """

    def __init__(self, page: Page, inputs: ChosenImages, on_result: Callable[[Path], Awaitable[None]]) -> None:
        self._page = page
        self._inputs = inputs
        self._on_result = on_result
        self.client = WorkerClient(AsyncioProcess, later)
        self.client.logged.connect(lambda line: print(line, file=sys.stderr))
        self._job: Optional[Job] = None
        self._watched: Any = None
        self._devices: Optional[dict[str, Any]] = None
        self._presets = shipped_presets()
        self._models = [model.info for model in list_models()]
        self._model_choices = model_choices(self._models, files=False)
        self._consents = Consents(self._models, {}, self._put_question)
        self._answered: Answered = lambda agreed: None
        self._announce()
        page.on_change("preset")(self._take_preset)
        page.on_change(*_SETTINGS)(self._refresh)
        page.server.trigger("register")(self.press)
        page.server.trigger("answer")(self.answer)

    def _announce(self) -> None:
        defaults = Settings()
        self._page.set(
            **{name: getattr(defaults, name) for name in _SETTINGS},
            preset=preset_of(defaults, self._presets),
            presets=entries(preset_choices()),
            models=entries(self._model_choices),
            running=False,
            cancelling=False,
            progress=0,
            progress_text="",
            question="",
        )
        self._refresh()

    @property
    def settings(self) -> Settings:
        """As the page has them now."""
        values = {name: self._page.state[name] for name in _SETTINGS}
        values.update({name: None for name in _OPEN if values[name] == ""})
        return Settings(**values)

    def _take_preset(self) -> None:
        if self._page.state.preset != CUSTOM:
            self._page.set(**preset_values(self._presets[self._page.state.preset]))

    def _refresh(self) -> None:
        """Say on the button what it does, or what is missing; grey out what has no effect."""
        settings, running = self.settings, self._job is not None
        lacking = missing(self._inputs.given, settings)
        self._page.set(
            preset=preset_of(settings, self._presets),
            button=button_text(lacking, running, bool(self._page.state.cancelling)),
            ready=lacking is None or running,
            enabled=enabled(settings, self._inputs.given),
            model_text=model_text(settings.model, self._models),
            device_text=device_text(self._devices, settings.device),
        )

    def chosen(self) -> None:
        """An image was chosen: a registration is likely, so its process warms up."""
        self._refresh()
        if self._devices is None and self._inputs.given.fixed:
            self._devices = {}
            self.client.ask(DeviceQuestion(), self._on_devices)

    def _on_devices(self, answer: Event) -> None:
        self._devices = answer.devices
        self._refresh()

    # Running

    def press(self) -> None:
        """The button: register, or cancel what is running."""
        if self._page.state.model not in [choice.value for choice in self._model_choices]:
            # A path, which only someone who goes round the page can have set.
            self._page.fail("Choose one of the models in the list.")
        elif self._job is None:
            if missing(self._inputs.given, self.settings) is None:
                model = self.settings.model
                self._consents.require(model, lambda agreed: self._go_on(agreed, refusal_text(model)))
        elif not self._page.state.cancelling:
            self._page.set(cancelling=True)
            self._refresh()
            self.client.cancel()

    def _put_question(self, question: str, answered: Answered) -> None:
        """Open the dialog; the answer comes from the page, some time."""
        self._answered = answered
        self._page.set(question=question)

    def answer(self, agreed: bool) -> None:
        """What was answered in the dialog; nothing, if none is open."""
        if self._page.state.question:
            self._page.set(question="")
            self._answered(bool(agreed))

    def _go_on(self, agreed: bool, refusal: str) -> None:
        """Register, unless there is something to refuse."""
        if refusal and not agreed:
            self._page.fail(refusal)
        elif self._job is None:
            self._page.task(self.run())

    async def run(self) -> None:
        """Register what was chosen; returns after the result is shown, or the reason that there is none."""
        name = uuid.uuid4().hex
        folder = self._page.folder / "jobs" / name
        folder.mkdir(parents=True)
        settings = self._consents.add_to(self.settings)
        self._job = make_job(name, self._inputs.given, str(folder), settings, watch=True)
        self._page.set(running=True, cancelling=False, progress=0, progress_text=progress_text("start"), error="")
        self._refresh()
        try:
            await self._follow(self._job)
        finally:
            self._job = None
            self._unwatch()
            self._page.set(running=False, cancelling=False, progress_text="")
            self._refresh()

    async def _follow(self, job: Job) -> None:
        async for event in events_of(self.client, job):
            if event.event == "progress":
                text = progress_text(event.stage, event.fraction, event.eta_s)
                self._page.set(progress=round(100 * (event.fraction or 0.0)), progress_text=text)
            elif event.event == "map":
                self._watch(event)
            elif event.event == "warning":
                self._page.set(notice=event.message)
            elif event.event == "error" and event.code == LicenceError.code:
                self._consents.ask(str(event.name), lambda agreed: self._go_on(agreed, ""))
            elif event.event == "error":
                self._page.fail(event.message or "The registration failed.")
            elif event.event == "done":
                self._page.set(progress=100, progress_text="Showing the result")
                self._unwatch()
                await self._finish(Path(job.folder))
                return
        shutil.rmtree(job.folder, ignore_errors=True)

    async def _finish(self, folder: Path) -> None:
        await self._on_result(folder)
        for other in folder.parent.iterdir():
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)

    def _watch(self, event: Event) -> None:
        """Show the warped image as it becomes better."""
        if event.path is None or event.name != "warped":
            return
        with contextlib.suppress(UnreadableFileError):  # Gone, as the registration has just ended.
            self._watched = refresh_warped(
                self._page.stage.scene, self._watched, event.path, self._inputs.node("moving")
            )
        if self._page.stage.background(st.WARPED) is not self._watched:
            self._page.stage.show(st.WARPED, self._watched)
            self._page.stage.fit()
        self._page.stage.render()

    def _unwatch(self) -> None:
        self._page.stage.remove(self._watched)
        self._watched = None

    def close(self) -> None:
        """End the process that registers, and wait for that."""
        self.client.shutdown()


async def events_of(client: WorkerClient, job: AnyJob) -> AsyncIterator[Event]:
    """Have a job done once no other one is under way: everything that is said of it, to the end."""
    said: asyncio.Queue[Event] = asyncio.Queue()
    while client.busy:
        await asyncio.sleep(_TURN_S)
    client.submit(job, said.put_nowait)
    event = Event("")
    while event.event not in ENDINGS:
        event = await said.get()
        yield event


def entries(choices: Iterable[Choice]) -> list[dict[str, str]]:
    """Choices as the items of a list on the page."""
    return [{"title": choice.text, "value": choice.value} for choice in choices]
