"""From one picture to the strips that squares are cut from."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST_TILES = 12


class Strip(NamedTuple):
    """A picture, or a part of it, whose short side is the resolution.

    Attributes:
        rows: uint8 [length, resolution, 3], length ≥ resolution, along the long side.
        lying: whether that side is the width, so that `rows` are columns of the picture.
    """

    rows: NDArray[np.uint8]
    lying: bool


def cut(image: Image.Image, resolution: int, crop: str) -> list[Strip]:
    """Resizes the short side to `resolution` and takes what `crop` asks for.

    Args:
        image: RGB.
        resolution: side of the squares, in pixels.
        crop: `center` takes the middle square, as the article did. `tiles` takes squares that
            overlap by about a third over the whole length; beyond 9 times as long as wide it is
            `MOST_TILES` squares, spread evenly. `random` keeps the whole length, and squares are
            cut from it later.

    Returns:
        One strip; several, all square, for `tiles`.
    """
    short = min(image.size)
    width, height = (side * resolution // short for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    lying = width > height
    rows = pixels.swapaxes(0, 1) if lying else pixels
    slack = len(rows) - resolution
    if crop == "random":
        return [Strip(rows, lying)]
    count = 1
    if crop == "tiles":
        count = min(MOST_TILES, 1 + round(1.5 * slack / resolution))
    offsets = [slack / 2] if count == 1 else np.linspace(0, slack, count)
    return [Strip(rows[round(at) : round(at) + resolution], lying) for at in offsets]
