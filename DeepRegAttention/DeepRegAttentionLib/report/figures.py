"""The pictures of a report: images, maps and deformation in three planes, drawn without matplotlib's global state.

Everything is drawn on sections of an LPS-aligned grid in mm, so oblique and anisotropic images appear upright
and undistorted, as radiologists look at them: the patient's right on the left of the picture.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import SimpleITK as sitk
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

from ..engine.geometry import Grid
from ..engine.intensity import background_value
from ..engine.result import MAP_MEANINGS, RegistrationResult

# Inches and dots of a picture: wide enough for a laptop, small enough for a file that travels by mail.
_WIDTH, _TALLEST, _DPI = 10.4, 6.0, 96
_GAP, _TITLE, _FOOT, _BAR = 0.1, 0.3, 0.08, 0.75
_GROUND, _INK, _FOLD = "#14171a", "#d7dce1", "#ffd500"
# Multiples of it, modulo 1, keep far apart: neighbouring labels get different colours.
_GOLDEN = (math.sqrt(5) - 1) / 2
# Pixels along the longest side of a section.
_PIXELS = 340
_ROUND = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)

# Black where both images agree, so that what glows is what does not match.
_DIFFERENCE = LinearSegmentedColormap.from_list(
    "difference", ["#9fe0ff", "#2f86c8", "#0b1f33", "#000000", "#33150a", "#cf5a22", "#ffd0a0"]
)
# Pale where little moves, so that quiet lines are as easy to see as others.
_LENGTH = LinearSegmentedColormap.from_list("length", ["#8fd3ff", "#fff3a8", "#ffb03a", "#ff4747"])
_MAP_COLOURS: Dict[str, Tuple[str, str]] = {
    "attention": ("Attention", "magma"),
    "certainty": ("Certainty of the match", "viridis"),
    "attention_forward": ("Attention, fixed to moving", "magma"),
    "attention_backward": ("Attention, moving to fixed", "magma"),
    "regularization": ("Strength of the regularization", "cividis"),
}


@dataclass(frozen=True)
class Picture:
    """One picture of a report.

    Attributes
    ----------
    name : str
        For programs, such as ``"warped"``.
    title, caption : str
        For people; the caption is one or two sentences.
    png : bytes
        The picture.
    over_fixed : bool
        Whether it lines up with the picture ``"fixed"``, so that the two are worth comparing in place.
    """

    name: str
    title: str
    caption: str
    png: bytes
    over_fixed: bool = False


@dataclass(frozen=True)
class Plane:
    """An anatomical plane: which LPS axes run along it, and how it is looked at."""

    name: str
    horizontal: int
    vertical: int
    letters: str
    """At the left, right, top and bottom of the picture."""

    @property
    def normal(self) -> int:
        """The LPS axis across the plane."""
        return 3 - self.horizontal - self.vertical

    @property
    def downwards(self) -> bool:
        """Whether the vertical axis is drawn downwards (posterior below anterior)."""
        return self.vertical == 1


PLANES = (Plane("Axial", 0, 1, "RLAP"), Plane("Coronal", 0, 2, "RLSI"), Plane("Sagittal", 1, 2, "APSI"))


@dataclass(frozen=True)
class Section:
    """One plane through a point, within a box, in pixels of a size; LPS mm."""

    plane: Plane
    low: np.ndarray
    high: np.ndarray
    point: np.ndarray
    pixel: float

    @property
    def size(self) -> Tuple[float, float]:
        """Width and height in mm."""
        width, height = (self.high - self.low)[[self.plane.horizontal, self.plane.vertical]]
        return float(width), float(height)

    @property
    def title(self) -> str:
        """The plane and where it lies, such as ``Axial, S 12 mm``."""
        where = float(self.point[self.plane.normal])
        letter = ("LR", "PA", "SI")[self.plane.normal][where < 0]
        return f"{self.plane.name}, {letter} {abs(where):.0f} mm"

    def grid(self, step: float) -> Grid:
        """The section as a volume one voxel thick with this spacing in mm."""
        size, origin = [1, 1, 1], self.point.astype(float).copy()
        for axis in (self.plane.horizontal, self.plane.vertical):
            size[axis] = max(2, math.ceil((self.high[axis] - self.low[axis]) / step - 1e-6))
            origin[axis] = self.low[axis] + step / 2
        axes = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
        return Grid((size[0], size[1], size[2]), (step,) * 3, (origin[0], origin[1], origin[2]), axes)

    def coordinates(self, step: float) -> Tuple[np.ndarray, np.ndarray]:
        """Horizontal and vertical LPS mm of each point of the grid, ``(V, H)``."""
        grid = self.grid(step)
        h, v = (
            grid.origin[axis] + step * np.arange(grid.size[axis])
            for axis in (self.plane.horizontal, self.plane.vertical)
        )
        horizontal, vertical = np.meshgrid(h, v)
        return horizontal, vertical

    def sample(
        self,
        image: sitk.Image,
        transform: Optional[sitk.Transform] = None,
        nearest: bool = False,
        step: Optional[float] = None,
    ) -> np.ndarray:
        """The image in each pixel, or every ``step`` mm: ``(V, H)`` or ``(V, H, 3)``; NaN outside of it."""
        grid = self.grid(step or self.pixel)
        vector = image.GetNumberOfComponentsPerPixel() > 1
        values = sitk.Resample(
            image,
            grid.size,
            transform or sitk.Transform(3, sitk.sitkIdentity),
            sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear,
            grid.origin,
            grid.spacing,
            grid.direction,
            math.nan,
            sitk.sitkVectorFloat32 if vector else sitk.sitkFloat32,
        )
        return self._flat(values)

    def displacement(self, transform: sitk.Transform, step: float) -> np.ndarray:
        """How far a transform moves each point of the grid, ``(V, H, 3)`` in LPS mm."""
        grid = self.grid(step)
        target = grid.size, grid.origin, grid.spacing, grid.direction
        return self._flat(sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat32, *target))

    def _flat(self, volume: sitk.Image) -> np.ndarray:
        return np.take(sitk.GetArrayFromImage(volume), 0, axis=2 - self.plane.normal)


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
    ticks: Optional[Dict[float, str]] = None
    extend: str = "neither"

    @property
    def norm(self) -> Normalize:
        """From values to 0..1."""
        return Normalize(self.low, self.high if self.high > self.low else self.low + 1)


Overlay = Callable[[Axes, Section], Optional[ScalarMappable]]


@dataclass(frozen=True)
class Scene:
    """What all pictures of one result share.

    Attributes
    ----------
    sections : tuple of Section
        Axial, coronal, sagittal.
    linear, deformation : sitk.Transform
        The two parts of the result: x -> linear(deformation(x)).
    fixed_window, moving_window : (float, float)
        Intensities shown as black and white.
    """

    result: RegistrationResult
    fixed: sitk.Image
    moving: sitk.Image
    sections: Tuple[Section, ...]
    linear: sitk.Transform
    deformation: sitk.Transform
    fixed_window: Tuple[float, float]
    moving_window: Tuple[float, float]

    @classmethod
    def of(cls, result: RegistrationResult, fixed: sitk.Image, moving: sitk.Image) -> Scene:
        """The planes through the centre of the fixed image's foreground."""
        points = _foreground_points(fixed)
        low, high = _view_box(points, fixed)
        centre, pixel = points.mean(axis=0), float((high - low).max()) / _PIXELS
        return cls(
            result,
            fixed,
            moving,
            tuple(Section(plane, low, high, centre, pixel) for plane in PLANES),
            *split_transform(result.transform),
            _window(fixed),
            _window(moving),
        )

    def sample(self, image: sitk.Image, **how: Any) -> List[np.ndarray]:
        """The image in each section; see :meth:`Section.sample`."""
        return [section.sample(image, **how) for section in self.sections]


def split_transform(transform: sitk.Transform) -> Tuple[sitk.Transform, sitk.Transform]:
    """The linear part and the deformation of a result's transform, x -> linear(deformation(x))."""
    chain = sitk.CompositeTransform(transform)
    parts = [chain.GetNthTransform(n) for n in range(chain.GetNumberOfTransforms())]
    linear = sitk.CompositeTransform(parts[:-1]) if parts[1:] else sitk.Transform(3, sitk.sitkIdentity)
    return linear, parts[-1]


def result_pictures(result: RegistrationResult, fixed: sitk.Image, moving: sitk.Image) -> List[Picture]:
    """Every picture that a result has something for, in the order of a report; maps it lacks are left out.

    Parameters
    ----------
    result : RegistrationResult
        Of these two images.
    fixed, moving : sitk.Image
        On their own grids, LPS mm.
    """
    scene = Scene.of(result, fixed, moving)
    return [
        *_image_pictures(scene),
        *_difference_pictures(scene),
        _grid_picture(scene),
        *_jacobian_pictures(scene),
        *_force_pictures(scene),
        *_map_pictures(scene),
        *_label_pictures(scene),
    ]


# Where to look


def _foreground_points(image: sitk.Image) -> np.ndarray:
    """LPS points ``(P, 3)`` of voxels that differ from the background, from about 64 along each axis."""
    strides = [max(1, size // 64) for size in image.GetSize()]
    values = sitk.GetArrayViewFromImage(image)
    contrast = np.abs(values[tuple(slice(None, None, s) for s in strides[::-1])] - background_value(values))
    inside = contrast > 0.1 * np.percentile(contrast, 99.5)
    index = np.argwhere(inside if inside.any() else np.ones_like(inside))[:, ::-1] * strides
    matrix = Grid.of(image).index_to_point
    return index @ matrix[:3, :3].T + matrix[:3, 3]


def _view_box(points: np.ndarray, image: sitk.Image) -> Tuple[np.ndarray, np.ndarray]:
    """The LPS box around the foreground with a margin, within the box around the whole image."""
    matrix, size = Grid.of(image).index_to_point, np.array(image.GetSize())
    corners = np.array(list(np.ndindex(2, 2, 2))) * size - 0.5
    corners = corners @ matrix[:3, :3].T + matrix[:3, 3]
    margin = 0.06 * np.ptp(points, axis=0).max() + max(image.GetSpacing())
    low = np.maximum(points.min(axis=0) - margin, corners.min(axis=0))
    return low, np.minimum(points.max(axis=0) + margin, corners.max(axis=0))


def _window(image: sitk.Image) -> Tuple[float, float]:
    """The intensities between which an image is shown: the robust range of what is not background."""
    values = sitk.GetArrayViewFromImage(image)
    background = background_value(values)
    sample = values[tuple(slice(None, None, max(1, n // 96)) for n in values.shape)]
    foreground = sample[sample != background]
    low, high = np.percentile(foreground, (0.5, 99.7)) if foreground.size else (background, background)
    return float(min(low, background)), float(max(high, background))


# Drawing


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
        shown = _show(ax, section, values, look, not exact)
        if overlay is not None:
            shown = overlay(ax, section) or shown
    if look.bar is not None:
        _colour_bar(figure, shown, look)
    return _png(figure, exact)


def _frame(sections: Sequence[Section]) -> Tuple[Figure, List[Axes]]:
    """A figure with one panel a section, all at the same scale."""
    widths, heights = (np.array(sizes) for sizes in zip(*(section.size for section in sections)))
    room = _WIDTH - _BAR - _GAP * (len(sections) + 1)
    scale = min(room / widths.sum(), _TALLEST / heights.max())
    height = scale * heights.max() + _TITLE + _FOOT
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor=_GROUND)
    axes, left = [], _GAP + (room - scale * widths.sum()) / 2
    for section, width, tall in zip(sections, scale * widths, scale * heights):
        bottom = _FOOT + (scale * heights.max() - tall) / 2
        axes.append(figure.add_axes((left / _WIDTH, bottom / height, width / _WIDTH, tall / height)))
        _prepare(axes[-1], section)
        left += width + _GAP
    return figure, axes


def _prepare(ax: Axes, section: Section) -> None:
    ax.set_axis_off()
    ax.set_title(section.title, color=_INK, fontsize=9, pad=4)
    places = ((0.015, 0.5), (0.985, 0.5), (0.5, 0.985), (0.5, 0.015))
    aligned = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for letter, (x, y), (ha, va) in zip(section.plane.letters, places, aligned):
        style: Dict[str, Any] = {"ha": ha, "va": va, "color": _INK, "fontsize": 9, "weight": "bold"}
        stroke = [withStroke(linewidth=2, foreground="black")]
        ax.text(x, y, letter, transform=ax.transAxes, path_effects=stroke, zorder=9, **style)


def _show(ax: Axes, section: Section, values: np.ndarray, look: Look, smooth: bool) -> ScalarMappable:
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
    place = figure.add_axes(((_WIDTH - _BAR + 0.02) / _WIDTH, 0.14, 0.012, 0.68))
    bar = figure.colorbar(shown, cax=place, extend=look.extend)
    if look.ticks is not None:
        bar.set_ticks(list(look.ticks), labels=list(look.ticks.values()))
        bar.minorticks_off()
    bar.outline.set_visible(False)
    place.tick_params(colors=_INK, labelsize=8, length=2)
    place.set_title(look.bar or "", color=_INK, fontsize=8, pad=8, loc="left")


def _png(figure: Figure, exact: bool = False) -> bytes:
    canvas, file = FigureCanvasAgg(figure), io.BytesIO()
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    if not exact:
        # 256 colours of the picture's own choice look the same, and the file is half as large.
        image = image.quantize(256, dither=Image.Dither.NONE)
    image.save(file, "png")
    return file.getvalue()


# The pictures


def _grey(window: Tuple[float, float]) -> Look:
    return Look(_blank_outside("gray"), *window)


def _dim(window: Tuple[float, float], bar: Optional[str] = None) -> Look:
    """Grey as a background for colours."""
    low, high = window
    return Look(_blank_outside("gray"), low, high + 0.8 * (high - low), bar)


def _blank_outside(name: str) -> Colormap:
    return colormaps[name].with_extremes(bad=_GROUND)


def _image_pictures(scene: Scene) -> List[Picture]:
    fixed, warped = scene.sample(scene.fixed), scene.sample(scene.result.warped)
    linear = scene.sample(scene.moving, transform=scene.linear)
    grey, moving_grey = _grey(scene.fixed_window), _grey(scene.moving_window)
    return [
        Picture("fixed", "Fixed image", "What the moving image should look like.", paint(scene.sections, fixed, grey)),
        Picture(
            "linear",
            "Moving image after the linear alignment",
            "Before the deformation. Point at the picture to see the fixed image in its place.",
            paint(scene.sections, linear, moving_grey),
            over_fixed=True,
        ),
        Picture(
            "warped",
            "Warped image",
            "The moving image after the deformation. Point at the picture to see the fixed image in its place: "
            "what jumps does not match.",
            paint(scene.sections, warped, moving_grey),
            over_fixed=True,
        ),
        _checkerboard_picture(scene, fixed, warped),
    ]


def _checkerboard_picture(scene: Scene, fixed: List[np.ndarray], warped: List[np.ndarray]) -> Picture:
    square = max(section.size[0] for section in scene.sections) / 9
    boards = []
    for section, *pair in zip(scene.sections, fixed, warped):
        first, second = (
            (v - low) / max(high - low, 1e-12)
            for v, (low, high) in zip(pair, (scene.fixed_window, scene.moving_window))
        )
        h, v = section.coordinates(section.pixel)
        odd = (np.floor((h - h[0, 0]) / square) + np.floor((v - v[0, 0]) / square)) % 2 == 1
        boards.append(np.where(odd, second, first))
    caption = f"Fixed and warped image in turn, in squares of {square:.0f} mm: edges should run on across them."
    return Picture("checkerboard", "Checkerboard", caption, paint(scene.sections, boards, _grey((0.0, 1.0))))


def _difference_pictures(scene: Scene) -> List[Picture]:
    """Before and after on one scale, so that they can be compared."""
    titles = {
        "difference_before": "Difference before the deformation",
        "difference_after": "Difference after the deformation",
    }
    slices = {name: scene.sample(scene.result.maps[name]) for name in titles if name in scene.result.maps}
    if not slices:
        return []
    every = np.concatenate([s.ravel() for row in slices.values() for s in row])
    limit = max(float(np.nanpercentile(np.abs(every), 99.5)), 1e-6)
    look = Look(_DIFFERENCE, -limit, limit, "intensity", extend="both")
    hint = " Black is agreement; both pictures have the same colour scale."
    return [
        Picture(name, titles[name], MAP_MEANINGS[name] + hint, paint(scene.sections, row, look))
        for name, row in slices.items()
    ]


def _grid_picture(scene: Scene) -> Picture:
    """Drawn on the linearly aligned moving image: that is where the lines land, so they fit its anatomy."""
    step = _round_up(max(max(section.size) for section in scene.sections) / 26)
    fine = 6
    fields = {s.plane.name: s.displacement(scene.deformation, step / fine) for s in scene.sections}
    longest = max(float(np.linalg.norm(field, axis=-1).max()) for field in fields.values())
    norm = Normalize(0, max(longest, 1e-3))

    def overlay(ax: Axes, section: Section) -> ScalarMappable:
        lines, values = _grid_lines(section, fields[section.plane.name], step / fine, fine)
        return ax.add_collection(LineCollection(lines, array=values, cmap=_LENGTH, norm=norm, linewidths=0.9, zorder=3))

    slices = scene.sample(scene.moving, transform=scene.linear)
    picture = paint(scene.sections, slices, _dim(scene.moving_window, "mm"), overlay, exact=True)
    caption = (
        f"Where the deformation takes a regular grid of {step:g} mm from the fixed image, drawn on the moving image "
        "after the linear alignment and projected to each plane; the colour is the length of the displacement."
    )
    return Picture("grid", "Deformation grid", caption, picture)


def _grid_lines(section: Section, field: np.ndarray, step: float, every: int) -> Tuple[List[np.ndarray], np.ndarray]:
    """Short pieces of the deformed lines ``(P, 2, 2)`` and the displacement in mm on each, from ``(V, H, 3)``."""
    h, v = section.coordinates(step)
    moved = np.stack([h + field[..., section.plane.horizontal], v + field[..., section.plane.vertical]], axis=-1)
    length = np.linalg.norm(field, axis=-1)
    pieces, values = [], []
    for points, mm in ((moved, length), (moved.swapaxes(0, 1), length.T)):
        lines, along = points[every // 2 :: every], mm[every // 2 :: every]
        pieces.append(np.stack([lines[:, :-1], lines[:, 1:]], axis=2).reshape(-1, 2, 2))
        values.append((along[:, :-1] + along[:, 1:]).ravel() / 2)
    return list(np.concatenate(pieces)), np.concatenate(values)


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, ..., so that people can count with it."""
    return next((number for number in _ROUND if number >= value), _ROUND[-1])


def _jacobian_pictures(scene: Scene) -> List[Picture]:
    if "jacobian" not in scene.result.maps:
        return []
    jacobian = scene.result.maps["jacobian"]
    slices = [_log_jacobian(values) for values in scene.sample(jacobian, nearest=True)]
    finite = np.concatenate([s[np.isfinite(s)] for s in slices] + [np.zeros(1)])
    limit = _jacobian_limit(float(np.percentile(np.abs(finite), 99.8)))
    # Folds go below the scale; infinite values would be left blank.
    shown = [np.where(np.isneginf(s), -2 * limit, s.clip(-limit, limit)) for s in slices]
    colours = colormaps["RdBu_r"].with_extremes(bad=_GROUND, under=_FOLD)
    ticks = {part * limit: f"{math.exp(part * limit):.2g}" for part in (-1, -0.5, 0, 0.5, 1)}
    look = Look(colours, -limit, limit, "Jacobian", ticks, "min")
    caption = MAP_MEANINGS["jacobian"] + " Blue shrinks, red grows, folds are yellow."
    heat = paint(scene.sections, shown, look, _anatomy(scene), exact=True)
    return [
        Picture("jacobian", "Change of volume (Jacobian)", caption, heat),
        Picture(
            "histogram",
            "How often each change of volume occurs",
            "Jacobian where the fixed image is not background; left of 1 shrinks, right of it grows.",
            _histogram(jacobian, scene.fixed),
        ),
    ]


def _log_jacobian(values: np.ndarray) -> np.ndarray:
    """The logarithm, minus infinity for folds, NaN outside the image.

    In double precision: a single one, clipped to the end of the scale, may fall below it and pass for a fold.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values <= 0, -np.inf, np.log(values.astype(np.float64)))


def _jacobian_limit(largest: float) -> float:
    """End of the scale of log J: a factor that reads well."""
    factors = (1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 8.0)
    return math.log(next((factor for factor in factors if math.log(factor) >= largest), factors[-1]))


def _anatomy(scene: Scene) -> Overlay:
    """Thin outlines of the fixed image, to find one's way on a heat map."""
    low, high = scene.fixed_window

    def overlay(ax: Axes, section: Section) -> None:
        values = section.sample(scene.fixed, step=2 * section.pixel)
        h, v = section.coordinates(2 * section.pixel)
        values = np.nan_to_num(values, nan=low)
        ax.contour(h, v, values, [low + 0.3 * (high - low)], colors="black", linewidths=0.5, alpha=0.6)

    return overlay


def _histogram(jacobian: sitk.Image, fixed: sitk.Image) -> bytes:
    values = _inside(jacobian, fixed)
    positive, folds = values[values > 0], int((values <= 0).sum())
    limit = _jacobian_limit(float(np.abs(np.log(positive)).max(initial=0.0)))
    edges = np.linspace(-limit, limit, 100)
    counts, _ = np.histogram(np.log(positive).clip(-limit, limit), edges)
    figure = Figure(figsize=(_WIDTH, 2.6), dpi=_DPI, facecolor=_GROUND)
    ax = figure.add_axes((0.07, 0.2, 0.9, 0.72), facecolor=_GROUND)
    colours = colormaps["RdBu_r"](np.linspace(0, 1, len(counts)))
    ax.bar(edges[:-1], 100 * counts / values.size, np.diff(edges), align="edge", color=colours)
    ax.axvline(0, color=_INK, linewidth=0.8, linestyle=":")
    ticks = np.array([-1, -0.5, 0, 0.5, 1]) * limit
    ax.set_xticks(ticks, [f"{math.exp(t):.2g}" for t in ticks])
    ax.set_xlim(-limit, limit)
    ax.set_xlabel(f"Jacobian ({100 * folds / values.size:.3g} % folds)", color=_INK, fontsize=9)
    ax.set_ylabel("% of voxels", color=_INK, fontsize=9)
    ax.tick_params(colors=_INK, labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["bottom", "left"]].set_color(_INK)
    return _png(figure)


def _inside(values: sitk.Image, fixed: sitk.Image) -> np.ndarray:
    """The values of an image, on any grid, where the fixed image is not background."""
    low, high = _window(fixed)
    background = background_value(sitk.GetArrayViewFromImage(fixed))
    there = sitk.Resample(fixed, values, sitk.Transform(), sitk.sitkLinear, background, sitk.sitkFloat32)
    contrast = np.abs(sitk.GetArrayViewFromImage(there) - np.float32(background))
    inside = sitk.GetArrayViewFromImage(values)[contrast > 0.1 * (high - low)]
    return inside if inside.size else sitk.GetArrayViewFromImage(values).ravel()


def _force_pictures(scene: Scene) -> List[Picture]:
    force = scene.result.maps.get("driving_force")
    if force is None:
        return []
    slices = [np.linalg.norm(values, axis=-1) for values in scene.sample(force)]
    longest = max(float(np.nanpercentile(np.concatenate([s.ravel() for s in slices]), 99.8)), 1e-6)
    spacing = max(max(section.size) for section in scene.sections) / 26
    factor = _round_up(0.9 * spacing / longest)
    size = "at their true size" if factor == 1 else f"{factor:g} times as long as they are"

    def overlay(ax: Axes, section: Section) -> None:
        _draw_arrows(ax, section, force, spacing, factor, 0.1 * longest)

    look = Look(_blank_outside("inferno"), 0, 1.2 * longest, "mm", extend="max")
    caption = f"{MAP_MEANINGS['driving_force']} Colour: its length; arrows: its direction, {size}."
    return [Picture("driving_force", "Driving force", caption, paint(scene.sections, slices, look, overlay))]


def _draw_arrows(
    ax: Axes, section: Section, vectors: sitk.Image, spacing: float, factor: float, shortest: float
) -> None:
    """The in-plane part of vectors in mm, every ``spacing`` mm, where it is longer than ``shortest``."""
    values = section.sample(vectors, step=spacing)
    h, v = section.coordinates(spacing)
    along, up = values[..., section.plane.horizontal], values[..., section.plane.vertical]
    long = np.hypot(along, up) > shortest
    how: Dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1 / factor, "width": 0.0045}
    how.update(headwidth=3.2, headlength=3.6, headaxislength=3.2, minlength=0.6)
    ax.quiver(h[long], v[long], along[long], up[long], color="#8fe3ff", zorder=3, **how)


def _map_pictures(scene: Scene) -> List[Picture]:
    pictures = []
    for name, (title, colours) in _MAP_COLOURS.items():
        if name not in scene.result.maps:
            continue
        slices = scene.sample(scene.result.maps[name])
        every = np.concatenate([s.ravel() for s in slices])
        low, high = (float(n) for n in np.nanpercentile(every, (0.5, 99.5)))
        look = Look(_blank_outside(colours), low, high, "", extend="both")
        picture = paint(scene.sections, slices, look, _anatomy(scene))
        pictures.append(Picture(name, title, MAP_MEANINGS[name], picture))
    return pictures


def _label_pictures(scene: Scene) -> List[Picture]:
    labels = scene.result.warped_labels
    if labels is None:
        return []
    palette = colormaps["hsv"]

    def overlay(ax: Axes, section: Section) -> None:
        values = np.nan_to_num(section.sample(labels, nearest=True)).astype(int)
        colours = palette(values * _GOLDEN % 1)
        colours[..., 3] = _outlines(values)
        _show(ax, section, colours, Look(palette, 0, 1), smooth=False)

    picture = paint(scene.sections, scene.sample(scene.fixed), _dim(scene.fixed_window), overlay)
    caption = "Outlines of the moving image's structures after the deformation, on the fixed image."
    return [Picture("labels", "Warped structures", caption, picture)]


def _outlines(labels: np.ndarray) -> np.ndarray:
    """Where a structure ``(V, H)`` touches another one or the background, on its own side."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        for shift in (-1, 1):
            edge |= labels != np.roll(labels, shift, axis)
    return edge & (labels != 0)
