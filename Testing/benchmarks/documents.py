"""Pages of the documentation in which a benchmark writes its own part."""

from __future__ import annotations

from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "trust.md"
"""The page on how far to trust a result."""


def replace_part(page: Path, name: str, text: str) -> None:
    """Put a text between the markers ``<!-- NAME -->`` and ``<!-- end of NAME -->`` of a page."""
    beginning, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, rest = page.read_text(encoding="utf-8").split(beginning)
    page.write_text(before + beginning + text + end + rest.split(end)[1], encoding="utf-8")
