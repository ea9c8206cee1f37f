"""Images on disk: grids, PNGs with their provenance, GIFs and films."""

import io
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from torch import Tensor

from artgan.errors import UserError
from artgan.files import atomic_write
from artgan.version import __version__

PROVENANCE = "artgan"
FRAMES_PER_SECOND = 24
MOST_PIXELS = 89_000_000  # of an image that Pillow, and so many a program, reads without a warning


def tile(images: Tensor, columns: int) -> Tensor:
    """Lays images uint8 [N, 3, H, W] in rows, as uint8 [3, rows (H+2) + 2, columns (W+2) + 2]."""
    count, channels, height, width = images.shape
    rows = math.ceil(count / columns)
    grid = images.new_full((channels, rows * (height + 2) + 2, columns * (width + 2) + 2), 255)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = 2 + row * (height + 2), 2 + column * (width + 2)
        grid[:, top : top + height, left : left + width] = image
    return grid


def enlarge(image: Tensor, scale: int) -> Tensor:
    """An image uint8 [3, H, W] as [3, scale · H, scale · W], by Lanczos' filter."""
    if scale == 1:
        return image
    small = to_pil(image)
    large = small.resize((scale * small.width, scale * small.height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(large)).permute(2, 0, 1)


def encode_png(image: Tensor, provenance: dict[str, Any] | None = None) -> bytes:
    """An image uint8 [3, H, W] as PNG, with how it was painted as JSON in a text chunk."""
    text = PngInfo()
    if provenance is not None:
        text.add_text("Software", f"artgan {__version__}")
        text.add_text(PROVENANCE, json.dumps(provenance))
    buffer = io.BytesIO()
    # The usual 6 takes four times as long, for an eighth of the size.
    to_pil(image).save(buffer, "PNG", pnginfo=text, compress_level=2)
    return buffer.getvalue()


def save_png(image: Tensor, path: Path, provenance: dict[str, Any] | None = None) -> None:
    """Writes an image as PNG, whole or not at all; arguments as of `encode_png`."""
    with atomic_write(path) as file:
        file.write(encode_png(image, provenance))


def to_pil(image: Tensor) -> Image.Image:
    """uint8 [3, H, W] to a Pillow image."""
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))


def read_provenance(path: Path) -> dict[str, Any]:
    """Reads how a sample was painted.

    Raises:
        UserError: the file is not a PNG from artgan, or its provenance was lost or altered.
    """
    try:
        # Only the header is read; `Image.open` refuses images as large as old grids may be.
        with PngImageFile(path) as image:
            text = image.info.get(PROVENANCE)
        provenance = json.loads(text) if text is not None else None
    except FileNotFoundError:
        raise UserError(f"from_image: there is no image {path}.") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"from_image: {path} cannot be read ({error}).") from error
    if not isinstance(provenance, dict):
        raise UserError(
            f"from_image: {path} does not say how it was painted. Only PNG files of artgan sample "
            "do, if no other program has saved them since."
        )
    return provenance


def save_gif(frames: Iterable[Tensor], path: Path) -> None:
    """Writes frames uint8 [3, H, W] as an endless GIF, holding one at a time."""
    images = map(to_pil, frames)
    first = next(images)
    duration = 1000 // FRAMES_PER_SECOND
    with atomic_write(path) as file:
        first.save(file, "GIF", save_all=True, append_images=images, duration=duration, loop=0)


def save_mp4(frames: Iterable[Tensor], path: Path) -> None:
    """Writes frames uint8 [3, H, W], H and W even, as H.264, holding one at a time."""
    import av  # only here: most commands write no film

    with atomic_write(path) as file, av.open(file, "w", "mp4") as film:
        stream = film.add_stream("libx264", FRAMES_PER_SECOND, {"crf": "16"})
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(frames):
            if number == 0:
                _, stream.height, stream.width = frame.shape
            pixels = np.ascontiguousarray(frame.permute(1, 2, 0).numpy())
            film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        film.mux(stream.encode())
