"""Every text for people goes through here, so that 3D Slicer can translate it."""

from __future__ import annotations

from typing import Callable

_translate: list[Callable[[str, str], str]] = []


def translate_with(function: Callable[[str, str], str]) -> None:
    """Have every text translated, given its context and itself; inside 3D Slicer by ``slicer.i18n.translate``."""
    _translate[:] = [function]


def translator(module: str) -> Callable[[str], str]:
    """What translates the texts of a module, given its ``__name__``; 3D Slicer calls their context so, too."""
    context = ".".join(module.split(".")[-2:])
    return lambda text: _translate[0](context, text) if _translate else text
