"""Fixtures that every test can ask for; what tests import lies in ``helpers``."""

from __future__ import annotations

from typing import Callable

import pytest
import SimpleITK as sitk
from helpers.images import blob_image


@pytest.fixture
def make_image() -> Callable[..., sitk.Image]:
    return blob_image
