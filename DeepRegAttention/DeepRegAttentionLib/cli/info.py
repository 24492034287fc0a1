"""``deepreg-attention info``: what this computer offers, for choosing options and for reporting problems."""

from __future__ import annotations

import json
import platform
from typing import Annotated, Any

import typer

from .. import __version__
from .console import ReadableErrors, results

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@ReadableErrors()
def info(as_json: AsJson = False) -> None:
    """Show devices, threads, the arithmetic in use, and versions."""
    from .tables import key_value_table

    facts = collect()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    devices = {f"device {name}": text for name, text in facts["devices"].items()}
    versions = {f"version of {name}": text for name, text in facts["versions"].items()}
    chosen = {name: str(facts[name]) for name in ("device", "precision", "bfloat16", "threads")}
    results.print(key_value_table({**devices, **chosen, **versions}))


def collect() -> dict[str, Any]:
    """Devices by option value, what ``auto`` chooses, CPU threads, and versions."""
    import numpy as np
    import SimpleITK as sitk
    import torch

    from ..engine.hardware import available_threads, choose_device, choose_precision, list_devices

    device = choose_device("auto")
    precision = choose_precision("auto", device)
    return {
        "devices": {name: str(device) for name, device in list_devices().items()},
        "device": device.type,
        "precision": str(precision).split(".")[-1],
        "bfloat16": "fast" if precision is torch.bfloat16 else "not faster than float32",
        "threads": available_threads(),
        "versions": {
            "deepreg-attention": __version__,
            "torch": torch.__version__,
            "SimpleITK": sitk.Version.VersionString(),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
