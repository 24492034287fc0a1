"""Where and how the computation runs: device, precision, threads, memory."""

from __future__ import annotations

import ctypes
import platform
import time
from functools import lru_cache
from typing import Dict, Optional

import SimpleITK as sitk
import torch

from .errors import OptionError


def choose_device(name: str) -> torch.device:
    """The device for an option value; ``"auto"`` prefers CUDA, then MPS; an absent one raises OptionError."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, here in available.items() if here))
    if not available.get(name, False):
        raise OptionError(f"This computer has no {name.upper()} device that torch can use; choose auto or cpu.")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type of the convolutions; ``"auto"`` takes bfloat16 where it is faster than float32."""
    if name == "auto":
        return torch.bfloat16 if _bfloat16_is_fast(device.type) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


@lru_cache(maxsize=4)
def _bfloat16_is_fast(device: str) -> bool:
    """On a GPU a property; on a CPU the outcome of one small timed convolution, once per process."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device != "cpu":
        return False
    return _convolution_seconds(torch.bfloat16) < 0.8 * _convolution_seconds(torch.float32)


def _convolution_seconds(dtype: torch.dtype) -> float:
    layer = torch.nn.Conv3d(16, 16, 3, padding=1).to(dtype)
    image = torch.zeros(1, 16, 24, 24, 24, dtype=dtype)
    seconds = []
    with torch.inference_mode():
        for _ in range(4):
            start = time.perf_counter()
            layer(image)
            seconds.append(time.perf_counter() - start)
    return min(seconds)


def keep_freed_memory() -> None:
    """Ask the C library to keep freed memory instead of returning it to the system after each tensor.

    A volume's intermediate tensors are tens of megabytes each; on Linux every one would be mapped, cleared
    page by page and unmapped again, which can cost more than the arithmetic. Call it once at the start of a
    process that registers images; elsewhere than on glibc it does nothing.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in ((trim_threshold, 2**31 - 1), (top_pad, 256 * 2**20), (mmap_max, 0)):
        mallopt(ctypes.c_int(parameter), ctypes.c_int(value))


def set_threads(threads: Optional[int]) -> None:
    """Limit torch and SimpleITK to so many CPU threads; None leaves their own choice."""
    if threads is not None:
        torch.set_num_threads(threads)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def describe_devices() -> Dict[str, str]:
    """Name of each usable device, for people, keyed by option value."""
    devices = {"cpu": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        devices["cuda"] = f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    return devices
