"""Training on a large set, in turns from its file and from memory.

    python benchmarks/large.py PATH [SECONDS [ROUNDS]]

PATH is a folder of paintings. 200,000 JPEGs of 64 px are made from random crops of them in a
temporary place, then checked and packed once (about four minutes). `train.py` trains on them with
`trainer.paintings=file` and with `trainer.paintings=device`, which on a CPU is main memory. Memory
of the process itself and of mapped files is read from /proc every second. Prints a Markdown table,
with memory at half a minute into training and at the end of the last round.
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.folders import make
from benchmarks.throughput import ROOT, found

COUNT = 200_000
WARM_UP = 30


def memory(pid: int) -> tuple[int, int]:
    """MiB of the process itself, and of mapped files."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    own, files = (int(status[key].split()[0]) // 1024 for key in ("RssAnon", "RssFile"))
    return own, files


def train(
    folder: Path, output: Path, where: str, seconds: int
) -> tuple[float, list[tuple[int, int]]]:
    process = subprocess.Popen(
        [
            *(sys.executable, ROOT / "train.py", "dataset=folder", f"dataset.root={folder}"),
            "model=dcgan",
            *(f"max_time={seconds}s", f"output={output}", f"trainer.paintings={where}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    seen = []
    while process.poll() is None:
        time.sleep(1)
        try:
            seen.append(memory(process.pid))
        except (OSError, KeyError):  # it has just ended
            break
    printed, _ = process.communicate()
    return float(found(r"Done: .*, ([\d,]+) images/s", printed).replace(",", "")), seen


def main(paintings: list[Path], seconds: int = 90, rounds: int = 2) -> None:
    rates: dict[str, list[float]] = {"file": [], "device": []}
    peaks: dict[str, list[tuple[int, int]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "large"
        make(folder, paintings, COUNT, 64)
        train(folder, Path(scratch) / "runs", "file", 5)  # checks and packs
        for _ in range(rounds):
            for where, measured in rates.items():
                rate, seen = train(folder, Path(scratch) / "runs", where, seconds)
                measured.append(rate)
                peaks[where] = [seen[-seconds + WARM_UP], seen[-2]]
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}; "
        f"{rounds} rounds of {seconds} s\n\n"
        f"| paintings | images/s | MiB own, of mapped files: after {WARM_UP} s | at the end |\n"
        "|---|---|---|---|"
    )
    for where, measured in rates.items():
        (early_own, early_files), (late_own, late_files) = peaks[where]
        print(
            f"| {where} | {statistics.median(measured):.0f} | {early_own:,}, {early_files:,} "
            f"| {late_own:,}, {late_files:,} |"
        )


if __name__ == "__main__":
    main(sorted(Path(sys.argv[1]).resolve().rglob("*.jpg")), *map(int, sys.argv[2:]))
