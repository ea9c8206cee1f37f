"""Times checking and packing of large folders: 6,000 images of 256 px, and 100,000 small ones.

    python benchmarks/folders.py PATH

PATH is a folder of paintings. The folders, in a temporary place, are filled with random crops of
them, mirrored or rotated. Times are of a new process, imports included. Memory is the peak of that
process, and of the largest process that it started. Prints a Markdown table.
"""

import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
LOAD = """
import resource, sys
from pathlib import Path
from artgan.data.folder import load_pack
from artgan.data.pack import Cut

if __name__ == "__main__":
    pack = load_pack(Path(sys.argv[1]), Cut(64))
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    print(len(pack), *(resource.getrusage(one).ru_maxrss // 1024 for one in who))
"""


def make(folder: Path, paintings: list[Path], count: int, side: int) -> None:
    chance = random.Random(0)
    folder.mkdir()
    each = -(-count // len(paintings))
    for number in range(count):
        if number % each == 0:
            painting = Image.open(paintings[number // each]).convert("RGB")
        cut = chance.randint(min(60, *painting.size), min(painting.size))
        left, top = (chance.randint(0, length - cut) for length in painting.size)
        square = painting.crop((left, top, left + cut, top + cut)).resize((side, side))
        square = square.transpose(chance.choice(list(Image.Transpose)))
        square.save(folder / f"{number:06}.jpg", quality=90)


def load(script: Path, folder: Path) -> tuple[float, list[int]]:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, script, folder], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return time.perf_counter() - began, [int(word) for word in done.stdout.split()]


def main(paintings: list[Path]) -> None:
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}\n\n"
        "| folder | first start | second start | memory |\n|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch) / "load.py"
        script.write_text(LOAD)
        for count, side in ((6_000, 256), (100_000, 96)):
            folder = Path(scratch) / str(count)
            make(folder, paintings, count, side)
            first, (packed, mine, others) = load(script, folder)
            again, _ = load(script, folder)
            print(
                f"| {packed:,} of {count:,} JPEGs of {side} px | {first:.1f} s | {again:.2f} s | "
                f"{mine} MiB, other processes {others} MiB |",
                flush=True,
            )


if __name__ == "__main__":
    main(sorted(Path(sys.argv[1]).resolve().rglob("*.jpg")))
