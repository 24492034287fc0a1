"""``deepreg-attention cohort``: many pairs in, a study out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ..cohort.time_left import TimeLeft
from ..engine.errors import CancelledError, OptionError
from ..terms.wording import time_left
from . import arguments as a
from .console import ReadableErrors, messages, results, say

if TYPE_CHECKING:
    from ..cohort.work import Outcome

_PAIRS, _TEMPLATE, _WHERE = "Pairs", "Template", "Computers"

Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="A table of pairs (.csv with the columns fixed, moving and, as far as there are, labels, fixed_labels, "
        "fixed_mask, …, group, name), a table of images (name, image, …), a BIDS folder, or one that holds images/ and "
        "labels/.",
    ),
]
Study = Annotated[Path, typer.Option("--output", "-o", help="Folder of the study; started again, it is completed.")]
ToAtlas = Annotated[
    Optional[str],
    typer.Option(help="Every image is moved onto this one: a file, or one of the images.", rich_help_panel=_PAIRS),
]
AtlasLabels = Annotated[Optional[Path], typer.Option(help="Label map of the atlas.", rich_help_panel=_PAIRS)]
AtlasMask = Annotated[Optional[Path], typer.Option(help="Mask of the atlas.", rich_help_panel=_PAIRS)]
WithinSubject = Annotated[
    bool, typer.Option("--within-subject", help="Within each subject or group alone.", rich_help_panel=_PAIRS)
]
AllPairs = Annotated[bool, typer.Option("--all-pairs", help="Each image with each.", rich_help_panel=_PAIRS)]
Template = Annotated[
    bool,
    typer.Option(
        "--template",
        help="Their unbiased average instead of pairs, with the atlas of their labels; registered by refinement alone "
        "unless a model is named.",
        rich_help_panel=_TEMPLATE,
    ),
]
Turns = Annotated[
    Optional[int],
    typer.Option(
        help="Deformable turns at most; fewer if hardly anything moves.", rich_help_panel=_TEMPLATE, show_default="4"
    ),
]
TemplateSpacing = Annotated[
    Optional[float],
    typer.Option(
        help="Of its voxels in mm; the median of the finest of each image if not given.", rich_help_panel=_TEMPLATE
    ),
]
BothWays = Annotated[
    bool, typer.Option("--both-ways", help="Two images are registered in both directions.", rich_help_panel=_PAIRS)
]
Images = Annotated[
    Optional[str],
    typer.Option(help="Which images of a BIDS folder, such as “*_desc-preproc_T1w*”.", rich_help_panel=_PAIRS),
]
Workers = Annotated[
    Optional[int],
    typer.Option(help="Pairs at a time; as many as memory and cores allow if not given.", rich_help_panel=_WHERE),
]
Scheduler = Annotated[
    Optional[str], typer.Option(help="A running Dask scheduler, such as tcp://node:8786.", rich_help_panel=_WHERE)
]
Cluster = Annotated[
    Optional[str],
    typer.Option(help="A batch system that starts the workers: slurm, pbs or sge.", rich_help_panel=_WHERE),
]


@ReadableErrors()
def cohort(
    context: typer.Context,
    source: Source,
    output: Study,
    to_atlas: ToAtlas = None,
    atlas_labels: AtlasLabels = None,
    atlas_mask: AtlasMask = None,
    within_subject: WithinSubject = False,
    all_pairs: AllPairs = False,
    both_ways: BothWays = False,
    images: Images = None,
    template: Template = False,
    turns: Turns = None,
    template_spacing: TemplateSpacing = None,
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
    landmark_weight: a.LandmarkWeight = None,
    spacing: a.Spacing = None,
    maps: a.Maps = None,
    levels: a.Levels = None,
    displacement: a.Displacement = False,
    report: a.Report = False,
    format: a.Format = "nii.gz",
    device: a.Device = None,
    precision: a.Precision = None,
    threads: a.Threads = None,
) -> None:
    """Register many pairs, several at a time; write a result folder for each and one table (needs the extra “cohort”).

    The page index.html shows all of them; “deepreg-attention view STUDY” opens each with one click and saves marks.
    With --template, make the unbiased average of images and the atlas of their labels instead.

    What is complete is never done twice: start the same command again to go on, or to add what has changed.
    """
    from ..cohort.cluster import Where, require_dask
    from ..cohort.pairs import Settings
    from ..cohort.run import Cohort
    from ..cohort.source import find_images, planned
    from ..cohort.study import TABLE, WALL
    from .settings import file_extension, options_of
    from .template import USUAL, make_template

    require_dask()
    options = options_of(context, USUAL if template else None)
    settings = Settings(options, file_extension(format), displacement, report)
    where = Where(scheduler, cluster, workers)
    if template:
        ways = {"--to-atlas": bool(to_atlas), "--within-subject": within_subject, "--all-pairs": all_pairs}
        require_alone("--template", {**ways, "--both-ways": both_ways})
        make_template(find_images(source, images), settings, output, where, show_progress, turns, template_spacing)
        return
    require_alone("pairs", {"--turns": turns is not None, "--template-spacing": template_spacing is not None})
    pairs = planned(source, images, to_atlas, (atlas_labels, atlas_mask), within_subject, all_pairs, both_ways)
    for _ in show_progress(Cohort(pairs, settings, output, where), len(pairs)):
        pass
    for name, file in (("table", TABLE), ("page", WALL)):
        say(name, str((output / file).resolve()), "bold", results)


def require_alone(wanted: str, others: Mapping[str, bool]) -> None:
    """Raise OptionError if an option is given that makes no sense with what is wanted."""
    for name, given in others.items():
        if given:
            raise OptionError(f"{name} has no meaning for {wanted}.")


def show_progress(outcomes: Iterable[Outcome], count: int, kind: str = "pairs") -> Iterator[Outcome]:
    """The outcomes as they come, with a bar that counts them, and a line each on those that have something to say.

    Where there is no terminal, a line each minute says what the bar does. Ctrl+C says how to go on, and raises
    CancelledError. `kind` is what the counts are called at the end.
    """
    seen: Counter[str] = Counter()
    with _Counting(count) as counting:
        try:
            for outcome in outcomes:
                seen[outcome.verdict or outcome.state] += 1
                counting.show(seen, outcome.state == "kept")
                if outcome.sentence:
                    say(outcome.pair.name, outcome.sentence, "yellow")
                yield outcome
        except (KeyboardInterrupt, CancelledError):
            done = sum(seen.values())
            messages.print(f"stopped after {done} of {count} pairs; the same command goes on with the others")
            raise
    say(kind, summary(seen), "bold", results)


class _Counting:
    """How many have ended, how, and how long the others will take by those that were done now."""

    def __init__(self, count: int) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}")
        self._bars = Progress(*columns, console=messages, transient=True, disable=not messages.is_terminal)
        self._bar = self._bars.add_task("registering", total=count, left="")
        self._count = count
        self._now = self._said = time.monotonic()
        self._left = TimeLeft(count, lambda: self._now)

    def __enter__(self) -> _Counting:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, seen: Counter[str], kept: bool) -> None:
        """Show what has ended; the last may be one that was found done, which says nothing of the others."""
        self._now = time.monotonic()
        done, text = sum(seen.values()), summary(seen)
        left = time_left(self._left.after(kept), self._left.fraction)
        self._bars.update(self._bar, completed=done, description=text, left=left)
        if not messages.is_terminal and self._now - self._said >= _LINE_EACH_S:
            self._said = self._now
            line = "; ".join(part for part in (f"{done} of {self._count}: {text}", left) if part)
            messages.print(line, highlight=False, soft_wrap=True)


_LINE_EACH_S = 60.0


def summary(seen: Counter[str]) -> str:
    """Such as ``12 pass, 3 review, 1 without a result; 8.2 GiB free``."""
    from ..engine.hardware import list_devices
    from ..terms.cohorts import counts_text

    free = list_devices()["cpu"].free_gib
    return f"{counts_text(seen)}; {free:.1f} GiB free" if free is not None else counts_text(seen)
