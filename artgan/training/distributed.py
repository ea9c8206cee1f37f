"""How the processes of a training, one for each device, find each other and end together."""

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
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

from artgan.checkpoint import LAST
from artgan.errors import UserError
from artgan.options import TrainerConfig
from artgan.training.launchers import is_first, launched, started_by_artgan, under_torchrun

SCRIPT = Path(__file__).resolve().parents[2] / "train.py"
RUN = "artgan run"
# In which the others come, and in which the first has prepared a large set, or measured.
TO_MEET, TO_PREPARE = timedelta(minutes=5), timedelta(days=2)
# Seconds that a process which knows less leaves to the one that says what has happened.
GRACE = 10.0


def cluster() -> ClusterEnvironment:
    """What Lightning reads of who started the processes."""
    if under_torchrun():
        return TorchElasticEnvironment()
    if launched() is None:
        return LightningEnvironment()
    try:
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:
        raise UserError(f"srun: {error}") from error


@cache
def meet() -> dist.TCPStore:
    """The store through which the processes find each other; hosted by torchrun or by the first.

    Raises:
        UserError: the first process cannot be reached.
    """
    environment = cluster()
    found = launched() is not None or "MASTER_PORT" in os.environ
    address, port = environment.main_address, environment.main_port if found else 0
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = dist.TCPStore(
            address,
            port,
            is_master=is_first() and not hosted,
            timeout=TO_MEET,
            wait_for_workers=False,
            # torch asks for it once more, by address and port.
            multi_tenant=True,
        )
    except dist.DistError as error:
        raise UserError(
            f"The processes of the run cannot meet at {address}, port {port} "
            f"({str(error).splitlines()[0]}). All machines must reach it."
        ) from error
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(store.port)}
    return store


def told() -> tuple[Path, str]:
    """Waits until the first process is ready, for the folder of the run and the dataset's key."""
    store = meet()
    try:
        store.wait([RUN], TO_PREPARE)
        folder, dataset_key = json.loads(store.get(RUN))
    except dist.DistError:
        sys.exit(1)  # the first process has ended, and has said why
    return Path(folder), dataset_key


@contextmanager
def together(config: TrainerConfig, folder: Path, dataset_key: str) -> Iterator[None]:
    """Trains with the other processes of a run: lets them begin, and ends with them.

    Further processes of this machine are started where nobody else has. If one of all is lost,
    the others end with code 1, and one of them says so.

    Args:
        config: says how many processes.
        folder: of the run.
        dataset_key: of its paintings.
    """
    if is_first():
        run = json.dumps([str(folder.resolve()), dataset_key])
        meet().set(RUN, run)
    here: Iterable[int] = ()
    if launched() is None and not started_by_artgan():
        os.environ["LOCAL_RANK"] = "0"  # or Lightning would start them
        here = range(1, config.devices)
    started = [_start(number) for number in here]
    left = threading.Event()

    def leave() -> None:
        left.set()
        for process in started:
            assert process.stdin is not None
            with suppress(OSError):  # it has ended
                process.stdin.write(b".")
                process.stdin.close()

    def give_up() -> None:
        leave()
        _say_lost(folder)
        os._exit(1)  # whoever waits for a lost process cannot be asked to end

    def watch(process: subprocess.Popen[bytes]) -> None:
        if process.wait() and not left.wait(GRACE):
            give_up()

    for process in started:
        threading.Thread(target=watch, args=[process], daemon=True).start()
    if started_by_artgan():
        threading.Thread(target=_watch_parent, args=[folder], daemon=True).start()
    try:
        yield
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
    except (UserError, RuntimeError) as error:
        said_by_gloo = not isinstance(error, UserError) and "gloo" in str(error)
        is_lost = said_by_gloo or isinstance(error, dist.DistError)
        if is_first() and is_lost:
            give_up()
        if is_first() or not (is_lost or isinstance(error, UserError)):
            raise
        # The first process knows it, too, and ends the others; or it is the one that is lost.
        time.sleep(GRACE)
        if is_lost and dist.is_initialized() and dist.get_rank() == 1:
            give_up()
        os._exit(1)
    finally:
        leave()
        for process in started:
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
        if dist.is_initialized():
            dist.destroy_process_group()
        meet.cache_clear()  # the next run of a multirun begins with another


def _start(number: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT)],
        env=os.environ | {"LOCAL_RANK": str(number)},
        stdin=subprocess.PIPE,  # ends when this process ends, however that may be
        bufsize=0,
        start_new_session=True,  # Ctrl-C is for this process to decide on
    )


def _watch_parent(folder: Path) -> None:
    """Ends this process with the one that has started it; if that was killed, one says so."""
    said = os.read(0, 1)
    if not said and os.environ["LOCAL_RANK"] == "1":
        _say_lost(folder)
    os._exit(1)


def _say_lost(folder: Path) -> None:
    last = folder / LAST
    kept = (
        f"The last checkpoint is {last}. Go on with:\n"
        f"  python train.py resume={shlex.quote(str(folder))}"
        if last.exists()
        else "There was no checkpoint yet."
    )
    print(
        f"\n{folder}: a process of this run has ended, and the others stop with it. {kept}",
        file=sys.__stderr__,  # which processes but the first do not write to otherwise
        flush=True,
    )
