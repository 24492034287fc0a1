"""Devices, precision, threads and memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from typing import Any, Optional

import pytest
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.engine import hardware
from DeepRegAttentionLib.engine.errors import MemoryLimitError, OptionError
from DeepRegAttentionLib.engine.options import DEVICES, PRECISIONS, RegistrationOptions
from DeepRegAttentionLib.engine.parallel import Threads
from DeepRegAttentionLib.engine.registration import register


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


@pytest.mark.parametrize("unit", [*hardware._BFLOAT16_UNITS, None])
def test_auto_precision_is_bfloat16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, unit: Optional[str]
) -> None:
    for name in hardware._BFLOAT16_UNITS:
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name == unit, raising=False)
    expected = torch.float32 if unit is None else torch.bfloat16
    assert hardware.choose_precision("auto", torch.device("cpu")) is expected


def test_auto_precision_with_a_torch_that_does_not_know_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in hardware._BFLOAT16_UNITS:
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert hardware.choose_precision("auto", torch.device("cpu")) is torch.float32


def test_mps_computes_in_float32() -> None:
    assert hardware.choose_precision("auto", torch.device("mps")) is torch.float32


def threads() -> tuple[int, int]:
    return torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()


def test_threads_are_limited_for_a_while() -> None:
    before = threads()
    with hardware.limited_threads(3):
        assert threads() == (3, 3)
    assert threads() == before
    with pytest.raises(ZeroDivisionError), hardware.limited_threads(before[0] + 1):
        raise ZeroDivisionError
    assert threads() == before


def test_without_a_number_there_are_no_more_threads_than_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with hardware.limited_threads(4):
        for usable, expected in ((3, (3, 3)), (64, (4, 4))):
            monkeypatch.setattr(hardware, "usable_threads", lambda usable=usable: usable)
            assert hardware.available_threads() == expected[0]
            with hardware.limited_threads(None):
                assert threads() == expected
            assert threads() == (4, 4)


def test_a_process_of_our_own_is_prepared_once_and_pools_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "keep_freed_memory", lambda: None)
    with hardware.limited_threads(4):
        hardware.prepare_process(2)
        assert threads() == (2, 2)
        with Threads() as pool:
            assert pool._max_workers == 2


def test_a_registration_has_the_threads_that_it_may_use(make_image: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "usable_threads", lambda: 2)
    seen = []
    image = make_image(size=(16, 16, 12))
    options = RegistrationOptions(model="none", prealign="none", refine=1)
    with hardware.limited_threads(3):
        register(image, image, options, progress=lambda stage, fraction: seen.append(threads()))
        register(image, image, replace(options, threads=1), progress=lambda stage, fraction: seen.append(threads()))
        assert threads() == (3, 3)
    assert list(dict.fromkeys(seen)) == [(2, 2), (1, 1)]


def test_devices_are_listed_by_their_option_value() -> None:
    devices = hardware.list_devices()
    assert set(devices) == {name for name, here in present().items() if here}
    assert all(str(device).strip(" ,") for device in devices.values())
    assert not str(devices["cpu"]).startswith(",")


@pytest.mark.skipif(platform.system() not in ("Linux", "Windows"), reason="macOS does not tell")
def test_free_memory_is_told_and_shrinks_when_it_is_used() -> None:
    before = hardware.list_devices()["cpu"]
    assert before.free_gib is not None
    assert before.total_gib is not None
    assert 0 < before.free_gib < before.total_gib < 1e5
    assert f"{before.total_gib:.1f} GiB free" in str(before)


def test_a_device_without_known_memory_is_its_name() -> None:
    assert str(hardware.Device("Apple GPU")) == "Apple GPU"
    assert str(hardware.Device("Apple GPU", None, 16.0)) == "Apple GPU, 16.0 GiB"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] data. DefaultCPUAllocator: not enough memory: you tried"),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 4.00 GB)"),
        RuntimeError("Exception thrown in SimpleITK: itk::ERROR: Failed to allocate memory for image."),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_no_memory_is_one_sentence(error: Exception) -> None:
    with pytest.raises(MemoryLimitError, match="coarser"), hardware.memory_errors():
        raise error


@pytest.mark.slow
def test_simpleitk_without_memory_is_recognised() -> None:
    code = """
import resource, sys
import SimpleITK as sitk
import torch
from DeepRegAttentionLib.engine.hardware import memory_errors
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
make = {"torch": lambda: torch.zeros(2**32), "SimpleITK": lambda: sitk.Image(2048, 2048, 1024, sitk.sitkFloat32)}
with memory_errors():
    make[sys.argv[1]]()
"""
    for library in ("torch", "SimpleITK"):
        done = subprocess.run([sys.executable, "-c", code, library], capture_output=True, encoding="utf-8")
        assert "MemoryLimitError: The images do not fit into memory" in done.stderr.splitlines()[-1]


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), hardware.memory_errors():
        raise RuntimeError("The shapes differ.")


@pytest.mark.slow
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
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8", check=True
    )
    usual, kept = map(int, done.stdout.split())
    assert kept < 0.2 * usual
