"""Compares runs of different resolutions, with their samples brought to the same sizes.

    python benchmarks/sizes.py FEATURES RUN...

FEATURES is what `features=` of `artgan evaluate` takes. All runs must have been trained on the same
paintings with the same `dataset.holdout`. 1,000 samples of each run, and the paintings trained on
and held out, are resized to 64 and 256 px (bicubic, antialiased) and measured by KID, recall and
SWD. Prints a Markdown table, and writes `sizes.png`, the first samples of each run side by side.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from artgan.config import load_config
from artgan.data.pack import Pack
from artgan.data.sources import load_paintings
from artgan.images import save_png, tile
from artgan.measuring import SEED
from artgan.metrics.distances import kernel_distance, precision_recall
from artgan.metrics.features import load_features
from artgan.metrics.wasserstein import sliced_wasserstein
from artgan.painter import Painter, load, paint

SIDES = (64, 256)
SAMPLES = 1000
SHOWN = 6  # samples in a row and column of sizes.png


def resized(images: Tensor, side: int) -> Tensor:
    """Images uint8 [N, 3, H, W] as uint8 [N, 3, side, side]."""
    parts = [
        F.interpolate(part.float(), (side, side), mode="bicubic", antialias=True)
        for part in images.split(64)
    ]
    return torch.cat(parts).round().clamp(0, 255).byte()


def painted(painter: Painter, first_seed: int, count: int) -> Tensor:
    """Samples of consecutive seeds, uint8 [count, 3, H, W]."""
    inputs = painter.inputs(first_seed, count)
    run = painter.checkpoint.parent.name
    return paint(painter.generator, tqdm(inputs, run, leave=False, disable=None))


def squares(pack: Pack) -> Tensor:
    middles = pack.squares(np.arange(len(pack)), np.full(len(pack), 0.5))
    return torch.from_numpy(middles).permute(0, 3, 1, 2)


def main(features: str, folders: list[Path]) -> None:
    config = load_config(folders[0])
    whole = load_paintings(replace(config.dataset), max(SIDES))
    trained_on, held_out = (squares(part) for part in whole.split(config.dataset.holdout))
    extract = load_features(features)
    grids = []
    print("| run | images | size | KID, held out | KID, trained on | recall | SWD |")
    print("|---|---|---|---|---|---|---|")
    for folder in folders:
        painter = load(folder)
        samples = painted(painter, SEED, SAMPLES)
        grids.append(tile(resized(samples[: SHOWN**2], max(SIDES)), SHOWN))
        for side in SIDES:
            fake, real, unseen = (resized(one, side) for one in (samples, trained_on, held_out))
            of_fake, of_real, of_unseen = map(extract, (fake, real, unseen))
            kid, deviation = kernel_distance(of_fake, of_unseen)
            kid_seen, _ = kernel_distance(of_fake, of_real)
            _, recall = precision_recall(of_real, of_fake)
            swd = sliced_wasserstein(fake, real)
            row = [folder.name, f"{painter.images_seen:,}", f"{side} px"]
            row += [f"{kid:.2f} ± {deviation:.2f}", f"{kid_seen:.2f}", f"{recall:.2f}"]
            row += [f"{sum(swd.values()) / len(swd):.0f}"]
            print(f"| {' | '.join(row)} |", flush=True)
    height = min(grid.shape[1] for grid in grids)
    save_png(torch.cat([grid[:, :height] for grid in grids], dim=2), Path("sizes.png"), {})


if __name__ == "__main__":
    main(sys.argv[1], [Path(folder) for folder in sys.argv[2:]])
