"""Pairs of grids for a judge who does not know which run painted which.

    python benchmarks/blind.py pairs FIRST SECOND FOLDER
    python benchmarks/blind.py count FOLDER lrrlr...

`pairs` writes `pair-01.png` to `pair-20.png`, each with nine samples of either run, all brought to
256 px, in an order that only `key.json` tells. The judge writes down l or r for the better half of
each pair. `count` says how often each run won, with a 95 % interval (Wilson 1927).
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from artgan.errors import UserError
from artgan.images import save_png, tile
from artgan.painter import load
from benchmarks.sizes import painted, resized

PAIRS = 20
SHOWN = 9  # samples of each run in one pair
GAP = 40  # white pixels between the halves
FIRST_SEED = 10_000  # not those of the grids that were looked at during training


def grids(run: Path) -> list[Tensor]:
    samples = painted(load(run), FIRST_SEED, PAIRS * SHOWN)
    return [tile(nine, math.isqrt(SHOWN)) for nine in resized(samples, 256).split(SHOWN)]


def write_pairs(first: Path, second: Path, folder: Path) -> None:
    swapped = np.random.default_rng().integers(0, 2, PAIRS).tolist()
    pairs = zip(grids(first), grids(second), strict=True)
    folder.mkdir(parents=True)
    for number, halves in enumerate(pairs):
        left, right = halves[:: -1 if swapped[number] else 1]
        gap = left.new_full((3, left.shape[1], GAP), 255)
        save_png(torch.cat([left, gap, right], dim=2), folder / f"pair-{number + 1:02d}.png")
    runs = [str(first), str(second)]
    left_runs = [runs[one] for one in swapped]
    (folder / "key.json").write_text(json.dumps({"runs": runs, "left": left_runs}))


def count(folder: Path, answers: str) -> None:
    key = json.loads((folder / "key.json").read_text())
    (first, second), left = key["runs"], key["left"]
    if len(answers) != len(left) or set(answers) - {"l", "r"}:
        sys.exit(f"The answers must be {len(left)} times l or r, not {answers}")
    wins = sum((answer == "l") == (run == first) for answer, run in zip(answers, left, strict=True))
    low, high = interval(wins, len(left))
    print(f"{first}: {wins} of {len(left)} (95 %: {low:.2f} to {high:.2f} of all pairs)")
    print(f"{second}: {len(left) - wins} of {len(left)}")


def interval(wins: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share."""
    share, weight = wins / total, 1 + z**2 / total
    middle = (share + z**2 / (2 * total)) / weight
    spread = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / weight
    return middle - spread, middle + spread


if __name__ == "__main__":
    try:
        match sys.argv[1:]:
            case ["pairs", first, second, folder]:
                write_pairs(Path(first), Path(second), Path(folder))
            case ["count", folder, answers]:
                count(Path(folder), answers)
            case _:
                sys.exit(__doc__)
    except (OSError, UserError) as error:
        sys.exit(str(error))
