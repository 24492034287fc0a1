"""The section that explains what is missing before anything can be computed, and installs it after asking."""

from __future__ import annotations

import importlib.util
import inspect
from typing import Any, Optional

import slicer
from slicer.i18n import tr as _

from ..jobs.client import WorkerClient
from ..jobs.messages import Event

TORCH_REQUIREMENT = ">=2.0"
_REQUIREMENTS = {"safetensors": "safetensors>=0.4"}
"""What the worker needs beside torch and what comes with 3D Slicer, by the name that is imported."""
DASK = "distributed"
"""What many pairs need: the part of Dask that is imported."""
_DASK_REQUIREMENT = "distributed>=2023.5"
_SLICERS_OWN = ("numpy", "SimpleITK")
"""Comes with 3D Slicer, whose other modules need just this version: never installed by us."""


class DependencySection:
    """Visible only while the worker cannot start, or a cohort not be done, for want of a package."""

    def __init__(self, ui: Any, client: WorkerClient) -> None:
        self._ui, self._client = ui, client
        self._wanted = ""
        ui.installButton.connect("clicked()", self.install)
        self.refresh()

    def refresh(self) -> None:
        """Show what is lacking; nothing while nothing is."""
        package = self._package
        self._ui.dependencySection.visible = bool(package)
        if package:
            self._ui.dependencySection.text = _("{name} is needed").format(name=_title(package))
            self._ui.dependencyLabel.text = explanation(package, has_pytorch_extension())
            self._ui.installButton.text = _("Install {name} …").format(name=_title(package))
            self._ui.installButton.enabled = can_install(package, has_pytorch_extension())

    def require(self, package: str) -> bool:
        """Whether a package is there that the worker itself can do without; if not, offer to install it."""
        importlib.invalidate_caches()
        there = importlib.util.find_spec(package) is not None
        self._wanted = "" if there else package
        self.refresh()
        return there

    @property
    def _package(self) -> str:
        return missing_package(self._client.trouble) or self._wanted

    def install(self) -> None:
        """Ask, install what is missing, start the worker again."""
        package = self._package
        if not slicer.util.confirmOkCancelDisplay(question(package), _("Install {name}").format(name=_title(package))):
            return
        with slicer.util.tryWithErrorDisplay(_("The installation failed."), waitCursor=True):
            if package == "torch":
                install_torch()
                install_requirements()
            elif package == DASK:
                slicer.util.pip_install(_DASK_REQUIREMENT)
            else:
                # Parts of it may be there: pip would take it for installed.
                slicer.util.pip_install(f"--force-reinstall --no-deps {_REQUIREMENTS.get(package, package)}")
        if self._wanted:
            self.require(self._wanted)
        self._client.warm_up()


def missing_package(trouble: Optional[Event]) -> str:
    """The package for want of which the worker could not start; empty if it is not for that."""
    return trouble.name or "" if trouble is not None and trouble.code == "missing-package" else ""


def has_pytorch_extension() -> bool:
    """Whether the extension that installs torch is there."""
    return importlib.util.find_spec("PyTorchUtils") is not None


def can_install(package: str, extension: bool) -> bool:
    """Whether the button can help."""
    return extension if package == "torch" else package not in _SLICERS_OWN


def explanation(package: str, extension: bool) -> str:
    """What is missing, and what to do about it."""
    if package == DASK:
        return str(_("The Python package Dask is needed to register many pairs, and it is not installed."))
    text = _("The Python package {name} is needed to register, and it is not, or not completely, installed.")
    parts = [text.format(name=_title(package))]
    if package == "torch" and not extension:
        parts.append(_("Install the extension “PyTorch” with the Extensions Manager first, and restart 3D Slicer."))
    if package in _SLICERS_OWN:
        parts.append(_("It comes with 3D Slicer, so this 3D Slicer is damaged: install it again."))
    parts.append(_("Results that exist can be inspected without it."))
    return " ".join(parts)


def question(package: str) -> str:
    """What is asked before anything is downloaded."""
    if package != "torch":
        text = _("The Python package {name} will be downloaded and installed into 3D Slicer’s own Python.")
        return str(text.format(name=_title(package)))
    install: str = _(
        "PyTorch will be downloaded and installed into 3D Slicer’s own Python, in the build that suits this "
        "computer: from 0.2 GB for the CPU to 3 GB for a GPU. 3D Slicer does not answer meanwhile."
    )
    return install


def install_torch() -> None:
    """Have the extension PyTorch install the build of torch that suits this computer."""
    import PyTorchUtils

    logic = PyTorchUtils.PyTorchUtilsLogic()
    if importlib.util.find_spec("torch") is not None:
        # Half of it is there: pip would take it for installed.
        logic.uninstallTorch(**_accepted(logic.uninstallTorch, askConfirmation=False))
    logic.installTorch(
        **_accepted(logic.installTorch, askConfirmation=False, torchVersionRequirement=TORCH_REQUIREMENT)
    )


def install_requirements() -> None:
    """Install the small packages that are missing, so that nobody is asked twice."""
    importlib.invalidate_caches()
    for name, requirement in _REQUIREMENTS.items():
        if importlib.util.find_spec(name) is None:
            slicer.util.pip_install(requirement)


def _accepted(function: Any, **arguments: Any) -> dict[str, Any]:
    """Those of the arguments that this version of a function knows."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in arguments.items() if name in known}


def _title(package: str) -> str:
    return {"torch": "PyTorch", DASK: "Dask"}.get(package, package)
