"""Finding the pictures in a folder, and turning one file into one square."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torchvision.transforms import v2

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm", ".pgm"}
)
SMALLEST_SIDE = 16


class UnusableImage(Exception):
    """A file that cannot become a training picture; its text is the reason, for a person."""


def find_images(root: Path) -> list[Path]:
    """Lists the picture files below `root`, relative to it, in an order that never changes.

    Hidden files and folders, `__MACOSX` twins and linked folders are passed over.

    Args:
        root: folder to search, with all folders below it.

    Returns:
        Relative paths sorted by their names, the same on every platform.
    """
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not _hidden(name)]
        for name in names:
            path = Path(folder) / name
            # A pipe of that name would be waited for without end.
            if path.suffix.lower() in SUFFIXES and not _hidden(name) and path.is_file():
                found.append(path.relative_to(root))
    return sorted(found, key=lambda path: path.as_posix())


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def square_transform(resolution: int) -> Callable[[Image.Image], Image.Image]:
    """Short side resized to `resolution`, then the middle cut out, as the article did."""
    return v2.Compose([v2.Resize(resolution, antialias=True), v2.CenterCrop(resolution)])


def decode(content: bytes) -> Image.Image:
    """Decodes a picture file fully, upright, as RGB; what is transparent becomes white.

    Args:
        content: the bytes of the file.

    Returns:
        RGB picture, 8 bits a channel.

    Raises:
        UnusableImage: it is no picture, is damaged, or is too small or too large.
    """
    if not content:
        raise UnusableImage("the file is empty")
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except Image.DecompressionBombError:
        raise UnusableImage("more pixels than is safe to decode") from None
    except Image.UnidentifiedImageError:
        raise UnusableImage("not a picture") from None
    except Exception as error:
        # Pillow's decoders raise almost anything on damaged files (OSError, SyntaxError,
        # struct.error, ...), and one bad file must not end a training.
        raise UnusableImage(f"damaged: {error}") from None
    if min(upright.size) < SMALLEST_SIDE:
        raise UnusableImage(f"too small: {upright.width}×{upright.height} pixels")
    return _to_rgb(upright)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit greyscale: Pillow's own conversion clips at 255 instead of scaling.
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, "white")
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return image.convert("RGB")
