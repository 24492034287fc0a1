"""What is said while a registration runs: stages, time left, devices, the one button."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from .translation import translator

_ = translator(__name__)
_ALMOST = 0.9


def stage_text(stage: Optional[str]) -> str:
    """What a stage does, for people."""
    texts = {
        "start": _("Starting"),
        "read": _("Reading the volumes"),
        "prealign": _("Aligning linearly"),
        "network": _("Network"),
        "refine": _("Refining"),
        "warp": _("Warping"),
        "trust": _("Predicting the error"),
        "maps": _("Making the maps"),
        "measure": _("Measuring"),
        "correct": _("Correcting"),
        "write": _("Writing the result"),
        "load": _("Loading the result"),
    }
    return texts.get(stage or "start", stage or "")


def time_left(seconds: Optional[float], fraction: float = 1.0) -> str:
    """A remaining time, as exact as it can be known; almost done is only what most of is done."""
    if seconds is None:
        return ""
    if seconds < 3:
        return _("almost done") if fraction >= _ALMOST else _("a few seconds left")
    if seconds < 90:
        step = 1 if seconds < 10 else 5
        return _("about {seconds} s left").format(seconds=step * round(seconds / step))
    return _("about {minutes} min left").format(minutes=round(seconds / 60))


def progress_text(stage: Optional[str], fraction: Optional[float] = None, eta_s: Optional[float] = None) -> str:
    """Stage, percent and time left in one line."""
    percent = "" if fraction is None else f"{100 * min(max(fraction, 0.0), 1.0):.0f} %"
    left = time_left(eta_s, fraction or 0.0)
    return " · ".join(part for part in (stage_text(stage), percent, left) if part)


def button_text(lacking: Optional[str], running: bool, cancelling: bool = False) -> str:
    """What the one button says: what it does, or what is missing before it can."""
    if cancelling:
        return _("Cancelling …")
    if running:
        return _("Cancel")
    return lacking or _("Register")


def device_text(devices: Optional[Mapping[str, Mapping[str, Any]]], choice: str) -> str:
    """The name and memory of the device that a choice means, as the worker told them; empty while unknown."""
    if not devices:
        return ""
    best = next((name for name in ("cuda", "mps", "cpu") if name in devices), "cpu")
    device = devices.get(best if choice == "auto" else choice)
    if device is None:
        return _absent(choice)
    return _memory_text(str(device.get("name", choice)), device) + _need_text(devices.get("cpu", {}))


def _memory_text(name: str, device: Mapping[str, Any]) -> str:
    free, total = device.get("free_gib"), device.get("total_gib")
    if free is None or total is None:
        return name
    return _("{name}: {free} of {total} GiB free").format(name=name, free=f"{free:.1f}", total=f"{total:.1f}")


def _need_text(cpu: Mapping[str, Any]) -> str:
    """What this registration needs, of the computer's memory, and whether it is there."""
    needed = cpu.get("needed_gib")
    if needed is None:
        return ""
    text = "\n" + _("This registration needs about {needed} GiB of memory.").format(needed=f"{needed:.1f}")
    return f"{text} {_too_much()}" if _is_scarce(cpu) else text


def device_trouble(devices: Optional[Mapping[str, Mapping[str, Any]]], choice: str) -> str:
    """What stands against a choice: there is no such device, or not enough memory; empty if nothing does."""
    if devices and choice not in ("auto", *devices):
        return _absent(choice)
    cpu = (devices or {}).get("cpu", {})
    return _need_text(cpu).strip() if _is_scarce(cpu) else ""


def _absent(choice: str) -> str:
    return _("This computer has no {device} device that torch can use.").format(device=choice.upper())


def _is_scarce(cpu: Mapping[str, Any]) -> bool:
    needed, free = cpu.get("needed_gib"), cpu.get("free_gib")
    return needed is not None and free is not None and bool(needed > free)


def _too_much() -> str:
    return _("That is more than is free: choose a coarser working spacing under Advanced.")
