"""Colours of maps, deformations and structures: one source for screen, browser and report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from colorsys import hsv_to_rgb
from typing import Union

import numpy as np

FOLD = "#ffd500"
"""Colour of places whose Jacobian is 0 or less."""

GRADE_COLOURS = {"pass": "#2e9e4f", "review": "#c77700", "fail": "#d93f35"}
"""Colours of the grades of a verdict, readable on white and on black."""

_GOLDEN = (math.sqrt(5) - 1) / 2
# Evenly spaced; the perceptual ones are those of the same name in matplotlib.
_STOPS: dict[str, str] = {
    "inferno": "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 d24644 e45a31 f1731d f98e09 fcac11 "
    "f9cb35 f2ea69 fcffa4",
    "magma": "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 d0416f e75263 f56b5c fc8961 fea772 "
    "fec488 fde2a3 fcfdbf",
    "viridis": "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 3fbc73 5ec962 84d44b "
    "addc30 d8e219 fde725",
    "cividis": "00224e 002e6a 1a386f 32436d 434e6c 535a6d 61656f 6f7073 7d7c78 8c8878 9b9476 aba072 bcae6c cdbb63 "
    "dec958 f0d846 fee838",
    # Blue shrinks, red grows; nearly white where volumes stay.
    "jacobian": "053061 2065ab 4393c3 90c4dd d1e5f0 f7f6f6 fddbc7 f3a481 d6604d b1182b 67001f",
    # Black where both images agree, so that what glows is what does not match.
    "difference": "9fe0ff 2f86c8 0b1f33 000000 33150a cf5a22 ffd0a0",
    # Blue is near, red is far off; told apart by those who see no red.
    "error": "12355b 2f6f9f 7fb3c8 f2ead0 f6c445 e8743b b3261e 6b0f1a",
    # Pale where little moves, so that quiet lines are as easy to see as others.
    "length": "8fd3ff fff3a8 ffb03a ff4747",
}

PALETTES: tuple[str, ...] = tuple(_STOPS)
"""Names of all palettes."""


def colours(palette: str, where: Union[Sequence[float], np.ndarray]) -> np.ndarray:
    """The colours ``(N, 3)``, 0 to 1, of a palette at places ``(N,)`` from 0 to 1; beyond, those at its ends."""
    stops = np.array([rgb(code) for code in _STOPS[palette].split()])
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(where, places, stops[:, channel]) for channel in range(3)], axis=-1)


def rgb(code: str) -> list[float]:
    """Red, green, blue, 0 to 1, of a code such as ``"#ffd500"``."""
    return [int(code.lstrip("#")[n : n + 2], 16) / 255 for n in (0, 2, 4)]


def code(palette: str, where: float) -> str:
    """The colour at a place of a palette as a code such as ``"#4393c3"``."""
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in colours(palette, [where])[0])


PLAIN = code("jacobian", 0.15)
"""Colour of bars and lines of a plot."""


def label_colour(number: int) -> tuple[float, float, float]:
    """Red, green, blue, 0 to 1, of a structure; numbers next to each other differ much."""
    # Multiples of the golden ratio, modulo 1, keep far apart.
    return hsv_to_rgb(number * _GOLDEN % 1, 0.65 + 0.35 * (number % 2), 0.95)
