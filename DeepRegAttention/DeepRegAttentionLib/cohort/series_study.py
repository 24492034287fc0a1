"""A series of one subject as a study: its frames registered as a cohort, and brought into one space.

``series/frames`` are the frames of a file that holds several; ``pairs`` their registrations, ``template`` the study of
their template where they are brought to it. What came of it lies in ``series/aligned``: the ``aligned`` series, its
mean before and after, the transforms ``NNN.h5`` from the common space to each frame and back, and ``metrics.json``;
``series.csv`` has a row for each frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

import numpy as np
import SimpleITK as sitk

from ..case import read_transform
from ..dataset import ImageFiles
from ..engine.errors import DimensionError, LabelError, RegistrationError
from ..engine.geometry import Grid
from ..engine.metrics import dice, mean_over_labels, require_labels
from ..engine.resampling import sample_image, warp_image
from ..engine.result_folder import read_metrics
from ..terms.inputs import Inputs
from .cluster import Where
from .frames import SEQUENCE_ENDING, Series, read_frames, read_series, write_series
from .ledger import Cell
from .pairs import Pair, Settings
from .products import owned, write_image, write_metrics, write_table, write_transforms, writing
from .provenance import how
from .run import Cohort
from .series import Alignment, Link, SeriesOptions, align_series, planned
from .template import FEWEST, TemplateOptions, Turn
from .template_study import Follow, TemplateStudy
from .work import Outcome

KIND, FRAMES, RESULT, TEMPLATE, TABLE = "series", "frames", "aligned", "template", "series.csv"


@dataclass
class SeriesStudy:
    """The frames of one subject, how they are brought together, and the folder that holds the study of them.

    Attributes
    ----------
    files : sequence of Path
        One file that holds several volumes, or one for each.
    settings : Settings
        How each is registered.
    folder : Path
        Of the study.
    options : SeriesOptions
        To what they are brought.
    labels : sequence of Path
        Likewise of label maps; none, or as many frames as there are images. A map without labels counts for nothing.
    where : Where
        On what it is computed.
    follow : callable
        Sees the outcomes of registrations pass.
    """

    files: Sequence[Path]
    settings: Settings
    folder: Path
    options: SeriesOptions = field(default_factory=SeriesOptions)
    labels: Sequence[Path] = ()
    where: Where = Where()  # noqa: RUF009  (it is frozen)
    follow: Follow = lambda outcomes, count, what: outcomes

    def __post_init__(self) -> None:
        self.settings = replace(self.settings, options=replace(self.settings.options, maps=False))

    def run(self) -> tuple[dict[str, Any], bool]:
        """Do what is missing; what was measured, and whether it was made now.

        Raises
        ------
        DimensionError
            There are fewer than two frames, or one is no scalar volume.
        ImageError
            One of its kinds: a file cannot be used.
        OptionError
            There is no such reference frame.
        RegistrationError
            A frame could not be registered.
        StudyInUseError, OutputError, ModelError, ClusterError
            As for :class:`.run.Cohort`.
        """
        series = read_series(self.files)
        labels = self._labels(series)
        ways = planned(len(series.frames), self.options)
        paths = self._frame_files(series)
        links = self._register(paths, ways)
        turn = self._template(paths) if self.options.to == "template" else None
        inputs = {f"frame {number}": str(path.absolute()) for number, path in enumerate(paths)}
        inputs.update({f"label map {number}": str(path.absolute()) for number, path in enumerate(self.labels)})
        made_how = {**how(self.settings), "series": asdict(self.options), "sequence": self._sequence()}
        with owned(self.folder, KIND) as products:
            folder, made = products.get(
                RESULT, inputs, made_how, lambda folder: self._write(series, labels, links, turn, folder)
            )
        metrics = read_metrics(folder)
        write_table([_row(number, measures) for number, measures in enumerate(metrics["frames"])], self.folder / TABLE)
        return metrics, made

    def _sequence(self) -> bool:
        """Whether a sequence of 3D Slicer came, so that one is written."""
        return len(self.files) == 1 and self.files[0].name.endswith(SEQUENCE_ENDING)

    def _labels(self, series: Series) -> tuple[Optional[sitk.Image], ...]:
        """The label map of each frame; None for one without labels."""
        if not self.labels:
            return (None,) * len(series.frames)
        found = read_frames(self.labels).frames
        if len(found) != len(series.frames):
            raise LabelError(f"There are {len(series.frames)} frames, but {len(found)} label maps.")
        for image, drawn in zip(series.frames, found):
            require_labels(drawn, image)
        return tuple(drawn if sitk.GetArrayFromImage(drawn).any() else None for drawn in found)

    def _frame_files(self, series: Series) -> list[Path]:
        """A file for each frame: those that were given, or the volumes of the one that was."""
        if len(self.files) > 1:
            return list(self.files)
        names = [f"{_named(number)}{self.settings.extension}" for number in range(len(series.frames))]

        def write(folder: Path) -> None:
            for frame, name in zip(series.frames, names):
                write_image(frame, folder / name)

        with owned(self.folder, KIND) as products:
            inputs = {"series": str(self.files[0].absolute())}
            folder, _ = products.get(FRAMES, inputs, {"extension": self.settings.extension}, write)
        return [folder / name for name in names]

    def _register(self, paths: Sequence[Path], ways: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Link]:
        """The registrations (fixed, moving) that are needed; RegistrationError if one of them failed."""
        if not ways:
            return {}
        pairs = [
            Pair(f"{_named(b)}_to_{_named(a)}", Inputs(str(paths[a].absolute()), str(paths[b].absolute())))
            for a, b in ways
        ]
        cohort = Cohort(pairs, self.settings, self.folder, self.where)
        folders = {outcome.pair.name: _folder_of(outcome) for outcome in self.follow(cohort, len(pairs), "frames")}
        return {way: _link(folders[pair.name]) for way, pair in zip(ways, pairs)}

    def _template(self, paths: Sequence[Path]) -> Turn:
        if len(paths) < FEWEST:
            raise DimensionError(f"A template needs at least {FEWEST} frames; there are {len(paths)}.")
        images = [ImageFiles(_named(number), path) for number, path in enumerate(paths)]
        options = TemplateOptions(self.settings.options)
        study = TemplateStudy(images, self.settings, self.folder / TEMPLATE, options, self.where, follow=self.follow)
        for _ in study.run():
            pass
        return study.last()

    def _write(
        self,
        series: Series,
        labels: Sequence[Optional[sitk.Image]],
        links: Mapping[tuple[int, int], Link],
        template: Optional[Turn],
        folder: Path,
    ) -> None:
        found = align_series(series.frames, self.options, lambda ways: [links[way] for way in ways], template)
        aligned = replace(series, frames=_of_one_type(found.warped))
        ending = SEQUENCE_ENDING if self._sequence() else self.settings.extension
        with writing(folder / f"aligned{ending}"):
            write_series(aligned, folder / f"aligned{ending}")
        for name, mean in _means(series.frames, found).items():
            write_image(mean, folder / f"{name}{self.settings.extension}")
        write_transforms({_named(n): link.forth for n, link in enumerate(found.links)}, folder)
        write_transforms({f"{_named(n)}_inverse": link.back for n, link in enumerate(found.links)}, folder)
        measures = [{**one, **extra} for one, extra in zip(found.measures, _overlaps(labels, found, self.options))]
        write_metrics({"to": self.options.to, "reference": self.options.reference, "frames": measures}, folder)


def _named(number: int) -> str:
    return f"{number:03}"


def _folder_of(outcome: Outcome) -> Path:
    if outcome.folder is None:
        raise RegistrationError(f"Frames could not be registered ({outcome.pair.name}): {outcome.sentence}")
    return outcome.folder


def _link(folder: Path) -> Link:
    return Link(read_transform(folder / "transform.h5"), read_transform(folder / "inverse_transform.h5"))


def _of_one_type(frames: Sequence[sitk.Image]) -> tuple[sitk.Image, ...]:
    """Frames that a single file can hold."""
    if len({frame.GetPixelID() for frame in frames}) == 1:
        return tuple(frames)
    return tuple(sitk.Cast(frame, sitk.sitkFloat32) for frame in frames)


def _means(frames: Sequence[sitk.Image], found: Alignment) -> dict[str, sitk.Image]:
    """The mean of the frames on the common grid, as they were and in one space; float32."""
    grid = Grid.of(found.common)
    before = np.mean([sample_image(frame, grid, None) for frame in frames], axis=0)
    after = np.mean([sitk.GetArrayFromImage(frame).astype(np.float32) for frame in found.warped], axis=0)
    arrays = {"mean_before": before, "mean_after": after}
    return {name: grid.place(sitk.GetImageFromArray(values.astype(np.float32))) for name, values in arrays.items()}


def _overlaps(labels: Sequence[Optional[sitk.Image]], found: Alignment, options: SeriesOptions) -> list[dict[str, Any]]:
    """The overlap of each frame's labels with those of the reference frame, or of the next in the template's space."""
    ways = [link.forth for link in found.links]
    drawn = {number: one for number, one in enumerate(labels) if one is not None}
    here: list[dict[str, Any]] = [{} for _ in labels]
    for number, following in zip(drawn, [*list(drawn)[1:], *list(drawn)[:1]]):
        other = following if options.to == "template" else options.reference
        if other == number or other not in drawn:
            continue
        for name, moved in (("dice_before", False), ("dice_after", True)):
            pair = [
                warp_image(drawn[n], found.common, ways[n] if moved else sitk.Transform(3, sitk.sitkIdentity), True)
                for n in (other, number)
            ]
            here[number][name] = mean_over_labels(dice(*pair))
    return here


def _row(number: int, measures: Mapping[str, Any]) -> dict[str, Cell]:
    """The row of a frame in the table."""
    row: dict[str, Cell] = {"frame": number}
    for name, value in measures.items():
        if isinstance(value, Mapping):
            row.update({f"{name.replace('_mm', '')}_{key}_mm": _cell(item) for key, item in value.items()})
        else:
            row[name] = _cell(value)
    return row


def _cell(value: Any) -> Cell:
    return "" if value is None else float(value)
