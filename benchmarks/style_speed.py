"""Measures `method=magenta`: the loaded network, its memory for a large image, and the command.

    python benchmarks/style_speed.py CONTENT STYLE WEIGHTS_DIR [ROUNDS]

CONTENT and STYLE are images, WEIGHTS_DIR is the folder of the weights. Times are medians of ROUNDS
rounds, 5 by default, on all cores; memory is the peak of a new process. Prints a Markdown table.
"""

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from artgan.config import compose  # noqa: E402
from artgan.style.inputs import Region, Style  # noqa: E402
from artgan.style.magenta import Magenta  # noqa: E402


def load(content: Path, side: int) -> Tensor:
    """A square of an image, float32 [1, 3, side, side] in [0, 1]."""
    with Image.open(content) as image:
        pixels = np.array(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous() / 255


def painter(style: Path, weights_dir: str) -> tuple[Magenta, list[Region]]:
    config = compose("stylize", {"content": "x", "style": "x", "weights_dir": weights_dir})
    with Image.open(style) as opened:
        image = opened.convert("RGB")
    region = Region(Style(style.stem, "0", 1, lambda: iter([image])), 1.0, None)
    return Magenta(config, "cpu"), [region]


def peak(content: Path, style: Path, weights_dir: str, side: int) -> None:
    """Paints once, and prints the peak memory of this process in MiB."""
    magenta, regions = painter(style, weights_dir)
    magenta.paint(load(content, side), regions)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main(content: Path, style: Path, weights_dir: str, rounds: int) -> None:
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n\n| what | result |\n|---|---|"
    )
    magenta, regions = painter(style, weights_dir)
    for side in (512, 2048):
        image = load(content, side)
        seconds = []
        for _ in range(rounds + 1):
            began = time.perf_counter()
            magenta.paint(image, regions)
            seconds.append(time.perf_counter() - began)
        # The first run also prepares the convolutions for this size.
        median, first = statistics.median(seconds[1:]), seconds[0]
        print(
            f"| {side}×{side}, once loaded, style included | {median:.3f} s, first {first:.3f} s |"
        )

    arguments = [str(content), str(style), weights_dir]
    done = subprocess.run(
        [sys.executable, __file__, "peak", *arguments], check=True, capture_output=True, text=True
    )
    print(f"| 4096×4096, peak of a new process | {float(done.stdout):,.0f} MiB |")

    seconds = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds):
            named = [f"content={content}", f"style={style}", f"weights_dir={weights_dir}"]
            command = [sys.executable, str(ROOT / "stylize.py"), *named, f"out={number}.png"]
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, cwd=scratch)
            seconds.append(time.perf_counter() - began)
    print(f"| `stylize.py`, from start to end | {statistics.median(seconds):.2f} s |")


if __name__ == "__main__":
    if sys.argv[1] == "peak":
        peak(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], 4096)
    else:
        content, style = (Path(name).resolve() for name in sys.argv[1:3])
        rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 5
        main(content, style, str(Path(sys.argv[3]).resolve()), rounds)
