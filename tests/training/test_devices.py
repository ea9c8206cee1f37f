"""Training on several devices: real processes on the CPU, which talk through gloo."""

import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from artgan.checkpoint import load_checkpoint
from tests.helpers import EVERYTHING, ROOT, THE_OTHERS, small_arguments

Run = Callable[..., Path]
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["artgan.training.run"])

LOSSES = {
    "bce": {},
    "hinge": {"model__loss": "hinge", "model__normalization": "spectral"},
    "lsgan": {"model__loss": "lsgan", "model__label_smoothing": 0.1},
    "wgan_gp": {**THE_OTHERS, "model__minibatch_std": "true"},
    "rpgan": EVERYTHING,
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun_environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun tells the processes of one machine."""
    return {
        "TORCHELASTIC_RUN_ID": "none",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def train_as_rank(
    environments: Sequence[dict[str, str]], commands: Sequence[Sequence[str]], log: Path
) -> None:
    """Runs `train.py` with some arguments after another, in this process."""
    torch.set_num_threads(1)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for environment, arguments in zip(environments, commands, strict=True):
        os.environ |= environment
        sys.argv = ["train.py", *arguments]
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


def train_together(ranks: int, commands: Sequence[Sequence[str]], log: Path) -> list[int | None]:
    """Runs `train.py` in as many processes, with the same arguments, and gives their exit codes."""
    ports = [free_port() for _ in commands]
    processes = []
    for rank in range(ranks):
        environments = [torchrun_environment(rank, ranks, port) for port in ports]
        arguments = (environments, commands, log)
        processes.append(FORK.Process(target=train_as_rank, args=arguments))
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
        process.kill()
    return [process.exitcode for process in processes]


def test_an_update_of_two_processes_is_that_of_one(
    run: Run, paintings: Path, tmp_path: Path
) -> None:
    """One update on the CPU for each of five losses, with all that looks at a whole batch."""
    commands = []
    for name, options in LOSSES.items():
        one = {"model__learning_rate": 1e-9, "model__learning_rate_final": 1, "max_images": 8}
        chosen = options | one
        run(name=name, **chosen)
        given = [f"{key.replace('__', '.')}={value}" for key, value in chosen.items()]
        output = f"output={tmp_path / 'two'}"
        commands.append([*small_arguments(paintings), *given, f"name={name}", output])
    log = tmp_path / "log"
    assert train_together(2, commands, log) == [0, 0], log.read_text()

    for name in LOSSES:
        one_process, two_processes = (
            load_checkpoint(tmp_path / folder / name / "last.ckpt") for folder in ("runs", "two")
        )
        for network in (0, 1):
            # Adam's first moment after one update is the gradient, times 1 - beta1.
            states = [
                one["optimizer_states"][network]["state"] for one in (one_process, two_processes)
            ]
            for number, state in states[0].items():
                expected, mean = state["exp_avg"], states[1][number]["exp_avg"]
                assert (mean - expected).norm() <= 1e-4 * expected.norm(), (name, network, number)
                assert expected.norm() > 0
        for key, expected in one_process["state_dict"].items():
            torch.testing.assert_close(
                two_processes["state_dict"][key], expected, msg=f"{name} {key}"
            )
