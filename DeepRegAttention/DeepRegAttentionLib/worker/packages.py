"""The packages that the worker needs: imported once, and named where they are missing."""

from __future__ import annotations

import importlib
import sys

from ..engine.errors import RegistrationError

PACKAGES = ("numpy", "SimpleITK", "torch", "safetensors")


class MissingPackageError(RegistrationError):
    """A package that the engine needs cannot be imported; `name` says which."""

    code = "missing-package"

    def __init__(self, name: str, whole: bool) -> None:
        how = "is not installed" if whole else "is not completely installed"
        again = "" if whole else "--force-reinstall "
        command = f"{sys.executable} -m pip install {again}{name}"
        super().__init__(f"The Python package {name} {how}; install it with “{command}”.")
        self.name = name


def load_libraries() -> None:
    """Import everything that a registration needs.

    Raises
    ------
    MissingPackageError
        One of the packages is absent, or only parts of it are there.
    """
    for name in PACKAGES:
        load_package(name)
    for name in ("..case", "..engine.corrections", "..engine.evaluation", "..engine.registration"):
        importlib.import_module(name, __package__)


def load_package(name: str) -> None:
    """Import a package; MissingPackageError if it, or one that it depends on, is absent or not whole."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        # It may be another one, on which this one depends.
        missing = error.name or name
        root = missing.partition(".")[0]
        raise MissingPackageError(root, whole=missing == root) from error
    except (ImportError, OSError) as error:
        raise MissingPackageError(name, whole=False) from error
    # An uninstalled or interrupted installation can leave a folder without its code.
    if getattr(module, "__file__", None) is None or not hasattr(module, "__version__"):
        raise MissingPackageError(name, whole=False)
