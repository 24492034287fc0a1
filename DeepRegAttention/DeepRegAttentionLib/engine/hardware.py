"""Where and how the computation runs: device, precision, threads, memory."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Optional

import SimpleITK as sitk
import torch

from .errors import MemoryLimitError, OptionError
from .threads import usable_threads


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


def _bfloat16_is_fast(device: str) -> bool:
    """Whether the processor multiplies in bfloat16 itself; a timing would depend on what else is running."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    if device != "cpu":
        return False
    return any(getattr(torch.cpu, name, lambda: False)() for name in _BFLOAT16_UNITS)


# What tells it of x86 processors; a torch that does not know one yet computes in float32.
_BFLOAT16_UNITS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def prepare_process(threads: Optional[int] = None) -> None:
    """Make a process of our own ready to register: it keeps freed memory and uses the threads that it may.

    Parameters
    ----------
    threads : int, optional
        For torch and SimpleITK; None takes :func:`available_threads`.
    """
    keep_freed_memory()
    _set_threads(*_threads(threads))


def keep_freed_memory() -> None:
    """Ask the C library to keep freed memory instead of returning it to the system after each tensor.

    A volume's intermediate tensors are tens of megabytes each; on Linux every one would be mapped, cleared
    page by page and unmapped again, which can cost more than the arithmetic. Elsewhere than on glibc it does nothing.
    """
    if not _has_glibc():
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in ((trim_threshold, 2**31 - 1), (top_pad, 256 * 2**20), (mmap_max, 0)):
        mallopt(ctypes.c_int(parameter), ctypes.c_int(value))


def _has_glibc() -> bool:
    return platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"


def release_memory() -> None:
    """Return to the system what :func:`keep_freed_memory` kept, for a process that will be idle for a while."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def limited_threads(threads: Optional[int]) -> Iterator[None]:
    """Give torch and SimpleITK so many CPU threads within the block.

    None takes those that they would take themselves, as far as the process may use so many.
    """
    before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    _set_threads(*_threads(threads))
    try:
        yield
    finally:
        _set_threads(*before)


def available_threads() -> int:
    """Threads that a computation takes unless it is told another number.

    Those of torch (which goes by ``OMP_NUM_THREADS``), or fewer where the process may use no more.
    """
    return _threads(None)[0]


def _threads(wanted: Optional[int]) -> tuple[int, int]:
    """Of torch and of SimpleITK."""
    if wanted is not None:
        return wanted, wanted
    usable = usable_threads()
    return min(torch.get_num_threads(), usable), min(sitk.ProcessObject.GetGlobalDefaultNumberOfThreads(), usable)


def _set_threads(of_torch: int, of_simpleitk: int) -> None:
    torch.set_num_threads(of_torch)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(of_simpleitk)


_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate memory", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is what torch, NumPy or SimpleITK raises when memory runs out."""
    # Only some of them have a class for it; the others say it in words.
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(phrase in words for phrase in _NO_MEMORY)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn whatever is raised when memory runs out within the block into a MemoryLimitError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = "The images do not fit into memory; choose a coarser working spacing or crop them."
        raise MemoryLimitError(message) from error


@dataclass(frozen=True)
class Device:
    """One device on which a registration can run.

    Attributes
    ----------
    name : str
        For people.
    free_gib, total_gib : float, optional
        Memory; None where the system does not tell.
    """

    name: str
    free_gib: Optional[float] = None
    total_gib: Optional[float] = None

    def __str__(self) -> str:
        if self.total_gib is None:
            return self.name
        free = "" if self.free_gib is None else f"{self.free_gib:.1f} of "
        return f"{self.name}, {free}{self.total_gib:.1f} GiB{' free' if free else ''}"


def list_devices() -> dict[str, Device]:
    """The usable devices, keyed by option value."""
    free, total = _system_memory()
    devices = {"cpu": Device(f"{_processor()}, {available_threads()} threads", free, total)}
    if torch.cuda.is_available():
        free, total = (n / 2**30 for n in torch.cuda.mem_get_info())
        devices["cuda"] = Device(torch.cuda.get_device_name(), free, total)
    if torch.backends.mps.is_available():
        devices["mps"] = Device("Apple GPU", devices["cpu"].free_gib, devices["cpu"].total_gib)
    return devices


@lru_cache(maxsize=1)
def _processor() -> str:
    return platform.processor() or platform.machine()


def _system_memory() -> tuple[Optional[float], Optional[float]]:
    """Free and total memory of the computer in GiB."""
    if platform.system() == "Linux":
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return kib["MemAvailable"] / 2**20, kib["MemTotal"] / 2**20
    if sys.platform == "win32":
        return _windows_memory()
    return None, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def _windows_memory() -> tuple[Optional[float], Optional[float]]:
    if sys.platform != "win32":
        return None, None

    class Status(ctypes.Structure):  # MEMORYSTATUSEX
        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            ("total", ctypes.c_ulonglong),
            ("free", ctypes.c_ulonglong),
            ("others", ctypes.c_ulonglong * 5),
        )

    status = Status(length=ctypes.sizeof(Status))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None, None
    return status.free / 2**30, status.total / 2**30
