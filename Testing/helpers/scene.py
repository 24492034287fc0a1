"""A scene without an application, views that are drawn off screen, and a result with a known transform."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import numpy as np
import pytest
import SimpleITK as sitk

from .images import blob_image

slicer = pytest.importorskip("slicer")
pytest.importorskip("trame_slicer")
vtk = pytest.importorskip("vtk")

from DeepRegAttentionLib.engine.result import RegistrationResult  # noqa: E402
from DeepRegAttentionLib.scene.nodes import add_node, copy_window, read_volume, voxels  # noqa: E402
from DeepRegAttentionLib.scene.results import prepare_scene  # noqa: E402
from trame_slicer.core import SlicerApp  # noqa: E402
from trame_slicer.views import DirectViewFactory, ViewLayoutDefinition, ViewProps, ViewType  # noqa: E402
from vtk.util.numpy_support import vtk_to_numpy  # noqa: E402

FLIP = np.array([-1.0, -1.0, 1.0])


class World:
    """A scene with logics and views of its own, as an application has them."""

    def __init__(self) -> None:
        self.app = SlicerApp()
        self.scene = self.app.scene
        prepare_scene(self.scene)
        self.app.view_manager.register_factory(DirectViewFactory(do_render_offscreen=True))

    def slice_view(self, orientation: str = "Axial", tag: Optional[str] = None, size: int = 400) -> SliceView:
        props = ViewProps(orientation=orientation, label=tag or orientation)
        view = self.app.view_manager.create_view(ViewLayoutDefinition(tag or orientation, ViewType.SLICE_VIEW, props))
        view.update_size(size, size)
        return SliceView(view)

    def threed_view(self, size: int = 400) -> ThreeDView:
        view = self.app.view_manager.create_view(ViewLayoutDefinition("3D", ViewType.THREE_D_VIEW, ViewProps()))
        view.update_size(size, size)
        return ThreeDView(view)


class ThreeDView:
    def __init__(self, view) -> None:
        self.view = view

    def picture(self, path: Optional[Path] = None) -> np.ndarray:
        """Red, green, blue ``(rows, columns, 3)``, the first row on top."""
        self.view.render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.view.render_window())
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        if path is not None:
            writer = vtk.vtkPNGWriter()
            writer.SetFileName(str(path))
            writer.SetInputData(image)
            writer.Write()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1].copy()


class SliceView(ThreeDView):
    @property
    def node(self):
        return self.view.get_view_node()

    @property
    def composite(self):
        kind = "vtkMRMLSliceCompositeNode"
        scene = self.node.GetScene()
        nodes = (scene.GetNthNodeByClass(n, kind) for n in range(scene.GetNumberOfNodesByClass(kind)))
        return next(node for node in nodes if node.GetLayoutName() == self.node.GetLayoutName())

    def look_at(self, volume, point: Optional[np.ndarray] = None) -> None:
        """Show a volume whole, in the slice through its middle or a RAS point."""
        self.composite.SetBackgroundVolumeID(volume.GetID())
        self.view.fit_view_to_content()
        bounds = np.zeros(6)
        volume.GetRASBounds(bounds)
        middle = bounds.reshape(3, 2).mean(axis=1) if point is None else point
        self.node.JumpSlice(*middle)

    def pixel_of(self, point: np.ndarray) -> tuple[int, int]:
        """Row and column in the picture of a RAS point."""
        to_xy = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.node.GetXYToRAS(), to_xy)
        x, y, _, _ = to_xy.MultiplyPoint((*point, 1.0))
        return self.node.GetDimensions()[1] - 1 - round(y), round(x)


def add_volume(scene, image: sitk.Image, name: str, folder: Path):
    path = folder / f"{name}.nrrd"
    sitk.WriteImage(image, str(path))
    node = add_node(scene, "vtkMRMLScalarVolumeNode", name)
    read_volume(node, path)
    copy_window(node, None)
    return node


def known_transform(fixed: sitk.Image, scale: float = 4.0) -> tuple[sitk.Transform, sitk.Transform]:
    """From fixed to moving points: a smooth deformation on a coarse oblique grid, then an affine map; the inverse."""
    linear = sitk.AffineTransform(3)
    linear.SetMatrix((1.06, 0.05, 0.0, -0.04, 0.95, 0.02, 0.0, -0.03, 1.03))
    linear.SetCenter(_centre(fixed).tolist())
    linear.SetTranslation((5.0, -3.0, 4.0))
    field = _field(fixed, scale)
    backwards = sitk.InvertDisplacementField(field, maximumNumberOfIterations=50)
    forward = sitk.CompositeTransform([linear, sitk.DisplacementFieldTransform(sitk.Image(field))])
    inverse = sitk.CompositeTransform([sitk.DisplacementFieldTransform(backwards), linear.GetInverse()])
    return forward, inverse


def _centre(image: sitk.Image) -> np.ndarray:
    return np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))


def _field(fixed: sitk.Image, scale: float) -> sitk.Image:
    """Vectors in mm on a grid of half the resolution that covers the fixed image."""
    size = [n // 2 + 1 for n in fixed.GetSize()]
    k, j, i = np.meshgrid(*[np.linspace(-1, 1, n) for n in reversed(size)], indexing="ij")
    bump = np.exp(-3 * (i**2 + j**2 + k**2))
    vectors = scale * np.stack([bump * np.cos(2 * j), bump * np.sin(2 * i + 1), bump * np.cos(3 * k - 1)], axis=-1)
    field = sitk.GetImageFromArray(vectors.astype(np.float64), isVector=True)
    field.SetSpacing([2 * s for s in fixed.GetSpacing()])
    field.SetOrigin(fixed.GetOrigin())
    field.SetDirection(fixed.GetDirection())
    return field


def jacobian_with_folds(fixed: sitk.Image) -> sitk.Image:
    """From 0.4 to 2.2 along i, and a block of folds in one corner."""
    shape = fixed.GetSize()[::-1]
    values = np.broadcast_to(np.geomspace(0.4, 2.2, shape[2], dtype=np.float32), shape).copy()
    values[:, : shape[1] // 4, : shape[2] // 4] = -0.3
    return _like(values, fixed)


def _like(values: np.ndarray, image: sitk.Image, vector: bool = False) -> sitk.Image:
    made = sitk.GetImageFromArray(values, isVector=vector)
    made.CopyInformation(image)
    return made


def synthetic_images() -> tuple[sitk.Image, sitk.Image]:
    """Fixed and moving: oblique, anisotropic, off-centre, each on its own grid."""
    fixed = blob_image()
    moving = blob_image((40, 42, 26), (1.4, 1.2, 2.9), (-8.0, 15.0, -24.0), (34.0, -55.0, 110.0), shift=(2, -1, 1))
    return fixed, moving


def synthetic_result(fixed: sitk.Image, moving: sitk.Image, labels: bool = True) -> RegistrationResult:
    """A result whose transform and maps are known."""
    transform, inverse = known_transform(fixed)
    size = fixed.GetSize()
    warped = sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0)
    ramp = np.broadcast_to(np.linspace(0, 1, size[0], dtype=np.float32), size[::-1]).copy()
    force = np.zeros((*size[::-1], 3), np.float32)
    force[..., 0], force[..., 2] = 3.0 * ramp, 1.0
    numbers = _like((np.arange(ramp.size).reshape(ramp.shape) // (ramp.size // 4) % 4).astype(np.uint8), fixed)
    maps = {
        "jacobian": jacobian_with_folds(fixed),
        "driving_force": _like(force, fixed, vector=True),
        "driving_force_magnitude": _like(np.linalg.norm(force, axis=-1).astype(np.float32), fixed),
        "attention": _like(ramp, fixed),
        "difference_after": _like(ramp - np.float32(0.5), fixed),
    }
    metrics = {
        "similarity": {
            stage: {"ncc": ncc, "mse": 0.1 - ncc / 10, "ssim": ncc - 0.1, "nmi": 1 + ncc / 2}
            for stage, ncc in (("before", 0.4), ("linear", 0.6), ("after", 0.9))
        },
        "jacobian": {"mean": 1.01, "std": 0.2, "min": -0.3, "max": 2.2, "fold_percent": 6.25, "fold_volume_cm3": 1.5},
        "inverse_consistency_mm": {"mean": 0.03, "max": 0.4},
        "labels": {
            "before": {"mean_dice": 0.5, "mean_hd95_mm": 4.0, "dice": {1: 0.6, 2: 0.4}, "hd95_mm": {1: 3.0, 2: 5.0}},
            "after": {
                "mean_dice": 0.8,
                "mean_hd95_mm": 2.0,
                "dice": {1: 0.9, 2: 0.7},
                "hd95_mm": {1: 1.0, 2: float("nan")},
            },
        },
        "seconds": {"network": 1.5},
    }
    return RegistrationResult(warped, transform, inverse, maps, metrics, numbers if labels else None)


def to_lps(point) -> np.ndarray:
    return np.asarray(point) * FLIP


def points_inside(image: sitk.Image, count: int, seed: int = 0, margin: float = 0.15) -> list[np.ndarray]:
    """LPS points well inside an image."""
    rng = np.random.default_rng(seed)
    size = np.array(image.GetSize()) - 1
    indices = rng.uniform(margin, 1 - margin, (count, 3)) * size
    return [np.array(image.TransformContinuousIndexToPhysicalPoint(index)) for index in indices.tolist()]


__all__ = ["World", "add_volume", "points_inside", "synthetic_images", "synthetic_result", "to_lps", "voxels"]
