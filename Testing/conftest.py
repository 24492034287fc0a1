"""Fixtures that every test can ask for; what tests import lies in ``helpers``."""

from __future__ import annotations

import os
from collections import Counter
from typing import Callable

import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.engine.threads import wait_passively
from helpers.images import blob_image

# No test module has loaded torch yet.
wait_passively()
if "PYTEST_XDIST_WORKER" in os.environ:
    # Files are tested side by side: each with one thread.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests come first, so that no worker is left with them when the others have ended."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture
def make_image() -> Callable[..., sitk.Image]:
    return blob_image
