"""Training in several processes, one for each device: starting and connecting them."""

import ctypes
import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path

import torch.distributed as dist
from lightning_fabric.plugins import ClusterEnvironment
from pytorch_lightning.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.strategies import DDPStrategy

from artgan.checkpoint import LAST
from artgan.errors import UserError
from artgan.networks.ranks import is_distributed
from artgan.options import TrainerConfig
from artgan.training.launchers import is_first, launched, under_torchrun

RUN = "ARTGAN_RUN"
TO_CONNECT = timedelta(minutes=5)
TO_PREPARE = timedelta(days=2)  # in which the first rank prepares the paintings
TO_WAIT = timedelta(hours=4)  # for another rank, which may be measuring


class Ranks(DDPStrategy):
    """Lightning's processes for several devices; `GAN` itself averages over them.

    `DistributedDataParallel` would send the gradients of both networks at the update of either.
    """

    def __init__(self) -> None:
        super().__init__(timeout=TO_WAIT)

    def configure_ddp(self) -> None:
        assert self.lightning_module is not None
        # Processors of different makes may have drawn different bits.
        for tensor in self.lightning_module.state_dict().values():
            first = tensor.contiguous()
            dist.broadcast(first, 0)
            tensor.copy_(first)


def cluster() -> ClusterEnvironment:
    """What Lightning reads the ranks from."""
    if under_torchrun():
        return TorchElasticEnvironment()
    if launched() is None:
        return LightningEnvironment()
    try:
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:
        raise UserError(f"srun: {error}") from error


def start_ranks(config: TrainerConfig, folder: Path, described: str) -> None:
    """Trains a prepared run in one process for each device of this machine, by torchrun.

    Ctrl-C and SIGTERM reach all of them: they save the run and end, and this function returns.

    Raises:
        UserError: one of them was lost.
        SystemExit: one of them ended with a message of its own.
    """
    os.environ[RUN] = described
    os.environ.setdefault("OMP_NUM_THREADS", f"{max(1, (os.cpu_count() or 1) // config.devices)}")
    packages = Path(__file__).resolve().parents[2]  # the folder that holds artgan
    os.environ["PYTHONPATH"] = os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    processes = f"--nproc-per-node={config.devices}"
    logging.disable()  # torchrun's own reports would bury the message
    try:
        torchrun.main(["--standalone", processes, "-m", "artgan.training"])
    except SignalException:
        return
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode == 1:  # it has printed why
            sys.exit(1)
        raise lost(folder) from error
    finally:
        logging.disable(logging.NOTSET)


def end_with_parent() -> None:
    """Has the system end this process with the one that started it, which holds the run's lock."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@cache
def rendezvous() -> dist.TCPStore:
    """The store through which ranks find each other; hosted by torchrun or by the first rank.

    Raises:
        UserError: the first rank cannot be reached.
    """
    address, port = cluster().main_address, cluster().main_port
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = dist.TCPStore(
            address,
            port,
            is_master=is_first() and not hosted,
            timeout=TO_CONNECT,
            wait_for_workers=False,
            multi_tenant=True,  # torch asks for it again, by address and port
        )
    except dist.DistError as error:
        raise UserError(
            f"trainer: the first process of the run cannot be reached at {address}, port {port} "
            f"({str(error).splitlines()[0]}). All machines need access to it."
        ) from error
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(store.port)}
    return store


def wait_for_run() -> str:
    """The run that this rank is to train, for `open_run`, once it is prepared."""
    if RUN in os.environ:
        return os.environ[RUN]
    store = rendezvous()
    try:
        store.wait([RUN], TO_PREPARE)
        return store.get(RUN).decode()
    except dist.DistError:
        sys.exit(1)  # the first rank has ended, and has printed why


def is_lost_rank(error: BaseException) -> bool:
    """Whether an error says that another rank cannot be reached."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and ("gloo" in str(error) or "NCCL" in str(error))
    )


def lost(folder: Path) -> UserError:
    """The message for a run of which a process was lost."""
    last = folder / LAST
    kept = (
        f"The last checkpoint is {last}. Resume with:\n"
        f"  artgan train resume={shlex.quote(str(folder))}"
        if last.exists()
        else "There was no checkpoint yet."
    )
    return UserError(f"{folder}: a process of this run was lost, so the others stopped. {kept}")


@contextmanager
def own_environment() -> Iterator[None]:
    """Restores the environment, and leaves the group of ranks, for the next run of a sweep."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        if is_distributed():
            dist.destroy_process_group()
        rendezvous.cache_clear()
