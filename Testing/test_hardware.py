"""Devices, precision, threads and memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch
from DeepRegAttentionLib.engine import hardware
from DeepRegAttentionLib.engine.errors import OptionError
from DeepRegAttentionLib.engine.options import DEVICES, PRECISIONS


def present() -> dict[str, bool]:
    return {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


@pytest.mark.parametrize("name", DEVICES)
def test_a_device_is_chosen_or_its_absence_is_said(name: str) -> None:
    if name == "auto" or present()[name]:
        device = hardware.choose_device(name)
        assert device.type == (name if name != "auto" else device.type)
        assert float(torch.ones(2, device=device).sum()) == 2
    else:
        with pytest.raises(OptionError, match=f"no {name.upper()} device"):
            hardware.choose_device(name)


def test_auto_prefers_an_accelerator() -> None:
    chosen = hardware.choose_device("auto").type
    assert chosen == ("cuda" if present()["cuda"] else "mps" if present()["mps"] else "cpu")


def test_a_precision_is_taken_as_asked() -> None:
    cpu = torch.device("cpu")
    assert hardware.choose_precision("float32", cpu) is torch.float32
    assert hardware.choose_precision("bfloat16", cpu) is torch.bfloat16
    assert {hardware.choose_precision(name, cpu) for name in PRECISIONS} <= {torch.float32, torch.bfloat16}


def test_auto_precision_is_settled_once_and_quickly() -> None:
    hardware._bfloat16_is_fast.cache_clear()
    first = hardware.choose_precision("auto", torch.device("cpu"))
    assert all(hardware.choose_precision("auto", torch.device("cpu")) is first for _ in range(3))
    assert hardware._bfloat16_is_fast.cache_info().misses == 1


def test_auto_precision_takes_the_faster_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, expected in ((0.5, torch.bfloat16), (1.5, torch.float32)):
        hardware._bfloat16_is_fast.cache_clear()
        timings = {torch.bfloat16: seconds, torch.float32: 1.0}
        monkeypatch.setattr(hardware, "_convolution_seconds", timings.__getitem__)
        assert hardware.choose_precision("auto", torch.device("cpu")) is expected
    hardware._bfloat16_is_fast.cache_clear()


def test_mps_computes_in_float32() -> None:
    assert hardware.choose_precision("auto", torch.device("mps")) is torch.float32


def test_threads_are_limited_and_none_leaves_them() -> None:
    before = torch.get_num_threads()
    try:
        hardware.set_threads(1)
        assert torch.get_num_threads() == 1
        hardware.set_threads(None)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_devices_are_described_by_their_option_value() -> None:
    described = hardware.describe_devices()
    assert set(described) == {name for name, here in present().items() if here}
    assert all(text.strip(" ,") for text in described.values())
    assert not described["cpu"].startswith(",")


@pytest.mark.skipif(
    platform.system() != "Linux" or platform.libc_ver()[0] != "glibc", reason="a setting of the GNU C library"
)
def test_freed_memory_is_kept() -> None:
    """Page faults of allocating and freeing the same large block again and again, before and after."""
    code = """
import ctypes, resource
import torch
from DeepRegAttentionLib.engine.hardware import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.zeros(8 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
usual = faults()
keep_freed_memory()
for _ in range(6):  # until the heap is as large as it will be
    faults()
print(usual, faults())
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    usual, kept = map(int, done.stdout.split())
    assert kept < 0.2 * usual
