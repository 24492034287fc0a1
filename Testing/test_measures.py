"""Measures: the same rows, names and numbers in the report, in the scene, in the browser and on the command line."""

from __future__ import annotations

import io
import json
import math
from typing import Any
from xml.etree import ElementTree

import pytest
from DeepRegAttentionLib.cli.tables import results_table
from DeepRegAttentionLib.report.tables import measure_tables, structure_bars
from DeepRegAttentionLib.terms import measures
from helpers.images import blob_image
from rich.console import Console

Shown = dict[str, tuple[str, ...]]

FOUND: dict[str, Any] = {
    "similarity": {
        "before": {"ncc": 0.71234567, "mse": 0.0345678, "ssim": 0.55, "nmi": 1.1},
        "linear": {"ncc": 0.8, "mse": 0.02, "ssim": 0.6, "nmi": 1.15},
        "after": {"ncc": 0.9, "mse": 0.0123456, "ssim": float("nan"), "nmi": 1.2},
    },
    "labels": {
        "before": {"mean_dice": 0.5, "mean_hd95_mm": 4.0, "dice": {1: 0.6, 2: 0.4}, "hd95_mm": {1: 3.0, 2: 5.0}},
        "after": {
            "mean_dice": 0.81234,
            "mean_hd95_mm": 2.345,
            "dice": {1: 0.93456, 2: 0.7},
            "hd95_mm": {1: 1.0, 2: float("nan")},
        },
    },
    "tissue_dice": {moment: {"grey": 0.6 + n / 10, "white": 0.7} for n, moment in enumerate(measures.MOMENTS)},
    "landmarks": {
        "before_mm": {"mean": 7.123, "std": 3.0, "median": 6.5, "max": 20.0},
        "after_mm": {"mean": 1.456, "std": 0.9, "median": 1.234, "max": 5.0},
        "each_after_mm": [1.0, 2.0],
    },
    "jacobian": {
        "mean": 1.0123,
        "std": 0.2,
        "min": -0.31,
        "max": 2.2,
        "p01": 0.5,
        "p99": 1.7,
        "sd_log": 0.12344,
        "sd_log_learn2reg": 0.03456,
        "fold_percent": 0.0625,
        "fold_volume_cm3": 1.5,
    },
    "inverse_consistency_mm": {"mean": 0.0246, "max": 0.1689},
    "driving_force": {"cosine": 0.6543, "magnitude": 0.7891},
    "verdict": {"grade": "pass", "reasons": [], "evidence": {row.key: 0.5 for row in measures.EVIDENCE}},
    "seconds": {"prealign": 1.25, "network": 2.5},
}
"""Everything that can be measured; NaN where it cannot."""


def rows_of_the_report(metrics: dict[str, Any]) -> Shown:
    page = ElementTree.fromstring(f"<html>{measure_tables(metrics)}</html>")
    shown = {}
    for row in page.iter("tr"):
        name, *cells = ("".join(cell.itertext()) for cell in row)
        # What the report adds: the change, or the meaning.
        shown[name] = tuple(cells[: 3 if len(cells) == 4 else 1])
    return {name: cells for name, cells in shown.items() if name != "Measure"}


def rows_of_the_command_line(metrics: dict[str, Any]) -> Shown:
    text = io.StringIO()
    Console(file=text, width=80).print(results_table(metrics))
    lines = [line.strip() for line in text.getvalue().splitlines()]
    labels = {row.label for row in measures.rows(metrics)}
    found = {}
    for line in lines:
        label = max((name for name in labels if line.startswith(name)), key=len, default=None)
        if label is not None:
            found[label] = tuple(line[len(label) :].split())
    return found


def rows_of_the_scene(metrics: dict[str, Any]) -> Shown:
    slicer = pytest.importorskip("slicer")
    from DeepRegAttentionLib.scene.judge import make_tables

    nodes = make_tables(slicer.vtkMRMLScene(), metrics)
    shown = {}
    for name in measures.SECTIONS:
        table = nodes[name].GetTable()
        for row in range(table.GetNumberOfRows()):
            name, *cells = (table.GetValue(row, n).ToString() for n in range(table.GetNumberOfColumns()))
            shown[name] = tuple(cells)
    return shown


def rows_of_the_browser(metrics: dict[str, Any]) -> Shown:
    pytest.importorskip("vtk")
    from DeepRegAttentionLib.viewer.measures import table_entries

    structures = measures.table_title("structures")
    entries = [entry for entry in table_entries(metrics) if entry["title"] != structures]
    return {name: tuple(cells) for entry in entries for name, *cells in entry["rows"]}


WAYS = [rows_of_the_report, rows_of_the_command_line, rows_of_the_scene, rows_of_the_browser]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__[len("rows_of_the_") :])
def test_every_way_shows_the_same_rows(way) -> None:
    expected = {row.label: row.texts for row in measures.rows(FOUND)}
    assert list(way(FOUND).items()) == list(expected.items())


def by_key(metrics: dict[str, Any], section: str) -> dict[str, measures.Row]:
    return {row.key: row for row in measures.rows(metrics) if row.section == section}


def test_the_rows_hold_all_that_was_measured() -> None:
    agreement, motion = by_key(FOUND, "similarity"), by_key(FOUND, "deformation")
    assert {"ncc", "ssim", "nmi", "mse", "mean_dice", "mean_hd95_mm", "grey", "white", "median"} < set(agreement)
    assert agreement["median"].texts == ("6.50", "–", "1.23")
    assert agreement["grey"].texts == ("0.600", "0.700", "0.800")
    assert agreement["ssim"].texts == ("0.5500", "0.6000", "–")
    assert motion["sd_log"].texts == ("0.1234",)
    assert motion["sd_log_learn2reg"].texts == ("0.0346",)
    assert "Learn2Reg" in motion["sd_log_learn2reg"].label
    assert motion["cosine"].label == "Driving force agreement, cosine ↑"
    assert motion["fold_percent"].label == "Folds, share of the voxels (%) ↓"
    assert by_key(FOUND, "time")["all"].texts == ("3.8",)
    labels = [row.label for row in measures.rows(FOUND)]
    assert len(set(labels)) == len(labels)


def test_every_statistic_of_the_jacobian_has_a_row() -> None:
    from DeepRegAttentionLib.engine.metrics import jacobian_statistics

    assert set(by_key({"jacobian": jacobian_statistics(blob_image())}, "deformation")) == set(
        jacobian_statistics(blob_image())
    )


def test_a_file_of_metrics_gives_the_same_rows() -> None:
    """Null for NaN, text for the numbers of structures."""
    text = json.dumps(FOUND).replace("NaN", "null")
    expected = [(row.label, row.texts) for row in measures.rows(FOUND)]
    assert [(row.label, row.texts) for row in measures.rows(json.loads(text))] == expected
    assert structure_bars(json.loads(text)["labels"], {}) == structure_bars(FOUND["labels"], {})


def test_nothing_measured_gives_no_rows() -> None:
    assert measures.rows({}) == []
    assert measures.structures(None, {}) == []
    assert measure_tables({}) == ""


def change(key: str, before: float, after: float) -> measures.Row:
    return by_key({"similarity": {"before": {key: before}, "after": {key: after}}}, "similarity")[key]


def test_what_is_better_depends_on_the_measure() -> None:
    assert change("ncc", 0.5, 0.6).improved
    assert change("mse", 0.5, 0.6).improved is False
    assert change("ncc", 0.5, 0.5).improved is None
    assert change("ncc", 0.5, float("nan")).improved is None


def test_structures_are_called_by_name_the_worst_first() -> None:
    found = measures.structures(FOUND["labels"], {1: "thalamus"})
    assert [structure.texts for structure in found] == [
        ("Structure 2", "0.400", "0.700", "5.00", "–"),
        ("thalamus", "0.600", "0.935", "3.00", "1.00"),
    ]
    assert found[1].rounded == (0.6, 0.935, 3.0, 1.0)


def test_numbers_that_do_not_exist_are_dashes() -> None:
    assert [measures.number(value, 3) for value in (0.12345, None, math.nan)] == ["0.123", "–", "–"]


def parts(metrics: dict[str, Any]) -> list[str]:
    return measures.summary_text(metrics).split(" · ")


def test_a_result_in_one_line() -> None:
    metrics = {
        "seconds": {"network": 2.2, "maps": 1.4},
        "similarity": {"before": {"ncc": 0.9}, "after": {"ncc": 0.98765}},
        "jacobian": {"fold_percent": 0.0},
    }
    assert parts(metrics) == ["4 s", "correlation 0.9000 → 0.9877", "no folds"]
    assert parts({"jacobian": {"fold_percent": 0.123, "fold_volume_cm3": 1.5}}) == ["folds 0.1230 % (1.500 cm³)"]
    assert measures.summary_text({}) == ""
