"""The Register button, what it says, the progress, and the log."""

from __future__ import annotations

from typing import Any, Callable

from slicer.i18n import tr as _

from ..jobs import messages
from ..jobs.client import State, WorkerClient
from ..terms.measures import summary_text
from ..terms.wording import button_text, progress_text, stage_text
from .registration import Registration
from .tabs import Tabs
from .verdicts import show_verdict


class RunSection:
    """Shows what a registration would lack, what it does, and how it went."""

    def __init__(self, ui: Any, client: WorkerClient, tabs: Tabs, toggle: Callable[[], None]) -> None:
        self._ui, self._client, self._tabs = ui, client, tabs
        ui.registerButton.connect("clicked()", toggle)
        client.logged.connect(self.log)
        self.say("")

    def end(self) -> None:
        """Listen no longer."""
        self._client.logged.disconnect(self.log)

    def refresh(self, lacking: str, running: bool) -> None:
        """Let the one button say what it does, or what is missing."""
        cancelling = self._client.state is State.CANCELLING and running
        button = self._ui.registerButton
        button.text = button_text(lacking or None, running, cancelling)
        button.enabled = not cancelling and (running or not lacking)
        self._ui.progressBar.visible = running
        if not running:
            self._tabs.show_progress(None)

    def started(self) -> None:
        """A registration began."""
        self._ui.progressBar.setRange(0, 0)
        waits = self._client.state is State.STARTING
        self.say(_("Starting PyTorch …") if waits else stage_text("start"))

    def heard(self, event: messages.Event) -> None:
        """Show progress and warnings."""
        if event.event == "progress":
            if event.fraction is not None:
                self._ui.progressBar.setRange(0, 1000)
                self._ui.progressBar.value = round(1000 * event.fraction)
                self._tabs.show_progress(event.fraction)
            self.say(progress_text(event.stage, event.fraction, event.eta_s))
        elif event.event == "warning" and event.message:
            self.log(_("Note: {message}").format(message=event.message))

    def ended(self, registration: Registration) -> None:
        """Show how it went."""
        if registration.error is not None:
            self.fail(str(registration.error))
        elif registration.result is not None:
            metrics = registration.result.metrics
            self.say(summary_text(metrics))
            show_verdict(self._ui.verdictText, registration.result)
            self.log(summary_text(metrics))
            self.log(str(metrics.get("model_choice", "")))

    def fail(self, message: str) -> None:
        """Show what went wrong, in the panel and in the log: no message box, which would block."""
        self.say(message)
        self.log(message)

    def say(self, text: str) -> None:
        """One line below the button; what was said of a result is over."""
        show_verdict(self._ui.verdictText, None)
        self._ui.statusLabel.text = text
        self._ui.statusLabel.visible = bool(text)

    def log(self, line: str) -> None:
        """One more line of the log."""
        if line:
            self._ui.logText.appendPlainText(line)
