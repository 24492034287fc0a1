"""Where a cohort is computed: on this computer, on a running Dask cluster, or by the jobs of a batch system."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import SimpleITK as sitk

from ..engine.errors import OptionError, RegistrationError, suggestion
from ..engine.options import RegistrationOptions
from ..engine.threads import usable_threads, wait_passively
from .pairs import Pair

if TYPE_CHECKING:
    from distributed import Client

BATCH_SYSTEMS = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster"}
"""Names on the command line, and the classes of dask-jobqueue."""

# So much of what is free is given to workers, and so many fixed images are looked at for the largest.
_SHARE, _LOOKED_AT = 0.8, 50

# GiB of Dask in a worker, and of a million voxels where structures are measured; and how much more several pairs need
# than one, as what one leaves in pieces is of no use to the next. To give it back to the system after each pair would
# cost 7 % of the time. Read off the largest resident size of workers after eight pairs of LPBA40.
_DASK, _STRUCTURES, _SEVERAL = 0.2, 0.03, 1.5


_SETTINGS = {
    # How often a pair may take its worker with it is counted by the study, pair by pair.
    "distributed.scheduler.allowed-failures": 100,
    "distributed.comm.timeouts.connect": "20s",
    # Nobody looks at the profile for which Dask stops the work a hundred times a second.
    "distributed.worker.profile.enabled": False,
}


class ClusterError(RegistrationError):
    """The computers that were to work cannot be reached any more, or never could."""

    code = "cluster"


@dataclass(frozen=True)
class Where:
    """On what a cohort is spread.

    Attributes
    ----------
    scheduler : str, optional
        Address of a running Dask scheduler, such as ``tcp://node:8786``.
    batch_system : str, optional
        One of ``BATCH_SYSTEMS``; queue, account and the like come from Dask's own configuration.
    workers : int, optional
        How many at a time. Without a number: as many as memory and cores of this computer allow, one for each GPU
        where they are used; on a batch system, as many as there are pairs, 16 at most.
    """

    scheduler: Optional[str] = None
    batch_system: Optional[str] = None
    workers: Optional[int] = None

    def __post_init__(self) -> None:
        if self.scheduler and self.batch_system:
            raise OptionError("Either a scheduler or a batch system can be given, not both.")
        if self.batch_system is not None and self.batch_system not in BATCH_SYSTEMS:
            known = ", ".join(BATCH_SYSTEMS)
            hint = suggestion(self.batch_system, BATCH_SYSTEMS)
            raise OptionError(f"The batch system must be one of {known}; “{self.batch_system}” is not{hint}.")
        if self.workers is not None and self.workers < 1:
            raise OptionError(f"There must be at least one worker, not {self.workers}.")


@dataclass(frozen=True)
class Plan:
    """How the work is shared out: so many workers, each with so many threads, or each on a GPU of its own."""

    workers: int
    threads: int
    gpus: tuple[str, ...] = ()


def require_dask() -> None:
    """Raise OptionError if Dask is not installed."""
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise OptionError("Cohorts need Dask; install it with “pip install deepreg-attention[cohort]”.") from None


@contextmanager
def connected(
    where: Where, pairs: Sequence[Pair], options: RegistrationOptions, scratch: Path
) -> Iterator[tuple[Client, Plan]]:
    """A client of the workers that will do the pairs, and how they share the work; ended with the block.

    Workers of this computer keep what they need for themselves in the folder `scratch`.

    Raises
    ------
    OptionError
        Dask, or dask-jobqueue where it is needed, is not installed.
    ClusterError
        The scheduler cannot be reached.
    """
    require_dask()
    import dask

    with dask.config.set(_SETTINGS):
        _quiet()
        if where.scheduler:
            with _running(where.scheduler) as client:
                threads = _threads(client)
                yield client, Plan(where.workers or len(threads), options.threads or min(threads))
        else:
            plan = share_out(where, pairs, options)
            with _own(where, plan, options, pairs, scratch) as cluster, _client(cluster) as client:
                yield client, plan


def share_out(where: Where, pairs: Sequence[Pair], options: RegistrationOptions) -> Plan:
    """Workers and threads for this computer or a batch system."""
    if where.batch_system:
        return Plan(where.workers or min(len(pairs), 16), options.threads or 1)
    cores = options.threads or usable_threads()
    if gpus := _gpus(options.device):
        chosen = gpus[: where.workers or len(gpus)]
        return Plan(len(chosen), max(1, cores // len(chosen)), chosen)
    workers = where.workers or max(1, min(cores, _fitting(pairs, options), len(pairs)))
    return Plan(workers, max(1, cores // workers))


def _fitting(pairs: Sequence[Pair], options: RegistrationOptions) -> int:
    """How many registrations at a time have room in the memory that is free."""
    from ..engine.hardware import list_devices

    free = list_devices()["cpu"].free_gib
    return max(1, int(_SHARE * free / largest_need(pairs, options))) if free else 1


def largest_need(pairs: Sequence[Pair], options: RegistrationOptions) -> float:
    """GiB that a worker will need for the largest of some of the pairs."""
    from ..engine.memory import memory_needed

    needs = []
    for pair in pairs[:: max(1, len(pairs) // _LOOKED_AT)]:
        # What cannot be read is said when its turn comes.
        with suppress(RuntimeError):
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(pair.inputs.fixed))
            reader.ReadImageInformation()
            if reader.GetDimension() == 3:
                structures = _STRUCTURES * math.prod(reader.GetSize()) / 1e6 if pair.inputs.labels else 0.0
                needs.append(memory_needed(reader.GetSize(), reader.GetSpacing(), options) + structures)
    return _DASK + _SEVERAL * max(needs, default=memory_needed((128, 128, 128), (2.0, 2.0, 2.0), options))


def _gpus(device: str) -> tuple[str, ...]:
    """The GPUs that each get a worker."""
    if device not in ("auto", "cuda"):
        return ()
    import torch

    visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    return tuple(visible or map(str, range(torch.cuda.device_count()))) if torch.cuda.is_available() else ()


@contextmanager
def _running(address: str) -> Iterator[Client]:
    from distributed import Client

    try:
        client = Client(address, timeout="20s", set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(f"The scheduler {address} cannot be reached.") from error
    with client:
        if not _threads(client):
            raise ClusterError(f"The scheduler {address} has no workers; start some with “dask worker {address}”.")
        yield client


def _threads(client: Client) -> list[int]:
    """How many threads each worker has."""
    return [worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()]


def _client(cluster: Any) -> Client:
    from distributed import Client

    return Client(cluster, set_as_default=False)


@contextmanager
def _own(where: Where, plan: Plan, options: RegistrationOptions, pairs: Sequence[Pair], scratch: Path) -> Iterator[Any]:
    with ExitStack() as at_the_end:
        with _uninterrupted():
            made = _jobs(where, plan, options, pairs) if where.batch_system else _local(plan, scratch)
            cluster = at_the_end.enter_context(made)
        if where.batch_system:
            # Other than by a fixed number, a job that has run out of its time is followed by another one.
            cluster.adapt(minimum_jobs=plan.workers, maximum_jobs=plan.workers)
        else:
            at_the_end.callback(lambda: cluster.sync(_kill, list(cluster.workers.values())))
        yield cluster


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl+C waits for the end of the block, and is nothing to threads and processes that are started in it.

    A terminal sends it to all of them; a cluster that is half there, or workers that are started anew because they
    heard it, take long to end.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Started later, it would let the signal through again to what is started next.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _kill(nannies: Sequence[Any]) -> None:
    """End workers of this computer at once: what is complete is on the disk, and nobody waits for the rest."""
    ends = [asyncio.ensure_future(nanny.close()) for nanny in nannies]
    # From here on they start no worker anew.
    await asyncio.sleep(0)
    for nanny in nannies:
        with suppress(ProcessLookupError):
            if nanny.pid:
                os.kill(nanny.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    await asyncio.gather(*ends, return_exceptions=True)


def _local(plan: Plan, scratch: Path) -> Any:
    """A process for each worker, reached from this computer alone; one that dies is started again."""
    from distributed import Nanny, Scheduler, SpecCluster

    wait_passively()
    local = {"host": "127.0.0.1"}
    quiet = {"silence_logs": logging.CRITICAL}
    own = {"nthreads": 1, "memory_limit": 0, "local_directory": str(scratch), "dashboard": False}
    common = {**local, **own, **quiet}
    gpus = plan.gpus or ("",) * plan.workers
    workers = {
        number: {"cls": Nanny, "options": {**common, "env": {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}}}
        for number, gpu in enumerate(gpus)
    }
    scheduler = {
        "cls": Scheduler,
        "options": {**local, "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"},
    }
    return SpecCluster(workers=workers, scheduler=scheduler, **quiet)


def _jobs(where: Where, plan: Plan, options: RegistrationOptions, pairs: Sequence[Pair]) -> Any:
    try:
        import dask_jobqueue
    except ImportError:
        raise OptionError("A batch system needs dask-jobqueue; install it with “pip install dask-jobqueue”.") from None
    import dask

    make = getattr(dask_jobqueue, BATCH_SYSTEMS[str(where.batch_system)])
    memory = f"{largest_need(pairs, options):.1f}GiB"
    given = dask.config.get(f"jobqueue.{where.batch_system}.worker-extra-args", [])
    # The job has the threads and the memory for one pair; the batch system sees to it, where Dask would only wait.
    one_pair = ["--nthreads", "1", "--memory-limit", "0"]
    how = {"worker_extra_args": [*given, *one_pair], "silence_logs": logging.CRITICAL}
    return make(cores=plan.threads, processes=1, memory=memory, **how)


def _quiet() -> None:
    """Dask tells of every worker that comes and goes; people are told of pairs."""
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)
