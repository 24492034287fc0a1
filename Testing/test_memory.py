"""The memory that a registration needs, as told and as measured."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
from DeepRegAttentionLib.engine.errors import ModelError
from DeepRegAttentionLib.engine.geometry import working_grid
from DeepRegAttentionLib.engine.memory import memory_needed
from DeepRegAttentionLib.engine.method import working_voxels
from DeepRegAttentionLib.engine.models.files import find_model
from DeepRegAttentionLib.engine.options import RegistrationOptions

MODEL = "brain-t1"
CHEST = (512, 512, 300), (0.7, 0.7, 1.0)


def test_the_working_grid_is_the_one_that_will_be_used(make_image) -> None:
    image, info = make_image(), find_model(MODEL).info
    voxels = working_voxels(image.GetSize(), image.GetSpacing(), RegistrationOptions(model=MODEL))
    size = working_grid(image, info.spacing, info.shape_multiple).size
    assert voxels == {info.network: size[0] * size[1] * size[2]}


def test_a_finer_grid_or_a_larger_image_needs_more() -> None:
    coarse, fine = (RegistrationOptions(model="none", spacing=spacing) for spacing in (2.0, 1.0))
    assert memory_needed(*CHEST, fine) > 2 * memory_needed(*CHEST, coarse)
    small = memory_needed((128, 128, 128), (1.0, 1.0, 1.0), coarse)
    assert 0.4 < small < 1.5 < memory_needed((400, 400, 400), (1.0, 1.0, 1.0), coarse)


def test_a_chest_fits_into_four_gib() -> None:
    assert 1.5 < memory_needed(*CHEST, RegistrationOptions()) < 4


def test_an_open_model_counts_as_the_most_demanding_way() -> None:
    def needs(*image: tuple) -> dict:
        return {name: memory_needed(*image, RegistrationOptions(model=name)) for name in ("auto", "none", MODEL)}

    head = needs((250, 250, 200), (1.0, 1.0, 1.0))
    assert head["auto"] == max(head.values()) == head[MODEL]
    # No model is made for anything as large.
    chest = needs(*CHEST)
    assert chest["auto"] == chest["none"] < chest[MODEL]


def test_an_open_model_is_one_for_objects_of_this_size() -> None:
    brain = (181, 217, 181), (1.0, 1.0, 1.0)
    assert memory_needed(*brain, RegistrationOptions()) == memory_needed(*brain, RegistrationOptions(model=MODEL))


def test_an_unknown_model_is_an_error() -> None:
    with pytest.raises(ModelError, match="no model"):
        memory_needed(*CHEST, RegistrationOptions(model="liver"))


@pytest.mark.slow
@pytest.mark.skipif(platform.system() != "Linux", reason="the peak is counted in other units elsewhere")
@pytest.mark.parametrize("model", ["none", "cardiac-mr", MODEL])
def test_what_is_told_is_what_is_used(model: str) -> None:
    code = """
import re, sys
from pathlib import Path
import numpy as np, SimpleITK as sitk
from DeepRegAttentionLib.engine.hardware import keep_freed_memory
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.registration import register
keep_freed_memory()
k, j, i = np.meshgrid(*[np.linspace(-1, 1, 80, dtype=np.float32)] * 3, indexing="ij")
images = [sitk.GetImageFromArray(np.exp(-3 * ((k - s) ** 2 + j**2 + i**2)) + 0.1 * np.sin(9 * j)) for s in (0, 0.1)]
options = RegistrationOptions(model=sys.argv[1], prealign="none", refine=1, spacing=1.0)
register(*images, options)
# Not what the system counts for the process, which begins with the size of the one that started it.
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20)
"""
    # In how many arenas threads ask for memory, and what each keeps of what was freed, is chance.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, model], env=environment, capture_output=True, encoding="utf-8", check=True
    )
    told = memory_needed((80,) * 3, (1.0,) * 3, RegistrationOptions(model=model, refine=1, spacing=1.0))
    assert 0.7 * told < float(done.stdout) < 1.3 * told
