"""The evaluate command: from a checkpoint to its scores in files, on screen and in TensorBoard."""

import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from artgan.checkpoint import find_checkpoint
from artgan.config import CONFIG_FILE, typed
from artgan.data.sources import load_paintings, settle
from artgan.device import pick_device
from artgan.errors import UserError
from artgan.files import atomic_write, cannot_write, refuse_to_replace
from artgan.images import encode_png
from artgan.measuring import (
    SCORES,
    SEED,
    SHEET,
    measure,
    reference_of,
    score_at,
    scores_folder,
    tags,
    usable_features,
    write_scores,
)
from artgan.metrics import PARTS, UNKNOWN
from artgan.options import DatasetConfig, EvaluateConfig
from artgan.painter import Painter, load_painter


def evaluate(config: EvaluateConfig) -> tuple[dict[str, Any], Path]:
    """Measures what one `artgan evaluate` asks for.

    Returns:
        The scores, as `metrics.json` holds them, and the folder they were written to.

    Raises:
        UserError: the checkpoint, the paintings or the file of features cannot be used, there are
            scores in `out`, or other paintings would be held out than in the run.
    """
    if config.ckpt is None:
        raise UserError("ckpt: no run given. Add ckpt=checkpoints/RUN")
    if config.out and (Path(config.out) / CONFIG_FILE).exists():
        raise UserError(
            f"out: {config.out} is the folder of a run, and its curves would be replaced. Leave it "
            "out, or give a folder of its own."
        )
    refuse_to_replace([Path(config.out) / SCORES] if config.out else [], config.overwrite)
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
            f"{dataset.root}: other paintings than the run's, or changed or cut differently since. "
            "Which of them it was trained on is not known: they are one part, none held out.",
            file=sys.stderr,
        )
        packs = {UNKNOWN: pack}
    # Whether the network was trained on mirror images is for the run to say.
    reference = reference_of(packs, replace(dataset, flip=own.flip), config.num, extract)
    inputs = painter.inputs(config.seed, config.num)
    measured, sheet = measure(painter.generator, inputs, reference, extract)
    scores = {
        "checkpoint": str(painter.checkpoint),
        "images_seen": painter.images_seen,
        "seed": config.seed,
        "ema": config.ema,
    } | measured
    folder = Path(config.out) if config.out else _default_folder(config, painter, scores)
    _write_events(painter, scores, sheet, folder)
    write_scores(scores, folder)
    return scores, folder


def _write_events(painter: Painter, scores: dict[str, Any], sheet: Tensor, folder: Path) -> None:
    """Writes the sheet, and event files in the folder, which TensorBoard shows as one more run.

    A second file among those of the run would end what TensorBoard shows of it while it trains.
    """
    from torch.utils.tensorboard import SummaryWriter

    from artgan import events

    png = encode_png(sheet)
    with atomic_write(folder / SHEET) as file:
        file.write(png)
    for earlier in folder.glob("events.out.tfevents.*"):
        earlier.unlink()
    places = tags(_parts(scores), scores["features"])
    seen = painter.images_seen
    try:
        with (
            events.report_write_errors(folder, partial(cannot_write, folder)),
            SummaryWriter(str(folder)) as writer,
        ):
            assert writer.file_writer is not None
            for summary in events.settings(painter.config, places):
                writer.file_writer.add_summary(summary)
            writer.file_writer.add_summary(events.image_summary("nearest", sheet, png), seen)
            for tag, place in places.items():
                writer.add_scalar(tag, score_at(scores, place), seen)
    except OSError as error:  # also one that names no file, as a failing disk's
        raise cannot_write(folder, error) from error


def _own_dataset(painter: Painter) -> DatasetConfig:
    if "dataset" not in painter.config:
        raise UserError(
            f"ckpt: {painter.checkpoint} is an exported generator, and does not say what it was "
            "trained on. Give ckpt= the folder of the run, or a checkpoint in it."
        )
    return typed(DatasetConfig, painter.config["dataset"], str(painter.checkpoint))


def _refuse_another_holdout(own: DatasetConfig, dataset: DatasetConfig) -> None:
    if dataset.holdout != own.holdout:
        raise UserError(
            f"dataset.holdout: these are the paintings of the run, which held {own.holdout:g} of "
            f"them out. With {dataset.holdout:g}, paintings it was trained on would count as held "
            f"out, or the other way round. Give dataset.holdout={own.holdout:g}, or leave it out."
        )


def _default_folder(config: EvaluateConfig, painter: Painter, scores: dict[str, Any]) -> Path:
    """Beside the checkpoint, under a name that tells the settings apart."""
    plain = scores_folder(painter.checkpoint.parent, painter.images_seen)
    key = scores["dataset"]["key"]
    settings = [
        scores["features"] or "none",
        str(config.num),
        *([] if key == painter.dataset_key else [key]),
        *([] if config.seed == SEED else [f"seed{config.seed}"]),
        *([] if config.ema else ["raw"]),
    ]
    return plain.with_name("-".join([plain.name, *settings]))


def _parts(scores: dict[str, Any]) -> list[str]:
    """The parts of the paintings that were measured against."""
    return [part for part in (*PARTS, UNKNOWN) if part in scores]


def table(scores: dict[str, Any]) -> str:
    """The scores as a text, with a column for each part of the paintings."""
    parts = _parts(scores)
    rows = [["", *parts]]
    for key in dict.fromkeys(key for name in parts for key in scores[name]):
        rows.append([key, *(f"{scores[name][key]:.4g}" for name in parts)])
    rows.append(["similarity of the samples", f"{scores['similarity']:.4g}"])
    rows += [
        [f"originality: {key}", f"{value:.4g}"] for key, value in scores["originality"].items()
    ]
    width = max(len(row[0]) for row in rows)
    lines = [f"{row[0]:<{width}}" + "".join(f"{cell:>14}" for cell in row[1:]) for row in rows]
    if len({scores[name]["paintings"] for name in parts}) > 1:
        lines.append("The parts differ in size: only kid and similarities are comparable.")
    return "\n".join([f"features: {scores['features'] or 'none'}", *lines])
