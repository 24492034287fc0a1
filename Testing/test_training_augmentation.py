"""Augmentation: geometry that carries labels and landmarks along, sides that stay right, intensities by chance."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.dataset import ImageFiles
from DeepRegAttentionLib.engine.errors import OptionError
from DeepRegAttentionLib.engine.geometry import Grid, resample, to_tensor, working_grid
from DeepRegAttentionLib.engine.intensity import IntensityRecipe
from DeepRegAttentionLib.engine.landmarks import Landmarks, write_landmarks
from DeepRegAttentionLib.engine.maps import jacobian_map
from DeepRegAttentionLib.training.augmentation import (
    Affine,
    Augmentation,
    Chance,
    Elastic,
    Flip,
    intensity_changes,
    mirror,
    random_deformation,
    random_pose,
    swapped,
)
from DeepRegAttentionLib.training.data import Change, PairReader
from helpers.images import blob_image

POINTS = np.array([[31.0, -57.0, 112.0], [25.0, -50.0, 118.0], [40.0, -60.0, 105.0]])


@pytest.fixture
def pair(tmp_path: Path) -> tuple[ImageFiles, ImageFiles]:
    """Two oblique, anisotropic views of an object; label 1 on its left half, 2 on its right."""
    cases = []
    for name, geometry in {"a": {}, "b": {"degrees": (5.0, 12.0, -20.0), "spacing": (1.4, 1.2, 2.2)}}.items():
        image = blob_image(**geometry)
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
        grid = Grid.of(image)
        index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.size], indexing="ij"), -1)
        points = index @ grid.voxel_to_mm.T + grid.origin
        left = (points[..., 0] > 31.0).transpose(2, 1, 0)
        labels = np.where(sitk.GetArrayViewFromImage(image) > 0.3, np.where(left, 1, 2), 0).astype(np.uint8)
        sitk.WriteImage(grid.place(sitk.GetImageFromArray(labels)), str(tmp_path / f"{name}-labels.nii.gz"))
        write_landmarks(tmp_path / f"{name}.txt", Landmarks(POINTS))
        files = tmp_path / f"{name}.nii.gz", tmp_path / f"{name}-labels.nii.gz", tmp_path / f"{name}.txt"
        cases.append(ImageFiles(name, *files))
    return cases[0], cases[1]


def read(pair: tuple[ImageFiles, ImageFiles], augmentation: Augmentation, seed: int = 3) -> dict[str, torch.Tensor]:
    change = Change(augmentation, intensity_changes(augmentation), np.random.default_rng(seed))
    return PairReader(4, IntensityRecipe()).read(pair, 2.0, True, True, change)


def acquired(files: ImageFiles, fixed: ImageFiles) -> torch.Tensor:
    """Where an image lies in the grid of the fixed one, ``(1, K, J, I)``, bool."""
    image, grid = (sitk.ReadImage(str(one.image)) for one in (files, fixed))
    everywhere = Grid.of(image).place(sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1)
    return to_tensor(resample(everywhere, working_grid(grid, 2.0, 4)))[0] > 0.99


def at(image: torch.Tensor, points: torch.Tensor) -> list[float]:
    """Values at the voxels nearest to points (k, j, i)."""
    return [float(image[0][tuple(round(float(n)) for n in point)]) for point in points]


def test_the_pose_moves_images_labels_and_landmarks_alike(pair: tuple[ImageFiles, ImageFiles]) -> None:
    still = read(pair, Augmentation())
    posed = read(pair, Augmentation(affine=Affine(1.0, degrees=25, scale=0.2, shift_mm=6)))
    assert float((posed["moving"] - still["moving"]).abs().max()) > 0.3
    for role in ("fixed", "moving"):
        moved = posed[f"{role}_landmarks"] - still[f"{role}_landmarks"]
        assert float(moved.norm(dim=1).max()) > 1
        np.testing.assert_allclose(
            at(posed[role], posed[f"{role}_landmarks"]), at(still[role], still[f"{role}_landmarks"]), atol=0.15
        )
        inside = posed[f"{role}_labels"][0] > 0
        assert float(posed[role][0][inside].mean()) > float(posed[role][0][~inside].mean()) + 0.3


@pytest.mark.parametrize("others", [{}, {"affine": Affine(1.0), "flip": Flip(1.0, ((1, 2),))}])
def test_a_deformation_moves_images_labels_and_landmarks_alike(
    pair: tuple[ImageFiles, ImageFiles], others: dict[str, Any]
) -> None:
    still = read(pair, Augmentation())
    bent = read(pair, Augmentation(elastic=Elastic(1.0, deformation_mm=8, smoothness_mm=12), **others), seed=4)
    assert float((bent["moving"] - still["moving"]).abs().max()) > 0.2
    for role in ("fixed", "moving"):
        moved = bent[f"{role}_landmarks"] - still[f"{role}_landmarks"]
        assert float(moved.norm(dim=1).max()) > 0.5
        assert float((moved - moved.mean(dim=0)).norm(dim=1).max()) > 0.3
        np.testing.assert_allclose(
            at(bent[role], bent[f"{role}_landmarks"]), at(still[role], still[f"{role}_landmarks"]), atol=0.2
        )
        inside = bent[f"{role}_labels"][0] > 0
        assert float(bent[role][0][inside].mean()) > float(bent[role][0][~inside].mean()) + 0.3


def test_a_deformation_has_no_fold_and_knows_its_inverse() -> None:
    grid = working_grid(blob_image(degrees=(10.0, 30.0, 5.0)), 2.0, 4)
    elastic = Elastic(1.0, deformation_mm=3, smoothness_mm=10)
    sizes = []
    for seed in range(5):
        shape = random_deformation(grid, elastic, np.random.default_rng(seed))
        field = sitk.DisplacementFieldTransform(shape.there)
        assert sitk.GetArrayFromImage(jacobian_map(field, grid)).min() > 0
        point = (grid.centre + 3).tolist()
        np.testing.assert_allclose(shape.back.TransformPoint(shape.there.TransformPoint(point)), point, atol=0.2)
        sizes.append(sitk.GetArrayFromImage(field.GetDisplacementField()).std())
    assert 0 < min(sizes) < max(sizes) < 4
    still = random_deformation(grid, Elastic(0.0), np.random.default_rng(0))
    assert still.there.TransformPoint((1.0, 2, 3)) == still.back.TransformPoint((1.0, 2, 3)) == (1, 2, 3)


@pytest.mark.parametrize("wrong", [{"probability": 2.0}, {"deformation_mm": -1.0}, {"smoothness_mm": 0.0}])
def test_an_impossible_deformation_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="elastic"):
        Elastic(**wrong)


def test_the_pose_is_bounded_about_the_middle_of_the_grid() -> None:
    grid = Grid.of(blob_image())
    affine = Affine(1.0, degrees=10, scale=0.1, shift_mm=3)
    for seed in range(20):
        pose = random_pose(grid, affine, np.random.default_rng(seed))
        shift = np.array(pose.TransformPoint(grid.centre.tolist())) - grid.centre
        assert np.abs(shift).max() <= 3
        matrix = np.array(sitk.AffineTransform(pose).GetMatrix()).reshape(3, 3)
        scales = np.linalg.svd(matrix)[1]
        assert np.exp(-0.1) - 1e-9 <= scales.min() <= scales.max() <= np.exp(0.1) + 1e-9
        assert np.linalg.det(matrix) > 0
    assert random_pose(grid, Affine(0.0), np.random.default_rng(0)).TransformPoint((1.0, 2, 3)) == (1, 2, 3)


def test_mirrored_images_have_left_and_right_exchanged_and_the_labels_right(
    pair: tuple[ImageFiles, ImageFiles],
) -> None:
    still, flipped = read(pair, Augmentation()), read(pair, Augmentation(flip=Flip(1.0, ((1, 2),))))
    # The axis of the fixed image that is closest to left and right is i here.
    for name, files in zip(("fixed", "moving"), pair):
        # Beyond its end an image goes on as the nearest voxel, and halfway between two that is either of them.
        view = acquired(files, pair[0])
        difference = (flipped[name] - still[name].flip(3)).abs()
        assert float(difference[view & view.flip(3)].max()) < 1e-4
        assert float(difference.max()) < 5e-3
        expected = swapped(still[f"{name}_labels"].flip(3), ((1, 2),))
        assert float((flipped[f"{name}_labels"] != expected).float().mean()) < 2e-3
        left = torch.nonzero(flipped[f"{name}_labels"][0] == 1).float().mean(dim=0)[2]
        before = torch.nonzero(still[f"{name}_labels"][0] == 1).float().mean(dim=0)[2]
        assert float(left) == pytest.approx(float(before), abs=1.5)
        mirrored = still[f"{name}_landmarks"].clone()
        mirrored[:, 2] = still[name].shape[3] - 1 - mirrored[:, 2]
        torch.testing.assert_close(flipped[f"{name}_landmarks"], mirrored, atol=1e-3, rtol=0)


@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), (0.0, 0.0, 80.0), (10.0, 95.0, 5.0)])
def test_the_mirror_maps_the_grid_onto_itself(degrees: tuple[float, float, float]) -> None:
    grid = working_grid(blob_image(degrees=degrees), 2.0, 4)
    reflection = mirror(grid)
    image = grid.place(sitk.Image(grid.size, sitk.sitkUInt8))
    there = np.array(reflection.TransformPoint(image.TransformIndexToPhysicalPoint((0, 1, 2))))
    index = np.array(image.TransformPhysicalPointToContinuousIndex(there.tolist()))
    np.testing.assert_allclose(index, np.round(index), atol=1e-6)
    step = there - np.array(image.TransformIndexToPhysicalPoint((0, 1, 2)))
    assert np.abs(step).argmax() == 0


INTENSITIES: dict[str, Chance] = {
    "gamma": Chance(1.0, (2.0, 2.0)),
    "contrast": Chance(1.0, (0.5, 0.5)),
    "bias": Chance(1.0, (0.2, 0.4)),
    "noise": Chance(1.0, (0.0, 0.1)),
    "blur": Chance(1.0, (1.0, 2.0)),
}


@pytest.mark.parametrize("name", INTENSITIES)
def test_each_intensity_change_does_what_its_name_says_and_the_seed_decides(name: str) -> None:
    changes: Any = intensity_changes(Augmentation(**{name: INTENSITIES[name]}))
    image = torch.rand(1, 8, 10, 12, generator=torch.Generator().manual_seed(1))
    changed = changes(image, 5)
    assert changed.shape == image.shape
    assert type(changed) is torch.Tensor
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    torch.testing.assert_close(pickle.loads(pickle.dumps(changes))(image, 5), changed, rtol=0, atol=0)
    if name == "gamma":
        low, high = image.min(), image.max()
        torch.testing.assert_close(changed, ((image - low) / (high - low)) ** 2 * (high - low) + low, atol=1e-4, rtol=0)
    if name == "contrast":
        assert float(changed.std()) == pytest.approx(float(image.std()) / 2, rel=1e-3)
        assert float(changed.mean()) == pytest.approx(float(image.mean()), abs=1e-3)
    if name == "blur":
        assert float(changed.std()) < float(image.std()) / 2
    if name in ("bias", "noise"):
        assert float((changes(image, 6) - changed).abs().max()) > 1e-3


def test_without_changes_the_image_is_the_same() -> None:
    image = torch.rand(1, 4, 4, 4)
    assert intensity_changes(Augmentation())(image, 0) is image
