"""What Dask costs per pair and in memory, and how much of a computer a cohort uses.

    python Testing/benchmarks/cohort_scale.py overhead --pairs 10000
    python Testing/benchmarks/cohort_scale.py throughput ../shared/data --task hippocampus --pairs 20

``overhead`` does nothing with each pair but what a study needs (a folder, a record, a row); the memory of this process,
client and scheduler together, is written down along the way. ``throughput`` registers the pairs that a model reports
on: once as many at a time as a cohort does, in processes of their own that have loaded the model, and once as a cohort.
Seconds of processors can be compared on a computer that does other things, too.
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
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
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
    plan = share_out(Where(), pairs, options)
    with tempfile.TemporaryDirectory() as folder:
        seconds, worked = kept_busy(pairs, replace(options, threads=plan.threads), plan.workers, Path(folder))
        with Cost() as cohort:
            ends = [end for _, end in timed(Cohort(pairs, Settings(options), Path(folder) / "study"))]
        failed = len(pairs) - len(list((Path(folder) / "study" / "pairs").iterdir()))
    each = (ends[-1] - ends[plan.workers - 1]) / (len(pairs) - plan.workers)
    print(
        f"{task}, {len(pairs)} pairs, {failed} without a result, {plan.workers} at a time, {plan.threads} threads each"
    )
    print(f"single registrations, models loaded: {seconds / len(pairs):.2f} s a pair, {worked:.1f} s of processors")
    print(f"cohort: {each:.2f} s a pair once each worker has done one, {cohort.worked:.1f} s of processors in all;")
    print(f"{cohort.seconds:.1f} s from start to end instead of {seconds:.1f} s without either")
    print(f"a worker at most {cohort.peak_gib:.2f} GiB, estimated {largest_need(pairs, options):.2f} GiB")


def kept_busy(pairs: list[Pair], options: RegistrationOptions, at_a_time: int, folder: Path) -> tuple[float, float]:
    """Seconds, and those of processors, of single registrations in so many processes that have done one before."""
    given = (options, folder, pairs[0])
    with ProcessPoolExecutor(at_a_time, get_context("spawn"), initializer=begin, initargs=given) as pool:
        # None is begun before each process is ready.
        list(pool.map(time.sleep, [2.0] * at_a_time))
        begun = time.perf_counter()
        worked = sum(pool.map(partial(alone, options, folder), pairs))
        return time.perf_counter() - begun, worked


def begin(options: RegistrationOptions, folder: Path, pair: Pair) -> None:
    prepare_process(options.threads)
    alone(options, folder, pair)


def alone(options: RegistrationOptions, folder: Path, pair: Pair) -> float:
    """As ``register`` does, from files to files; returns seconds of processors."""
    begun = time.process_time()
    register_case(read_case(pair.inputs.to_dict(), options), options).save(folder / f"{pair.name}-{os.getpid()}")
    return time.process_time() - begun


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

    def _look(self) -> None:
        me = os.getpid()
        while not self._ended.wait(0.2):
            for child in Path(f"/proc/{me}/task").glob("*/children"):
                for process in child.read_text(encoding="utf-8").split():
                    with suppress(OSError, IndexError):
                        self.peak_gib = max(self.peak_gib, memory_gib(process, "VmHWM"))


def processor_seconds() -> float:
    """Of this process and of those that it has started and that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def memory_gib(process: object, what: str = "VmRSS") -> float:
    """Of a process now, or with VmHWM the most that it ever had."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(status.split(f"{what}:")[1].split()[0]) / 2**20


if __name__ == "__main__":
    main()
