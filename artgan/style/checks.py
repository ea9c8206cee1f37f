"""What the options of style transfer mean, and what is refused before any work begins."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from PIL import Image

from artgan.config import options_only_for
from artgan.errors import UserError, not_among, printable
from artgan.files import refuse_to_replace
from artgan.options import StylizeConfig
from artgan.style.live import film_of, snapshots_of
from artgan.style.photo import format_of

INITS = ("content", "noise", "magenta")  # or a file


def listed(option: str, value: Any) -> list[Any]:
    """The names or images of an option, which may be one or a list; UserError for anything else."""
    if value is None and option == "mask":
        return []
    values = list(value) if isinstance(value, list | tuple) else [value]
    for one in values:
        if not isinstance(one, str | Path | int | float | Image.Image) or one == "":
            shown = printable(str(one))[:40]
            raise UserError(f"{option}: '{shown}' is neither an image nor a folder.")
    if not values and option != "mask":
        raise UserError(f"{option}: name at least one.")
    return [one if isinstance(one, Image.Image) else str(one) for one in values]


def refuse_mistakes(config: StylizeConfig, given: Collection[str], styles: int, masks: int) -> None:
    """Refuses options without effect, and those that do not fit together, with a UserError.

    Args:
        given: names of the options that the user gave.
        styles, masks: number of them.
    """
    for key in sorted(of_another_method(config) & set(given)):
        other = "gatys" if config.method == "magenta" else "magenta"
        raise UserError(
            f"{key}: has no effect with method={config.method}. Add method={other}, or leave it "
            "out."
        )
    if config.gallery and (config.weights or masks > 1):
        key = "weights" if config.weights else "mask"
        raise UserError(f"{key}: a gallery uses one style at a time. Leave out gallery=true.")
    if config.weights and len(config.weights) != styles:
        raise UserError(f"weights: {len(config.weights)} for {styles} styles. Give one for each.")
    if config.weights and (min(config.weights) < 0 or not any(config.weights)):
        raise UserError(f"weights: {config.weights} must be at least 0, and one of them above it.")
    if masks not in (0, 1, styles):
        raise UserError(f"mask: {masks} for {styles} styles. Give one for all, or one for each.")
    if config.init not in INITS and not Path(config.init).is_file():
        raise UserError(f"init: {not_among(config.init, INITS)} Nor is it the file of an image.")
    if config.style_shape == "content" and config.style_size:
        raise UserError(
            "style_size: has no effect with style_shape=content. Add style_shape=own, or leave it "
            "out."
        )
    if config.animation and not config.snapshot_every:
        raise UserError("animation: is made of snapshots. Add snapshot_every=10, for example.")


def of_another_method(config: StylizeConfig) -> set[str]:
    """The options that have no effect with the chosen method."""
    if config.method == "gatys" and config.init == "magenta":
        return set()  # which uses both
    return options_only_for("gatys" if config.method == "magenta" else "magenta")


def single_file(path: Path) -> Path:
    """The file of a single result; UserError if it is a folder, or its suffix is of no format."""
    if path.is_dir():
        raise UserError(f"out: {path} is a folder. Name a file, such as {path / 'result.png'}")
    format_of(path)
    return path


def refuse_existing(files: list[Path], config: StylizeConfig) -> None:
    """Refuses results, snapshots and films that exist, and a folder that cannot be written to."""
    results = [*files]
    results += [snapshots_of(file) for file in files if config.snapshot_every]
    results += [film_of(file) for file in files if config.animation]
    refuse_to_replace(results, config.overwrite)
    # Found now rather than at the end of the work.
    folder = next(folder for folder in files[0].absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"out: {folder} cannot be written to. Choose another place.")
