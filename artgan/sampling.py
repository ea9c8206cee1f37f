"""From a checkpoint to pictures."""

import bisect
import copy
import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from artgan import __version__
from artgan.checkpoint import (
    AVERAGED,
    EXPORTED,
    KEY,
    find_checkpoint,
    load_checkpoint,
)
from artgan.device import on_device, pick_device
from artgan.errors import UserError
from artgan.files import sha256
from artgan.images import read_provenance, save_gif, save_mp4, save_png, tile
from artgan.networks import load_network
from artgan.options import Recipe, SampleConfig, not_among, typed

# Share of a height at each end of a scroll where the sums of latents are not complete.
SCROLL_MARGIN = 3 / 4
MOST_IMAGES = 2**53  # that a checkpoint may say to have seen


@dataclass(frozen=True)
class Painter:
    """A trained generator, and what is needed to find it again.

    Attributes:
        generator: in evaluation mode, on its device.
        checkpoint: the file it came from.
        checkpoint_sha256: of that file.
        latent_dim: numbers in a latent vector.
        resolution: side of its squares in pixels.
        images_seen: images it was trained on.
        ema: whether it is the averaged generator.
        config: of its run, as the checkpoint holds it.
        classes: the name of each class that it can paint, and how many paintings it saw of it;
            none if it was not to tell them apart.
        dataset_key: of the pack it was trained on, a part of it held out perhaps; None if the
            checkpoint does not say.
    """

    generator: nn.Module
    checkpoint: Path
    checkpoint_sha256: str
    latent_dim: int
    resolution: int
    images_seen: int
    ema: bool
    config: dict[str, Any]
    classes: dict[str, int]
    dataset_key: str | None


def load_painter(path: Path, ema: bool = True, device: str = "cpu") -> Painter:
    """Loads the generator of a checkpoint file; nothing but the file is needed.

    Args:
        path: a checkpoint, or what `export.py` made of one.
        ema: the averaged generator, or the raw one.
        device: where to paint.

    Raises:
        UserError: the checkpoint cannot be used, or the device is not there.
    """
    if path.suffix == EXPORTED and not ema:
        raise UserError(f"ema: {path} holds only the averaged generator. Leave out ema=false.")
    checkpoint = load_checkpoint(path)
    described = checkpoint[KEY]
    prefix = AVERAGED if ema else "generator."
    try:
        config = described["config"]
        model, resolution = config["model"], config["resolution"]
        # Older checkpoints name no classes.
        classes = {str(name): int(count) for name, count in described.get("classes", {}).items()}
        if any(count < 1 for count in classes.values()):
            raise ValueError(f"classes {classes}")
        # No memory is taken before the weights are found to fit, whatever width is claimed.
        with torch.device("meta"):
            network = load_network(model.get("network", "dcgan"))  # older checkpoints name none
            inputs = model["latent_dim"] + len(classes)
            generator = network.Generator(resolution, inputs, model["width"])
        weights = {
            name.removeprefix(prefix): tensor
            for name, tensor in checkpoint["state_dict"].items()
            if name.startswith(prefix)
        }
        generator.load_state_dict(weights, assign=True)
        images_seen = int(described["progress"]["images_seen"])
        if not 0 <= images_seen <= MOST_IMAGES:
            raise ValueError("images_seen")
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(f"{path}: its parts do not fit together ({error!r:.200}).") from error
    generator = copy.deepcopy(generator)  # out of the file, which may change
    generator.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return Painter(
        on_device(generator, device),
        path,
        sha256(path),
        model["latent_dim"],
        resolution,
        images_seen,
        ema,
        config,
        classes,
        described.get("dataset_key"),
    )


def draw_latents(first_seed: int, count: int, latent_dim: int, truncation: float = 1.0) -> Tensor:
    """Draws one latent vector for each of `count` seeds, the same on every device.

    Args:
        first_seed: seed of the first; each further one has the next seed.
        count: N.
        latent_dim: numbers in a vector.
        truncation: 1 for N(0, 1); less draws the latents towards their mean, which gives up
            variety for typical pictures.

    Returns:
        float32 [N, latent_dim, 1, 1].

    Source: Karras et al. 2019 (arXiv:1812.04948), appendix B, for truncation, applied to z.
    """
    latents = [
        torch.randn(latent_dim, 1, 1, generator=torch.Generator().manual_seed(first_seed + index))
        for index in range(count)
    ]
    return truncation * torch.stack(latents)


def draw_classes(
    first_seed: int, count: int, classes: dict[str, int], chosen: Sequence[str] = ()
) -> Tensor:
    """The class of each of `count` seeds: the chosen one, or one drawn.

    Drawn classes are as frequent as they are among the paintings, and have nothing to do with the
    latents of the same seeds.

    Args:
        first_seed: seed of the first; each further one has the next seed.
        count: N.
        classes: the K names, and how many paintings are of each.
        chosen: names, of which all seeds get a mixture in equal parts; one named twice counts
            twice.

    Returns:
        float32 [N, K, 1, 1], whose sums are 1; K may be 0.

    Raises:
        UserError: there is no class of a chosen name.

    Source: Mirza and Osindero 2014 (arXiv:1411.1784), section 3.2, for the one-hot numbers.
    """
    _refuse_unknown(chosen, classes)
    names = list(classes)
    shares = torch.zeros(count, len(names), 1, 1)
    for name in chosen:
        shares[:, names.index(name)] += 1 / len(chosen)
    if names and not chosen:
        ends = list(itertools.accumulate(classes.values()))
        for index, row in enumerate(shares):
            # The class of one painting, drawn from another source of numbers than the latents.
            (drawn,) = np.random.SeedSequence(first_seed + index).generate_state(1, np.uint64)
            row[bisect.bisect_right(ends, int(drawn) % ends[-1])] = 1
    return shares


def _refuse_unknown(chosen: Sequence[str], classes: dict[str, int]) -> None:
    for name in chosen:
        if not classes:
            raise UserError(
                f"classes: this checkpoint cannot paint '{name}': it was trained without classes. "
                "Leave classes= out, or train with model.conditional=true."
            )
        if name not in classes:
            raise UserError(f"classes: {not_among(name, classes)}")


def draw_inputs(
    first_seed: int,
    count: int,
    latent_dim: int,
    classes: dict[str, int],
    truncation: float = 1.0,
    chosen: Sequence[str] = (),
) -> Tensor:
    """What a generator paints `count` seeds from: latents, followed by classes.

    Arguments are those of `draw_latents` and `draw_classes`, which also say what is raised.

    Returns:
        float32 [N, latent_dim + K, 1, 1].
    """
    latents = draw_latents(first_seed, count, latent_dim, truncation)
    return torch.cat([latents, draw_classes(first_seed, count, classes, chosen)], dim=1)


@torch.no_grad()
def paint(generator: torch.nn.Module, latents: Iterable[Tensor]) -> Tensor:
    """Paints latents one by one, so that a picture never depends on those painted with it.

    Args:
        generator: in evaluation mode.
        latents: each [latent_dim, h, w]; or [latent_dim + K, h, w], with the class.

    Returns:
        uint8 [N, 3, H, W] on the CPU.
    """
    device = next(generator.parameters()).device
    pictures = []
    for latent in latents:
        image = generator(latent[None].to(device)).float()[0]
        pictures.append(((image + 1) * 127.5).round().clamp(0, 255).byte().cpu())
    return torch.stack(pictures)


def spherical(start: Tensor, end: Tensor, share: float) -> Tensor:
    """The latent at `share` of the way from `start` to `end`, along the great circle.

    A straight line would pass near the origin, where no training latent ever lay. The direction
    turns evenly; the length, which differs a little between latents, changes evenly too.

    Args:
        start: [latent_dim, 1, 1].
        end: [latent_dim, 1, 1].
        share: 0 gives `start`, 1 gives `end`.

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
    """A closed walk through latents, back to the first.

    Args:
        latents: [N, latent_dim, 1, 1].
        frames: steps from one to the next.
        between: the place at a share of the way from one to the next.

    Returns:
        [N · frames, latent_dim, 1, 1].
    """
    following = latents.roll(-1, dims=0)
    return torch.stack(
        [
            between(start, end, frame / frames)
            for start, end in zip(latents, following, strict=True)
            for frame in range(frames)
        ]
    )


def scroll_latents(seed: int, length: float, latent_dim: int, truncation: float = 1.0) -> Tensor:
    """A latent map that the generator paints as one long scroll.

    Each column of the generator's first features is then the sum of four latents, each seen
    through another column of the kernel, where in training it was one. Halving them keeps the
    variance of the features as it was in training.

    Args:
        seed: of the whole scroll.
        length: of the scroll, in its heights.
        latent_dim: numbers in a latent vector.
        truncation: as for `draw_latents`.

    Returns:
        float32 [latent_dim, 1, w]. The generator paints (w + 3) / 4 heights, of which
        `SCROLL_MARGIN` at each end have less than four latents and are to be cut off.
    """
    columns = round(4 * length) + 3
    random = torch.Generator().manual_seed(seed)
    return truncation * torch.randn(columns, latent_dim, 1, generator=random).permute(1, 2, 0) / 2


def render(painter: Painter, recipe: Recipe) -> Tensor:
    """Paints what a recipe says, uint8 [3, H, W]."""
    seed, classes = recipe.seed, recipe.classes
    if recipe.kind == "scroll":
        latents = scroll_latents(seed, recipe.length, painter.latent_dim, recipe.truncation)
        # Four latents meet in each column, as in no square: a quarter of the class from each.
        quarter = draw_classes(seed, 1, painter.classes, classes)[0] / 4
        inputs = torch.cat([latents, quarter.expand(-1, 1, latents.shape[-1])])
        margin = round(SCROLL_MARGIN * painter.resolution)
        return paint(painter.generator, inputs[None])[0, :, :, margin:-margin]
    inputs = draw_inputs(
        seed, recipe.num, painter.latent_dim, painter.classes, recipe.truncation, classes
    )
    pictures = paint(painter.generator, inputs)
    return tile(pictures, columns(recipe.num)) if recipe.kind == "grid" else pictures[0]


def columns(count: int) -> int:
    """Columns of a grid that is about square."""
    return math.ceil(math.sqrt(count))


def sample(config: SampleConfig) -> list[Path]:
    """Does what one `sample.py` command asks.

    Returns:
        The files written, the one to look at first in front.

    Raises:
        UserError: the checkpoint, the picture or an option cannot be used.
    """
    device = pick_device(config.device)
    if config.from_image is not None:
        return [_paint_again(Path(config.from_image), config, device)]
    if config.ckpt is None:
        raise UserError("ckpt: say which run shall paint, as in ckpt=checkpoints/RUN")
    painter = load_painter(find_checkpoint(Path(config.ckpt)), config.ema, device)
    folder = (
        Path(config.out)
        if config.out is not None
        else painter.checkpoint.parent / "painted" / f"images-{painter.images_seen:09d}"
    )
    suffix = _file_name(config.classes)
    suffix += f"-truncation{config.truncation:g}" if config.truncation != 1 else ""
    suffix += "" if config.ema else "-raw"
    recipe = Recipe(
        "single", config.seed, config.truncation, config.ema, 1, length=1.0, classes=config.classes
    )
    if config.interpolate and config.layout == "scroll":
        raise UserError("interpolate: walks through single pictures. Leave out layout=scroll.")
    if config.interpolate:
        return _paint_walk(painter, config, folder / f"walk-seed{config.seed}{suffix}")
    if config.layout == "scroll":
        recipe = replace(recipe, kind="scroll", length=config.length)
        path = folder / f"scroll-seed{config.seed}-length{config.length:g}{suffix}.png"
        _save(render(painter, recipe), path, painter, recipe)
        return [path]
    return _paint_squares(painter, config.num, recipe, folder, suffix)


def _file_name(classes: list[str]) -> str:
    """The names of classes as a part of a file name, which they need not be fit for."""
    names = (re.sub(r"[^\w. ()-]+", lambda unfit: quote(unfit[0], ""), name) for name in classes)
    return f"-{'+'.join(names)}" if classes else ""


def _paint_squares(
    painter: Painter, num: int, recipe: Recipe, folder: Path, suffix: str
) -> list[Path]:
    inputs = draw_inputs(
        recipe.seed, num, painter.latent_dim, painter.classes, recipe.truncation, recipe.classes
    )
    pictures = []
    paths = []
    for index, latent in enumerate(tqdm(inputs, "Painting", unit="img", disable=None)):
        pictures.append(paint(painter.generator, latent[None])[0])
        single = replace(recipe, seed=recipe.seed + index)
        paths.append(folder / f"seed{single.seed}{suffix}.png")
        _save(pictures[-1], paths[-1], painter, single)
    grid = replace(recipe, kind="grid", num=num)
    first = folder / f"grid-seed{recipe.seed}-num{num}{suffix}.png"
    _save(tile(torch.stack(pictures), columns(num)), first, painter, grid)
    return [first, *paths]


def _paint_walk(painter: Painter, config: SampleConfig, stem: Path) -> list[Path]:
    stops = draw_latents(config.seed, config.interpolate, painter.latent_dim)
    # Truncated only now: a truncation of 0 would leave the walk without a direction.
    latents = config.truncation * walk(stops, config.frames)
    classes = draw_classes(config.seed, config.interpolate, painter.classes, config.classes)
    inputs = torch.cat([latents, walk(classes, config.frames, torch.lerp)], dim=1)
    steps = tqdm(inputs, "Painting", unit="frame", disable=None)
    frames = paint(painter.generator, steps)
    paths = [stem.with_name(stem.name + ending) for ending in (".gif", ".mp4")]
    save_gif(frames, paths[0])
    save_mp4(frames, paths[1])
    return paths


def _save(picture: Tensor, path: Path, painter: Painter, recipe: Recipe) -> None:
    provenance = asdict(recipe) | {
        "checkpoint": painter.checkpoint.absolute().as_posix(),
        "checkpoint_sha256": painter.checkpoint_sha256,
        "images_seen": painter.images_seen,
        "version": __version__,
    }
    save_png(picture, path, provenance)


def _paint_again(picture: Path, config: SampleConfig, device: str) -> Path:
    """Paints what the provenance of `picture` says, beside it or into `out`."""
    # Pictures of an artgan without classes say nothing of them.
    provenance = {"classes": []} | read_provenance(picture)
    origin = f"from_image: {picture}"
    recipe = typed(Recipe, {key.name: provenance.get(key.name) for key in fields(Recipe)}, origin)
    checkpoint, digest = provenance.get("checkpoint"), provenance.get("checkpoint_sha256")
    if not isinstance(checkpoint, str) or not isinstance(digest, str):
        raise UserError(f"{origin}: does not name the checkpoint that painted it.")
    checkpoint = Path(config.ckpt or checkpoint)
    painter = load_painter(_checkpoint_of(digest, checkpoint), recipe.ema, device)
    folder = Path(config.out) if config.out is not None else picture.parent
    path = folder / f"{picture.stem}-again.png"
    _save(render(painter, recipe), path, painter, recipe)
    return path


def _checkpoint_of(digest: str, place: Path) -> Path:
    """The checkpoint with this SHA-256: the file `place`, or another one of the same run."""
    folder = place if place.is_dir() else place.parent
    others = (*folder.glob("*.ckpt"), *folder.glob(f"*{EXPORTED}"))
    for path in [place, *sorted(others)]:
        if path.is_file() and sha256(path) == digest:
            return path
    raise UserError(
        f"ckpt: the checkpoint that painted this picture (SHA-256 {digest:.16}…) is not in "
        f"{folder}. If it lies elsewhere, say where: ckpt=PATH"
    )
