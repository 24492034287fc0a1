"""What Dask costs per pair and in memory, and how much of a computer a cohort uses.

    python Testing/benchmarks/cohort_scale.py overhead --pairs 10000
    python Testing/benchmarks/cohort_scale.py throughput ../shared/data --task hippocampus --pairs 20

``overhead`` does nothing with each pair but what a study needs (a folder, a record, a row); the memory of this process,
client and scheduler together, is written down along the way. ``throughput`` registers the pairs that a model reports
on once one after the other in this process with all cores, models loaded, and once as a cohort; seconds of processors
can be compared on a computer that does other things, too.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from accuracy import TASKS, reporting_pairs
from DeepRegAttentionLib.case import read_case, register_case
from DeepRegAttentionLib.cohort.cluster import Where, largest_need, share_out
from DeepRegAttentionLib.cohort.pairs import Pair, Settings
from DeepRegAttentionLib.cohort.plan import pair_of
from DeepRegAttentionLib.cohort.run import Cohort
from DeepRegAttentionLib.engine.hardware import prepare_process
from DeepRegAttentionLib.engine.options import RegistrationOptions
from DeepRegAttentionLib.engine.threads import wait_passively
from DeepRegAttentionLib.terms.inputs import Inputs
from helpers.cohort_work import trivial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    small = what.add_parser("overhead")
    small.add_argument("--pairs", type=int, default=10_000)
    real = what.add_parser("throughput")
    real.add_argument("data", type=Path, help="folder in which the data sets lie")
    real.add_argument("--task", required=True, choices=list(TASKS))
    real.add_argument("--pairs", type=int, default=20)
    arguments = parser.parse_args()
    wait_passively()
    if arguments.what == "overhead":
        overhead(arguments.pairs)
    else:
        throughput(arguments.data, arguments.task, arguments.pairs)


def overhead(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.nii"
        image.write_bytes(b"")
        pairs = [Pair(f"pair-{n:05}", Inputs(str(image), str(image))) for n in range(count)]
        settings = Settings(RegistrationOptions(model="none", device="cpu"))
        begun = time.perf_counter()
        for number, seconds in timed(Cohort(pairs, settings, Path(folder) / "study", work=trivial)):
            if number == 1:
                begun = seconds
            if number % max(1, count // 10) == 0:
                each = (seconds - begun) / (number - 1) * 1000
                print(
                    f"{number} pairs, {each:.1f} ms each, client and scheduler {1024 * memory_gib('self'):.0f} MiB",
                    flush=True,
                )


def timed(cohort: Cohort) -> Iterator[tuple[int, float]]:
    return ((number, time.perf_counter()) for number, _ in enumerate(cohort, start=1))


def throughput(data: Path, task: str, count: int) -> None:
    _, cases = reporting_pairs(TASKS[task], data, count)
    pairs = [pair_of(fixed, moving) for fixed, moving in cases]
    options = RegistrationOptions(model=TASKS[task], prealign="centre")
    prepare_process()
    plan = share_out(Where(), pairs, options)
    with tempfile.TemporaryDirectory() as folder:
        alone(pairs[0], options, Path(folder) / "warm")
        with Cost() as one:
            for pair in pairs:
                alone(pair, options, Path(folder) / pair.name)
        with Cost() as many:
            ends = [seconds for _, seconds in timed(Cohort(pairs, Settings(options), Path(folder) / "study"))]
        failed = len(pairs) - len(list((Path(folder) / "study" / "pairs").iterdir()))
    later = len(pairs) - plan.workers
    print(f"{task}, {len(pairs)} pairs, {failed} without a result")
    print(f"one after the other, models loaded: {one.text}, {one.seconds / len(pairs):.2f} s a pair")
    print(f"cohort with {plan.workers} workers of {plan.threads} threads: {many.text}, start and end included;")
    print(f"{(ends[-1] - ends[plan.workers - 1]) / later:.2f} s a pair once each worker has done one")
    print(f"a worker at most {many.peak_gib:.2f} GiB, estimated {largest_need(pairs, options):.2f} GiB")


class Cost:
    """What a block takes: seconds, those of processors, and the largest memory of a process that it starts."""

    def __enter__(self) -> Cost:
        self.peak_gib, self._ended = 0.0, threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        self._begun, self._worked = time.perf_counter(), processor_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._begun
        self.worked = processor_seconds() - self._worked
        self._ended.set()
        self._watch.join()

    @property
    def text(self) -> str:
        return f"{self.seconds:.1f} s, {self.worked:.1f} s of processors"

    def _look(self) -> None:
        me = os.getpid()
        while not self._ended.wait(0.2):
            for child in Path(f"/proc/{me}/task").glob("*/children"):
                for process in child.read_text().split():
                    with suppress(OSError, IndexError):
                        self.peak_gib = max(self.peak_gib, memory_gib(process, "VmHWM"))


def processor_seconds() -> float:
    """Of this process and of those that it has started and that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def alone(pair: Pair, options: RegistrationOptions, folder: Path) -> None:
    """As ``register`` does, from files to files."""
    register_case(read_case(pair.inputs.to_dict(), options), options).save(folder)


def memory_gib(process: object, what: str = "VmRSS") -> float:
    """Of a process now, or with VmHWM the most that it ever had."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(status.split(f"{what}:")[1].split()[0]) / 2**20


if __name__ == "__main__":
    main()
