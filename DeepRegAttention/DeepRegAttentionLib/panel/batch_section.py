"""The section Batch: many pairs with the settings of the tab Register, listed by verdict, opened by a double click."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Optional

import qt
import slicer
from slicer.i18n import tr as _

from ..cohort.bids import is_bids
from ..cohort.ledger import read_rows
from ..cohort.source import says_pairs
from ..engine.errors import RegistrationError
from ..jobs.batch import Batch
from ..jobs.messages import CohortJob, Event
from ..scene.results import Result
from ..scene.studies import pair_steps
from ..terms.cohorts import TO_ATLAS, missing_of_cohort, pairing_choices
from ..terms.settings import Settings, missing_model
from . import choices
from .dependency_section import DASK, DependencySection
from .pairs_list import PairsList
from .parameters import Parameters, outputs_of, settings_of
from .turns import in_turns

_NUMBERS = itertools.count(1)
_TEXTS = {
    "batchSource": "batchSourceEdit",
    "batchAtlas": "batchAtlasEdit",
    "batchAtlasLabels": "batchAtlasLabelsEdit",
    "batchImages": "batchImagesEdit",
    "batchStudy": "batchStudyEdit",
}
"""The lines of text, by the parameters that hold them."""

Row = Mapping[str, str]
Permit = Callable[[Settings, Callable[[Settings], None]], None]


class BatchSection:
    """Lets a person start, stop, and look through a cohort.

    Parameters
    ----------
    ui : object
        The widgets of the panel.
    batch : Batch
        What is under way.
    dependencies : DependencySection
        Offers to install Dask.
    permit : callable
        Goes on with the settings once the licence of their model is agreed to.
    loaded : callable
        Called with the result that was made nodes of.
    """

    def __init__(
        self,
        ui: Any,
        batch: Batch,
        dependencies: DependencySection,
        permit: Permit,
        loaded: Callable[[Result], None],
    ) -> None:
        self._ui, self._batch, self._dependencies = ui, batch, dependencies
        self._permit, self._loaded = permit, loaded
        self._parameters: Optional[Parameters] = None
        self._study = self._source = ""
        self._says_pairs = self._is_bids = False
        self._loading = False
        self._pairs = PairsList(ui.pairsTable, self.load)
        choices.fill(ui.batchPairingSelector, pairing_choices())
        for name, widget in _TEXTS.items():
            getattr(ui, widget).connect("editingFinished()", lambda name=name: self._edited(name))
        self._connect_dialogs()
        ui.batchButton.connect("clicked()", self.toggle)
        batch.changed.connect(self._on_change)
        batch.added.connect(self._pairs.put)
        batch.ended.connect(self._on_end)

    def use(self, parameters: Optional[Parameters]) -> None:
        """Work on these parameters from now on."""
        self._parameters = parameters

    def end(self) -> None:
        """Listen no longer."""
        self._batch.changed.disconnect(self._on_change)
        self._batch.added.disconnect(self._pairs.put)
        self._batch.ended.disconnect(self._on_end)

    # What the person chooses

    def _connect_dialogs(self) -> None:
        ui, folder, file = self._ui, qt.QFileDialog.getExistingDirectory, qt.QFileDialog.getOpenFileName
        table, image = _("Tables (*.csv)"), _("Images (*)")
        self._asks(ui.batchTableButton, "batchSource", file, _("A table of pairs or images"), table)
        self._asks(ui.batchFolderButton, "batchSource", folder, _("A folder of images"))
        self._asks(ui.batchAtlasButton, "batchAtlas", file, _("The atlas"), image)
        self._asks(ui.batchAtlasLabelsButton, "batchAtlasLabels", file, _("Structures of the atlas"), image)
        self._asks(ui.batchStudyButton, "batchStudy", folder, _("The folder of the study"))

    def _asks(self, button: Any, name: str, dialog: Callable[..., str], title: str, *filters: str) -> None:
        button.connect("clicked()", lambda: self._ask(name, dialog, title, *filters))

    def _ask(self, name: str, dialog: Callable[..., str], title: str, *filters: str) -> None:
        """Choose a file or folder in a dialog."""
        if self._parameters is None:
            return
        path = dialog(slicer.util.mainWindow(), title, self._parameters.getValue(name), *filters)
        if path:
            self._parameters.setValue(name, path)

    def _edited(self, name: str) -> None:
        if self._parameters is not None:
            self._parameters.setValue(name, getattr(self._ui, _TEXTS[name]).text.strip())

    # What is shown

    def refresh(self) -> None:
        """Show the parameters."""
        parameters, ui = self._parameters, self._ui
        if parameters is None:
            return
        for name, widget in _TEXTS.items():
            edit, value = getattr(ui, widget), parameters.getValue(name)
            if edit.text != value:
                edit.text = value
        self._look_at_source(parameters.batchSource)
        atlas = not self._says_pairs and parameters.batchPairing == TO_ATLAS
        ui.batchPairingSelector.visible = ui.batchPairingLabel.visible = not self._says_pairs
        for label, edit, button in (
            (ui.batchAtlasLabel, ui.batchAtlasEdit, ui.batchAtlasButton),
            (ui.batchAtlasLabelsLabel, ui.batchAtlasLabelsEdit, ui.batchAtlasLabelsButton),
        ):
            label.visible = edit.visible = button.visible = atlas
        ui.batchImagesEdit.visible = ui.batchImagesLabel.visible = self._is_bids
        ui.batchMethodText.text = _("As the tab Register says: {model}, {preset}.").format(
            model=ui.modelSelector.currentText, preset=ui.presetSelector.currentText
        )
        self._show_study(parameters.batchStudy)
        self._show_state()

    def _look_at_source(self, source: str) -> None:
        """Know what a source is; once for each, as a table can be long and a folder far away."""
        if source == self._source:
            return
        self._source, self._says_pairs, self._is_bids = source, False, False
        if source:
            # One that is not there is said when it is needed.
            with suppress(RegistrationError):
                self._says_pairs, self._is_bids = says_pairs(Path(source)), is_bids(Path(source))

    def _lacking(self, p: Parameters) -> Optional[str]:
        lacking = missing_of_cohort(p.batchSource, not self._says_pairs, p.batchPairing, p.batchAtlas, p.batchStudy)
        return lacking or missing_model(settings_of(p))

    def _show_study(self, study: str) -> None:
        """List what a study holds, also one of another day, once it is chosen; not while another is under way."""
        if study != self._study and not self._batch.running:
            self._study = study
            self._read_study()

    def _read_study(self) -> None:
        try:
            rows = read_rows(Path(self._study)) if self._study else []
        except RegistrationError as error:
            self.say(str(error))
            rows = []
        self._batch.know(rows)
        self._pairs.fill(rows)
        self._ui.batchCountsText.text = self._batch.counts

    def _on_change(self) -> None:
        self._ui.batchCountsText.text = self._batch.counts
        self._show_state()

    def _show_state(self) -> None:
        ui, batch = self._ui, self._batch
        lacking = self._lacking(self._parameters) if self._parameters is not None else None
        ui.batchButton.text = _button_text(lacking, batch)
        ui.batchButton.enabled = not batch.stopping and (batch.running or lacking is None)
        ui.batchProgressBar.visible = batch.running
        ui.batchProgressBar.setRange(0, 0 if batch.fraction is None else 1000)
        ui.batchProgressBar.value = round(1000 * (batch.fraction or 0.0))
        if batch.running:
            self.say(batch.text or _("Starting …"))

    def say(self, text: str) -> None:
        """One line below the button."""
        self._ui.batchStatusLabel.text = text

    # Start, stop, end

    def toggle(self) -> None:
        """Start, go on, or stop."""
        if self._batch.running:
            self._batch.stop()
        elif self._parameters is not None and self._dependencies.require(DASK):
            self._permit(settings_of(self._parameters), self._start)

    def _start(self, settings: Settings) -> None:
        parameters = self._parameters
        if parameters is None:
            return
        self._study = parameters.batchStudy
        self._read_study()
        # With many pairs, nobody is there to be asked.
        options = {**replace(settings, undecided_licences=()).options(), "maps": outputs_of(parameters).maps}
        job = CohortJob(
            f"cohort-{next(_NUMBERS)}",
            parameters.batchSource,
            parameters.batchStudy,
            parameters.batchPairing,
            parameters.batchAtlas,
            parameters.batchAtlasLabels,
            parameters.batchImages,
            options,
        )
        self._batch.start(job)

    def _on_end(self, ending: Event) -> None:
        """The table is the truth now: it has no pairs that the source has no more."""
        if ending.code == "missing-package":
            self._dependencies.require(DASK)
        self._read_study()
        if ending.event == "done":
            self.say(_("Done. A double click on a pair shows it."))
        elif ending.event == "cancelled":
            self.say(_("Stopped; Start goes on with the others."))
        else:
            self.say(ending.message or _("The cohort failed; the log says more."))
        self.refresh()

    # A pair

    def load(self, row: Row) -> None:
        """Make the nodes of a pair, and have it looked at."""
        if not row.get("folder"):
            self.say(row.get("sentence") or _("This pair has no result."))
        elif not self._loading:
            self._loading = True
            self.say(_("Loading {name} …").format(name=row["name"]))
            in_turns(self._steps(Path(self._study) / row["folder"]), self._is_wanted, self._no_more)

    def _steps(self, folder: Path) -> Generator[str, None, None]:
        try:
            result = yield from pair_steps(slicer.mrmlScene, folder)
        except RegistrationError as error:
            self.say(str(error))
            return
        self.say("")
        self._loaded(result)

    def _is_wanted(self) -> bool:
        """Not while the scene closes."""
        if self._parameters is None:
            self._loading = False
        return self._loading

    def _no_more(self) -> None:
        self._loading = False


def _button_text(lacking: Optional[str], batch: Batch) -> str:
    if batch.stopping:
        return str(_("Stopping …"))
    if batch.running:
        return str(_("Stop"))
    return lacking or str(_("Start"))
