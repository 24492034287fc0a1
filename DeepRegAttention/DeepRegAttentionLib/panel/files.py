"""The files of a pair: what the worker reads of its nodes, and the result that it leaves beside them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Optional

import slicer

from ..engine.errors import OutputError
from ..scene import export
from ..scene.corrections import result_state
from ..scene.results import Result
from ..terms.inputs import NO_INPUTS, Inputs

Nodes = Mapping[str, slicer.vtkMRMLNode]


class PairFiles:
    """A new folder with the inputs of one pair and its result; whoever has it removes it.

    Parameters
    ----------
    temporary_folder : str
        What it lies in.

    Attributes
    ----------
    folder : Path
    inputs : Inputs
        Their paths, once they are written.

    Raises
    ------
    OutputError
        It cannot be made.
    """

    def __init__(self, temporary_folder: str) -> None:
        self.folder, self.inputs = _new_folder(temporary_folder), NO_INPUTS
        self._written: dict[str, tuple[Any, ...]] = {}
        self._known: tuple[Any, ...] = ()
        self._result: Optional[slicer.vtkMRMLScriptedModuleNode] = None

    @property
    def result_folder(self) -> Path:
        """Where the result is, or will be."""
        return self.folder / "result"

    def write_steps(self, nodes: Nodes) -> Generator[str, None, Inputs]:
        """Write the inputs as :func:`~..scene.export.write_steps` does."""
        self._written = export.input_states(nodes)
        self.inputs = yield from export.write_steps(self.folder, **nodes)
        return self.inputs

    def know(self, result: Result) -> None:
        """What lies in the folder is this result as it is now."""
        self._result, self._known = result.node, result_state(result)

    def are_of(self, result: Result, nodes: Nodes) -> bool:
        """Whether they are what would be written of a result and its inputs now."""
        return self._known == result_state(result) and self._written == export.input_states(nodes)

    def are_wanted(self) -> bool:
        """Whether their result is still in its scene."""
        return self._result is not None and self._result.GetScene() is not None

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)


class KeptFiles:
    """The files of the pair that was registered or corrected last, as long as its result is in the scene.

    The worker has in memory what they hold: a correction of that result neither writes nor reads anything.
    """

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self._scene = scene
        self._files: Optional[PairFiles] = None
        self._observation = scene.AddObserver(scene.NodeRemovedEvent, self._on_removed)

    def keep(self, files: PairFiles) -> None:
        """Have these from now on, and remove those of before."""
        self.forget()
        self._files = files
        self._on_removed()

    def take(self, result: Result, nodes: Nodes) -> Optional[PairFiles]:
        """Give them away; None, and they are removed, if they are not what would be written now."""
        if self._files is not None and not self._files.are_of(result, nodes):
            self.forget()
        files, self._files = self._files, None
        return files

    def forget(self) -> None:
        """Remove them."""
        files, self._files = self._files, None
        if files is not None:
            files.remove()

    def end(self) -> None:
        """Remove them, and watch the scene no longer."""
        self.forget()
        self._scene.RemoveObserver(self._observation)

    def _on_removed(self, *caller_and_event: Any) -> None:
        if self._files is not None and not self._files.are_wanted():
            self.forget()


def _new_folder(temporary_folder: str) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=f"DeepRegAttention-{os.getpid()}-", dir=temporary_folder))
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"No files can be written in the temporary folder {temporary_folder} ({reason}).") from error
