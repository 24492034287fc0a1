"""Fixtures that every test can ask for; what tests import lies in ``helpers``."""

from __future__ import annotations

from typing import Callable

import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.engine.threads import wait_passively
from helpers.images import blob_image

# No test module has loaded torch yet.
wait_passively()


@pytest.fixture
def make_image() -> Callable[..., sitk.Image]:
    return blob_image
