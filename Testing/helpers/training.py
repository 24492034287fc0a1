"""What the tests of training share: a small data set of shifted blobs and a tiny configuration for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import yaml
from DeepRegAttentionLib.cli.train import read_configuration
from DeepRegAttentionLib.training.options import TrainingOptions

from .images import blob_image

SHIFTS = [(0, 0, 0), (4, 0, 2), (0, -4, 0), (2, 2, -4), (-3, 1, 1)]
CONFIGURATION: dict[str, Any] = {
    "name": "tiny",
    "network": "drivenmorph",
    "configuration": {"channels": [4, 8]},
    "data": "blobs",
    "validation": ["case3", "case4"],
    "spacing": 4.0,
    "steps": 4,
    "precision": "float32",
    "metadata": {"modality": "MR T1", "anatomy": "blob", "extent_mm": [40, 40, 40], "inter_subject": True},
}


def write_blobs(folder: Path) -> None:
    """Five shifted blobs with labels, landmarks and masks in ``blobs/``."""
    for kind in ("images", "labels", "landmarks", "masks"):
        (folder / "blobs" / kind).mkdir(parents=True)
    for number, shift in enumerate(SHIFTS):
        image = blob_image(size=(16, 14, 12), spacing=(4.0, 4.0, 4.0), degrees=(0, 0, 20), shift=shift)
        name = f"case{number}"
        sitk.WriteImage(image, str(folder / "blobs" / "images" / f"{name}.nii.gz"))
        labels = sitk.Cast(image > 0.3, sitk.sitkUInt8) + sitk.Cast(image > 0.8, sitk.sitkUInt8)
        sitk.WriteImage(labels, str(folder / "blobs" / "labels" / f"{name}.nii.gz"))
        mask = sitk.Cast(image > 0.05, sitk.sitkUInt8)
        sitk.WriteImage(mask, str(folder / "blobs" / "masks" / f"{name}.nii.gz"))
        points = np.array([[31.0, -57, 112], [36, -50, 108]]) + shift
        np.savetxt(folder / "blobs" / "landmarks" / f"{name}.txt", points)


def write_configuration(folder: Path, **changes: Any) -> Path:
    """The tiny configuration with some settings changed."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**CONFIGURATION, **changes}), encoding="utf-8")
    return path


def tiny(folder: Path, **changes: Any) -> TrainingOptions:
    """The same as options."""
    return read_configuration(write_configuration(folder, **changes), folder)
