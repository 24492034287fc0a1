"""Choosing images: uploaded, or from the folders on the server that the operator allowed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

import SimpleITK as sitk

from ..engine.errors import OptionError, UnreadableFileError
from ..engine.images import check_image, read_image
from ..terms.inputs import CALLED, REQUIRED, Inputs
from .access import uploaded_image
from .page import Page
from .stage import FIXED, MOVING

IMAGES = REQUIRED
EXTRAS = ("fixed_mask", "moving_mask", "labels", "fixed_labels")
ROLES = (*IMAGES, *EXTRAS)
"""Each input that can be chosen here."""

_VIEWS = {"fixed": FIXED, "moving": MOVING}


@dataclass(frozen=True)
class ChosenImage:
    """An image that was chosen: its file or folder, and its node if it is shown."""

    path: Path
    name: str
    node: Any = None


class ChosenImages:
    """The images that a registration will use.

    Attributes
    ----------
    before_change : callable
        Called before the fixed or the moving image changes: a result of the old ones ends.
    on_choice : callable
        Called after any choice has changed.
    """

    def __init__(self, page: Page) -> None:
        self.before_change: Callable[[], None] = lambda: None
        self.on_choice: Callable[[], None] = lambda: None
        self._page = page
        self._images: dict[str, ChosenImage] = {}
        page.set(
            inputs=dict.fromkeys(ROLES, ""),
            browsing="",
            browse_path="",
            browse_entries=[],
            browse_text="",
            browse_parent="",
        )
        page.server.trigger("uploaded")(page.telling(self.take_upload))
        page.server.trigger("upload_failed")(page.fail)
        page.server.trigger("browse")(page.telling(self.browse))
        page.server.trigger("choose")(page.telling(self.choose))
        page.server.trigger("forget")(page.telling(self.forget))

    @property
    def given(self) -> Inputs:
        """What was chosen, by path."""
        return Inputs(**{role: str(chosen.path) for role, chosen in self._images.items()})

    def node(self, role: str) -> Any:
        """The volume of the fixed or moving image; None if none is chosen."""
        chosen = self._images.get(role)
        return chosen.node if chosen else None

    def take_upload(self, role: str) -> None:
        """Use what the browser has uploaded for an input."""
        path = uploaded_image(self._page.folder / "uploads" / role)
        self._take(role, path, path.name if path.is_file() else "DICOM series")

    def browse(self, role: str, text: str = "") -> None:
        """Show the content of a folder to choose an image for an input from; at first, the allowed folders."""
        folders = self._page.access.folders
        if not text and len(folders) == 1:
            text = str(folders[0])
        entries = [{"name": str(folder), "path": str(folder), "kind": "folder"} for folder in folders]
        parent = ""
        if text:
            path = self._page.access.path(text)
            if not path.is_dir():
                self.choose(role, text)
                return
            entries = self._page.access.entries(path)
            parent = str(path.parent) if self._page.access.allows(path.parent) else ""
        self._page.set(browsing=role, browse_path=text, browse_text=text, browse_entries=entries, browse_parent=parent)

    def choose(self, role: str, text: str) -> None:
        """Use a file, or a folder with a DICOM series, on the server."""
        path = self._page.access.image(text)
        self._page.set(browsing="")
        self._take(role, path, path.name)

    def forget(self, role: str) -> None:
        """Use nothing for an input any more."""
        self._require_rest()
        self._replace(role, None)

    def adopt(self, role: str, path: Path) -> Any:
        """Use and show a file that is known to be allowed; returns its volume."""
        self._take(role, path, path.name)
        return self.node(role)

    def _take(self, role: str, path: Path, name: str) -> None:
        if role not in ROLES:
            raise UnreadableFileError(f"There is no input “{role}”.")
        self._require_rest()
        image = _readable(path, name)
        self._page.set(error="")
        if role not in IMAGES:
            self._replace(role, ChosenImage(path, name))
            return
        check_image(image, CALLED[role])
        node = self._make_node(sitk.Cast(image, sitk.sitkFloat32), role, name)
        self._replace(role, ChosenImage(path, name, node))

    def _require_rest(self) -> None:
        if self._page.state.running:
            raise OptionError("Cancel the registration before you choose something else.")

    def _make_node(self, image: sitk.Image, role: str, name: str) -> Any:
        """As a volume of the scene, by way of a file that Slicer reads fast."""
        copy = self._page.folder / f"{role}.nrrd"
        sitk.WriteImage(image, str(copy))
        try:
            return self._page.stage.load_volume(copy, _title(name))
        finally:
            copy.unlink()

    def _replace(self, role: str, chosen: Optional[ChosenImage]) -> None:
        if role in IMAGES:
            self.before_change()
        old = self._images.pop(role, None)
        if chosen is not None:
            self._images[role] = chosen
        self._page.set(inputs={**self._page.state.inputs, role: chosen.name if chosen else ""})
        if role in _VIEWS:
            self._page.stage.show(_VIEWS[role], chosen.node if chosen else None)
            self._page.stage.fit()
        self.on_choice()
        if old is not None:
            self._page.stage.remove(old.node)


def _readable(path: Path, name: str) -> sitk.Image:
    """The image, or an error that calls it by the name that the user knows."""
    try:
        return read_image(path)
    except UnreadableFileError as error:
        raise UnreadableFileError(str(error).replace(str(path), name)) from error


def _title(name: str) -> str:
    for ending in (".nii.gz", ".nii", ".nrrd", ".mha"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name
