"""Training on several devices against one, or, on one GPU, through DDP against without.

    python benchmarks/scaling.py PATH [--accelerator cpu] [--devices 2] [--model artgan]
        [--resolution 64] [--batch 64] [--seconds 40] [--rounds 3]

PATH is a folder of paintings. Each case trains with `train.py` for some seconds, in turns, and
prints its rate. BATCH is the batch size of one device: with several devices, one case shares BATCH
between them, and another gives BATCH to each. Each process computes on one core. The result is a
Markdown table with medians, and their ratio to the first case.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.throughput import found, run


def cases(accelerator: str, devices: int, batch: int) -> dict[str, list[str]]:
    """What is compared: names, and what each adds to the command."""
    alone = [f"batch_size={batch}"]
    one = {"1 device": alone}
    if accelerator == "gpu":
        one["1 device, updates not captured"] = [*alone, "trainer.cuda_graph=false"]
    one["1 device through DDP"] = [*alone, "trainer.strategy=ddp"]
    if devices == 1:
        return one
    several = f"trainer.devices={devices}"
    return one | {
        f"{devices} devices, batch of {batch} together": [*alone, several],
        f"{devices} devices, batch of {batch} each": [f"batch_size={devices * batch}", several],
    }


def table(rates: dict[str, list[float]]) -> str:
    """Medians of images/s, and their ratios to the first case."""
    medians = {name: statistics.median(measured) for name, measured in rates.items()}
    first = next(iter(medians.values()))
    rows = [
        f"| {name} | {median:,.0f} | {median / first:.2f} |" for name, median in medians.items()
    ]
    return "\n".join(["| | images/s | relative to the first |", "|---|---|---|", *rows])


def main(chosen: argparse.Namespace) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    common = [
        "dataset=folder",
        f"dataset.root={chosen.path.resolve()}",
        f"model={chosen.model}",
        f"resolution={chosen.resolution}",
        f"max_time={chosen.seconds}s",
        f"trainer.accelerator={chosen.accelerator}",
    ]
    compared = cases(chosen.accelerator, chosen.devices, chosen.batch)
    rates: dict[str, list[float]] = {name: [] for name in compared}
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(chosen.rounds):
            for name, added in compared.items():
                printed, _ = run("train.py", *common, *added, f"output={scratch}")
                rates[name].append(
                    float(found(r"Done: .*, ([\d,]+) images/s", printed).replace(",", ""))
                )
    device = torch.cuda.get_device_name() if chosen.accelerator == "gpu" else platform.processor()
    print(
        f"{device or platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}; "
        f"model {chosen.model}, {chosen.resolution} px, {chosen.rounds} rounds of "
        f"{chosen.seconds} s\n\n{table(rates)}"
    )


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--model", choices=("artgan", "dcgan"), default="artgan")
    for name, default in (("resolution", 64), ("batch", 64), ("seconds", 40), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args(given)


if __name__ == "__main__":
    main(arguments(sys.argv[1:]))
