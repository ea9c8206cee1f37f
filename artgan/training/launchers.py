"""Which process of a training this one is, from the environment, before torch is imported."""

import os
from typing import NamedTuple


class Place(NamedTuple):
    """A place among the processes that torchrun or srun started.

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
    """The place of this process if torchrun or srun started all of them, or None."""
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


def is_first() -> bool:
    """Whether this process is the one that claims the folder, writes and prints."""
    place = launched()
    return place is None or place.rank == 0
