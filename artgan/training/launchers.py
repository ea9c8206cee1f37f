"""Which process of a training this one is; said by the environment, before torch is imported."""

import os
from typing import NamedTuple


class Place(NamedTuple):
    """Among the processes that torchrun or srun has started.

    Attributes:
        rank: number of this process, 0 ≤ rank < devices · num_nodes.
        devices: processes on each machine.
        num_nodes: machines.
    """

    rank: int
    devices: int
    num_nodes: int


def under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def launched() -> Place | None:
    """The place of this process where torchrun or srun has started all of them, or None."""
    given = os.environ
    if under_torchrun():
        devices = int(given["LOCAL_WORLD_SIZE"])
        return Place(int(given["RANK"]), devices, int(given["WORLD_SIZE"]) // devices)
    # One task needs no others; and in a shell on a cluster a person starts the processes.
    tasks = int(given.get("SLURM_NTASKS", 1))
    if tasks > 1 and given.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        machines = int(given.get("SLURM_NNODES", 1))
        return Place(int(given["SLURM_PROCID"]), tasks // machines, machines)
    return None


def started_by_artgan() -> bool:
    """Whether the first process of this machine has started this one, for a further device."""
    return launched() is None and int(os.environ.get("LOCAL_RANK", 0)) > 0


def is_first() -> bool:
    """Whether this process is the one of all that claims the folder, writes and prints."""
    place = launched()
    if place is not None:
        return place.rank == 0
    return not started_by_artgan() and int(os.environ.get("NODE_RANK", 0)) == 0
