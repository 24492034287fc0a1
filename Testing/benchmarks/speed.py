"""Seconds, memory and megabytes by the size of the images and by what else the computer does, beside other programs.

    python Testing/benchmarks/speed.py ../shared/data --output speed

Each row is measured in a process of its own: warm (the second of two registrations, images in memory to maps in memory,
and the writing of the result folder) or as the whole command from a cold start, affine alignment included. What the
output folder holds already is kept, so that it can be made in several goes; a row that failed is tried again. Brains
are a pair held out of training, at their own size and brought to two others; the CT is a made body in Hounsfield units.
Meant for a quiet machine. Needs the extras ``train`` and ``benchmark``, and Linux.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import numpy as np
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).parent))

Row = dict[str, object]
KEY = ("pair", "load", "method")
MEASURES = {
    "total": "s",
    "prealign": "alignment",
    "network": "network",
    "refine": "refinement",
    "warp": "warp",
    "trust": "error",
    "maps": "maps, measures",
    "write": "writing",
    "cpu": "CPU s",
    "peak_gib": "peak GiB",
    "written_mb": "MB written",
}
"""What a row holds, and the head of its column. ``total`` counts everything but the writing, of a command that, too."""
LOADS = {"none": 0, "two": 2, "four": 4, "one-core": 0}
"""How many processes beside it use all they can get; on one core there is one for everything."""
FAST, COMMAND = "preset fast", "whole command, preset fast"


class Images(NamedTuple):
    """A pair of images by size: how it is made, and what is measured on it."""

    make: Callable[[Path], tuple[sitk.Image, sitk.Image]]
    methods: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder in which the data sets lie")
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--loads", nargs="+", default=list(LOADS), choices=list(LOADS))
    parser.add_argument("--methods", nargs="+", help="all that are measured on a pair, if not given")
    parser.add_argument("--again", action="store_true", help="measure also what the output folder holds already")
    parser.add_argument("--limit", type=float, default=1800, help="seconds after which a row has failed")
    parser.add_argument("--output", type=Path, default=Path("speed"), help="folder for images and tables")
    parser.add_argument("--row", nargs=3, metavar=("FIXED", "MOVING", "METHOD"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        fixed, moving, method = arguments.row
        print(json.dumps(measure_here(method, Path(fixed), Path(moving))))
        return
    rows = read_rows(arguments.output)
    wanted = [
        (pair, load, method)
        for pair in arguments.pairs
        for load in arguments.loads
        for method in PAIRS[pair].methods
        if not arguments.methods or method in arguments.methods
    ]
    for pair, load, method in wanted:
        known = any(tuple(row[name] for name in KEY) == (pair, load, method) and row.get("total") for row in rows)
        if known and not arguments.again:
            continue
        images = prepared(pair, arguments.data, arguments.output)
        row: Row = {"pair": pair, "load": load, "method": method, **measure(load, method, images, arguments.limit)}
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows = in_order([*(r for r in rows if any(r[name] != row[name] for name in KEY)), row])
        write(rows, arguments.output)


# The images


def brains(data: Path) -> tuple[sitk.Image, sitk.Image]:
    """A pair of LPBA40 that no model was trained on, 160 x 192 x 160 voxels of 1 mm."""
    import accuracy

    _, pairs = accuracy.reporting_pairs(accuracy.TASKS["brain"], data, 1)
    fixed, moving, _, _ = accuracy.read_pair(pairs[0])
    return fixed, moving


def brains_of(side: int) -> Callable[[Path], tuple[sitk.Image, sitk.Image]]:
    """The same pair as cubes of so many voxels that span 192 mm."""

    def make(data: Path) -> tuple[sitk.Image, sitk.Image]:
        fixed, moving = (cube(image, side, 192.0) for image in brains(data))
        return fixed, moving

    return make


def cube(image: sitk.Image, side: int, extent: float) -> sitk.Image:
    """An image on a cube around its middle, of so many voxels and mm."""
    from DeepRegAttentionLib.engine.geometry import Grid, resample

    own = Grid.of(image)
    step = extent / side
    first = own.centre - np.reshape(own.direction, (3, 3)) @ np.full(3, step * (side - 1) / 2)
    return resample(image, Grid((side,) * 3, (step,) * 3, tuple(first.tolist()), own.direction))


def bodies(data: Path) -> tuple[sitk.Image, sitk.Image]:
    """Two CT-like images of a made body, 512 x 512 x 300 voxels of 0.7 x 0.7 x 1 mm, whole numbers."""
    return body((512, 512, 300), breath=0.0, seed=1), body((512, 512, 300), breath=1.0, seed=2)


def body(size: tuple[int, int, int], breath: float, seed: int) -> sitk.Image:
    """Air, fat, muscle, lungs with vessels, liver, spine and ribs in Hounsfield units, with noise.

    `breath` moves diaphragm, ribs and vessels by up to 20 mm.
    """
    spacing = np.array((358.4 / size[0], 358.4 / size[1], 300.0 / size[2]))
    image = sitk.GetImageFromArray(np.zeros((75, 128, 128), np.float32))
    image.SetSpacing((2.8, 2.8, 4.0))
    k, j, i = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (75, 128, 128)), indexing="ij")
    x, y, z = i * 2.8 - 177.8, j * 2.8 - 177.8, k * 4.0 - 148.0
    z = z + breath * 20 * np.exp(-((z / 90) ** 2)) * np.exp(-(x**2 + y**2) / 120**2)
    y = y + breath * 6 * np.sin(z / 60)
    round_ = np.hypot(x / 150, y / 105)
    hu = np.where(round_ < 1, -90.0, -1000.0)
    hu[round_ < 0.9] = 45
    for side in (-1, 1):
        lung = ((x - side * 68) / 48) ** 2 + (y / 70) ** 2 + (np.minimum(z - 20, 0) / 45) ** 2 + (z / 170) ** 2 < 1
        vessels = np.sin(x / 7 + np.sin(z / 11)) * np.sin(y / 8) * np.sin(z / 9 + side)
        hu[lung] = np.where(vessels > 0.55, 30.0, -830.0)[lung]
    hu[((x - 60) / 70) ** 2 + ((y + 10) / 65) ** 2 + ((z + 80) / 45) ** 2 < 1] = 110
    hu[(np.hypot(x, y - 75) < 18) & (np.sin(z / 5) > -0.7)] = 500
    hu[(np.abs(round_ - 0.86) < 0.04) & (np.sin(z / 6 + y / 40) > 0.5)] = 700
    coarse = sitk.GetImageFromArray(hu.astype(np.float32))
    coarse.CopyInformation(image)
    fine = sitk.Resample(coarse, size, sitk.Transform(), sitk.sitkLinear, (0.0, 0.0, 0.0), spacing.tolist())
    values = sitk.GetArrayFromImage(fine)
    rng = np.random.default_rng(seed)
    # Round as a scanner's field of view, and noisy wherever it sees, which does not compress.
    seen = np.hypot(*np.meshgrid(*(np.linspace(-1, 1, n) for n in (size[0], size[1])))) < 1
    for plane in values:
        plane += rng.normal(scale=12.0, size=plane.shape).astype(np.float32)
        plane[~seen] = -1024
    body = sitk.GetImageFromArray(np.rint(values.clip(-1024, 3000)).astype(np.int16))
    body.CopyInformation(fine)
    return body


_OURS = ("brain-t1", "brain-t1 + 20 steps")
_OTHERS = ("antspyx SyN", "picsl-greedy")
PAIRS: dict[str, Images] = {
    "96x96x96": Images(brains_of(96), (*_OURS, FAST, COMMAND, *_OTHERS)),
    "160x192x160": Images(brains, (*_OURS, FAST, COMMAND, *_OTHERS)),
    "256x256x256": Images(brains_of(256), (*_OURS, FAST, COMMAND)),
    "512x512x300": Images(bodies, (FAST, COMMAND)),
}


def prepared(pair: str, data: Path, folder: Path) -> tuple[Path, Path]:
    """The files of a pair, made if they are not there yet."""
    paths = folder / "images" / f"{pair}-fixed.nii.gz", folder / "images" / f"{pair}-moving.nii.gz"
    if not all(path.exists() for path in paths):
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        for image, path in zip(PAIRS[pair].make(data), paths):
            partial = path.with_name(f"partial-{path.name}")
            sitk.WriteImage(image, str(partial), useCompression=True)
            partial.replace(path)
    return paths


# Measuring


def measure(load: str, method: str, images: tuple[Path, Path], limit: float) -> Row:
    """One row in a process of its own, beside busy ones; a failure is a row, too."""
    command = [sys.executable, __file__, ".", "--row", *map(str, images), method]
    # The package that this program uses, wherever it was started.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with busy(LOADS[load]), tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=said,
                encoding="utf-8",
                timeout=limit,
                check=False,
                env=environment,
                preexec_fn=_one_core if load == "one-core" else None,
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"not done within {limit:g} s"}
        if done.returncode:
            said.seek(0)
            lines = said.read().strip().splitlines()
            return {"failed": lines[-1] if lines else f"ended with {done.returncode}"}
    measured: Row = json.loads(done.stdout.splitlines()[-1])
    return measured


def _one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute as long as this one is there."""
    endless = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(1_000_000))"
    others = [subprocess.Popen([sys.executable, "-c", endless]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure_here(method: str, fixed: Path, moving: Path) -> Row:
    """What one method needs, in this process."""
    if method == COMMAND:
        return whole_command(fixed, moving)
    return others(method, fixed, moving) if method in _OTHERS else ours(method, fixed, moving)


def ours(method: str, fixed: Path, moving: Path) -> Row:
    """The second registration of two, stage by stage, and the writing of its result; as the worker does it."""
    from DeepRegAttentionLib.engine.threads import wait_passively

    wait_passively()  # before torch is loaded
    from DeepRegAttentionLib.engine.hardware import keep_freed_memory
    from DeepRegAttentionLib.engine.options import RegistrationOptions
    from DeepRegAttentionLib.engine.registration import register

    keep_freed_memory()
    images = [sitk.ReadImage(str(path)) for path in (fixed, moving)]
    options = RegistrationOptions(refine=0)
    if method != FAST:
        model, _, steps = method.partition(" + ")
        options = RegistrationOptions(model=model, prealign="none", refine=int(steps.split()[0]) if steps else 0)
    warm, written = (0.0, 0.0), 0.0
    for _ in range(2):
        start, before = time.perf_counter(), _cpu_seconds()
        result = register(*images, options)
        warm = time.perf_counter() - start, _cpu_seconds() - before
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result.save(folder)
        seconds, written = time.perf_counter() - start, _megabytes(Path(folder))
    stages = {name: round(value, 3) for name, value in result.metrics["seconds"].items()}
    totals = {"total": round(warm[0], 3), "cpu": round(warm[1], 3), "write": round(seconds, 3)}
    return {**totals, **stages, "peak_gib": _peak_gib(), "written_mb": round(written, 1)}


def others(method: str, fixed: Path, moving: Path) -> Row:
    """Another program, with images in memory, as its own defaults have it."""
    import accuracy

    images = [sitk.ReadImage(str(path)) for path in (fixed, moving)]
    start, before = time.perf_counter(), _cpu_seconds()
    (accuracy.syn if method == "antspyx SyN" else accuracy.greedy)(*images)
    seconds, used = time.perf_counter() - start, _cpu_seconds() - before
    return {"total": round(seconds, 3), "cpu": round(used, 3), "peak_gib": _peak_gib()}


def whole_command(fixed: Path, moving: Path) -> Row:
    """``deepreg-attention register --preset fast`` from a cold start to the last file written."""
    program = [sys.executable, "-c", "from DeepRegAttentionLib.cli import main; main()"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [*program, "register", str(fixed), str(moving), "-o", folder, "--preset", "fast"]
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(running.pid, 0)
        seconds = time.perf_counter() - start
        running.returncode = os.waitstatus_to_exitcode(status)
        if running.returncode:
            raise SystemExit(f"the command ended with {running.returncode}")
        stages = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))["seconds"]
        written = _megabytes(Path(folder))
    known = {name: round(value, 3) for name, value in stages.items() if name in MEASURES}
    used = {"cpu": round(usage.ru_utime + usage.ru_stime, 3), "peak_gib": round(usage.ru_maxrss / 2**20, 3)}
    return {"total": round(seconds, 3), **known, **used, "written_mb": round(written, 1)}


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _peak_gib() -> float:
    """Of this process: what the system counts begins with the size of the one that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return round(int(status.split("VmHWM:")[1].split()[0]) / 2**20, 3)


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


# What is made of the measurements


def read_rows(folder: Path) -> list[Row]:
    """What the output folder holds."""
    path = folder / "speed.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def in_order(rows: list[Row]) -> list[Row]:
    """Sorted by pair, load and method; of methods that there are no more, none."""
    order = [(pair, load, method) for pair in PAIRS for load in LOADS for method in PAIRS[pair].methods]
    keyed = {tuple(row[name] for name in KEY): row for row in rows}
    return [keyed[key] for key in order if key in keyed]


def write(rows: list[Row], folder: Path) -> None:
    """Every row as CSV, and as a table for each pair in Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "speed.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*KEY, *MEASURES, "failed"], restval="")
        writer.writeheader()
        writer.writerows(rows)
    pairs = dict.fromkeys(str(row["pair"]) for row in rows)
    text = "\n".join(table(pair, [row for row in rows if row["pair"] == pair]) for pair in pairs)
    (folder / "speed.md").write_text(text, encoding="utf-8")


def table(pair: str, rows: list[Row]) -> str:
    """One pair's rows as Markdown; against the same without load, how many times as long each took."""
    quiet = {row["method"]: float(str(row["total"])) for row in rows if row["load"] == "none" and "total" in row}
    heads = ["method", "load", *MEASURES.values(), "times as long"]
    lines = [f"## {pair}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [_cell(row.get(name)) for name in MEASURES]
        if "failed" in row:
            cells[0] = str(row["failed"])
        cells.append(_times(row, quiet.get(row["method"])))
        lines.append(f"| {row['method']} | {row['load']} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(value: object) -> str:
    return "" if value is None else f"{float(str(value)):.3g}"


def _times(row: Row, quiet: Optional[float]) -> str:
    if not quiet or row["load"] == "none" or "total" not in row:
        return ""
    return f"{float(str(row['total'])) / quiet:.2f}"


if __name__ == "__main__":
    main()
