"""What ``deepreg-attention cohort --template`` does: images in, their unbiased average out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from .console import readable_warnings, results, say

if TYPE_CHECKING:
    from ..cohort.cluster import Where
    from ..cohort.pairs import Settings
    from ..cohort.template_study import Follow, TurnSummary
    from ..dataset import ImageFiles

USUAL = {"model": "none"}
"""How subjects are registered to a template if nothing else is said: by refinement, which has no habits."""


def make_template(
    images: Sequence[ImageFiles],
    settings: Settings,
    output: Path,
    where: Where,
    follow: Follow,
    turns: Optional[int],
    spacing: Optional[float],
) -> None:
    """Make the template of a cohort, with `follow` to show the registrations, and say what came of each turn."""
    with readable_warnings():
        from ..cohort.template import TemplateOptions
        from ..cohort.template_study import SUMMARY, TABLE, TemplateStudy

        given = {} if turns is None else {"turns": turns}
        options = TemplateOptions(settings.options, spacing=spacing, **given)
        study = TemplateStudy(images, settings, output, options, where, follow)
        for turn in study.run():
            say(f"turn {turn.number}" if turn.number else "linear", _said(turn), "bold", results)
        for name, sentence in study.left_out.items():
            say(name, sentence, "yellow")
    summary = json.loads((output / SUMMARY).read_text(encoding="utf-8"))
    if summary.get("dice_through") is not None and summary["dice_pairwise"] is not None:
        through, direct = summary["dice_through"], summary["dice_pairwise"]
        pairs = f"{summary['pairs_compared']} pairs"
        say(
            "overlap", f"{through:.3f} through the template, {direct:.3f} registered directly; {pairs}", "bold", results
        )
    say("template", str((output / f"template{settings.extension}").resolve()), "bold", results)
    say("table", str((output / TABLE).resolve()), "bold", results)


def _said(turn: TurnSummary) -> str:
    """Such as ``12 subjects, moved 0.41 mm, mean shape off by 0.02 mm, slope 0.052 per mm, overlap 0.713; kept``."""
    found = turn.metrics
    parts = [f"{len(found['subjects'])} subjects"]
    if found["left_out"]:
        parts.append(f"without {', '.join(found['left_out'])}")
    if found["moved_mm"] is not None:
        parts += [f"points moved {found['moved_mm']:.2f} mm", f"the mean shape {found['shift_mm']:.2f} mm"]
    parts.append(f"sharpness {found['gradient_per_mm']:.4f} per mm")
    if found.get("dice_through") is not None:
        parts.append(f"overlap {found['dice_through']:.3f}")
    return f"{', '.join(parts)}{'' if turn.made else '; kept'}"
