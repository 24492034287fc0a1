"""``deepreg-attention models``: which models there are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from .console import ReadableErrors, results

if TYPE_CHECKING:
    from ..engine.models.listing import ModelFile

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@ReadableErrors()
def models(as_json: AsJson = False) -> None:
    """List the models: what they were trained for, how accurate they are, their licence."""
    from ..engine.models.listing import list_models

    found = list_models()
    if as_json:
        typer.echo(json.dumps([model.to_dict() for model in found], indent=2, ensure_ascii=False))
    elif found:
        results.print(_table(found))
    else:
        results.print("No models are installed; --model takes the path of a .safetensors file.", soft_wrap=True)


def _table(found: list[ModelFile]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("name", "network", "for", "spacing", "mean Dice", "licence"):
        table.add_column(heading, overflow="fold")
    for model in found:
        info = model.info
        purpose = f"{info.modality}, {info.anatomy}"
        spacing = "by size" if info.spacing is None else f"{info.spacing:g} mm"
        licence = f"{info.licence} (asks for consent)" if info.restriction else info.licence
        table.add_row(info.name, info.network, purpose, spacing, _accuracy(info.accuracy), licence)
    return table


def _accuracy(measured: Mapping[str, Any]) -> str:
    """The mean Dice of each measurement; the rest is for ``--json``."""
    found = {name: value["dice"] for name, value in measured.items() if isinstance(value, dict) and "dice" in value}
    return ", ".join(f"{name.replace('_', ' ')} {dice:.3f}" for name, dice in found.items()) or "–"
