"""How many threads there may be, and that those of our own processes sleep while they wait."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from DeepRegAttentionLib.engine import threads
from DeepRegAttentionLib.engine.threads import PASSIVE, passive_waiting, usable_threads

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
UNIFIED = "41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw"
OF_TIME = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct"
OF_MEMORY = "33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A computer of sixteen cores."""
    monkeypatch.setattr(threads, "_cores", lambda: 16)
    return tmp_path


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")


def kernel(root: Path, groups: str, *mounts: str) -> None:
    write(root, **{"proc/self/cgroup": groups, "proc/self/mountinfo": "\n".join(mounts)})


def test_without_a_quota_all_cores_are_used(root: Path) -> None:
    assert usable_threads(root) == 16
    kernel(root, "0::/user", UNIFIED)
    write(root, **{"sys/fs/cgroup/user/cpu.max": "max 100000", "sys/fs/cgroup/cpu.max": "max"})
    assert usable_threads(root) == 16


@pytest.mark.parametrize(
    ("quota", "expected"), [("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("9900000 100000", 16)]
)
def test_a_quota_counts_in_whole_threads(root: Path, quota: str, expected: int) -> None:
    kernel(root, "0::/user", UNIFIED)
    write(root, **{"sys/fs/cgroup/user/cpu.max": quota})
    assert usable_threads(root) == expected


def test_the_quota_of_a_group_around_counts_too(root: Path) -> None:
    kernel(root, "0::/slice/scope/job", UNIFIED)
    write(
        root,
        **{
            "sys/fs/cgroup/slice/cpu.max": "300000 100000",
            "sys/fs/cgroup/slice/scope/cpu.max": "800000 100000",
            "sys/fs/cgroup/slice/scope/job/cpu.max": "max 100000",
        },
    )
    assert usable_threads(root) == 3


def test_a_container_sees_its_own_group_as_the_top(root: Path) -> None:
    top = OF_TIME.replace(" / /", " /docker/4711 /")
    kernel(root, "4:memory:/docker/4711\n1:cpu,cpuacct:/docker/4711/inner\n0::/", OF_MEMORY, top)
    folder = "sys/fs/cgroup/cpu"
    write(root, **{f"{folder}/cpu.cfs_quota_us": "400000", f"{folder}/cpu.cfs_period_us": "100000"})
    write(root, **{f"{folder}/inner/cpu.cfs_quota_us": "-1", f"{folder}/inner/cpu.cfs_period_us": "100000"})
    assert usable_threads(root) == 4
    write(root, **{f"{folder}/inner/cpu.cfs_quota_us": "100000"})
    assert usable_threads(root) == 1


def test_a_group_outside_of_what_is_mounted_has_the_quota_of_the_top(root: Path) -> None:
    kernel(root, "0::/../elsewhere", UNIFIED.replace(" / /", " /mine /"))
    write(root, **{"sys/fs/cgroup/cpu.max": "500000 100000"})
    assert usable_threads(root) == 5


def test_other_hierarchies_say_nothing_of_time(root: Path) -> None:
    kernel(root, "4:memory:/\n2:cpuset:/", OF_MEMORY, OF_TIME)
    for folder in ("memory", "cpu"):
        write(root, **{f"sys/fs/cgroup/{folder}/cpu.cfs_quota_us": "100000"})
        write(root, **{f"sys/fs/cgroup/{folder}/cpu.cfs_period_us": "100000"})
    assert usable_threads(root) == 16


@pytest.mark.slow
@LINUX
@pytest.mark.skipif(shutil.which("taskset") is None or len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_threads_follow_the_affinity() -> None:
    code = """
import SimpleITK, torch
from DeepRegAttentionLib.engine.hardware import available_threads, prepare_process
from DeepRegAttentionLib.engine.threads import usable_threads
prepare_process()
of_simpleitk = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
print(usable_threads(), available_threads(), torch.get_num_threads(), of_simpleitk)
"""
    core = str(min(os.sched_getaffinity(0)))
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    # As where the library of OpenMP does not look at the affinity.
    environment["OMP_NUM_THREADS"] = "8"
    command = ["taskset", "-c", core, sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.split() == ["1"] * 4


# Waiting


def test_what_a_user_said_of_waiting_stays() -> None:
    assert passive_waiting({"HOME": "/"}) == PASSIVE
    for name in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT"):
        assert passive_waiting({name: "1"}) == {}


def test_the_tests_themselves_wait_passively() -> None:
    assert passive_waiting(os.environ) == {}


# What the process was started with, and has set itself.
ENTRIES = {
    "command line": ("DeepRegAttentionLib.cli", "app", "main()"),
    "worker": ("DeepRegAttentionLib.worker.process", "Channel", "main()"),
    "viewer": ("DeepRegAttentionLib.viewer.page_process", "json", "main()"),
}


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_process_waits_passively_before_torch_is_loaded(entry: str) -> None:
    """The entry's first own step is replaced by one that tells."""
    module, first, call = ENTRIES[entry]
    if entry == "viewer":
        pytest.importorskip("trame_slicer")
    code = f"""
import os, sys
import {module} as entry
class Tells:
    def __call__(self, *arguments): self.loads()
    def loads(self, *arguments):
        print(os.environ.get("OMP_WAIT_POLICY"), "torch" in sys.modules, flush=True)
        os._exit(0)
entry.{first} = Tells()
entry.{call}
"""
    for said, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        environment = {name: value for name, value in os.environ.items() if name not in threads._ABOUT_WAITING}
        environment.update({} if said is None else {"OMP_WAIT_POLICY": said})
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, input="\n", capture_output=True, encoding="utf-8", check=True)
        assert done.stdout.split() == [expected, "False"], done.stderr
