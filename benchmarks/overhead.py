"""Overhead of `train.py`: random draws, batches, EMA, Lightning, curves, files.

    python benchmarks/overhead.py PATH [SECONDS]

PATH is a folder of paintings. Trains in this process and measures the time inside `GAN.update`; all
the rest is overhead (Lightning's hooks around each backward pass count as update). For CPUs only,
where nothing runs asynchronously. Prints a Markdown table.
"""

import itertools
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from artgan.cli import RUN, launch
from artgan.config import Command
from artgan.options import TrainConfig
from artgan.training.callbacks.checkpoints import Checkpoints
from artgan.training.callbacks.grids import SampleGrids
from artgan.training.gan import GAN
from artgan.training.start import train

SIZES = ((64, 64), (64, 16), (32, 16))  # width, batch


def timed(owner: type, name: str) -> list[tuple[float, float]]:
    """Makes a method record when each call begins and ends."""
    function: Callable[..., Any] = getattr(owner, name)
    noted: list[tuple[float, float]] = []

    def timing(*arguments: Any) -> Any:
        began = time.perf_counter()
        given = function(*arguments)
        noted.append((began, time.perf_counter()))
        return given

    setattr(owner, name, timing)
    return noted


def spent(calls: list[tuple[float, float]]) -> list[float]:
    return [ended - began for began, ended in calls]


def main(path: str, seconds: int = 40) -> None:
    updates = timed(GAN, "update")
    files = [timed(SampleGrids, "_paint"), timed(Checkpoints, "on_train_batch_end")]
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}; "
        f"{seconds} s each, medians\n\n"
        "| width, batch | update | rest of a step | grids and checkpoints, share of the whole |\n"
        "|---|---|---|---|"
    )

    def run(config: TrainConfig, command: Command) -> None:
        for noted in (updates, *files):
            noted.clear()
        train(config, command)
        update = statistics.median(spent(updates))
        step = statistics.median(
            after - before for (before, _), (after, _) in itertools.pairwise(updates)
        )
        share = sum(sum(spent(calls)) for calls in files) / (updates[-1][1] - updates[0][0])
        print(
            f"| {config.model.width}, {config.batch_size} | {1e3 * update:.1f} ms "
            f"| {1e3 * (step - update):.1f} ms, {(step - update) / step:.1%} | {share:.1%} |",
            flush=True,
        )

    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        for width, batch in SIZES:
            sizes = [
                "model=dcgan",
                f"model.width={width}",
                f"batch_size={batch}",
                f"max_time={seconds}s",
            ]
            RUN["train"] = run
            launch("train", [path, "model=dcgan", *sizes])
        os.chdir("/")


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).resolve()), *map(int, sys.argv[2:]))
