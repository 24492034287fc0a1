"""What the self-tests inside 3D Slicer share: steps with a message, waiting without blocking, small volumes."""

from __future__ import annotations

import os
import sys
import time
import unittest
from pathlib import Path
from typing import Any, Callable

import numpy as np
import slicer
import vtk

MODULE = Path(slicer.util.modulePath("DeepRegAttention")).parent
START_S, JOB_S = 180, 600
"""How long the worker may take to start, and a registration to end, on a slow computer."""


def say(message: str) -> None:
    """A step, on the terminal."""
    print(f"[DeepRegAttention] {message}", flush=True)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 30) -> float:
    """Let the application work until something is so; returns the longest time, in s, that it did not answer."""
    end, longest = time.monotonic() + seconds, 0.0
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"Waited {seconds:.0f} s in vain: {what}.")
        start = time.monotonic()
        slicer.app.processEvents()
        longest = max(longest, time.monotonic() - start)
        time.sleep(0.005)
    return longest


def settle(seconds: float = 0.3) -> None:
    """Let the application draw."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end, "time passes", seconds + 60)


def open_panel() -> Any:
    """The module's panel, in an application with slice views."""
    slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    slicer.util.selectModule("DeepRegAttention")
    return slicer.modules.DeepRegAttentionWidget.panel


def notice_errors(test: unittest.TestCase) -> None:
    """Have a test fail if any of its clicks or events raises: the application itself prints that and goes on."""
    raised: list = []
    before = sys.excepthook

    def noticed(kind: type, error: BaseException, trace: Any) -> None:
        raised.append(f"{kind.__name__}: {error}")
        before(kind, error, trace)

    def ended() -> None:
        sys.excepthook = before
        test.assertEqual(raised, [])

    sys.excepthook = noticed
    test.addCleanup(ended)


def blob_volume(name: str, shift_mm: float = 0.0) -> slicer.vtkMRMLScalarVolumeNode:
    """A small textured object on an oblique, anisotropic, off-centre grid, shifted to the patient's right in mm."""
    matrix = np.eye(4)
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    matrix[:3, :3], matrix[:3, 3] = turn * (1.6, 1.9, 2.4), (-60, 25, 110)
    k, j, i = np.mgrid[:30, :40, :44]
    points = np.stack([i, j, k], -1) @ matrix[:3, :3].T + matrix[:3, 3] - (shift_mm, 0, 0)
    centre = np.array([21.5, 19.5, 14.5]) @ matrix[:3, :3].T + matrix[:3, 3]
    rng = np.random.default_rng(7)
    values = 100 * np.exp(-(((points - centre) / (20, 22, 18)) ** 2).sum(-1))
    for _ in range(14):
        where = centre + rng.uniform(-16, 16, 3)
        values += rng.uniform(-45, 45) * np.exp(-(((points - where) / rng.uniform(4, 7)) ** 2).sum(-1))
    volume = slicer.util.addVolumeFromArray(values.astype(np.float32), name=name)
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    return volume


def moved(transform: slicer.vtkMRMLTransformNode, point: tuple) -> np.ndarray:
    """Where a transform takes a point that lies under it, world RAS mm."""
    chain = vtk.vtkGeneralTransform()
    transform.GetTransformToWorld(chain)
    return np.array(chain.TransformPoint(point))


def files_left() -> list:
    """Folders of this application's jobs that are still there."""
    return sorted(Path(slicer.app.temporaryPath).glob(f"DeepRegAttention-{os.getpid()}-*"))
