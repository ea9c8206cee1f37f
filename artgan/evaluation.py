"""How well a run paints: its samples, measured against the paintings it has and has not seen."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from artgan.checkpoint import find_checkpoint
from artgan.config import DatasetConfig, EvaluateConfig, config_defaults, typed
from artgan.data.pack import FEWEST_PAINTINGS, Pack
from artgan.data.sources import load_paintings
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
    dataset = _dataset(painter, config)
    extract = None if config.features == "none" else load_features(config.features, device)
    pack = load_paintings(dataset, painter.resolution)
    parts = [
        _part(name, part, config.num, extract)
        for name, part in zip(("training", "held-out"), pack.split(dataset.holdout), strict=True)
        if len(part) >= FEWEST_PAINTINGS
    ]
    latents = draw_inputs(painter, config.seed, config.num)
    samples = paint(painter.generator, tqdm(latents, desc="painting", unit=" pictures"))
    features = extract(samples, progress="features of the samples") if extract else None

    figures: dict[str, Any] = {
        "checkpoint": str(painter.checkpoint),
        "images_seen": painter.images_seen,
        "samples": config.num,
        "seed": config.seed,
        "ema": config.ema,
        "features": extract.name if extract else None,
        "similarity": mean_similarity(samples),
    }
    for part in parts:
        figures[part.name] = _measure(samples, features, part)
    seen, *unseen = (part.images if part.features is None else part.features for part in parts)
    copies = nearest(samples if features is None else features, seen, *unseen)
    figures["originality"] = copies.figures
    folder = (
        Path(config.out)
        if config.out is not None
        else painter.checkpoint.parent / "evaluated" / f"images-{painter.images_seen:09d}"
    )
    _write(folder, figures, _sheet(samples, parts[0].images, copies))
    return figures, folder


def _dataset(painter: Painter, config: EvaluateConfig) -> DatasetConfig:
    try:
        values = config_defaults()["dataset"] | painter.config["dataset"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{painter.checkpoint}: says too little of its run ({error!r}).") from error
    dataset = typed(DatasetConfig, values, str(painter.checkpoint))
    if config.root is not None:
        dataset.source, dataset.root = "folder", str(Path(config.root).expanduser().absolute())
    if config.holdout is not None:
        dataset.holdout = config.holdout
    return dataset


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


def _measure(samples: Tensor, features: Tensor | None, part: Part) -> dict[str, float]:
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


def _write(folder: Path, figures: dict[str, Any], sheet: Tensor) -> None:
    save_png(sheet, folder / "nearest.png")
    with atomic_write(folder / "metrics.json") as file:
        file.write(json.dumps(figures, indent=1).encode())


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
