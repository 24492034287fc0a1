"""Labels for many targets from several atlases: each atlas registered to each target, and fused there.

The registrations are a cohort. What is fused lies in ``fused/NAME``, for each target: ``labels``, ``confidence`` and
``metrics.json``; ``fusion.csv`` has a row for each.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any, Optional

import numpy as np
import SimpleITK as sitk

from ..case import read_transform
from ..dataset import ImageFiles
from ..engine.errors import ImageError, LabelError, OptionError, RegistrationError, RegistrationWarning
from ..engine.geometry import Grid
from ..engine.images import read_image
from ..engine.metrics import dice, mean_over_labels
from ..engine.result_folder import read_metrics
from .cluster import Where
from .fusion import Fusion, FusionOptions, carried, fuse
from .ledger import Cell
from .pairs import Pair, Settings, folder_name, repeated_name, with_unique_names
from .plan import pair_of
from .products import Products, owned, write_image, write_metrics, write_table
from .provenance import how
from .run import Cohort
from .work import Outcome

FUSED, TABLE = "fused", "fusion.csv"

# Voxels around all labels that are looked at, beside what the neighbourhoods need.
_MARGIN = 2


@dataclass(frozen=True)
class Target:
    """What came of one target.

    Attributes
    ----------
    name : str
        Of the target.
    folder : Path, optional
        Of its fused labels; None if there are none.
    made : bool
        Whether they were made now, or lay there.
    atlases : tuple of str
        Those that had a vote.
    metrics : mapping
        What was measured, as in ``metrics.json``; empty without a folder.
    single : mapping of str to float
        The mean Dice of the labels of each atlas alone, as far as the target's own are known.
    sentence : str
        Why there are none, or which atlases had no vote.
    """

    name: str
    folder: Optional[Path] = None
    made: bool = False
    atlases: tuple[str, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    single: Mapping[str, float] = field(default_factory=dict)
    sentence: str = ""

    @property
    def dice(self) -> float:
        """The mean Dice of the fused labels; NaN where the target's own are not known."""
        found = self.metrics.get("mean_dice")
        return float("nan") if found is None else float(found)

    @property
    def row(self) -> dict[str, Cell]:
        """Its row in the table."""
        single = list(self.single.values())
        return {
            "name": self.name,
            "sentence": self.sentence,
            "folder": f"{FUSED}/{self.name}" if self.folder else "",
            "atlases": len(self.atlases),
            "confidence": self.metrics.get("confidence", ""),
            "dice": self.dice,
            "single_dice_mean": float(np.mean(single)) if single else float("nan"),
            "single_dice_best": max(single, default=float("nan")),
        }


class LabelFusion:
    """Targets, atlases, and the folder that holds the study of them.

    Parameters
    ----------
    targets : sequence of ImageFiles
        With names of their own; where labels are known, they are measured against.
    atlases : sequence of ImageFiles
        With label maps; one that is also a target has no vote on itself.
    settings : Settings
        How each is registered.
    folder : Path
        Of the study.
    options : FusionOptions, optional
        How labels are fused.
    where : Where
        On what it is computed.

    Attributes
    ----------
    pairs : list of Pair
        The registrations.

    Raises
    ------
    OptionError
        Two targets have one name, or there is no pair.
    ImageError
        No atlas has labels, or one of them cannot be read.
    LabelError
        The atlases have no label in common.
    """

    def __init__(
        self,
        targets: Sequence[ImageFiles],
        atlases: Sequence[ImageFiles],
        settings: Settings,
        folder: Path,
        options: Optional[FusionOptions] = None,
        where: Where = Where(),  # noqa: B008  (it is frozen)
    ) -> None:
        self.targets = [replace(target, name=folder_name(target.name)) for target in targets]
        self.atlases = with_labels(atlases)
        require_alike(self.atlases)
        self._settings, self._folder = settings, folder
        self._options, self._where = options or FusionOptions(), where
        self._plan = self._planned()
        self.pairs = [pair for each in self._plan.values() for _, pair in each]
        if twice := repeated_name(
            [Pair(target.name, pair.inputs) for target in self.targets for pair in self.pairs[:1]]
        ):
            raise OptionError(f"Two targets are called “{twice}”; a table can give them names.")
        if not self.pairs:
            raise OptionError("No atlas is left for the targets: none has a vote on itself.")
        self._ended: dict[str, Outcome] = {}

    def register(self) -> Iterator[Outcome]:
        """Register each atlas to each target, as far as it is not done, and give the outcomes as they come.

        Raises as the iteration of :class:`.run.Cohort` does.
        """
        for outcome in Cohort(self.pairs, self._settings, self._folder, self._where):
            # What is needed of it later: measures of thousands are much.
            metrics = {key: outcome.metrics[key] for key in ("verdict", "labels") if key in outcome.metrics}
            self._ended[outcome.pair.name] = replace(outcome, metrics=metrics)
            yield outcome

    def fuse(self) -> Iterator[Target]:
        """Fuse the labels on each target, as far as it is not done; after :meth:`register`.

        Raises
        ------
        StudyInUseError
            Another command works on the study.
        OutputError
            It cannot be written.
        ModelError
            The model is unknown or damaged.
        """
        made_how = {**how(self._settings), "fusion": asdict(self._options)}
        found = []
        with owned(self._folder, FUSED) as products:
            for target in self.targets:
                found.append(self._fused(target, products, made_how))
                yield found[-1]
            write_table([target.row for target in found], self._folder / TABLE)

    def _planned(self) -> dict[str, list[tuple[ImageFiles, Pair]]]:
        """For each target the atlases that are moved onto it, and the registrations."""
        chosen = [(t, a) for t in self.targets for a in self.atlases if t.image.absolute() != a.image.absolute()]
        pairs = with_unique_names(replace(pair_of(target, atlas), group=target.name) for target, atlas in chosen)
        plan: dict[str, list[tuple[ImageFiles, Pair]]] = {target.name: [] for target in self.targets}
        for (target, atlas), pair in zip(chosen, pairs):
            plan[target.name].append((atlas, pair))
        return plan

    def _fused(self, target: ImageFiles, products: Products, made_how: Mapping[str, Any]) -> Target:
        voters, sentence = self._voters(target)
        single = {atlas.name: value for atlas, outcome in voters if (value := _dice_of(outcome)) is not None}
        if not voters:
            return Target(target.name, sentence=sentence)
        names = tuple(atlas.name for atlas, _ in voters)
        inputs = {"target": str(target.image.absolute())}
        if target.labels is not None:
            inputs["label map of the target"] = str(target.labels.absolute())
        for atlas, outcome in voters:
            inputs[f"image of {atlas.name}"] = str(outcome.pair.inputs.moving)
            inputs[f"label map of {atlas.name}"] = str(outcome.pair.inputs.labels)
        try:
            folder, made = products.get(
                target.name,
                inputs,
                {**made_how, "atlases": list(names)},
                lambda folder: self._write(target, voters, folder),
            )
        except ImageError as error:
            return Target(target.name, sentence=str(error))
        return Target(target.name, folder, made, names, read_metrics(folder), single, sentence)

    def _voters(self, target: ImageFiles) -> tuple[list[tuple[ImageFiles, Outcome]], str]:
        """The atlases that could be brought onto a target, with their registrations, and a sentence on the others."""
        ended = [(atlas, self._ended[pair.name]) for atlas, pair in self._plan[target.name]]
        there = [(atlas, outcome) for atlas, outcome in ended if outcome.folder is not None]
        voters = [(atlas, outcome) for atlas, outcome in there if outcome.verdict != "fail"] or there
        out = [atlas.name for atlas, _ in ended if atlas.name not in {voter.name for voter, _ in voters}]
        if not voters:
            return [], f"None of its {len(ended)} atlases could be registered to it."
        return voters, f"Without a vote, for want of a good registration: {', '.join(out)}." if out else ""

    def _write(self, target: ImageFiles, voters: Sequence[tuple[ImageFiles, Outcome]], folder: Path) -> None:
        image = read_image(target.image)
        fused = fuse_outcomes(image, [outcome for _, outcome in voters], self._settings.extension, self._options)
        write_image(fused.labels, folder / f"labels{self._settings.extension}")
        write_image(fused.confidence, folder / f"confidence{self._settings.extension}")
        known = None if target.labels is None else read_image(target.labels)
        shares = dict(zip((atlas.name for atlas, _ in voters), fused.shares))
        write_metrics({**_measured(fused, known), "shares": shares, "fusion": asdict(self._options)}, folder)


def fuse_outcomes(
    target: sitk.Image, outcomes: Sequence[Outcome], extension: str = ".nii.gz", options: Optional[FusionOptions] = None
) -> Fusion:
    """Fuse the labels of atlases that have been registered to a target, near where any of them has one.

    Parameters
    ----------
    target : sitk.Image
        The scalar volume that gets labels.
    outcomes : sequence of Outcome
        With results, of pairs whose moving image has a label map.
    extension : str
        Of the images in the results.
    options : FusionOptions, optional
        How.

    Raises
    ------
    ImageError
        A file cannot be read, or does not fit the target.
    """
    options = options or FusionOptions()
    folders = [outcome.folder for outcome in outcomes if outcome.folder is not None]
    near = _near([read_image(folder / f"warped_labels{extension}") for folder in folders], _MARGIN + options.radius)
    part = target[near]
    images = [read_image(folder / f"warped{extension}")[near] for folder in folders]
    labels = []
    for outcome, folder in zip(outcomes, folders):
        drawn = read_image(str(outcome.pair.inputs.labels))
        labels += carried(drawn, part, read_transform(folder / "transform.h5"))
    found = fuse(part, images, labels, options)
    return replace(
        found,
        labels=_pasted(found.labels, target, near, 0),
        confidence=_pasted(found.confidence, target, near, 1),
    )


def _near(maps: Sequence[sitk.Image], margin: int) -> tuple[slice, slice, slice]:
    """The box around all labels of some maps and a margin; the whole volume if there is no label."""
    some = reduce(np.logical_or, (sitk.GetArrayViewFromImage(one) != 0 for one in maps))
    index = [np.flatnonzero(some.any(axis=tuple({0, 1, 2} - {axis}))) for axis in (2, 1, 0)]
    if not index[0].size:
        return slice(None), slice(None), slice(None)
    i, j, k = (slice(max(0, int(at[0]) - margin), int(at[-1]) + margin + 1) for at in index)
    return i, j, k


def _pasted(part: sitk.Image, target: sitk.Image, near: tuple[slice, slice, slice], outside: float) -> sitk.Image:
    """A part of a target's volume, with one value around it."""
    whole = np.full(Grid.of(target).shape, outside, sitk.GetArrayViewFromImage(part).dtype)
    whole[near[::-1]] = sitk.GetArrayViewFromImage(part)
    return Grid.of(target).place(sitk.GetImageFromArray(whole))


def _measured(fused: Fusion, known: Optional[sitk.Image]) -> dict[str, Any]:
    """The mean confidence and the volume of each structure, and the overlap with known labels."""
    labels, confidence = (sitk.GetArrayViewFromImage(one) for one in (fused.labels, fused.confidence))
    names, counts = np.unique(labels[labels != 0], return_counts=True)
    voxel = float(np.prod(fused.labels.GetSpacing()))
    measured: dict[str, Any] = {
        "confidence": float(confidence[labels != 0].mean()) if names.size else float("nan"),
        "volume_mm3": {int(name): float(count * voxel) for name, count in zip(names, counts)},
    }
    if known is not None:
        overlap = dice(known, fused.labels)
        measured.update(mean_dice=mean_over_labels(overlap), dice=overlap)
    return measured


def _dice_of(outcome: Outcome) -> Optional[float]:
    """The mean Dice of an atlas alone."""
    found: Optional[float] = outcome.metrics.get("labels", {}).get("after", {}).get("mean_dice")
    return found


def best_single(targets: Sequence[Target]) -> tuple[str, float]:
    """The atlas whose labels alone overlap most, averaged over the targets, and that average; NaN if none is known."""
    values: dict[str, list[float]] = {}
    for target in targets:
        for name, value in target.single.items():
            values.setdefault(name, []).append(value)
    means = {name: float(np.mean(found)) for name, found in values.items()}
    best = max(means, key=means.__getitem__, default="")
    return best, means.get(best, float("nan"))


# The atlases


def with_labels(atlases: Sequence[ImageFiles]) -> list[ImageFiles]:
    """The atlases that have a label map; a warning if some lack it, ImageError if all do."""
    found = [atlas for atlas in atlases if atlas.labels is not None]
    if not found:
        raise ImageError(f"None of the {len(atlases)} atlases has a label map, so there is nothing to fuse.")
    if len(found) < len(atlases):
        lacking = ", ".join(atlas.name for atlas in atlases if atlas.labels is None)
        warnings.warn(f"Atlases without a label map are left out: {lacking}.", RegistrationWarning, stacklevel=2)
    return found


def require_alike(atlases: Sequence[ImageFiles]) -> None:
    """Raise LabelError if atlases have no label in common; warn if only some have one."""
    held = {atlas.name: _labels_in(atlas) for atlas in atlases}
    common, every = frozenset.intersection(*held.values()), frozenset.union(*held.values())
    if not common:
        (one, first), (other, second) = _furthest(held)
        raise LabelError(
            f"The atlases have no label in common: {one} has {_listed(first)}, {other} has {_listed(second)}."
        )
    if every != common:
        some = _listed(every - common)
        sentence = f"Not every atlas has the labels {some}: where they lie, one that lacks them votes against them."
        warnings.warn(sentence, RegistrationWarning, stacklevel=2)


def _furthest(held: Mapping[str, frozenset[int]]) -> tuple[tuple[str, frozenset[int]], tuple[str, frozenset[int]]]:
    """The first atlas, and the one that has least in common with it."""
    first, *others = held.items()
    return first, min(others, key=lambda other: len(other[1] & first[1]), default=first)


def _labels_in(atlas: ImageFiles) -> frozenset[int]:
    try:
        values = np.unique(sitk.GetArrayFromImage(read_image(str(atlas.labels))))
    except RegistrationError as error:
        raise ImageError(f"The label map of the atlas {atlas.name} cannot be used: {error}") from error
    return frozenset(int(value) for value in values if value != 0)


def _listed(labels: frozenset[int]) -> str:
    shown = sorted(labels)
    rest = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    return f"{', '.join(map(str, shown[:8]))}{rest}" if shown else "none"
