"""The verdict at the head of the page: its grade, why, and the worst places."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ..terms.verdict import verdict_of, worst_places


def verdict_box(metrics: Mapping[str, Any], names: Mapping[int, str]) -> str:
    """A box in the grade's colour; empty if nobody judged the result."""
    judged = verdict_of(metrics, names)
    if judged is None:
        return ""
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in judged.reasons[1:])
    places = "".join(
        f"<li>{escape(place.text)}, {escape(place.bounded)}.</li>" for place in worst_places(metrics, names)
    )
    return (
        f'<section class="verdict" style="border-color: {judged.colour}">'
        f'<p><strong style="background: {judged.colour}">{escape(judged.title)}</strong> {escape(judged.sentence)}</p>'
        f"{_list('Also', reasons)}{_list('Where it may be off most', places)}</section>"
    )


def _list(title: str, items: str) -> str:
    return f"<details><summary>{title}</summary><ul>{items}</ul></details>" if items else ""
