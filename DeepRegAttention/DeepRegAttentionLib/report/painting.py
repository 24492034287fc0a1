"""Slices become pictures: side by side, with titles, orientation letters and a colour bar.

Drawn without matplotlib's global state, so that it can be done beside a program that uses it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

from ..terms.maps import ColourScale, Map, Rule
from ..terms.palettes import FOLD, colours
from .sections import Section

# Inches and dots of a picture: wide enough for a laptop, small enough for a file that travels by mail.
WIDTH, DPI = 10.4, 96
_TALLEST = 6.0
_GAP, _TITLE, _FOOT, _BAR = 0.1, 0.3, 0.08, 0.75
GROUND, INK = "#14171a", "#d7dce1"
_COLOURS = 256
_GREY = colormaps["gray"].with_extremes(bad=GROUND)


@dataclass(frozen=True)
class Look:
    """How values become colours.

    ``bar`` is the text beside the colour bar (none without it), ``ticks`` its labels where values are shown as
    others, ``extend`` which ends of it stand for everything beyond.
    """

    colours: Colormap
    low: float
    high: float
    bar: Optional[str] = None
    ticks: Optional[dict[float, str]] = None
    extend: str = "neither"

    @property
    def norm(self) -> Normalize:
        """From values to 0..1."""
        return Normalize(self.low, self.high if self.high > self.low else self.low + 1)


Overlay = Callable[[Axes, Section], Optional[ScalarMappable]]
"""Draws on top of a slice; what it returns is what the colour bar tells of."""


def grey(window: tuple[float, float]) -> Look:
    """Between the intensities that are shown as black and white."""
    return Look(_GREY, *window)


def dim(window: tuple[float, float], bar: Optional[str] = None) -> Look:
    """Grey as a background for colours."""
    low, high = window
    return Look(_GREY, low, high + 0.8 * (high - low), bar)


def palette_map(palette: str) -> Colormap:
    """A palette as matplotlib has them: folds below its low end, nothing where there is no value."""
    table = ListedColormap(colours(palette, np.linspace(0, 1, _COLOURS)).tolist())
    return table.with_extremes(bad=GROUND, under=FOLD) if palette == "jacobian" else table.with_extremes(bad=GROUND)


def map_look(entry: Map, scale: ColourScale) -> Look:
    """How the values of a map become colours; those of a Jacobian by :func:`map_values`."""
    if not scale.logarithmic:
        ends = "max" if entry.rule in (Rule.LENGTH, Rule.ERROR) else "both"
        return Look(palette_map(scale.palette), scale.low, scale.high, entry.bar, extend=ends)
    ticks = {place: f"{scale.low ** (1 - 2 * place):.2g}" for place in (0.0, 0.25, 0.5, 0.75, 1.0)}
    return Look(palette_map(scale.palette), 0.0, 1.0, entry.bar, ticks, "min")


def map_values(values: np.ndarray, scale: ColourScale) -> np.ndarray:
    """What is drawn of a map: its values; of a Jacobian their places on its scale, folds below, none of the others."""
    if not scale.logarithmic:
        return values
    places = scale.places(values)
    return np.where(np.isneginf(places), -1.0, places.clip(0.0, 1.0))


def paint(
    sections: Sequence[Section],
    slices: Sequence[np.ndarray],
    look: Look,
    overlay: Optional[Overlay] = None,
    exact: bool = False,
) -> bytes:
    """Slices side by side with titles, orientation letters and a colour bar, as PNG.

    Parameters
    ----------
    sections : sequence of Section
        Where the slices lie.
    slices : sequence of ndarray
        ``(V, H)``, or ``(V, H, 4)`` colours; NaN is left blank.
    look : Look
        How values become colours.
    overlay : callable, optional
        Draws on top; the colour bar is that of what it returns, if anything.
    exact : bool
        Whether each pixel keeps its very colour, so that no fold and no thin line is lost; a larger file.
    """
    figure, axes = _frame(sections)
    shown: ScalarMappable
    for ax, section, values in zip(axes, sections, slices):
        shown = show(ax, section, values, look, not exact)
        if overlay is not None:
            shown = overlay(ax, section) or shown
    if look.bar is not None:
        _colour_bar(figure, shown, look)
    return png(figure, exact)


def _frame(sections: Sequence[Section]) -> tuple[Figure, list[Axes]]:
    """A figure with one panel a section, all at the same scale."""
    widths, heights = (np.array(sizes) for sizes in zip(*(section.size for section in sections)))
    room = WIDTH - _BAR - _GAP * (len(sections) + 1)
    scale = min(room / widths.sum(), _TALLEST / heights.max())
    height = scale * heights.max() + _TITLE + _FOOT
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=GROUND)
    axes, left = [], _GAP + (room - scale * widths.sum()) / 2
    for section, width, tall in zip(sections, scale * widths, scale * heights):
        bottom = _FOOT + (scale * heights.max() - tall) / 2
        axes.append(figure.add_axes((left / WIDTH, bottom / height, width / WIDTH, tall / height)))
        _prepare(axes[-1], section)
        left += width + _GAP
    return figure, axes


def _prepare(ax: Axes, section: Section) -> None:
    ax.set_axis_off()
    ax.set_title(section.title, color=INK, fontsize=9, pad=4)
    places = ((0.015, 0.5), (0.985, 0.5), (0.5, 0.985), (0.5, 0.015))
    aligned = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for letter, (x, y), (ha, va) in zip(section.plane.letters, places, aligned):
        style: dict[str, Any] = {"ha": ha, "va": va, "color": INK, "fontsize": 9, "weight": "bold"}
        stroke = [withStroke(linewidth=2, foreground="black")]
        ax.text(x, y, letter, transform=ax.transAxes, path_effects=stroke, zorder=9, **style)


def show(ax: Axes, section: Section, values: np.ndarray, look: Look, smooth: bool) -> ScalarMappable:
    """Draw values ``(V, H)``, or colours ``(V, H, 4)``, in the panel of their section."""
    plane = section.plane
    left, bottom = section.low[plane.horizontal], section.low[plane.vertical]
    # The last pixels may reach beyond the box.
    right, top = left + values.shape[1] * section.pixel, bottom + values.shape[0] * section.pixel
    if plane.downwards:
        bottom, top = top, bottom
    shown = ax.imshow(
        values,
        look.colours,
        look.norm,
        aspect="auto",
        interpolation="bilinear" if smooth else "nearest",
        origin="upper" if plane.downwards else "lower",
        extent=(left, right, bottom, top),
    )
    low, high = section.low[plane.vertical], section.high[plane.vertical]
    ax.set_xlim(left, section.high[plane.horizontal])
    ax.set_ylim((high, low) if plane.downwards else (low, high))
    return shown


def _colour_bar(figure: Figure, shown: ScalarMappable, look: Look) -> None:
    place = figure.add_axes(((WIDTH - _BAR + 0.02) / WIDTH, 0.14, 0.012, 0.68))
    bar = figure.colorbar(shown, cax=place, extend=look.extend)
    if look.ticks is not None:
        bar.set_ticks(list(look.ticks), labels=list(look.ticks.values()))
        bar.minorticks_off()
    bar.outline.set_visible(False)
    place.tick_params(colors=INK, labelsize=8, length=2)
    place.set_title(look.bar or "", color=INK, fontsize=8, pad=8, loc="left")


def png(figure: Figure, exact: bool = False) -> bytes:
    """A figure as a file; ``exact`` keeps each pixel's very colour."""
    canvas, file = FigureCanvasAgg(figure), io.BytesIO()
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    if not exact:
        # 256 colours of the picture's own choice look the same, and the file is half as large.
        image = image.quantize(256, dither=Image.Dither.NONE)
    image.save(file, "png")
    return file.getvalue()
