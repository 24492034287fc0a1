"""The picture of a pair at a glance: it shows the right place of the right thing, whatever the images are like."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.engine.geometry import Grid
from DeepRegAttentionLib.engine.result import RegistrationResult
from DeepRegAttentionLib.engine.result_folder import GLANCE_FILE
from DeepRegAttentionLib.report.glance import glance, plane_of, write_glance
from DeepRegAttentionLib.report.style import GAP, PANELS, SIDE
from helpers.images import blob_image, rotation
from PIL import Image

IDENTITY = sitk.Transform(3, sitk.sitkIdentity)


def result_of(warped: sitk.Image, error: bool = True, worst: tuple[float, ...] = ()) -> RegistrationResult:
    result = RegistrationResult(warped, IDENTITY, None)
    if error:
        result.maps["expected_error"] = sitk.Cast(warped, sitk.sitkFloat32) * 0 + 3.0
    if worst:
        result.metrics["expected_error"] = {"worst": [{"point_lps_mm": list(worst)}]}
    return result


def panels(picture: Image.Image) -> list[np.ndarray]:
    assert picture.size == (len(PANELS) * (SIDE + GAP) - GAP, SIDE)
    values = np.asarray(picture, float)
    return [values[:, n * (SIDE + GAP) : n * (SIDE + GAP) + SIDE] for n in range(len(PANELS))]


def yellow(panel: np.ndarray) -> np.ndarray:
    """Pixels (x, y) of the ring around the place."""
    return np.argwhere((panel == (255, 213, 0)).all(axis=-1))[:, ::-1]


def ball(at: tuple[float, float, float], degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> sitk.Image:
    """A cube of grey around the origin with a small bright ball at a point, LPS mm, on a grid of any direction."""
    image = sitk.Image((60, 50, 24), sitk.sitkFloat32)
    image.SetSpacing((1.5, 1.6, 4.0))
    image.SetDirection(rotation(degrees).flatten().tolist())
    middle = Grid.of(image).centre
    image.SetOrigin((-middle).tolist())
    k, j, i = np.meshgrid(*[np.arange(n) for n in Grid.of(image).shape], indexing="ij")
    points = np.stack([i, j, k], axis=-1) @ Grid.of(image).voxel_to_mm.T + np.array(image.GetOrigin())
    values = np.where(np.abs(points).max(axis=-1) < 25, 0.3, 0.0)
    values[np.linalg.norm(points - at, axis=-1) < 6] = 1.0
    return Grid.of(image).place(sitk.GetImageFromArray(values.astype(np.float32)))


@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), (12.0, -9.0, 20.0)])
@pytest.mark.parametrize("place", [(14.0, -9.0, 8.0), (-12.0, 11.0, -10.0)])
def test_the_ring_is_where_the_worst_place_lies(place, degrees):
    image = ball(place, degrees)
    fixed, warped, difference, _ = panels(glance(result_of(image, worst=place), image))
    found = yellow(fixed)
    assert len(found) > 10
    x, y = found.mean(axis=0)
    # Radiologists see the patient's right on the left, and the front at the top.
    assert np.sign(x - SIDE / 2) == np.sign(place[0])
    assert np.sign(y - SIDE / 2) == np.sign(place[1])
    rows, columns = (slice(round(n) - 3, round(n) + 4) for n in (y, x))
    assert fixed[rows, columns].min() > 220, "the bright ball is in the ring"
    assert np.abs(fixed - warped)[:, 12:].max() < 2
    unmarked = difference[20:-20, 20:-20]
    assert np.median(unmarked) == 0, "equal images differ nowhere"


def test_slices_are_looked_at_in_their_plane():
    assert plane_of(blob_image(spacing=(1.0, 1.0, 1.2))).name == "Axial"
    image = sitk.Image((20, 20, 8), sitk.sitkFloat32)
    image.SetSpacing((1.0, 1.0, 5.0))
    assert plane_of(image).name == "Axial"
    image.SetDirection((0, 0, 1, 1, 0, 0, 0, 1, 0))
    assert plane_of(image).name == "Sagittal"
    image.SetDirection((1, 0, 0, 0, 0, 1, 0, 1, 0))
    assert plane_of(image).name == "Coronal"


def test_without_a_map_of_the_error_its_panel_is_empty_and_without_a_place_there_is_no_ring():
    image = ball((5.0, 5.0, 5.0))
    found = panels(glance(result_of(image, error=False), image))
    assert np.ptp(found[3].reshape(-1, 3), axis=0).max() == 0
    assert not any(len(yellow(panel)) for panel in found)
    assert found[0].max() > 200


def test_a_place_outside_of_the_image_is_looked_for_inside():
    image = ball((5.0, 5.0, 5.0))
    fixed, _, _, error = panels(glance(result_of(image, worst=(300.0, -300.0, 300.0)), image))
    assert fixed.max() > 60
    assert error.max() > 100


@pytest.mark.parametrize("size", [(1, 1, 1), (40, 1, 1), (3, 40, 2)])
@pytest.mark.parametrize("value", [0.0, np.nan])
def test_images_that_show_nothing_make_a_picture_too(size, value):
    image = sitk.Image(size, sitk.sitkFloat32) + value
    panels(glance(result_of(image, worst=(0.0, 0.0, 0.0)), image))


def test_the_file_is_small(tmp_path, make_image):
    image = make_image()
    write_glance(result_of(image), image, tmp_path)
    assert 1_000 < (tmp_path / GLANCE_FILE).stat().st_size < 30_000
    with Image.open(tmp_path / GLANCE_FILE) as picture:
        panels(picture)
