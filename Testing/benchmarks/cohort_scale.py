"""What Dask costs per pair and in memory, and how much of a computer a cohort uses.

    python Testing/benchmarks/cohort_scale.py overhead --pairs 10000
    python Testing/benchmarks/cohort_scale.py throughput ../shared/data --task hippocampus --pairs 20

``overhead`` does nothing with each pair but what a study needs (a folder, a record, a row); the memory of this process,
client and scheduler together, is written down along the way. ``throughput`` registers the pairs that a model reports
on once one after the other in this process with all cores, models loaded, and once as a cohort.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from accuracy import TASKS, reporting_pairs
from DeepRegAttentionLib.case import read_case, register_case
from DeepRegAttentionLib.cohort.cluster import Where, share_out
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
                print(f"{number} pairs, {each:.1f} ms each, client and scheduler {resident_mib():.0f} MiB", flush=True)


def timed(cohort: Cohort) -> Iterator[tuple[int, float]]:
    return ((number, time.perf_counter()) for number, _ in enumerate(cohort, start=1))


def throughput(data: Path, task: str, count: int) -> None:
    _, cases = reporting_pairs(TASKS[task], data, count)
    pairs = [pair_of(fixed, moving) for fixed, moving in cases]
    options = RegistrationOptions(model=TASKS[task], prealign="centre")
    prepare_process()
    with tempfile.TemporaryDirectory() as folder:
        alone(pairs[0], options, Path(folder) / "warm")
        begun = time.perf_counter()
        for pair in pairs:
            alone(pair, options, Path(folder) / pair.name)
        one = time.perf_counter() - begun
        begun = time.perf_counter()
        cohort = Cohort(pairs, Settings(options), Path(folder) / "study")
        plan = share_out(Where(), pairs, options)
        failed = sum(outcome.folder is None for outcome in cohort)
        many = time.perf_counter() - begun
    print(f"{task}, {len(pairs)} pairs: one after the other {one:.1f} s; cohort with {plan.workers} workers of")
    print(f"{plan.threads} threads {many:.1f} s, start and end included; {failed} without a result")


def alone(pair: Pair, options: RegistrationOptions, folder: Path) -> None:
    """As ``register`` does, from files to files."""
    register_case(read_case(pair.inputs.to_dict(), options), options).save(folder)


def resident_mib() -> float:
    """Of this process now."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
