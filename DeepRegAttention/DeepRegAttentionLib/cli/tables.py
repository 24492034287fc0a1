"""Results as tables for people."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, Optional, Tuple

from rich import box
from rich.table import Table

Row = Tuple[str, str, str, str]
MOMENTS = ("before", "linear", "after")
_MEASURES = {"ncc": "NCC", "nmi": "NMI", "ssim": "SSIM", "mse": "MSE"}


def results_table(metrics: Mapping[str, Any]) -> Table:
    """One table of all that a registration measured: quality, deformation, seconds."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for moment in MOMENTS:
        table.add_column(moment, justify="right")
    for section in (_quality_rows(metrics), _deformation_rows(metrics), _time_rows(metrics["seconds"])):
        for row in section:
            table.add_row(*row)
        table.add_section()
    return table


def _quality_rows(metrics: Mapping[str, Any]) -> List[Row]:
    rows = [_moments(name, metrics["similarity"], key) for key, name in _MEASURES.items()]
    if "labels" in metrics:
        rows.append(_moments("Dice", metrics["labels"], "mean_dice"))
        rows.append(_moments("HD95 (mm)", metrics["labels"], "mean_hd95_mm", 2))
    tissues = metrics.get("tissue_dice", {})
    rows += [_moments(f"Dice of {tissue} matter", tissues, tissue) for tissue in tissues.get("after", {})]
    if "landmarks" in metrics:
        landmarks = {moment: metrics["landmarks"].get(f"{moment}_mm", {}) for moment in MOMENTS}
        rows.append(_moments("TRE, mean (mm)", landmarks, "mean", 2))
        rows.append(_moments("TRE, largest (mm)", landmarks, "max", 2))
    return rows


def _deformation_rows(metrics: Mapping[str, Any]) -> List[Row]:
    jacobian, inverse = metrics["jacobian"], metrics.get("inverse_consistency_mm")
    rows = [
        _final("Jacobian, mean", number(jacobian["mean"])),
        _final("Jacobian, 1st to 99th percentile", f"{number(jacobian['p01'])} to {number(jacobian['p99'])}"),
        _final("folded voxels (%)", number(jacobian["fold_percent"], 4)),
    ]
    if inverse is not None:
        rows.append(_final("inverse consistency, mean (mm)", number(inverse["mean"])))
    return rows


def _time_rows(seconds: Mapping[str, float]) -> List[Row]:
    rows = [_final(f"seconds: {stage}", number(value, 1)) for stage, value in seconds.items()]
    return [*rows, _final("seconds: all", number(sum(seconds.values()), 1))]


def _moments(name: str, values: Mapping[str, Mapping[str, Any]], key: str, digits: int = 3) -> Row:
    before, linear, after = (number(values.get(moment, {}).get(key), digits) for moment in MOMENTS)
    return name, before, linear, after


def _final(name: str, text: str) -> Row:
    return name, "", "", text


def number(value: Optional[float], digits: int = 3) -> str:
    """A number with so many decimals; a dash for what was not or cannot be measured."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def key_value_table(values: Dict[str, str]) -> Table:
    """Names and values, without a frame."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in values.items():
        table.add_row(name, value)
    return table
