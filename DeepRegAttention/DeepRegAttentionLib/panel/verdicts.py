"""The verdict on a result as text of a label: its grade on its colour, and why."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, Optional

from ..scene.export import label_names
from ..scene.results import Result
from ..terms.verdict import verdict_of


def show_verdict(label: Any, result: Optional[Result], reasons: bool = False) -> None:
    """Show it, with the other reasons below if they are wanted; nothing where nobody judged."""
    text = verdict_html(result.metrics, fixed_names(result), reasons) if result is not None else ""
    label.text, label.visible = text, bool(text)


def fixed_names(result: Result) -> Mapping[int, str]:
    """The names of the structures of the fixed volume."""
    return label_names(result.fixed_labels) if result.fixed_labels is not None else {}


def verdict_html(metrics: Mapping[str, Any], names: Mapping[int, str], reasons: bool = False) -> str:
    """The grade, white on its colour, the sentence, and the other reasons, a line each; empty without a verdict."""
    verdict = verdict_of(metrics, names)
    if verdict is None:
        return ""
    grade = f"<b style='background-color: {verdict.colour}; color: white'>&nbsp;{escape(verdict.title)}&nbsp;</b>"
    others = verdict.reasons[1:] if reasons else ()
    return "<br>".join([f"{grade} {escape(verdict.sentence)}", *map(escape, others)])
