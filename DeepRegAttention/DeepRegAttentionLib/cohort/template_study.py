"""The template of a cohort as a study: each turn's registrations are a cohort, and what came of a turn is kept.

``turns/N`` holds what came of turn N: ``template``, ``labels`` and ``votes``, ``metrics.json``, and for each subject
``NAME.h5``, from template to subject points. ``registrations/N`` is the cohort behind it, which may be deleted. Beside
them lie the images of the last turn, ``template.csv`` with a row for each turn, and ``template.json``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar, overload

import numpy as np
import SimpleITK as sitk

from ..case import read_transform, read_volume
from ..dataset import ImageFiles
from ..engine.errors import ImageError, OptionError
from ..engine.geometry import Grid
from ..engine.images import read_image
from ..engine.metrics import dice, mean_over_labels, require_labels
from ..engine.resampling import warp_image
from ..engine.result_folder import read_metrics
from ..terms.inputs import Inputs
from .cluster import Where
from .mean_shape import Parts, inverse
from .pairs import Pair, Settings, folder_name
from .plan import pair_of
from .products import Products, owned, writable, write_image, write_metrics, write_table, write_transforms
from .provenance import how
from .run import Cohort
from .sharpness import foreground, sharpness
from .study import PAIRS
from .template import (
    FEWEST,
    TemplateOptions,
    Transforms,
    Turn,
    build_template,
    finished,
    median_extent,
    vote_labels,
)
from .work import Outcome, align_pair, register_pair

TURNS, REGISTRATIONS, PAIRWISE = "turns", "registrations", "pairwise"
TABLE, SUMMARY = "template.csv", "template.json"
IMAGES = ("template", "labels", "votes")

# So many pairs of subjects at most are compared, spread over the cohort.
_COMPARED = 20

Follow = Callable[[Iterable[Outcome], int, str], Iterable[Outcome]]
"""Passes outcomes on as they come, and may show them: given how many there will be, and what they belong to."""

T = TypeVar("T")


class Read(Sequence[T]):
    """A sequence that reads each of its members from a file when it is asked for it; None where there is no file."""

    def __init__(self, paths: Sequence[Optional[Path]], read: Callable[[Path], T]) -> None:
        self._paths, self._read = paths, read

    def __len__(self) -> int:
        """How many there are, those without a file included."""
        return len(self._paths)

    @overload
    def __getitem__(self, number: int) -> T: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[T]: ...

    def __getitem__(self, number: Any) -> Any:
        """One of them, read now."""
        if isinstance(number, slice):
            return Read(self._paths[number], self._read)
        path = self._paths[number]
        return None if path is None else self._read(path)


@dataclass(frozen=True)
class TurnSummary:
    """What came of one turn.

    Attributes
    ----------
    number : int
        0 is the linear average.
    folder : Path
        Where it lies.
    made : bool
        Whether it was made now, or lay there.
    metrics : mapping
        As in its ``metrics.json``.
    """

    number: int
    folder: Path
    made: bool
    metrics: Mapping[str, Any]


@dataclass
class TemplateStudy:
    """Images, how a template is made of them, and the folder that holds the study of it.

    Attributes
    ----------
    images : sequence of ImageFiles
        At least three, with names of their own; label maps, where there are, become the atlas.
    settings : Settings
        How each is registered to the template.
    folder : Path
        Of the study.
    options : TemplateOptions
        How the template is made; its registration is that of the settings.
    where : Where
        On what it is computed.
    follow : callable
        Sees the outcomes of registrations pass.
    left_out : mapping of str to str
        Images that cannot be used, and why; known once it has begun.

    Raises
    ------
    ImageError
        There are fewer than three images.
    OptionError
        Two have one name.
    """

    images: Sequence[ImageFiles]
    settings: Settings
    folder: Path
    options: TemplateOptions = field(default_factory=TemplateOptions)
    where: Where = Where()  # noqa: RUF009  (it is frozen)
    follow: Follow = lambda outcomes, count, what: outcomes
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = replace(self.settings, options=replace(self.settings.options, maps=False))
        if len(self.images) < FEWEST:
            raise ImageError(f"A template needs at least {FEWEST} images; there are {len(self.images)}.")
        names = [folder_name(image.name).lower() for image in self.images]
        if len(set(names)) < len(names):
            raise OptionError("Two images of the cohort have one name; a table can give them names.")

    def run(self) -> Iterator[TurnSummary]:
        """Do what is missing, and give each turn as it is complete; those that are kept come first.

        Whoever stops asking stops it: what is complete stays, also single registrations, and the next time it goes on.

        Raises
        ------
        ImageError
            There are fewer than three images, or fewer than three can be used.
        StudyInUseError
            Another command works on the study.
        OutputError
            It cannot be written, or the disk is full.
        ModelError, OptionError, ClusterError
            As for :class:`.run.Cohort`.
        """
        with owned(self.folder, TURNS) as products:
            usable = self._usable()
            turns = []
            for turn in self._turns(usable, products):
                turns.append(turn)
                yield turn
            self._publish(turns)
            self._summarise(turns[-1], self._pairwise(usable))

    def last(self) -> Turn:
        """The last turn, after :meth:`run`."""
        summary = json.loads((self.folder / SUMMARY).read_text(encoding="utf-8"))
        return self._read_turn(self.folder / TURNS / str(summary["turns"]), self._usable())

    def _usable(self) -> list[ImageFiles]:
        """The images that can be read, and why others cannot; reads all."""
        found = []
        for image in self.images:
            try:
                volume = read_volume(image.image, f"image {image.name}")
                if image.labels is not None:
                    require_labels(read_image(image.labels), volume)
                found.append(image)
            except ImageError as error:
                self.left_out[image.name] = str(error)
        if len(found) < FEWEST:
            why = "".join(f" {sentence}" for sentence in self.left_out.values())
            raise ImageError(f"A template needs at least {FEWEST} images; there are {len(found)}.{why}")
        return found

    # Turns

    def _turns(self, subjects: Sequence[ImageFiles], products: Products) -> Iterator[TurnSummary]:
        inputs = {f"image of {one.name}": str(one.image.absolute()) for one in subjects}
        inputs.update({f"label map of {one.name}": str(one.labels.absolute()) for one in subjects if one.labels})
        inputs.update({f"mask of {one.name}": str(one.mask.absolute()) for one in subjects if one.mask})
        made = {"sharpening": self.options.sharpening, "spacing": self.options.spacing}
        made_how = {**how(self.settings), "template": made}
        last: Optional[Turn] = None
        for number in range(self.options.turns + 1):
            make = _Maker(self, subjects, number, last)
            folder, new = products.get(str(number), inputs, made_how, make)
            # Always from the files, so that it is the same whether it was made now or earlier.
            last = self._read_turn(folder, subjects)
            yield TurnSummary(number, folder, new, read_metrics(folder))
            if finished(last, self.options):
                return

    def _read_turn(self, folder: Path, subjects: Sequence[ImageFiles]) -> Turn:
        metrics = read_metrics(folder)
        paths = [path if (path := _of_subject(folder, one)).is_file() else None for one in subjects]
        average = read_image(folder / f"template{self.settings.extension}")
        moved, shift = metrics["moved_mm"], metrics["shift_mm"]
        return Turn(metrics["turn"], average, Read(paths, read_transform), moved, shift)

    def register(
        self, subjects: Sequence[ImageFiles], name: str, template: sitk.Image, starts: Transforms, linear: bool
    ) -> list[Optional[Path]]:
        """Register subjects to a template, as a cohort of that name; the files of the transforms that there are."""
        folder = self.folder / REGISTRATIONS / name
        target = folder / f"template{self.settings.extension}"
        with writable(folder):
            (folder / "starts").mkdir(parents=True, exist_ok=True)
        write_image(template, target)
        pairs = [
            _to_template(one, target, _written(start, folder / "starts" / f"{folder_name(one.name)}.tfm"))
            for one, start in zip(subjects, starts)
        ]
        work = align_pair if linear else register_pair
        outcomes = self.follow(Cohort(pairs, self.settings, folder, self.where, work), len(pairs), _called(name))
        verdicts = {outcome.pair.name: outcome.verdict for outcome in outcomes if outcome.folder is not None}
        good = {name for name, verdict in verdicts.items() if verdict != "fail"}
        # To a template that is still blurred, all may look as if they had failed.
        used = good if len(good) >= FEWEST else set(verdicts)
        return [folder / PAIRS / pair.name / "transform.h5" if pair.name in used else None for pair in pairs]

    # The end

    def _pairwise(self, subjects: Sequence[ImageFiles]) -> list[float]:
        """The overlap of some of the subjects, each registered to the next, as the turns are measured through them."""
        pairs = [pair_of(subjects[a], subjects[b]) for a, b in compared(subjects)]
        if not pairs:
            return []
        cohort = Cohort(pairs, self.settings, self.folder / REGISTRATIONS / PAIRWISE, self.where)
        outcomes = self.follow(cohort, len(pairs), _called(PAIRWISE))
        found = (o.metrics.get("labels", {}).get("after", {}).get("mean_dice") for o in outcomes)
        return [value for value in found if value is not None]

    def _publish(self, turns: Sequence[TurnSummary]) -> None:
        """The images of the last turn and the table, each in one step."""
        last = turns[-1]
        with writable(self.folder):
            for name in IMAGES:
                file = f"{name}{self.settings.extension}"
                (self.folder / file).unlink(missing_ok=True)
                if (last.folder / file).exists():
                    shutil.copyfile(last.folder / file, self.folder / f".{file}")
                    (self.folder / f".{file}").replace(self.folder / file)
        write_table([_row(turn) for turn in turns], self.folder / TABLE)

    def _summarise(self, last: TurnSummary, pairwise: Sequence[float]) -> None:
        summary = {
            **{key: value for key, value in last.metrics.items() if key != "turn"},
            "turns": last.number,
            "not_used": self.left_out,
            "dice_pairwise": float(np.mean(pairwise)) if pairwise else None,
            "pairs_compared": len(pairwise),
        }
        with writable(self.folder / SUMMARY):
            (self.folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


class _Maker:
    """Makes one turn into a folder."""

    def __init__(self, study: TemplateStudy, subjects: Sequence[ImageFiles], number: int, last: Optional[Turn]) -> None:
        self._study, self._subjects, self._number, self._last = study, subjects, number, last
        self._linear = 0

    def __call__(self, folder: Path) -> None:
        study, subjects = self._study, self._subjects
        images = Read([one.image for one in subjects], read_image)
        # Once one of this turn is there, no other is made.
        options = replace(study.options, turns=max(1, self._number))
        turn = next(
            build_template(
                images,
                options,
                self._register,
                last=self._last,
                start=images[median_extent(images)] if self._last is None else None,
                keep=lambda transforms: self._kept(transforms, folder),
            )
        )
        if self._number == 0:
            self._kept(turn.transforms, folder)
        extension = study.settings.extension
        write_image(turn.average, folder / f"template{extension}")
        there = [one for one in subjects if _of_subject(folder, one).is_file()]
        metrics = {
            "turn": turn.number,
            "subjects": [one.name for one in there],
            "left_out": [one.name for one in subjects if one not in there],
            "moved_mm": turn.moved_mm,
            "shift_mm": turn.shift_mm,
            **sharpness(turn.average, self._foreground(turn)),
            **self._atlas(turn, folder),
        }
        write_metrics(metrics, folder)

    def _register(self, template: sitk.Image, starts: Transforms, linear: bool) -> Transforms:
        self._linear += linear
        name = f"linear-{self._linear}" if linear else str(self._number)
        return Read(self._study.register(self._subjects, name, template, starts, linear), read_transform)

    def _kept(self, transforms: Iterable[Optional[sitk.Transform]], folder: Path) -> Transforms:
        for one, transform in zip(self._subjects, transforms):
            if transform is not None:
                write_transforms({folder_name(one.name): transform}, folder)
        paths = [_of_subject(folder, one) for one in self._subjects]
        return Read([path if path.is_file() else None for path in paths], read_transform)

    def _foreground(self, turn: Turn) -> np.ndarray:
        """That of the linear average, the same for all turns."""
        first = turn.average
        if self._number > 0:
            folder = self._study.folder / TURNS / "0"
            first = read_image(folder / f"template{self._study.settings.extension}")
        return foreground(sitk.GetArrayFromImage(first))

    def _atlas(self, turn: Turn, folder: Path) -> dict[str, Any]:
        """The atlas of labels, and how the subjects overlap through the template; nothing without labels."""
        transforms = Read([path if (path := _of_subject(folder, one)).is_file() else None for one in self._subjects],
                          read_transform)  # fmt: skip
        labels = Read([one.labels for one in self._subjects], read_image)
        if not any(one.labels is not None and through is not None for one, through in zip(self._subjects, transforms)):
            return {}
        voted, share = vote_labels(labels, transforms, Grid.of(turn.average))
        extension = self._study.settings.extension
        write_image(voted, folder / f"labels{extension}")
        write_image(share, folder / f"votes{extension}")
        inside = sitk.GetArrayFromImage(voted) != 0
        found = [
            value
            for a, b in compared(self._subjects)
            if (value := through_template(labels[a], labels[b], transforms[a], transforms[b])) is not None
        ]
        return {
            "votes": float(sitk.GetArrayFromImage(share)[inside].mean()) if inside.any() else None,
            "dice_through": float(np.mean(found)) if found else None,
        }


def through_template(
    fixed_labels: sitk.Image,
    moving_labels: sitk.Image,
    to_fixed: Optional[sitk.Transform],
    to_moving: Optional[sitk.Transform],
) -> Optional[float]:
    """The mean Dice of two subjects, one carried to the other through their template; None without a transform.

    Parameters
    ----------
    fixed_labels, moving_labels : sitk.Image
        On the grids of their images.
    to_fixed, to_moving : sitk.Transform
        From template points to those of each, LPS mm.
    """
    if to_fixed is None or to_moving is None:
        return None
    grid = Parts.of(to_fixed).field_grid() or Grid.of(fixed_labels)
    way = sitk.CompositeTransform([to_moving, inverse(to_fixed, grid)])
    return mean_over_labels(dice(fixed_labels, warp_image(moving_labels, fixed_labels, way, nearest=True)))


def compared(subjects: Sequence[ImageFiles]) -> list[tuple[int, int]]:
    """Which subjects are compared, (fixed, moving): each with the next that has labels, spread over the cohort."""
    drawn = [number for number, one in enumerate(subjects) if one.labels is not None]
    ring = list(zip(drawn, drawn[1:] + drawn[:1])) if len(drawn) > 1 else []
    count = min(len(ring), _COMPARED)
    return [ring[n * len(ring) // count] for n in range(count)]


def _to_template(subject: ImageFiles, template: Path, start: Optional[Path]) -> Pair:
    inputs = Inputs(
        fixed=str(template.absolute()),
        moving=str(subject.image.absolute()),
        moving_mask=None if subject.mask is None else str(subject.mask.absolute()),
        initial_transform=None if start is None else str(start.absolute()),
    )
    return Pair(folder_name(subject.name), inputs, subject.group)


def _written(start: Optional[sitk.Transform], path: Path) -> Optional[Path]:
    """A linear transform as text, which is the same each time that it is written."""
    path.unlink(missing_ok=True)
    if start is None:
        return None
    with writable(path):
        sitk.WriteTransform(start, str(path))
    return path


def _of_subject(folder: Path, subject: ImageFiles) -> Path:
    return folder / f"{folder_name(subject.name)}.h5"


def _called(name: str) -> str:
    called = {"linear-1": "aligned", "linear-2": "aligned again", PAIRWISE: "registered directly"}
    return called.get(name, f"registered in turn {name}")


def _row(turn: TurnSummary) -> dict[str, Any]:
    """The row of a turn in the table."""
    columns = ("moved_mm", "shift_mm", "gradient_per_mm", "entropy", "votes", "dice_through")
    numbers = {name: "" if (value := turn.metrics.get(name)) is None else value for name in columns}
    return {"turn": turn.number, "subjects": len(turn.metrics["subjects"]), **numbers}
