"""One page by which a person judges a registration by eye: what was done, how well it went, and pictures."""

from __future__ import annotations

import tempfile
from base64 import b64encode
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Optional, Union

import SimpleITK as sitk

from ..engine.errors import OutputError
from ..engine.result import RegistrationResult
from .facts import facts_table
from .pictures import result_pictures
from .style import STYLE
from .tables import measure_tables, structure_bars
from .verdict import verdict_box
from .views import Picture


def write_report(
    result: RegistrationResult,
    fixed: sitk.Image,
    moving: sitk.Image,
    path: Union[str, Path],
    label_names: Optional[Mapping[int, str]] = None,
) -> Path:
    """Write a report of one registration: a single HTML file with everything in it.

    What the result does not have (a map, an overlap, landmarks) is left out.

    Parameters
    ----------
    result : RegistrationResult
        Of these two images.
    fixed, moving : sitk.Image
        As they were registered, each on its own grid, LPS mm.
    path : str or Path
        Of the file; it appears there, or replaces an older one, only when it is complete.
    label_names : mapping of int to str, optional
        Names of the structures in the label maps.

    Returns
    -------
    Path
        Where the report is.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    path = Path(path)
    page = _page(result, fixed, moving, label_names or {})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as partial:
            draft = Path(partial) / path.name
            draft.write_text(page, encoding="utf-8")
            draft.replace(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"The report cannot be written to {path}: {reason}.") from error
    return path


def _page(result: RegistrationResult, fixed: sitk.Image, moving: sitk.Image, label_names: Mapping[int, str]) -> str:
    pictures = result_pictures(result, fixed, moving)
    behind = next(_source(picture) for picture in pictures if picture.name == "fixed")
    body = [
        "<h1>Registration report</h1>",
        verdict_box(result.metrics, label_names),
        facts_table(result.metrics, fixed, moving),
        measure_tables(result.metrics),
        "<h2>Pictures</h2>",
        "<p>Three planes through the centre of the fixed image’s object, seen as radiologists do: R is the "
        "patient’s right, L left, A front, P back, S head, I feet.</p>",
        *map(_figure, pictures),
        structure_bars(result.metrics.get("labels"), label_names),
        "<p>A tool for research: a registration is to be checked by someone who knows the anatomy.</p>",
    ]
    style = f"{STYLE}:root {{ --fixed: url({behind}); }}"
    head = (
        '<meta charset="utf-8" /><meta name="viewport" content="width=device-width, initial-scale=1" />'
        f"<title>Registration report</title><style>{style}</style>"
    )
    content = "\n".join(part for part in body if part)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{content}\n</body></html>\n'


def _source(picture: Picture) -> str:
    return f"data:image/png;base64,{b64encode(picture.png).decode('ascii')}"


def _figure(picture: Picture) -> str:
    image = f'<img alt="{escape(picture.title)}" src="{_source(picture)}" />'
    if picture.over_fixed:
        image = f'<div class="flick" tabindex="0">{image}</div>'
    return (
        f'<figure id="{picture.name}"><h3>{escape(picture.title)}</h3>'
        f"<figcaption>{escape(picture.caption)}</figcaption>{image}</figure>"
    )
