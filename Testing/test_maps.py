"""Maps and colours: one home for what screen, browser and report say and paint."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.engine.geometry import Grid
from DeepRegAttentionLib.engine.maps import beside, explanation_maps, images_where
from DeepRegAttentionLib.engine.networks.blocks import NetworkOutput
from DeepRegAttentionLib.engine.result import MAP_NAMES
from DeepRegAttentionLib.report.painting import map_look, map_values, paint
from DeepRegAttentionLib.report.pictures import label_rim
from DeepRegAttentionLib.report.sections import PLANES, Section
from DeepRegAttentionLib.terms import palettes
from DeepRegAttentionLib.terms.maps import MAPS, VECTORS, Rule, described, jacobian_factor, offered, scale
from matplotlib import colormaps
from PIL import Image

SHOWN = [key for key in MAPS if key != VECTORS]


def test_every_map_of_the_engine_is_described_and_no_other() -> None:
    assert sorted(MAPS) == sorted(MAP_NAMES)
    for key, entry in MAPS.items():
        assert entry.key == key
        assert entry.palette in palettes.PALETTES
        assert entry.meaning.endswith(".")
    assert len({entry.name for entry in MAPS.values()}) == len(MAPS)


def test_vectors_are_no_map_of_colours() -> None:
    assert [entry.key for entry in offered(MAPS)] == SHOWN
    assert [entry.key for entry in offered({"attention", "jacobian"})] == ["jacobian", "attention"]


def test_levels_are_described_but_not_offered() -> None:
    first, last = described("driving_force_1"), described("driving_force_12")
    assert (first.key, last.key) == ("driving_force_1", "driving_force_12")
    assert len({first.name, last.name, MAPS[VECTORS].name}) == 3
    assert described(VECTORS) is MAPS[VECTORS]
    assert offered({"driving_force_1", "attention"}) == [MAPS["attention"]]
    vectors = np.random.default_rng(0).normal(size=(4, 5, 6, 3))
    assert scale("driving_force_1", vectors) == scale(VECTORS, vectors)
    for name in ("driving_force_0", "driving_force_1b", "attention_1"):
        with pytest.raises(KeyError):
            described(name)


# Scales


def test_the_scale_of_the_jacobian_fits_its_values() -> None:
    assert jacobian_factor(np.array([0.9, 1.1, 1.0])) == 1.25
    assert jacobian_factor(np.array([0.3, 1.0, -5.0])) == 4.0
    assert jacobian_factor(np.array([-1.0])) == 1.25


def test_the_jacobian_is_white_at_1_even_in_the_logarithm_and_yellow_where_it_folds() -> None:
    seen = scale("jacobian", np.array([[[0.3, 1.0, 2.5]]]))
    assert (seen.low, seen.high) == (0.25, 4.0)
    np.testing.assert_allclose(seen.places(np.array([0.25, 0.5, 1.0, 2.0, 4.0])), [0, 0.25, 0.5, 0.75, 1])
    fold, blue, white, red = seen.colours(np.array([0.0, 0.3, 1.0, 3.5]))
    assert fold.tolist() == palettes.rgb(palettes.FOLD)
    assert seen.colours(np.array([-2.0]))[0].tolist() == fold.tolist()
    assert white.min() > 0.95
    assert blue[2] > blue[0] + 0.2
    assert red[0] > red[2] + 0.2


def test_places_where_there_is_nothing_do_not_decide_the_colours() -> None:
    values = np.zeros((10, 10, 10), np.float32)
    values[4:7] = np.linspace(0.3, 0.5, 300).reshape(3, 10, 10)
    assert scale("attention", values).low > 0.29
    assert scale("attention", np.zeros((2, 2, 2))).high > 0


def test_the_local_strength_is_relative_to_its_mean_where_the_images_show_something() -> None:
    strength, there = torch.full((1, 1, 4, 4, 6), 0.9), torch.zeros(1, 1, 4, 4, 6, dtype=torch.bool)
    strength[..., 2:4] = torch.tensor([0.1, 0.3])
    there[..., 2:4] = True
    output = NetworkOutput([], [], regularization=strength)
    own = Grid((6, 4, 4), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1, 0, 0, 0, 1))
    said = explanation_maps(output, None, own, there)["regularization"]
    torch.testing.assert_close(said[0, 0, 1, 1], torch.tensor([4.5, 4.5, 0.5, 1.5, 4.5, 4.5]))
    everywhere = explanation_maps(output, None, own, torch.zeros_like(there))["regularization"]
    assert float(everywhere.mean()) == pytest.approx(1)


def test_maps_are_0_where_neither_image_shows_anything() -> None:
    there = torch.zeros(1, 1, 12, 10, 14, dtype=torch.bool)
    there[..., 5, 5, 6] = True
    own = Grid((14, 10, 12), (2.0, 2.0, 2.0), (5.0, -3.0, 8.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    shown = images_where(beside(there), {"attention": torch.full((1, 1, 12, 10, 14), 0.3)}, own, own)
    values = sitk.GetArrayFromImage(shown["attention"])
    near = np.zeros_like(values, bool)
    near[3:8, 3:8, 4:9] = True
    np.testing.assert_array_equal(values > 0, near)


def test_differences_have_one_scale_and_lengths_begin_at_0() -> None:
    values = np.linspace(-0.1, 0.2, 1000).reshape(10, 10, 10)
    ends = {scale(key, factor * values) for key in ("difference_before", "difference_after") for factor in (1, 9)}
    assert {(seen.low, seen.high) for seen in ends} == {(-0.5, 0.5)}
    lengths = scale("driving_force_magnitude", values + 2)
    assert lengths.low == 0
    assert lengths.high == pytest.approx(2.2, abs=0.01)
    assert [scale("expected_error", values * factor).high for factor in (1, 15, 999)] == [2.0, 4.0, 32.0]
    robust = scale("attention", values)
    assert (robust.low, robust.high) == pytest.approx((-0.0985, 0.1985), abs=1e-3)


def test_vectors_are_scaled_by_their_lengths() -> None:
    vectors = np.random.default_rng(2).normal(size=(70, 30, 90, 3))
    assert scale(VECTORS, vectors) == scale("driving_force_magnitude", np.linalg.norm(vectors, axis=-1))


def test_a_flat_map_has_a_scale() -> None:
    for key in SHOWN:
        seen = scale(key, np.ones((3, 3, 3)))
        assert seen.low < seen.high
        assert np.isfinite(seen.colours(np.ones(2))).all()


@pytest.mark.parametrize("name", ["inferno", "magma", "viridis", "cividis"])
def test_a_palette_is_the_known_one_of_its_name(name) -> None:
    where = np.linspace(0, 1, 97)
    assert np.abs(palettes.colours(name, where) - colormaps[name](where)[:, :3]).max() < 0.04


def test_neighbouring_structures_differ() -> None:
    table = np.array([palettes.label_colour(n) for n in range(1, 200)])
    assert np.abs(np.diff(table, axis=0)).max(axis=1).min() > 0.3


# The same colours on the screen and on the page


def painted(key: str, map_values_: np.ndarray, values: list[float]) -> np.ndarray:
    """Colours ``(N, 3)``, 0 to 255, of single values in the picture of a report."""
    low, high, point = np.zeros(3), np.full(3, 40.0), np.full(3, 20.0)
    seen = scale(key, map_values_)
    found = []
    for value in values:
        section = Section(PLANES[0], low, high, point, 1.0)
        flat = map_values(np.full((40, 40), value), seen)
        png = paint([section], [flat], map_look(MAPS[key], seen), exact=True)
        picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
        rows, columns = picture.shape[:2]
        found.append(picture[int(0.55 * rows), int(0.46 * columns)])
    return np.array(found)


def on_the_screen(node: Any, values: list[float]) -> np.ndarray:
    """Colours that the display of a volume gives to single values: window and level, then the table."""
    slicer = pytest.importorskip("slicer")
    display, table, found = node.GetDisplayNode(), node.GetDisplayNode().GetColorNode(), []
    assert isinstance(display, slicer.vtkMRMLScalarVolumeDisplayNode)
    low, high = display.GetWindowLevelMin(), display.GetWindowLevelMax()
    for value in values:
        colour = [0.0] * 4
        table.GetColor(int(np.clip((value - low) * 255 / (high - low), 0, 255)), colour)
        found.append(colour[:3])
    return 255 * np.array(found)


SOME = {
    Rule.VOLUME: [-0.5, 0.0, 0.3, 0.5, 0.8, 1.0, 1.3, 2.0, 2.9],
    Rule.DIFFERENCE: [-0.6, -0.3, -0.05, 0.0, 0.1, 0.45, 0.7],
    Rule.ERROR: [0.0, 0.3, 0.9, 1.4, 1.9],
    Rule.LENGTH: [0.0, 0.4, 1.1, 2.0, 3.0],
    Rule.ROBUST: [0.0, 0.2, 0.5, 0.9, 1.2],
}


@pytest.mark.parametrize("key", SHOWN)
def test_screen_and_report_paint_the_same_colours(key) -> None:
    slicer = pytest.importorskip("slicer")
    from DeepRegAttentionLib.scene.overlays import style_map

    rng = np.random.default_rng(8)
    volume = np.exp(rng.normal(0, 0.35, (20, 20, 20))) if key == "jacobian" else rng.uniform(0, 1.5, (20, 20, 20))
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", key)
    slicer.util.updateVolumeFromArray(node, volume.astype(np.float32))
    style_map(node, key)
    values = SOME[MAPS[key].rule]
    screen, page = on_the_screen(node, values), painted(key, volume.astype(np.float32), values)
    # A table of 256 colours; that of the Jacobian is even in its values and not in their logarithm.
    np.testing.assert_allclose(screen, page, atol=14 if key == "jacobian" else 4)
    assert np.abs(np.diff(page, axis=0)).max() > 20


def test_screen_and_report_paint_structures_alike() -> None:
    slicer = pytest.importorskip("slicer")
    from DeepRegAttentionLib.scene.colors import label_colors

    scene = slicer.vtkMRMLScene()
    table = label_colors(scene, "structures", 30, {})
    labels = np.zeros((5, 31), int)
    labels[2] = np.arange(31)
    rim = label_rim(labels)[2]
    for number in range(1, 31):
        colour = [0.0] * 4
        table.GetColor(number, colour)
        np.testing.assert_allclose(rim[number], colour, atol=1 / 255)
    assert rim[0, 3] == 0


# Maps on grids of their own


def test_a_map_is_seen_where_it_lies_whatever_its_grid() -> None:
    """A map that grows evenly along x, on a coarse and turned grid, is the same picture as one on the fine grid."""
    turned = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.3, -0.2, 0.4)
    coarse = Grid((13, 12, 11), (6.0, 7.0, 8.0), (-30.0, -40.0, -42.0), tuple(turned.GetMatrix()))
    k, j, i = np.meshgrid(*[np.arange(n) for n in coarse.shape], indexing="ij")
    points = np.stack([i, j, k], axis=-1) @ coarse.voxel_to_mm.T + coarse.origin
    image = coarse.place(sitk.GetImageFromArray(points[..., 0].astype(np.float32)))
    for plane in PLANES:
        section = Section(plane, np.full(3, -12.0), np.full(3, 12.0), np.array([1.0, 2.0, 3.0]), 0.8)
        seen = section.sample(image)
        across = plane.horizontal == 0
        expected = section.coordinates(0.8)[0] if across else np.full(seen.shape, 1.0)
        np.testing.assert_allclose(seen, expected, atol=1e-3)
