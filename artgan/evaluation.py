"""How well a run paints: its samples, measured against the paintings it has and has not seen."""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from artgan.checkpoint import find_checkpoint
from artgan.config import CONFIG_FILE, typed
from artgan.data.pack import FEATURES, FEWEST_PAINTINGS, Pack
from artgan.data.sources import load_paintings, settle
from artgan.device import pick_device
from artgan.errors import UserError
from artgan.files import atomic_write, cannot_write
from artgan.images import encode_png, tile
from artgan.metrics.distances import frechet_distance, kernel_distance, precision_recall
from artgan.metrics.diversity import mean_similarity
from artgan.metrics.features import Features, load_features
from artgan.metrics.originality import Copies, nearest, thumbnails
from artgan.metrics.wasserstein import sliced_wasserstein
from artgan.options import NAMED_FEATURES, ON_FEATURES, DatasetConfig, EvaluateConfig
from artgan.painter import Painter, draw_inputs, load_painter, paint

SEED = 1_000_000  # of the first sample
PAIRS = 16
METRICS, SHEET = "metrics.json", "nearest.png"
PARTS = ("training", "held-out")
SHOWN = (*ON_FEATURES, "kid_std", "precision", "recall")  # on features, in TensorBoard
UNKNOWN = "paintings"
CHUNK = 256  # pictures in memory at once
# Raise when the same paintings and network would give other features than before.
VERSION = 1


@dataclass(frozen=True)
class Part:
    """Some of the paintings, to measure against.

    Attributes:
        name: training or held-out; paintings, where nobody knows which of them were trained on.
        images: uint8 [N, 3, H, W].
        features: float32 [N, D], or None where there are none to be had.
        rows: float32 [M, D], features of all squares of the part, or their thumbnails.
    """

    name: str
    images: Tensor
    features: Tensor | None
    rows: Tensor


@dataclass(frozen=True)
class Reference:
    """All that samples are measured against.

    Attributes:
        parts: of the paintings, those trained on first.
        pack: the whole of the first part, among which copies are sought.
        mirrored: float32 [M, D], as the rows of that part, of the squares' mirror images; None
            where these are not trained on.
        dataset: what `metrics.json` says of the paintings.
    """

    parts: list[Part]
    pack: Pack
    mirrored: Tensor | None
    dataset: dict[str, Any]


def evaluate(config: EvaluateConfig) -> tuple[dict[str, Any], Path]:
    """Does what one `evaluate.py` command asks.

    Returns:
        The figures, as `metrics.json` holds them, and the folder they were written to.

    Raises:
        UserError: the checkpoint, the paintings or the file of features cannot be used, or other
            paintings would be held out than in the run.
    """
    if config.ckpt is None:
        raise UserError("ckpt: say which run to measure, as in ckpt=checkpoints/RUN")
    if config.out and (Path(config.out) / CONFIG_FILE).exists():
        raise UserError(
            f"out: {config.out} is the folder of a run, and its curves would be replaced. Leave it "
            "out to have the figures lie below it, or give a folder of their own."
        )
    device = pick_device(config.device)
    painter = load_painter(find_checkpoint(Path(config.ckpt)), config.ema, device)
    own = _own_dataset(painter)
    dataset = typed(DatasetConfig, asdict(own) | config.dataset)
    settle(dataset)
    extract = usable_features(config.features, device, "features")
    pack = load_paintings(dataset, painter.resolution)
    if pack.key == painter.dataset_key:
        _refuse_another_holdout(own, dataset)
        packs = dict(zip(PARTS, pack.split(own.holdout), strict=True))
    else:
        print(
            f"{dataset.root}: other paintings than the run's, or changed or cut otherwise since. "
            "Which of them it was trained on is not known: they are one part, none held out.",
            file=sys.stderr,
        )
        packs = {UNKNOWN: pack}
    # What the network has seen mirrored is the run's to say.
    reference = reference_of(packs, replace(dataset, flip=own.flip), config.num, extract)
    inputs = draw_inputs(config.seed, config.num, painter.latent_dim, painter.classes)
    measured, sheet = measure(painter.generator, inputs, reference, extract)
    figures = {
        "checkpoint": str(painter.checkpoint),
        "images_seen": painter.images_seen,
        "seed": config.seed,
        "ema": config.ema,
    } | measured
    folder = Path(config.out) if config.out else _default_folder(config, painter, figures)
    _show(painter, figures, sheet, folder)
    write_figures(figures, folder)
    return figures, folder


def _show(painter: Painter, figures: dict[str, Any], sheet: Tensor, folder: Path) -> None:
    """Writes the sheet, and event files in the folder, which TensorBoard takes for one more run.

    A second file among those of the run would end what TensorBoard shows of it while it trains.
    """
    from torch.utils.tensorboard import SummaryWriter

    from artgan import events

    png = encode_png(sheet)
    with atomic_write(folder / SHEET) as file:
        file.write(png)
    for earlier in folder.glob("events.out.tfevents.*"):
        earlier.unlink()
    places = tags(_parts(figures), figures["features"])
    seen = painter.images_seen
    try:
        with (
            events.report_write_errors(folder, partial(cannot_write, folder)),
            SummaryWriter(str(folder)) as writer,
        ):
            assert writer.file_writer is not None
            for summary in events.settings(painter.config, places):
                writer.file_writer.add_summary(summary)
            writer.file_writer.add_summary(events.picture("nearest", sheet, png), seen)
            for tag, place in places.items():
                writer.add_scalar(tag, figure(figures, place), seen)
    except OSError as error:  # also one that names no file, as a failing disk's
        raise cannot_write(folder, error) from error


def _own_dataset(painter: Painter) -> DatasetConfig:
    try:
        own = painter.config["dataset"]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{painter.checkpoint}: says too little of its run ({error!r}), such as what it was "
            "trained on. Give ckpt= the folder of the run, or a checkpoint of it."
        ) from error
    return typed(DatasetConfig, own, str(painter.checkpoint))


def _refuse_another_holdout(own: DatasetConfig, dataset: DatasetConfig) -> None:
    if dataset.holdout != own.holdout:
        raise UserError(
            f"dataset.holdout: these are the paintings of the run, which held {own.holdout:g} of "
            f"them out. With {dataset.holdout:g} other paintings would be called held out than "
            f"those that it was not trained on. Give dataset.holdout={own.holdout:g}, or neither "
            "this nor dataset=NAME."
        )


def _default_folder(config: EvaluateConfig, painter: Painter, figures: dict[str, Any]) -> Path:
    """Beside the checkpoint, under a name that tells the settings apart."""
    plain = figures_folder(painter.checkpoint.parent, painter.images_seen)
    key = figures["dataset"]["key"]
    settings = [
        figures["features"] or "none",
        str(config.num),
        *([] if key == painter.dataset_key else [key]),
        *([] if config.seed == SEED else [f"seed{config.seed}"]),
        *([] if config.ema else ["raw"]),
    ]
    return plain.with_name("-".join([plain.name, *settings]))


def usable_features(
    features: str, device: str, option: str, needed: bool = False
) -> Features | None:
    """The network that gives features; None where there is none to be had, which is said.

    Args:
        features: as for `load_features`, or none.
        device: where to compute.
        option: that chose the features.
        needed: whether there is no going on without them.

    Raises:
        UserError: the features cannot be had, and are needed or a file.
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
    """What to measure against; a part that is too small is told of and left out.

    Args:
        packs: the paintings of each part by its name, those trained on first.
        dataset: the settings they were loaded with.
        most: paintings of each part, at most, except where copies are sought: there, all.
        extract: gives their features.
    """
    parts: list[Part] = []
    for name, pack in packs.items():
        if len(pack) >= FEWEST_PAINTINGS or not parts:
            parts.append(_part(name, pack, most, extract))
        elif len(pack):
            print(
                f"Only {len(pack)} paintings are held out, too few to measure against: it takes "
                f"at least {FEWEST_PAINTINGS}. A run with more dataset.holdout sets more aside.",
                file=sys.stderr,
            )
    name, pack = next(iter(packs.items()))
    described = {
        "root": Path(dataset.root or "").name,
        "key": pack.key,
        "holdout": None if name == UNKNOWN else dataset.holdout,
        "crop": dataset.crop,
    }
    mirrored = _rows(name, pack, extract, mirrored=True) if dataset.flip else None
    return Reference(parts, pack, mirrored, described)


def measure(
    generator: torch.nn.Module, inputs: Tensor, reference: Reference, extract: Features | None
) -> tuple[dict[str, Any], Tensor]:
    """Measures what a generator paints.

    Args:
        generator: in evaluation mode.
        inputs: [N, latent_dim + K, 1, 1], latents and after them classes, N of at least 16.
        reference: the paintings.
        extract: gives the features of pictures, as it gave those of the paintings.

    Returns:
        The figures, a dict for each part and for originality among them, and a sheet of the samples
        that are nearest to a training painting, uint8 [3, H, W].
    """
    # Below another bar, such as that of a training, the bars vanish once they are full.
    bar = tqdm(inputs, desc="painting", unit="img", leave=None, disable=None)
    samples = paint(generator, bar)
    features = extract(samples, progress="features of the samples") if extract else None
    figures: dict[str, Any] = {
        "dataset": reference.dataset,
        "samples": len(samples),
        "features": extract.name if extract else None,
        "similarity": mean_similarity(samples),
    }
    for part in reference.parts:
        figures[part.name] = _against(samples, features, part)
    seen, *unseen = (part.rows for part in reference.parts)
    rows = thumbnails(samples) if features is None else features
    files = np.unique(reference.pack.files, return_inverse=True)[1]
    held_out = unseen[0] if unseen else None
    copies = nearest(rows, seen, reference.mirrored, held_out, torch.from_numpy(files))
    figures["originality"] = copies.figures
    return figures, _sheet(samples, reference.pack, copies)


def figures_folder(run: Path, images_seen: int) -> Path:
    """Where the figures of one state of a run lie, if not told otherwise."""
    return run / "evaluated" / f"images-{images_seen:09d}"


def tags(parts: Sequence[str], features: str | None) -> dict[str, tuple[str, ...]]:
    """TensorBoard's name of each figure, and where in `metrics.json` it stands.

    Figures on features bear the features' name, for those on others do not compare.

    Args:
        parts: names of those measured against.
        features: their name; None for none.
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


def figure(measured: Any, place: tuple[str, ...]) -> float:
    """One of the figures that `metrics.json` holds."""
    for key in place:
        measured = measured[key]
    return float(measured)


def write_figures(figures: dict[str, Any], folder: Path) -> None:
    """Writes `metrics.json`."""
    with atomic_write(folder / METRICS) as file:
        file.write(json.dumps(figures, indent=1).encode())


def _part(name: str, pack: Pack, most: int, extract: Features | None) -> Part:
    """The middles of at most so many of the paintings, spread over the set, and all their rows."""
    strips = np.linspace(0, len(pack) - 1, min(most, len(pack))).astype(np.int64)
    rows = _rows(name, pack, extract)
    return Part(name, _middles(pack, strips), rows[strips] if extract else None, rows)


def _middles(pack: Pack, strips: NDArray[np.int64]) -> Tensor:
    """The square in the middle of each of some strips, uint8 [n, 3, H, W]."""
    squares = pack.squares(strips, np.full(len(strips), 0.5))
    pack.forget_read()
    return torch.from_numpy(squares).permute(0, 3, 1, 2)


def _rows(name: str, pack: Pack, extract: Features | None, mirrored: bool = False) -> Tensor:
    """Features of the middles of all strips, or thumbnails without a network, float32 [N, D].

    Features are kept beside the paintings, for the pack that they were computed on.
    """
    if extract is None:
        return _computed(thumbnails, f"thumbnails of the {name} paintings", pack, mirrored)
    which = hashlib.sha256(pack.starts.tobytes()).hexdigest()[:8]
    file = f"{pack.key}-{which}-{extract.name}-{VERSION}{'-mirrored' * mirrored}.npz"
    path = pack.report.parent / FEATURES / file
    # Not there yet, or damaged, which shows as any of a dozen exceptions: they are computed.
    with suppress(Exception), np.load(path) as kept:  # which compares the checksums of a zip
        return torch.from_numpy(kept["features"])
    label = f"features of the {name} paintings{', mirrored' * mirrored}"
    features = _computed(extract, label, pack, mirrored)
    with atomic_write(path) as out:
        np.savez(out, features=features.numpy())
    return features


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


def _sheet(samples: Tensor, pack: Pack, copies: Copies) -> Tensor:
    """The samples nearest to a training painting, each above that painting, mirrored if so met."""
    closest = copies.order[:PAIRS]
    neighbours = copies.neighbours[closest]
    paintings = _middles(pack, (neighbours % len(pack)).numpy())
    mirrored = (neighbours >= len(pack))[:, None, None, None]
    met = torch.where(mirrored, paintings.flip(-1), paintings)
    return tile(torch.cat([samples[closest], met]), len(closest))


def _parts(figures: dict[str, Any]) -> list[str]:
    """The parts of the paintings that were measured against."""
    return [part for part in (*PARTS, UNKNOWN) if part in figures]


def table(figures: dict[str, Any]) -> str:
    """The figures for a person to read, a column for each part of the paintings."""
    parts = _parts(figures)
    rows = [["", *parts]]
    for key in dict.fromkeys(key for name in parts for key in figures[name]):
        rows.append([key, *(f"{figures[name][key]:.4g}" for name in parts)])
    rows.append(["similarity of the samples", f"{figures['similarity']:.4g}"])
    rows += [
        [f"originality: {key}", f"{value:.4g}"] for key, value in figures["originality"].items()
    ]
    width = max(len(row[0]) for row in rows)
    lines = [f"{row[0]:<{width}}" + "".join(f"{cell:>14}" for cell in row[1:]) for row in rows]
    if len({figures[name]["paintings"] for name in parts}) > 1:
        lines.append("Of different counts of paintings, only kid and similarities compare.")
    return "\n".join([f"features: {figures['features'] or 'none'}", *lines])
