"""One registration from nodes to nodes: writes the inputs, follows the worker, makes the nodes of the result."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, TypeVar

import slicer

from ..engine.errors import CancelledError, LicenceError, OptionError, RegistrationError
from ..jobs import messages
from ..jobs.client import BusyError, Later, WorkerClient
from ..jobs.signals import Signal
from ..scene import export, results
from ..scene import preview as watch
from ..terms.inputs import Inputs
from ..terms.settings import NONE, Outputs, Settings, missing
from .files import KeptFiles, PairFiles
from .parameters import inputs_of

_NUMBERS = itertools.count(1)
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes
    ----------
    nodes : dict
        Nodes by the fields of ``Inputs``; ``fixed`` and ``moving`` at least.
    settings, outputs
        How, and what is wanted back.
    watched : bool
        Whether the warped volume is shown while it is refined.
    keep_files : bool
        Whether the job's folder stays, for the person alone.
    """

    nodes: dict[str, Any]
    settings: Settings = field(default_factory=Settings)
    outputs: Outputs = field(default_factory=Outputs)
    watched: bool = False
    keep_files: bool = False

    def require_complete(self) -> None:
        """Raise OptionError with what is missing, if anything is."""
        lacking = missing(inputs_of(self.nodes), self.settings, self.outputs)
        if lacking:
            raise OptionError(f"{lacking}.")

    @property
    def wanted(self) -> results.Wanted:
        """The nodes to make."""
        o = self.outputs
        transform = None if o.transform == NONE else o.transform
        inverse = o.inverse and transform is not None
        return results.Wanted(o.warped, transform, inverse, o.maps, o.labels, o.measures)


class Registration:
    """One request under way.

    Attributes
    ----------
    request : Request
    preview : vtkMRMLScalarVolumeNode, optional
        The warped volume as it is refined.
    files : PairFiles, optional
        Once it was started; those of a result are kept for its corrections.
    result : Result, optional
        Once it is done.
    error : RegistrationError, optional
        Why there is no result; ``CancelledError`` if it was cancelled, or its scene closed.
    progressed : Signal
        Emitted with each event of the worker that is not the last.
    watched : Signal
        Emitted when ``preview`` was renewed.
    ended : Signal
        Emitted once, with this object.
    """

    def __init__(
        self, request: Request, client: WorkerClient, scene: slicer.vtkMRMLScene, later: Later, kept: KeptFiles
    ) -> None:
        self.request, self._client, self._scene, self._later = request, client, scene, later
        self._kept = kept
        self.preview: Optional[slicer.vtkMRMLScalarVolumeNode] = None
        self.result: Optional[results.Result] = None
        self.error: Optional[RegistrationError] = None
        self.has_ended = False
        self.progressed, self.watched, self.ended = Signal(), Signal(), Signal()
        self.files: Optional[PairFiles] = None
        self._cancelled = self._dropped = False

    def start(self, temporary_folder: str) -> None:
        """Begin to write the inputs; the job follows, and ``ended`` in any case.

        Raises
        ------
        RegistrationError
            An input is missing, or another registration runs; nothing stays behind.
        """
        self.request.require_complete()
        if self._client.busy:
            raise RegistrationError(str(BusyError()))
        files = self.files = PairFiles(temporary_folder)
        # The worker starts while they are written.
        self._client.warm_up()
        steps = files.write_steps(self.request.nodes)
        self._later(0, lambda: self._take_step(steps, lambda inputs: self._submit(inputs, str(files.result_folder))))

    def cancel(self) -> None:
        """Stop as soon as possible; ``ended`` follows."""
        self._cancelled = True
        self._client.cancel()

    def drop(self) -> None:
        """Cancel, and touch no node any more: the scene closes."""
        self._dropped, self.preview = True, None
        self.cancel()

    def _take_step(self, steps: Generator[str, None, _Value], then: Callable[[_Value], None]) -> None:
        """One step each time the event loop comes by, so that the window answers in between."""
        if self._dropped or self._cancelled:
            steps.close()
            self._end(None, CancelledError("The registration was cancelled."))
            return
        try:
            next(steps)
        except StopIteration as stop:
            then(stop.value)
        except RegistrationError as error:
            self._end(None, error)
        except Exception as error:
            # A mistake in the program must not leave this registration under way for ever.
            self._end(None, RegistrationError(f"The registration failed ({type(error).__name__}: {error})."))
            raise
        else:
            self._later(0, lambda: self._take_step(steps, then))

    def _submit(self, inputs: Inputs, folder: str) -> None:
        request, name = self.request, f"registration-{next(_NUMBERS)}"
        job = messages.make_job(name, inputs, folder, request.settings, request.outputs, request.watched)
        self._client.submit(job, self._heard)

    # What the worker says

    def _heard(self, event: messages.Event) -> None:
        if event.event == "done" and not (self._cancelled or self._dropped):
            self._load(event)
        elif event.event in messages.ENDINGS:
            self._end(None, _error_of(event))
        else:
            if event.event == "map" and event.path and not self._dropped:
                self._show_preview(event.path)
            self.progressed.emit(event)

    def _show_preview(self, path: str) -> None:
        moving = self._present("moving")
        if moving is None:
            return
        name = f"{moving.GetName()} (being refined)"
        try:
            self.preview = watch.refresh_warped(self._scene, self.preview, path, moving, name)
        except RegistrationError:
            # The next one comes within a second.
            return
        self.watched.emit()

    def _load(self, event: messages.Event) -> None:
        self.progressed.emit(messages.Event("progress", event.id, stage="load", fraction=1.0))
        steps = self._load_steps(str(event.folder))
        self._later(0, lambda: self._take_step(steps, lambda result: self._end(result, None)))

    def _load_steps(self, folder: str) -> Generator[str, None, results.Result]:
        fixed, moving = self._present("fixed"), self._present("moving")
        names = self._name(), self._label_names()
        given = fixed, moving, self.request.wanted, *names, self._present("fixed_labels")
        result = yield from results.load_steps(self._scene, folder, *given)
        results.keep_inputs(result, {name: node for name in self.request.nodes if (node := self._present(name))})
        return result

    def _name(self) -> Optional[str]:
        """Of the result, where an input can no longer give it."""
        nodes = [self.request.nodes[name] for name in ("moving", "fixed")]
        return None if all(map(self._scene.IsNodePresent, nodes)) else " to ".join(node.GetName() for node in nodes)

    def _label_names(self) -> Optional[dict[int, str]]:
        labels = self._present("labels")
        return None if labels is None else export.label_names(labels)

    def _present(self, name: str) -> Optional[slicer.vtkMRMLNode]:
        """An input node, unless it was deleted meanwhile."""
        node = self.request.nodes.get(name)
        return node if node is not None and self._scene.IsNodePresent(node) else None

    # The end

    def _end(self, result: Optional[results.Result], error: Optional[RegistrationError]) -> None:
        self.result, self.error, self.has_ended = result, error, True
        preview, self.preview = self.preview, None
        self._file()
        self.ended.emit(self)
        if preview is not None and self._scene.IsNodePresent(preview):
            self._scene.RemoveNode(preview)

    def _file(self) -> None:
        """Keep the files for corrections of the result; without one they go."""
        if self.files is None or self.request.keep_files:
            return
        if self.result is None:
            self.files.remove()
        else:
            self.files.know(self.result)
            self._kept.keep(self.files)


class Registrations:
    """All registrations of a scene, one after the other; they end when the scene closes.

    Attributes
    ----------
    current : Registration, optional
        The one under way.
    kept : KeptFiles
        Those of the last one, for corrections of its result until the next one starts.
    changed : Signal
        Emitted when one starts or ended.
    """

    def __init__(self, client: WorkerClient, scene: slicer.vtkMRMLScene, later: Later) -> None:
        self.client, self._scene, self._later = client, scene, later
        self.current: Optional[Registration] = None
        self.kept = KeptFiles(scene)
        self.changed = Signal()
        self._observation = scene.AddObserver(scene.StartCloseEvent, self._on_close)

    def end(self) -> None:
        """Drop the one under way, leave no file behind, and watch the scene no longer."""
        self._on_close(self._scene, "")
        self.kept.end()
        self._scene.RemoveObserver(self._observation)

    def start(
        self, request: Request, prepare: Callable[[Registration], None] = lambda registration: None
    ) -> Registration:
        """Begin one; ``prepare`` may connect to its signals first.

        Raises RegistrationError if it cannot start.
        """
        if self.current is not None:
            raise RegistrationError(str(BusyError()))
        registration = Registration(request, self.client, self._scene, self._later, self.kept)
        prepare(registration)
        registration.ended.connect(self._on_ended)
        registration.start(slicer.app.temporaryPath)
        self.kept.forget()
        self.current = registration
        self.changed.emit()
        return registration

    def _on_ended(self, registration: Registration) -> None:
        if self.current is registration:
            self.current = None
        self.changed.emit()

    def _on_close(self, scene: slicer.vtkMRMLScene, event: str) -> None:
        if self.current is not None:
            self.current.drop()


def _error_of(event: messages.Event) -> RegistrationError:
    if event.event == "error" and event.code == LicenceError.code:
        return LicenceError(str(event.name), message_of(event))
    if event.event == "error":
        error = RegistrationError(message_of(event))
        error.code = event.code or error.code
        return error
    return CancelledError("The registration was cancelled.")


def message_of(event: messages.Event) -> str:
    """Why a job has no result, in a sentence."""
    if event.code == "missing-package":
        # Not with pip, as the worker suggests: only the panel knows what 3D Slicer tolerates.
        return f"The Python package {event.name} is missing; the module DeepRegAttention says how to install it."
    return event.message or "The registration failed; the log says more."
