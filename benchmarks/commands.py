"""Times the commands that a user types: packing, training, the first samples.

    python benchmarks/commands.py PATH

PATH is a folder of paintings; it is linked to a temporary folder, so nothing is written into it.
Times are of whole processes, as a user waits for them. Prints a Markdown table.
"""

import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def command(name: str, *arguments: str) -> tuple[float, float, str]:
    """Runs a script. Returns seconds, peak resident memory in MiB, and its output."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / name), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(printed)
    return time.perf_counter() - began, usage.ru_maxrss / 1024, printed


def rate(printed: str) -> str:
    match = re.search(r"Done: .*, ([\d,]+ images/s)", printed)
    assert match is not None
    return match[1]


def main(paintings: Path) -> None:
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"{time.strftime('%Y-%m-%d')}\n\n| command | result |\n|---|---|"
    )
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        root = Path("paintings")
        for file in paintings.rglob("*.jpg"):
            link = root / file.relative_to(paintings)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)

        wall, memory, printed = command("train.py", "name=default")
        print(f"| `train.py`, whole | {wall:.0f} s, {rate(printed)}, peak {memory:,.0f} MiB |")

        from artgan.data.folder import load_pack
        from artgan.data.pack import Cut

        for resolution in (64, 128):
            times = []
            for _ in range(2):
                began = time.perf_counter()
                pack = load_pack(root, Cut(resolution))
                times.append(time.perf_counter() - began)
            print(
                f"| checking and packing {len(pack):,} paintings at {resolution} px | "
                f"{times[0]:.1f} s, second time {times[1]:.2f} s |"
            )
            folder = ("dataset=folder", f"dataset.root={root}", f"resolution={resolution}")
            _, memory, printed = command("train.py", *folder, "max_time=60s", f"name={resolution}")
            print(
                f"| training at {resolution} px, one minute | {rate(printed)}, "
                f"peak {memory:,.0f} MiB |"
            )
            one = (*folder, "max_images=64", "output=once")
            times = [command("train.py", *one)[0] for _ in range(5)]
            print(
                f"| `train.py` at {resolution} px, one update, from start to end | "
                f"{statistics.median(times):.1f} s |"
            )
        times = [command("sample.py", "ckpt=checkpoints/64")[0] for _ in range(5)]
        print(f"| `sample.py`, 64 samples at 64 px | {statistics.median(times):.1f} s |")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
