"""``deepreg-attention fuse``: labels for images, from several atlases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.progress import track

from ..engine.errors import OptionError, UnreadableFileError
from . import arguments as a
from .cohort import Cluster, Images, Scheduler, Study, Workers, show_progress
from .console import ReadableErrors, messages, readable_warnings, results, say

if TYPE_CHECKING:
    from ..cohort.atlases import Target
    from ..dataset import ImageFiles

_LABELS = "Labels"

Targets = Annotated[
    list[Path],
    typer.Argument(
        metavar="TARGET",
        help="Images that get labels: files, a table of images (.csv), a BIDS folder, or one that holds images/.",
    ),
]
Atlases = Annotated[
    Path,
    typer.Option(
        help="Images with label maps: a table (name, image, labels), a BIDS folder, or one that holds images/ and "
        "labels/. One that is also a target has no vote on itself.",
        rich_help_panel=_LABELS,
    ),
]
KnownLabels = Annotated[
    Optional[Path],
    typer.Option("--fixed-labels", help="Known label map of the one target, to measure.", rich_help_panel=_LABELS),
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        help="How votes count: local (by the likeness of each atlas to the target around a voxel), joint (also by how "
        "far others err alike), majority (all the same).",
        rich_help_panel=_LABELS,
    ),
]


@ReadableErrors()
def fuse(
    context: typer.Context,
    targets: Targets,
    atlases: Atlases,
    output: Study,
    method: Method = "local",
    fixed_labels: KnownLabels = None,
    images: Images = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    cluster: Cluster = None,
    preset: a.Preset = None,
    model: a.Model = None,
    accepted_licences: a.AcceptLicence = None,
    prealign: a.Prealign = None,
    refine: a.Refine = None,
    similarity: a.Similarity = None,
    regularization: a.Regularization = None,
    spacing: a.Spacing = None,
    format: a.Format = "nii.gz",
    device: a.Device = None,
    precision: a.Precision = None,
    threads: a.Threads = None,
) -> None:
    """Give images the labels of several atlases: register each atlas to each target, and let all vote at each voxel.

    Writes the labels and how sure they are for each target, and tables of both (needs the extra “cohort”). What is
    complete is never done twice: start the same command again to go on, or to add what has changed.
    """
    from ..cohort.cluster import Where, require_dask
    from ..cohort.pairs import Settings
    from .settings import file_extension, options_of

    require_dask()
    settings = Settings(replace(options_of(context), maps=False), file_extension(format))
    with readable_warnings():
        from ..cohort.atlases import TABLE, LabelFusion
        from ..cohort.fusion import FusionOptions
        from ..cohort.source import find_images

        how = FusionOptions(method)
        found = find_targets(targets, images, fixed_labels)
        of_atlases = find_images(atlases, images if _is_bids(atlases) else None)
        study = LabelFusion(found, of_atlases, settings, output, how, Where(scheduler, cluster, workers))
    for _ in show_progress(study.register(), len(study.pairs)):
        pass
    fusing = track(
        study.fuse(), "fusing", len(found), console=messages, transient=True, disable=not messages.is_terminal
    )
    fused = [_said(target) for target in fusing]
    _show(fused)
    say("table", str((output / TABLE).resolve()), "bold", results)


def find_targets(paths: Sequence[Path], pattern: Optional[str], labels: Optional[Path]) -> list[ImageFiles]:
    """The images of files, tables and folders.

    Raises
    ------
    OptionError
        Labels are given, and there are several images, or they have their own.
    ImageError
        There are none, or a table cannot be read.
    """
    from ..cohort.source import find_images
    from ..dataset import ImageFiles

    found: list[ImageFiles] = []
    for path in paths:
        if not path.exists():
            raise UnreadableFileError(f"{path} does not exist.")
        if path.suffix.lower() == ".csv" or (path / "images").is_dir() or _is_bids(path):
            found += find_images(path, pattern if _is_bids(path) else None)
        else:
            found.append(ImageFiles(path.name.split(".")[0], path))
    if labels is None:
        return found
    if len(found) != 1 or found[0].labels is not None:
        raise OptionError("--fixed-labels is for one image; a table of images names the label map of each.")
    return [replace(found[0], labels=labels)]


def _is_bids(path: Path) -> bool:
    from ..cohort.bids import is_bids

    return path.is_dir() and is_bids(path)


def _said(target: Target) -> Target:
    if target.sentence:
        say(target.name, target.sentence, "yellow")
    return target


def _show(fused: Sequence[Target]) -> None:
    """How many there are, and where labels are known how well the fused ones and the best atlas alone fit them."""
    from ..cohort.atlases import best_single

    there = [target for target in fused if target.folder is not None]
    made = sum(target.made for target in there)
    say("fused", f"{made} now, {len(there) - made} kept, {len(fused) - len(there)} without labels", "bold", results)
    known = [target for target in there if target.dice == target.dice]
    if known:
        name, single = best_single(known)
        mean = sum(target.dice for target in known) / len(known)
        best = f"; the best atlas alone, {name}, {single:.3f}" if name else ""
        say("overlap", f"mean Dice {mean:.3f} on {len(known)} targets{best}", "bold", results)
