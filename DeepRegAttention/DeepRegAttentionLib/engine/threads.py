"""How the threads of a process behave that we start: how many there may be, and that those that wait sleep.

Needs the standard library alone, since it must speak before torch is loaded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Optional

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""What makes waiting threads sleep at once: the first for GNU's OpenMP, which torch uses on Linux, the second for
Intel's and LLVM's, of which not every version goes by the first."""

_ABOUT_WAITING = (*PASSIVE, "GOMP_SPINCOUNT")


def passive_waiting(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to add to an environment so that a process started with it waits passively.

    Between two parallel parts a thread of OpenMP spins for milliseconds, which is time taken from every other
    process, and, once there are more of them than cores, from the very thread that it waits for. Nothing is added
    where the user has said anything of it.
    """
    return {} if any(name in environment for name in _ABOUT_WAITING) else dict(PASSIVE)


def wait_passively() -> None:
    """Make the threads of this process, and of those that it starts, sleep while they wait.

    Call it at the start of a process of our own, before torch is loaded; later it has no effect.
    """
    os.environ.update(passive_waiting(os.environ))


def usable_threads(root: Path = Path("/")) -> int:
    """Threads that this process can keep busy: its cores by affinity, or fewer by the quota of its cgroups.

    Parameters
    ----------
    root : Path
        The folder that holds ``proc``, from which everything about cgroups is read.
    """
    return max(1, math.ceil(min([_cores(), *_quotas(root)])))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """Every limit in cores on this process, of its own cgroups and of those around them, versions 1 and 2."""
    groups, mounts = _lines(root / "proc/self/cgroup"), _lines(root / "proc/self/mountinfo")
    for mount in mounts:
        for group in groups:
            for folder in _folders(mount, group):
                quota = _quota(root / folder.relative_to("/"))
                if quota is not None:
                    yield quota


def _lines(file: Path) -> tuple[str, ...]:
    try:
        return tuple(file.read_text(encoding="utf-8").splitlines())
    except OSError:
        return ()  # not Linux, or not told


def _folders(mount: str, group: str) -> Iterator[PurePosixPath]:
    """The folders of a cgroup (a line of ``cgroup``) below a mount (a line of ``mountinfo``), innermost first.

    None if this mount holds another hierarchy than the one that says how much time there is.
    """
    _, controllers, path = group.split(":", 2)
    place, _, kind = mount.partition(" - ")
    _, _, _, top, point, *_ = place.split()
    system, _, options = kind.split()[:3]
    unified = system == "cgroup2" and controllers == ""
    if not unified and not (system == "cgroup" and "cpu" in options.split(",") and "cpu" in controllers.split(",")):
        return
    folder = PurePosixPath(point)
    # A group can lie outside what is mounted here: then all that can be read is the top.
    with suppress(ValueError):
        folder /= PurePosixPath(path).relative_to(top)
    yield folder
    yield from (parent for parent in folder.parents if parent.is_relative_to(point))


def _quota(folder: Path) -> Optional[float]:
    """The limit of one cgroup in cores; None if it has none."""
    both = _lines(folder / "cpu.max") or (
        " ".join((*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us"))),
    )
    quota, _, period = both[0].partition(" ")
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None  # “max” or -1: as much as there is
    return int(quota) / int(period)
