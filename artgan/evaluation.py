"""How well a run paints: its samples, measured against the paintings it has and has not seen."""

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from artgan.checkpoint import find_checkpoint
from artgan.config import DatasetConfig, EvaluateConfig, config_defaults, replaced, typed
from artgan.data.pack import FEWEST_PAINTINGS, Pack
from artgan.data.sources import load_paintings, settle
from artgan.errors import UserError
from artgan.files import atomic_write
from artgan.metrics.distances import frechet_distance, kernel_distance, precision_recall
from artgan.metrics.diversity import mean_similarity
from artgan.metrics.features import Features, load_features
from artgan.metrics.originality import Copies, nearest
from artgan.metrics.wasserstein import sliced_wasserstein
from artgan.pictures import save_png, tile
from artgan.sampling import Painter, draw_inputs, load_painter, paint, pick_device

PAIRS = 16
SHEET = "nearest.png"


@dataclass(frozen=True)
class Part:
    """Some of the paintings, to measure against.

    Attributes:
        name: training or held-out.
        images: uint8 [N, 3, H, W].
        features: float32 [N, D], or None where there are none to be had.
    """

    name: str
    images: Tensor
    features: Tensor | None


def evaluate(config: EvaluateConfig) -> tuple[dict[str, Any], Path]:
    """Does what one `evaluate.py` command asks.

    Returns:
        The figures, as `metrics.json` holds them, and the folder they were written to.

    Raises:
        UserError: the checkpoint, the paintings or the features cannot be had.
    """
    if config.ckpt is None:
        raise UserError("ckpt: say which run to measure, as in ckpt=checkpoints/RUN")
    device = pick_device(config.device)
    painter = load_painter(find_checkpoint(Path(config.ckpt)), config.ema, device)
    dataset = _dataset(painter, config.dataset)
    extract = None if config.features == "none" else load_features(config.features, device)
    pack = load_paintings(dataset, painter.resolution)
    parts = parts_of(*pack.split(dataset.holdout), config.num, extract)
    latents = draw_inputs(config.seed, config.num, painter.latent_dim, painter.classes)
    measured, sheet = measure(painter.generator, latents, parts, extract)
    figures = {
        "checkpoint": str(painter.checkpoint),
        "images_seen": painter.images_seen,
        "seed": config.seed,
        "ema": config.ema,
    } | measured
    own = figures_folder(painter.checkpoint.parent, painter.images_seen)
    folder = own if config.out is None else Path(config.out)
    save_png(sheet, folder / SHEET)
    write_figures(figures, folder)
    return figures, folder


def _dataset(painter: Painter, given: DatasetConfig) -> DatasetConfig:
    """The dataset of the run, with the keys that the command gave."""
    try:
        own = config_defaults()["dataset"] | painter.config["dataset"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{painter.checkpoint}: says too little of its run ({error!r}).") from error
    dataset = replaced(typed(DatasetConfig, own, str(painter.checkpoint)), given)
    settle(dataset)
    return dataset


def parts_of(
    training: Pack, held_out: Pack, most: int, extract: Features | None = None
) -> list[Part]:
    """The parts of a set to measure against; one that is too small is told of and left out.

    Args:
        training: paintings that are trained on.
        held_out: those that are not; may be empty.
        most: paintings of each part, at most.
        extract: gives their features.

    Returns:
        The training part, and the held-out part unless it is too small.
    """
    parts = [_part("training", training, most, extract)]
    if len(held_out) >= FEWEST_PAINTINGS:
        parts.append(_part("held-out", held_out, most, extract))
    elif len(held_out):
        print(
            f"Only {len(held_out)} paintings are held out, too few to measure against: it takes "
            f"at least {FEWEST_PAINTINGS}. A larger dataset.holdout sets more aside.",
            file=sys.stderr,
        )
    return parts


def measure(
    generator: torch.nn.Module, latents: Tensor, parts: list[Part], extract: Features | None
) -> tuple[dict[str, Any], Tensor]:
    """Measures what a generator paints from latents.

    Args:
        generator: in evaluation mode.
        latents: [N, latent_dim, 1, 1], N of at least 16.
        parts: the paintings, those trained on first.
        extract: gives the features of pictures, as it gave those of the parts.

    Returns:
        The figures, a dict for each part and for originality among them, and a sheet of the samples
        that are nearest to a training painting, uint8 [3, H, W].
    """
    # Below another bar, such as that of a training, the bars vanish once they are full.
    bar = tqdm(latents, desc="painting", unit="img", leave=None, disable=None)
    samples = paint(generator, bar)
    features = extract(samples, progress="features of the samples") if extract else None
    figures: dict[str, Any] = {
        "samples": len(samples),
        "features": extract.name if extract else None,
        "similarity": mean_similarity(samples),
    }
    for part in parts:
        figures[part.name] = _against(samples, features, part)
    seen, *unseen = (part.images if part.features is None else part.features for part in parts)
    copies = nearest(samples if features is None else features, seen, *unseen)
    figures["originality"] = copies.figures
    return figures, _sheet(samples, parts[0].images, copies)


def figures_folder(run: Path, images_seen: int) -> Path:
    """Where the figures of one state of a run lie, if not told otherwise."""
    return run / "evaluated" / f"images-{images_seen:09d}"


def write_figures(figures: dict[str, Any], folder: Path) -> None:
    """Writes `metrics.json`."""
    with atomic_write(folder / "metrics.json") as file:
        file.write(json.dumps(figures, indent=1).encode())


def _part(name: str, pack: Pack, most: int, extract: Features | None) -> Part:
    """The middles of at most so many of the paintings, spread over the set."""
    count = min(most, len(pack))
    strips = np.linspace(0, len(pack) - 1, count).astype(np.int64)
    squares = pack.squares(strips, np.full(count, 0.5))
    images = torch.from_numpy(squares).permute(0, 3, 1, 2)
    features = _cached_features(name, pack, images, extract) if extract else None
    return Part(name, images, features)


def _cached_features(name: str, pack: Pack, images: Tensor, extract: Features) -> Tensor:
    """Features of paintings, kept beside them under a hash of the pixels and of the network."""
    pixels = hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()[:16]
    path = pack.report.parent / "features" / f"{extract.name}-{pixels}.npy"
    try:
        kept = np.load(path)
        if kept.shape == (len(images), extract.dimension):
            return torch.from_numpy(kept)
    except (OSError, ValueError):
        pass  # not there yet, or damaged: either way they are computed
    features = extract(images, progress=f"features of the {name} paintings")
    with atomic_write(path) as file:
        np.save(file, features.numpy())
    return features


def _against(samples: Tensor, features: Tensor | None, part: Part) -> dict[str, float]:
    swd = sliced_wasserstein(samples, part.images)
    figures = {f"swd/{side}": value for side, value in swd.items()}
    figures["swd"] = sum(swd.values()) / len(swd)
    figures["paintings"] = len(part.images)
    figures["similarity of the paintings"] = mean_similarity(part.images)
    if features is not None and part.features is not None:
        figures["fid"] = frechet_distance(features, part.features)
        figures["kid"], figures["kid_std"] = kernel_distance(features, part.features)
        figures["precision"], figures["recall"] = precision_recall(part.features, features)
    return figures


def _sheet(samples: Tensor, paintings: Tensor, copies: Copies) -> Tensor:
    """The samples nearest to a training painting, each above that painting."""
    closest = copies.order[:PAIRS]
    pairs = [samples[closest], paintings[copies.neighbours[closest]]]
    return tile(torch.cat(pairs), len(closest))


def table(figures: dict[str, Any]) -> str:
    """The figures for a person to read, a column for each part of the paintings."""
    parts = [name for name in ("training", "held-out") if name in figures]
    rows = [["", *parts]]
    for key in dict.fromkeys(key for name in parts for key in figures[name]):
        rows.append([key, *(f"{figures[name][key]:.4g}" for name in parts)])
    rows.append(["similarity of the samples", f"{figures['similarity']:.4g}"])
    rows += [
        [f"originality: {key}", f"{value:.4g}"] for key, value in figures["originality"].items()
    ]
    width = max(len(row[0]) for row in rows)
    lines = [f"{row[0]:<{width}}" + "".join(f"{cell:>14}" for cell in row[1:]) for row in rows]
    return "\n".join([f"features: {figures['features'] or 'none'}", *lines])
