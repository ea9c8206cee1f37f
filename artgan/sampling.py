"""From a checkpoint to pictures: latents, painting, layouts, and files that can be painted again."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from artgan import __version__
from artgan.checkpoint import KEY, load_checkpoint, sha256
from artgan.errors import UserError
from artgan.files import atomic_write
from artgan.networks.dcgan import Generator

PROVENANCE = "artgan"


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
    """

    generator: Generator
    checkpoint: Path
    checkpoint_sha256: str
    latent_dim: int
    resolution: int
    images_seen: int
    ema: bool


def load_painter(path: Path, ema: bool = True, device: str = "cpu") -> Painter:
    """Loads the generator of a checkpoint file; nothing but the file is needed.

    Args:
        path: a checkpoint.
        ema: the averaged generator, or the raw one.
        device: where to paint.

    Raises:
        UserError: the checkpoint cannot be used, or the device is not there.
    """
    checkpoint = load_checkpoint(path)
    described = checkpoint[KEY]
    prefix = "generator_ema." if ema else "generator."
    try:
        config = described["config"]
        model, resolution = config["model"], config["resolution"]
        generator = Generator(resolution, model["latent_dim"], model["width"])
        weights = {
            name.removeprefix(prefix): tensor
            for name, tensor in checkpoint["state_dict"].items()
            if name.startswith(prefix)
        }
        generator.load_state_dict(weights)
        images_seen = int(described["progress"]["images_seen"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"{path}: its parts do not fit together ({error!r:.200}).") from error
    generator.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        generator.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: there is no {device} on this machine.") from error
    return Painter(
        generator, path, sha256(path), model["latent_dim"], resolution, images_seen, ema
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


@torch.no_grad()
def paint(generator: torch.nn.Module, latents: Iterable[Tensor]) -> Tensor:
    """Paints latents one by one, so that a picture never depends on those painted with it.

    Args:
        generator: in evaluation mode.
        latents: each [latent_dim, h, w].

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

    A straight line would pass near the origin, where no training latent ever lay.

    Args:
        start: [latent_dim, 1, 1].
        end: [latent_dim, 1, 1].
        share: 0 gives `start`, 1 gives `end`.

    Source: Shoemake 1985, "Animating rotation with quaternion curves"; White 2016
    (arXiv:1609.04468) for latents.
    """
    cosine = torch.dot(start.flatten(), end.flatten()) / (start.norm() * end.norm())
    angle = torch.acos(cosine.clamp(-1, 1))
    if angle < 1e-4 or angle > math.pi - 1e-4:
        return torch.lerp(start, end, share)
    return (
        torch.sin((1 - share) * angle) * start + torch.sin(share * angle) * end
    ) / torch.sin(angle)


def walk(latents: Tensor, frames: int) -> Tensor:
    """A closed walk through latents, back to the first.

    Args:
        latents: [N, latent_dim, 1, 1].
        frames: steps from one to the next.

    Returns:
        [N · frames, latent_dim, 1, 1].
    """
    following = latents.roll(-1, dims=0)
    return torch.stack(
        [
            spherical(start, end, frame / frames)
            for start, end in zip(latents, following, strict=True)
            for frame in range(frames)
        ]
    )


def tile(images: Tensor, columns: int) -> Tensor:
    """Lays pictures side by side in rows, on white.

    Args:
        images: uint8 [N, 3, H, W].
        columns: pictures in a row.

    Returns:
        uint8 [3, rows · (H + 2) + 2, columns · (W + 2) + 2].
    """
    count, channels, height, width = images.shape
    rows = math.ceil(count / columns)
    grid = images.new_full((channels, rows * (height + 2) + 2, columns * (width + 2) + 2), 255)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = 2 + row * (height + 2), 2 + column * (width + 2)
        grid[:, top : top + height, left : left + width] = image
    return grid


def save_png(image: Tensor, path: Path, provenance: dict[str, Any] | None = None) -> None:
    """Writes a picture as PNG, whole or not at all.

    Args:
        image: uint8 [3, H, W].
        path: where to.
        provenance: how it was painted, kept as JSON in a text chunk.
    """
    text = PngInfo()
    if provenance is not None:
        text.add_text("Software", f"artgan {__version__}")
        text.add_text(PROVENANCE, json.dumps(provenance))
    with atomic_write(path) as file:
        to_pil(image).save(file, "PNG", pnginfo=text)


def to_pil(image: Tensor) -> Image.Image:
    """uint8 [3, H, W] to a Pillow picture."""
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
