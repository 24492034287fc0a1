"""A cohort on workers that others start: a batch system that is a script, and a worker with several threads."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import SimpleITK as sitk
from DeepRegAttentionLib.cohort import work
from DeepRegAttentionLib.cohort.pairs import Pair, Settings
from DeepRegAttentionLib.cohort.study import Study
from DeepRegAttentionLib.terms.inputs import Inputs
from helpers.images import blob_image
from helpers.places import MODULE

pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed (extra “cohort”)")

# A job is a process group of its own, whose number is its name.
SUBMIT = """#!/bin/sh
cp "$1" "{jobs}/$$.sh"
setsid sh "{jobs}/$$.sh" >"{jobs}/$$.out" 2>&1 &
echo $! >"{jobs}/$$.number"
echo "Submitted batch job $!"
"""
CANCEL = """#!/bin/sh
echo "$@" >>"{jobs}/cancelled"
for job in "$@"; do kill -TERM -- "-$job"; done
"""


def script(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the batch system is a shell script")
def test_jobs_of_a_batch_system_do_the_pairs_one_that_ends_is_followed_and_the_last_is_cancelled(tmp_path):
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    for name, content in (("sbatch", SUBMIT), ("scancel", CANCEL)):
        script(tmp_path / name, content.format(jobs=jobs))
    sitk.WriteImage(blob_image(), str(tmp_path / "image.nrrd"))
    # Its worker waits for somebody to write into this one.
    os.mkfifo(tmp_path / "later.nrrd")
    (tmp_path / "pairs.csv").write_text(
        "name,fixed,moving\na,image.nrrd,image.nrrd\nb,image.nrrd,later.nrrd\n", encoding="utf-8"
    )
    options = "--cluster slurm --workers 1 --threads 2 --model none --prealign none --refine 1 --spacing 6 --no-maps"
    command = subprocess.Popen(
        [sys.executable, "-c", "from DeepRegAttentionLib.cli import main; main()", "cohort", "pairs.csv",
         "-o", "study", *options.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(MODULE), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
             "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1s"},
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )  # fmt: skip
    study = tmp_path / "study"
    while not list(study.glob(".partial/*/b.1")):
        assert command.poll() is None
        time.sleep(0.05)
    (job,) = jobs.glob("*.number")
    os.killpg(int(job.read_text(encoding="utf-8")), signal.SIGKILL)
    (tmp_path / "later.nrrd").unlink()
    shutil.copy(tmp_path / "image.nrrd", tmp_path / "later.nrrd")
    _, complained = command.communicate()
    assert command.returncode == 0, complained
    assert {path.name for path in (study / "pairs").iterdir()} == {"a", "b"}
    asked = [script.read_text(encoding="utf-8") for script in jobs.glob("*.sh")]
    assert len(asked) == 2
    assert all(re.search(r"#SBATCH --cpus-per-task=2\n#SBATCH --mem=\d", script) for script in asked)
    # One pair at a time, and none is held back.
    assert all(script.rstrip().endswith("--nthreads 1 --memory-limit 0") for script in asked)
    (last,) = {path.read_text(encoding="utf-8").strip() for path in jobs.glob("*.number")} - {
        job.read_text(encoding="utf-8").strip()
    }
    assert last in (jobs / "cancelled").read_text(encoding="utf-8").split()


def test_a_worker_with_several_threads_does_one_pair_at_a_time(tmp_path, monkeypatch):
    busy, seen = [], []

    def register(pair: Pair, *_: object) -> dict[str, object]:
        busy.append(pair.name)
        time.sleep(0.02)
        seen.append(len(busy))
        busy.remove(pair.name)
        return {}

    monkeypatch.setattr(work, "_register", register)
    monkeypatch.setattr(work, "_prepare", lambda threads: None)
    (tmp_path / ".lock").write_text('{"token": "mine"}', encoding="utf-8")
    study = Study(tmp_path, "mine")
    study.prepare()
    pairs = [Pair(f"p{n}", Inputs()) for n in range(6)]
    threads = [threading.Thread(target=work.register_pair, args=(pair, Settings(), study, {}, 1)) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * len(pairs)
