"""The sample command: grids, single samples, walks and scrolls, each with its provenance."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import torch
from torch import Tensor
from tqdm import tqdm

from artgan.checkpoint import EXPORTED, find_checkpoint
from artgan.config import typed
from artgan.device import pick_device
from artgan.errors import UserError
from artgan.files import refuse_to_replace, sha256
from artgan.images import (
    MOST_PIXELS,
    enlarge,
    read_provenance,
    save_gif,
    save_mp4,
    save_png,
    tile,
)
from artgan.options import Recipe, SampleConfig
from artgan.painter import Painter, draw_classes, draw_latents, load_painter, paint
from artgan.version import __version__

# Share of a height at each end of a scroll where the sums of latents are not complete.
SCROLL_MARGIN = 3 / 4
GRID_COLUMNS = 20  # more are too small to see
# The options that have no effect with what another one, or none, chooses to paint; and why.
UNREAD = {
    "from_image": (
        {
            *("interpolate", "layout", "num", "frames", "length"),
            *("seed", "classes", "truncation", "ema", "scale"),
        },
        "the image says itself how it was painted",
    ),
    "interpolate": (
        {"layout", "num", "length"},
        "interpolate= glides through squares, and frames= sets their number",
    ),
    "layout": ({"num", "frames"}, "a scroll is one image, and length= sets its length"),
    None: ({"frames", "length"}, "frames= needs interpolate=, and length= needs layout=scroll"),
}


def sample(config: SampleConfig, given: Iterable[str] = ()) -> list[Path]:
    """Paints what one `artgan sample` asks for.

    Args:
        config: what to paint.
        given: the options that were typed; those without effect are refused.

    Returns:
        The files written, the one to look at first in front.

    Raises:
        UserError: the checkpoint, the image or an option cannot be used, or a file exists.
    """
    _refuse_unread(config, given)
    device = pick_device(config.device)
    if config.from_image is not None:
        return [_paint_again(Path(config.from_image), config, device)]
    if config.ckpt is None:
        raise UserError("ckpt: no run given. Add ckpt=checkpoints/RUN")
    painter = load_painter(find_checkpoint(Path(config.ckpt)), config.ema, device)
    folder = painter.checkpoint.parent / "painted" / f"images-{painter.images_seen:09d}"
    folder = folder if config.out is None else Path(config.out)
    suffix = _file_name(config.classes)
    suffix += f"-truncation{config.truncation:g}" if config.truncation != 1 else ""
    suffix += "" if config.ema else "-raw"
    suffix += f"-scale{config.scale}" if config.scale != 1 else ""
    if config.interpolate:
        return _paint_walk(painter, config, folder / f"walk-seed{config.seed}{suffix}")
    if config.layout == "scroll":
        return [_paint_scroll(painter, config, folder, suffix)]
    return _paint_squares(painter, config, folder, suffix)


def _refuse_unread(config: SampleConfig, given: Iterable[str]) -> None:
    chosen = {
        "from_image": config.from_image is not None,
        "interpolate": config.interpolate > 0,
        "layout": config.layout == "scroll",
    }
    chooser = next((key for key, is_chosen in chosen.items() if is_chosen), None)
    unread, reason = UNREAD[chooser]
    ignored = [key for key in given if key in unread and chosen.get(key, True)]
    if ignored:
        raise UserError(f"{', '.join(ignored)}: has no effect here: {reason}. Leave it out.")


def render(painter: Painter, recipe: Recipe) -> Tensor:
    """Paints what a recipe says, uint8 [3, H, W]."""
    if recipe.kind != "scroll":
        inputs = painter.inputs(recipe.seed, recipe.num, recipe.truncation, recipe.classes)
        samples = [enlarge(one, recipe.scale) for one in paint(painter.generator, inputs)]
        grid = recipe.kind == "grid"
        return tile(torch.stack(samples), columns(recipe.num)) if grid else samples[0]
    latents = scroll_latents(recipe.seed, recipe.length, painter.latent_dim, recipe.truncation)
    # Four latents meet in each column, as in no square: a quarter of the class from each.
    quarter = draw_classes(recipe.seed, 1, painter.classes, recipe.classes)[0] / 4
    inputs = torch.cat([latents, quarter.expand(-1, 1, latents.shape[-1])])
    margin = round(SCROLL_MARGIN * painter.resolution)
    scroll = paint(painter.generator, inputs[None])[0, :, :, margin:-margin]
    return enlarge(scroll, recipe.scale)


def in_grid(count: int, side: int) -> int:
    """How many of some samples of a side in pixels the grid shows: the first 400, or fewer."""
    fit = (math.isqrt(MOST_PIXELS) - 2) // (side + 2)
    return min(count, min(fit, GRID_COLUMNS) ** 2)


def columns(count: int) -> int:
    """Columns of a grid that is about square."""
    return math.ceil(math.sqrt(count))


def spherical(start: Tensor, end: Tensor, share: float) -> Tensor:
    """The latent at a share, 0 to 1, of the way from one latent to another, all [C, 1, 1].

    It goes along the great circle: a straight line would pass near the origin, where no training
    latent ever was. Direction and length change evenly.

    Source: Shoemake 1985, "Animating rotation with quaternion curves"; White 2016
    (arXiv:1609.04468) for latents.
    """
    norms = start.norm(), end.norm()
    directions = start / norms[0], end / norms[1]
    angle = torch.acos(torch.dot(*(one.flatten() for one in directions)).clamp(-1, 1))
    if angle < 1e-4 or angle > math.pi - 1e-4:
        return torch.lerp(start, end, share)
    weights = torch.sin((1 - share) * angle), torch.sin(share * angle)
    direction = (weights[0] * directions[0] + weights[1] * directions[1]) / torch.sin(angle)
    return direction * torch.lerp(*norms, share)


def walk(
    latents: Tensor, frames: int, between: Callable[[Tensor, Tensor, float], Tensor] = spherical
) -> Tensor:
    """A closed walk through latents [N, C, 1, 1], as [N · frames, C, 1, 1].

    `between` gives the place at a share of the way from one to the next.
    """
    return torch.stack(
        [
            between(start, end, frame / frames)
            for start, end in zip(latents, latents.roll(-1, dims=0), strict=True)
            for frame in range(frames)
        ]
    )


def scroll_latents(seed: int, length: float, latent_dim: int, truncation: float = 1.0) -> Tensor:
    """A latent map float32 [latent_dim, 1, w] that is painted as a scroll of `length` heights.

    Each column of the generator's first features is then the sum of four latents, each through
    another column of the kernel, where in training it was one. Halving them keeps the variance of
    the features as in training. The generator paints (w + 3) / 4 heights, of which `SCROLL_MARGIN`
    at each end have fewer than four latents and are cut off.
    """
    width = round(4 * length) + 3
    random = torch.Generator().manual_seed(seed)
    return truncation * torch.randn(width, latent_dim, 1, generator=random).permute(1, 2, 0) / 2


def _recipe(config: SampleConfig, kind: Literal["single", "grid", "scroll"]) -> Recipe:
    return Recipe(
        kind=kind,
        seed=config.seed,
        truncation=config.truncation,
        ema=config.ema,
        num=config.num if kind == "grid" else 1,
        scale=config.scale,
        length=config.length if kind == "scroll" else 1.0,
        classes=config.classes,
    )


def _file_name(classes: list[str]) -> str:
    """The names of classes as a part of a file name, with other characters escaped."""
    names = (re.sub(r"[^\w. ()-]+", lambda unfit: quote(unfit[0], ""), name) for name in classes)
    return f"-{'+'.join(names)}" if classes else ""


def _paint_squares(painter: Painter, config: SampleConfig, folder: Path, suffix: str) -> list[Path]:
    inputs = painter.inputs(config.seed, config.num, config.truncation, config.classes)
    shown = in_grid(config.num, config.scale * painter.resolution)
    first = folder / f"grid-seed{config.seed}-num{shown}{suffix}.png"
    paths = [folder / f"seed{config.seed + index}{suffix}.png" for index in range(config.num)]
    _refuse_to_replace(config, [first, *paths])
    samples = []
    bar = tqdm(inputs, "Painting", unit="img", disable=None)
    for index, (one, path) in enumerate(zip(bar, paths, strict=True)):
        image = enlarge(paint(painter.generator, one[None])[0], config.scale)
        _save(image, path, painter, replace(_recipe(config, "single"), seed=config.seed + index))
        if index < shown:
            samples.append(image)
    grid = tile(torch.stack(samples), columns(shown))
    _save(grid, first, painter, replace(_recipe(config, "grid"), num=shown))
    return [first, *paths]


def _paint_scroll(painter: Painter, config: SampleConfig, folder: Path, suffix: str) -> Path:
    side = config.scale * painter.resolution
    longest = MOST_PIXELS // side**2
    if config.length > longest:
        raise UserError(
            f"length: {config.length:g} heights of {side} px have more pixels than other programs "
            f"read. Take at most length={longest}"
            + (", or less scale=" if config.scale > 1 else "")
        )
    path = folder / f"scroll-seed{config.seed}-length{config.length:g}{suffix}.png"
    _refuse_to_replace(config, [path])
    recipe = _recipe(config, "scroll")
    _save(render(painter, recipe), path, painter, recipe)
    return path


def _paint_walk(painter: Painter, config: SampleConfig, stem: Path) -> list[Path]:
    paths = [stem.with_name(stem.name + ending) for ending in (".gif", ".mp4")]
    _refuse_to_replace(config, paths)
    stops = draw_latents(config.seed, config.interpolate, painter.latent_dim)
    # Truncated only now: a truncation of 0 would leave the walk without a direction.
    latents = config.truncation * walk(stops, config.frames)
    classes = draw_classes(config.seed, config.interpolate, painter.classes, config.classes)
    inputs = torch.cat([latents, walk(classes, config.frames, torch.lerp)], dim=1)
    frames = paint(painter.generator, tqdm(inputs, "Painting", unit="frame", disable=None))
    for save, path in zip((save_gif, save_mp4), paths, strict=True):
        save((enlarge(frame, config.scale) for frame in frames), path)
    return paths


def _refuse_to_replace(config: SampleConfig, paths: list[Path]) -> None:
    # Beside the checkpoint a name says all of how a sample is painted, and so it stays the same.
    if config.out is not None:
        refuse_to_replace(paths, config.overwrite)


def _save(image: Tensor, path: Path, painter: Painter, recipe: Recipe) -> None:
    provenance = asdict(recipe) | {
        # Its name alone: a published image should not give away a user's folders.
        "checkpoint": painter.checkpoint.name,
        "checkpoint_sha256": painter.checkpoint_sha256,
        "images_seen": painter.images_seen,
        "version": __version__,
    }
    save_png(image, path, provenance)


def _paint_again(image: Path, config: SampleConfig, device: str) -> Path:
    """Paints what the provenance of a sample says, beside it or into `out`."""
    # Samples of older versions name no classes and no scale.
    provenance = {"classes": [], "scale": 1} | read_provenance(image)
    origin = f"from_image: {image}"
    recipe = typed(Recipe, {key.name: provenance.get(key.name) for key in fields(Recipe)}, origin)
    checkpoint, digest = provenance.get("checkpoint"), provenance.get("checkpoint_sha256")
    if not isinstance(checkpoint, str) or not isinstance(digest, str):
        raise UserError(f"{origin}: does not name the checkpoint that painted it.")
    if config.ckpt is not None:
        places = [Path(config.ckpt)]
    else:
        # Samples of older versions name its place. Newer ones are usually below their run.
        runs = sorted(Path("checkpoints").glob(f"*/{Path(checkpoint).name}"))
        places = [Path(checkpoint), *image.absolute().parents[:3], *runs]
    checkpoint = _find_by_digest(digest, places)
    folder = Path(config.out) if config.out is not None else image.parent
    path = folder / f"{image.stem}-again.png"
    refuse_to_replace([path], config.overwrite)
    painter = load_painter(checkpoint, recipe.ema, device)
    _save(render(painter, recipe), path, painter, recipe)
    return path


def _find_by_digest(digest: str, places: Sequence[Path]) -> Path:
    """The checkpoint with this SHA-256: one of the files, or another one of the same run."""
    paths = []
    for place in places:
        folder = place if place.is_dir() else place.parent
        paths += [place, *sorted((*folder.glob("*.ckpt"), *folder.glob(f"*{EXPORTED}")))]
    for path in dict.fromkeys(path.absolute() for path in paths if path.is_file()):
        if sha256(path) == digest:
            return path
    raise UserError(
        f"ckpt: the checkpoint that painted this image (SHA-256 {digest:.16}…) is not in "
        f"{places[0] if len(places) == 1 else 'a folder above it, nor in checkpoints'}. "
        "If it is elsewhere, add ckpt=PATH"
    )
