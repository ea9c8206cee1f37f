"""Measures samples against paintings: those trained on and those held out."""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from artgan.cache import read_cache, write_cache
from artgan.data.pack import FEATURES, FEWEST_PAINTINGS, Pack
from artgan.errors import UserError
from artgan.files import atomic_write
from artgan.images import tile
from artgan.metrics import UNKNOWN
from artgan.metrics.distances import frechet_distance, kernel_distance, precision_recall
from artgan.metrics.diversity import mean_similarity
from artgan.metrics.features import Features, load_features
from artgan.metrics.originality import Copies, nearest, thumbnails
from artgan.metrics.wasserstein import sliced_wasserstein
from artgan.options import NAMED_FEATURES, ON_FEATURES, DatasetConfig
from artgan.painter import paint

SEED = 1_000_000  # of the first sample
SCORES, SHEET = "metrics.json", "nearest.png"
SHOWN = (*ON_FEATURES, "kid_std", "precision", "recall")  # on features, in TensorBoard
PAIRS = 16  # of a sample and its nearest painting, on the sheet
CHUNK = 256  # images in memory at once
# Increment when the same paintings and network give other features than before.
VERSION = 2


@dataclass(frozen=True)
class Part:
    """Some of the paintings, to measure against."""

    name: str  # training, held-out, or paintings
    images: Tensor  # uint8 [N, 3, H, W]
    features: Tensor | None  # float32 [N, D]; None without a feature network
    rows: Tensor  # float32 [M, D], features of all squares of the part, or their thumbnails


@dataclass(frozen=True)
class Reference:
    """What samples are measured against."""

    parts: list[Part]  # those trained on first
    pack: Pack  # the whole first part, which is searched for copies
    mirrored: Tensor | None  # float32 [M, D], rows of its mirrored squares; None without flip
    dataset: dict[str, Any]  # description of the paintings for `metrics.json`


def usable_features(
    features: str, device: str, option: str, needed: bool = False
) -> Features | None:
    """The feature network; None for none, or with a message if it is not available.

    Raises:
        UserError: the network is not available, and is needed or a file.
    """
    if features == "none":
        return None
    try:
        return load_features(features, device)
    except UserError as error:
        if needed or features not in NAMED_FEATURES:
            raise
        print(
            f"{option}={features}: {error}\nMeasuring without it: no FID and no KID.",
            file=sys.stderr,
        )
        return None


def reference_of(
    packs: dict[str, Pack], dataset: DatasetConfig, most: int, extract: Features | None = None
) -> Reference:
    """What to measure against; a part that is too small is reported and left out.

    The packs are the parts by their names, those trained on first, of each of which at most `most`
    paintings are taken; copies are searched for among all.
    """
    parts: list[Part] = []
    for name, pack in packs.items():
        if len(pack) >= FEWEST_PAINTINGS or not parts:
            # Those taken are spread over the dataset.
            strips = np.linspace(0, len(pack) - 1, min(most, len(pack))).astype(np.int64)
            rows = feature_rows(name, pack, extract)
            features = rows[strips] if extract else None
            parts.append(Part(name, _middles(pack, strips), features, rows))
        elif len(pack):
            print(
                f"Only {len(pack)} paintings are held out, too few to measure against: at least "
                f"{FEWEST_PAINTINGS} are needed. A larger dataset.holdout sets more aside.",
                file=sys.stderr,
            )
    name, pack = next(iter(packs.items()))
    described = {
        "root": Path(dataset.root or "").name,
        "key": pack.key,
        "holdout": None if name == UNKNOWN else dataset.holdout,
        "crop": dataset.crop,
    }
    mirrored = feature_rows(name, pack, extract, mirrored=True) if dataset.flip else None
    return Reference(parts, pack, mirrored, described)


def measure(
    generator: torch.nn.Module, inputs: Tensor, reference: Reference, extract: Features | None
) -> tuple[dict[str, Any], Tensor]:
    """Measures what a generator paints from at least 16 inputs [N, latent_dim + K, 1, 1].

    Returns:
        The scores, among them a dict for each part and for originality, and a sheet of the samples
        that are nearest to a training painting, uint8 [3, H, W].
    """
    # Below another bar, such as that of a training, the bars vanish once they are full.
    bar = tqdm(inputs, desc="painting", unit="img", leave=None, disable=None)
    samples = paint(generator, bar)
    features = extract(samples, progress="features of the samples") if extract else None
    scores: dict[str, Any] = {
        "dataset": reference.dataset,
        "samples": len(samples),
        "features": extract.name if extract else None,
        "similarity": mean_similarity(samples),
    }
    for part in reference.parts:
        scores[part.name] = _scores(samples, features, part)
    seen, *unseen = (part.rows for part in reference.parts)
    rows = thumbnails(samples) if features is None else features
    files = np.unique(reference.pack.files, return_inverse=True)[1]
    held_out = unseen[0] if unseen else None
    copies = nearest(rows, seen, reference.mirrored, held_out, torch.from_numpy(files))
    scores["originality"] = copies.scores
    return scores, _sheet(samples, reference.pack, copies)


def scores_folder(run: Path, images_seen: int) -> Path:
    """The default folder for the scores of one state of a run."""
    return run / "evaluated" / f"images-{images_seen:09d}"


def tags(parts: Sequence[str], features: str | None) -> dict[str, tuple[str, ...]]:
    """TensorBoard's name of each metric, and its place in `metrics.json`.

    Scores from different feature networks are not comparable, so each is labelled with its
    network.
    """
    name = features or "thumbnails"
    found: dict[str, tuple[str, ...]] = {"evaluate/similarity": ("similarity",)}
    for part in parts:
        for key in SHOWN if features else ():
            found[f"evaluate/{key} {part} ({name})"] = (part, key)
        found[f"evaluate/swd {part}"] = (part, "swd")
    for key in ("ratio", "near"):
        found[f"evaluate/originality {key} ({name})"] = ("originality", key)
    return found


def score_at(scores: Any, place: tuple[str, ...]) -> float:
    """One of the scores in `metrics.json`."""
    for key in place:
        scores = scores[key]
    return float(scores)


def write_scores(scores: dict[str, Any], folder: Path) -> None:
    """Writes `metrics.json`."""
    with atomic_write(folder / SCORES) as file:
        file.write(json.dumps(scores, indent=1).encode())


def feature_rows(name: str, pack: Pack, extract: Features | None, mirrored: bool = False) -> Tensor:
    """Features of the middle squares of all strips, perhaps mirrored, float32 [N, D].

    They are cached beside the paintings, for the pack they were computed on. Without a network,
    thumbnails.
    """
    if extract is None:
        return _computed(thumbnails, f"thumbnails of the {name} paintings", pack, mirrored)
    which = hashlib.sha256(pack.starts.tobytes()).hexdigest()[:8]
    file = f"{pack.key}-{which}-{extract.name}-{VERSION}{'-mirrored' * mirrored}.cache"
    path = pack.report.parent / FEATURES / file
    with suppress(OSError, ValueError, KeyError):  # not there yet, or damaged
        return torch.from_numpy(read_cache(path).arrays["features"])
    label = f"features of the {name} paintings{', mirrored' * mirrored}"
    features = _computed(extract, label, pack, mirrored)
    write_cache(path, {"features": features.numpy()})
    return features


def _middles(pack: Pack, strips: NDArray[np.int64]) -> Tensor:
    """The square in the middle of each of some strips, uint8 [n, 3, H, W]."""
    squares = pack.squares(strips, np.full(len(strips), 0.5))
    pack.forget_read()
    return torch.from_numpy(squares).permute(0, 3, 1, 2)


def _computed(
    describe: Callable[[Tensor], Tensor], label: str, pack: Pack, mirrored: bool
) -> Tensor:
    rows = []
    with tqdm(total=len(pack), desc=label, unit="img", leave=None, disable=None) as bar:
        for start in range(0, len(pack), CHUNK):
            squares = _middles(pack, np.arange(start, min(start + CHUNK, len(pack))))
            rows.append(describe(squares.flip(-1) if mirrored else squares))
            bar.update(len(squares))
    return torch.cat(rows)


def _scores(samples: Tensor, features: Tensor | None, part: Part) -> dict[str, float]:
    swd = sliced_wasserstein(samples, part.images)
    scores = {f"swd/{side}": value for side, value in swd.items()}
    scores["swd"] = sum(swd.values()) / len(swd)
    scores["paintings"] = len(part.images)
    scores["similarity of the paintings"] = mean_similarity(part.images)
    if features is not None and part.features is not None:
        scores["fid"] = frechet_distance(features, part.features)
        scores["kid"], scores["kid_std"] = kernel_distance(features, part.features)
        scores["precision"], scores["recall"] = precision_recall(part.features, features)
    return scores


def _sheet(samples: Tensor, pack: Pack, copies: Copies) -> Tensor:
    """The samples nearest to a training painting, each above it, mirrored if it is nearest so."""
    closest = copies.order[:PAIRS]
    neighbours = copies.neighbours[closest]
    paintings = _middles(pack, (neighbours % len(pack)).numpy())
    mirrored = (neighbours >= len(pack))[:, None, None, None]
    below = torch.where(mirrored, paintings.flip(-1), paintings)
    return tile(torch.cat([samples[closest], below]), len(closest))
