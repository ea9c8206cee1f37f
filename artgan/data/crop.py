"""From one image to the strips that squares are cut from."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST_TILES = 12
LONGEST = 16  # squares
BILINEAR = Image.Resampling.BILINEAR


class Strip(NamedTuple):
    """An image, or a part of it, whose short side is the resolution.

    Attributes:
        rows: uint8 [length, resolution, 3], length ≥ resolution, along the long side.
        lying: whether that side is the width, so that `rows` are columns of the image.
    """

    rows: NDArray[np.uint8]
    lying: bool


def cut(image: Image.Image, resolution: int, crop: str) -> list[Strip]:
    """Takes the part that `crop` asks for, its short side resized to `resolution`.

    `center` takes the middle square, as the article did. `tiles` takes several squares that overlap
    by about a third over the whole length; beyond 9 times as long as wide, `MOST_TILES` squares,
    spread evenly. `random` keeps the length, to no more than `LONGEST` squares from the middle, and
    squares are cut from it later.
    """
    short, long = sorted(image.size)
    lying = image.width > image.height
    length = long * resolution // short
    slack = length - resolution
    kept, count = resolution, 1
    if crop == "random":
        kept = min(length, LONGEST * resolution)
    elif crop == "tiles":
        count = min(MOST_TILES, 1 + round(1.5 * slack / resolution))
    offsets = np.linspace(0, slack, count).tolist() if count > 1 else [(length - kept) / 2]

    def strip(offset: int) -> Strip:
        # Only what is kept is resized: a thin image may be thousands of squares long.
        begin, end = (place * long / length for place in (offset, offset + kept))
        if lying:
            part = image.resize((kept, resolution), BILINEAR, (begin, 0, end, short))
            return Strip(np.asarray(part).swapaxes(0, 1), lying)
        part = image.resize((resolution, kept), BILINEAR, (0, begin, short, end))
        return Strip(np.asarray(part), lying)

    return [strip(round(offset)) for offset in offsets]
