"""Registration from Python inside 3D Slicer: two nodes in, the nodes of the result out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Callable, Optional

import qt
import slicer

from ..engine.errors import CorrectionError, RegistrationError
from ..jobs import messages
from ..jobs.batch import PATIENCE_MS, Batch
from ..jobs.client import WorkerClient
from ..scene.correction_lines import fit_lines
from ..scene.results import Result, inputs_of_result
from ..terms.presets import preset_settings
from ..terms.settings import Outputs
from .corrections import Corrections, Pair
from .registration import Registration, Registrations, Request
from .worker_process import QtProcess, end_shared_client, shared_client

Done = Callable[[Optional[Result], Optional[RegistrationError]], None]

_shared: Optional[Registrations] = None
_batch: Optional[Batch] = None


def shared_registrations() -> Registrations:
    """The registrations of this application; they end with it."""
    global _shared
    if _shared is None:
        _shared = Registrations(shared_client(), slicer.mrmlScene, qt.QTimer.singleShot)
        slicer.app.connect("aboutToQuit()", _shared.end)
    return _shared


def shared_batch() -> Batch:
    """The cohort of this application; it stops with it."""
    global _batch
    if _batch is None:
        later = qt.QTimer.singleShot
        _batch = Batch(WorkerClient(QtProcess, later, PATIENCE_MS), later)
        slicer.app.connect("aboutToQuit()", _batch.end)
    return _batch


def end_shared() -> None:
    """Let go of all that is under way and of the workers: this package is about to be loaded anew."""
    global _shared, _batch
    if _batch is not None:
        slicer.app.disconnect("aboutToQuit()", _batch.end)
        _batch.end()
        _batch = None
    if _shared is not None:
        slicer.app.disconnect("aboutToQuit()", _shared.end)
        _shared.end()
        _shared = None
    end_shared_client()


def register(
    registrations: Registrations,
    fixedNode: slicer.vtkMRMLScalarVolumeNode,
    movingNode: slicer.vtkMRMLScalarVolumeNode,
    *,
    fixed_mask: Optional[slicer.vtkMRMLNode] = None,
    moving_mask: Optional[slicer.vtkMRMLNode] = None,
    initial_transform: Optional[slicer.vtkMRMLTransformNode] = None,
    regularization_map: Optional[slicer.vtkMRMLScalarVolumeNode] = None,
    fixed_landmarks: Optional[slicer.vtkMRMLMarkupsNode] = None,
    moving_landmarks: Optional[slicer.vtkMRMLMarkupsNode] = None,
    labels: Optional[slicer.vtkMRMLNode] = None,
    fixed_labels: Optional[slicer.vtkMRMLNode] = None,
    preset: str = "balanced",
    accept_licences: Sequence[str] = (),
    outputs: Optional[Outputs] = None,
    wait: bool = True,
    done: Optional[Done] = None,
    progress: Optional[Callable[[messages.Event], None]] = None,
    **options: Any,
) -> Any:
    """Register a moving to a fixed volume; the window answers meanwhile.

    Parameters
    ----------
    registrations : Registrations
        Where it takes its turn.
    fixedNode, movingNode : vtkMRMLScalarVolumeNode
        Transforms that they are under count.
    fixed_mask, moving_mask, labels, fixed_labels : label map or segmentation node, optional
        Where the volumes count; structures of the moving and of the fixed volume.
    initial_transform, regularization_map, fixed_landmarks, moving_landmarks : node, optional
        As in the panel.
    preset : {"fast", "balanced", "accurate"}
        How much time to take; or a ``.json`` file of options.
    accept_licences : sequence of str
        Models with a restricted licence that may be chosen where they fit best; naming one as ``model`` accepts its
        licence, too.
    outputs : Outputs, optional
        Which nodes are wanted; all by default.
    wait : bool
        True returns the result once it is there; False returns at once.
    done : callable, optional
        Called with the result and None, or None and the error.
    progress : callable, optional
        Called with each event of the worker.
    **options
        ``model``, ``refine``, ``similarity``, ... as in ``RegistrationOptions``; they win over the preset.

    Returns
    -------
    Result or Registration
        The nodes (``wait=True``), or what is under way, which can be cancelled.

    Raises
    ------
    RegistrationError
        One of its kinds, with a sentence that says what is wrong.
    """
    given = {
        "fixed": fixedNode,
        "moving": movingNode,
        "fixed_mask": fixed_mask,
        "moving_mask": moving_mask,
        "initial_transform": initial_transform,
        "regularization_map": regularization_map,
        "fixed_landmarks": fixed_landmarks,
        "moving_landmarks": moving_landmarks,
        "labels": labels,
        "fixed_labels": fixed_labels,
    }
    nodes = {name: node for name, node in given.items() if node is not None}
    request = Request(
        nodes, preset_settings(preset, {**options, "accepted_licences": tuple(accept_licences)}), outputs or Outputs()
    )
    registration = registrations.start(request, lambda started: _connect(started, done, progress))
    return _wait(registration) if wait else registration


def correct(registrations: Registrations, result: Result, corrections: Sequence[Pair]) -> Result:
    """Put a result right by points that a person knows; the window answers meanwhile.

    Parameters
    ----------
    registrations : Registrations
        What is under way there is waited for.
    result : Result
        Its nodes change in place; of any registration in the scene, also of one that was loaded.
    corrections : sequence of (point, point)
        All that there are to be: a point of the fixed volume, and where the same anatomy lies in the moving one, world
        RAS mm. To take one back, give the others; with none the result is as it was found.

    Returns
    -------
    Result
        The same one.

    Raises
    ------
    RegistrationError
        A volume of the result is gone, or a correction cannot be made; the sentence says why.
    """
    nodes = inputs_of_result(result)
    if result.transform is None or not {"fixed", "moving"} <= set(nodes):
        raise CorrectionError("The result cannot be corrected without its two volumes and its transform.")
    under_way = Corrections(result, nodes, registrations)
    sentences: list[str] = []
    under_way.failed.connect(sentences.append)
    try:
        under_way.apply(corrections)
        while under_way.busy:
            _look_after_the_window()
    finally:
        under_way.drop()
    if sentences:
        raise CorrectionError(sentences[0])
    fit_lines(result)
    return result


def _connect(
    registration: Registration, done: Optional[Done], progress: Optional[Callable[[messages.Event], None]]
) -> None:
    if done is not None:
        registration.ended.connect(lambda ended: done(ended.result, ended.error))
    if progress is not None:
        registration.progressed.connect(progress)


def _wait(registration: Registration) -> Result:
    while not registration.has_ended:
        _look_after_the_window()
    if registration.error is not None:
        raise registration.error
    assert registration.result is not None
    return registration.result


def _look_after_the_window() -> None:
    slicer.app.processEvents()
    time.sleep(0.01)
