"""What a picture can be painted like: paintings, folders of them, runs of ours."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Style:
    """What a picture is to be painted like.

    Attributes:
        name: short, fit for a file name.
        key: SHA-256 of all that it shows; statistics are kept under it.
        count: pictures in it.
        pictures: gives them anew at each call: upright RGB, sRGB, whole.
    """

    name: str
    key: str
    count: int
    pictures: Callable[[], Iterator[Image.Image]]


@dataclass(frozen=True)
class Region:
    """A style, and where it is painted.

    Attributes:
        style: that is painted.
        weight: of it among the styles that are blended; those of all regions sum to 1.
        mask: float32 [1, 1, H, W] in [0, 1] at the size of the content, 1 where it is painted; None
            for everywhere.
    """

    style: Style
    weight: float
    mask: Tensor | None


def averaged(
    style: Style, statistics: Callable[[Image.Image], dict[str, Tensor]], key: str
) -> dict[str, Tensor]:
    """The mean of statistics over the pictures of a style; of several pictures they are kept.

    Args:
        style: whose pictures are looked at.
        statistics: of one picture, each a float32 tensor of a shape that all pictures share.
        key: what tells these statistics from others of the same style; letters, digits and dashes.
    """
    raise NotImplementedError
