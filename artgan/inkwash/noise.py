"""Chance and texture: dice, smooth random lines, and surfaces such as cloud, silk or hewn rock."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

SIZE: Final = 256  #: pixels along either side of a painting
TILE: Final = 512  #: side of the periodic textures

T = TypeVar("T")
Array = NDArray[np.floating[Any]]


def middles(count: int) -> Array:
    """The middles of the first pixels of a row, 0.5, 1.5, ..., [count] float32."""
    return np.arange(count, dtype=np.float32) + 0.5


def smooth(low: float, high: float, x: Array) -> Array:
    """Step softly from 0 at `low` to 1 at `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def spline(knots: Array, size: int) -> Array:
    """Periodic cubic B-spline through the last axis, [..., k] to [..., size]; k divides size."""
    gap = size // knots.shape[-1]
    t = middles(gap) / gap
    s = 1 - t
    weights = (s * s * s, 4 - 3 * t * t * (2 - t), 4 - 3 * s * s * (2 - s), t * t * t)
    total = np.zeros((*knots.shape, gap), np.float32)
    for shift, weight in enumerate(weights):
        total = total + np.roll(knots, -shift, axis=-1)[..., None] * (weight / 6)
    return total.reshape(*knots.shape[:-1], size)


class Dice:
    """Random numbers from the raw bits of PCG64, which numpy promises never to change.

    What `np.random.Generator` makes of those bits may change from release to release.
    """

    unit: Final = 1 / (1 << 53)  #: turns 53 random bits into a number in [0, 1)

    def __init__(self, *key: int) -> None:
        self.bits = np.random.PCG64(list(key))

    def scatter(self, count: int, low: float, high: float) -> Array:
        """Independent numbers between low and high, [count] float32."""
        shares = (self.bits.random_raw(count) >> np.uint64(11)) * self.unit
        return (low + (high - low) * shares).astype(np.float32)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * ((self.bits.random_raw() >> 11) * self.unit)

    def whole(self, low: int, high: int) -> int:
        """An integer, low ≤ n < high."""
        return low + self.bits.random_raw() % (high - low)

    def chance(self, share: float) -> bool:
        return self.between(0, 1) < share

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.whole(0, len(choices))]


@cache
def lines(cells: int) -> Array:
    """64 smooth random lines, [64, 512] in [-1, 1], with `cells` knots to a painting's width."""
    knots = cells * TILE // SIZE
    return spline(Dice(cells).scatter(64 * knots, -1, 1).reshape(64, knots), TILE)


#: The octaves of each texture: (knots down, knots across, weight). More knots across than down
#: give vertical streaks, the reverse horizontal ones.
OCTAVES: Final = {
    "cloud": ((4, 4, 1.0), (8, 8, 0.6), (16, 16, 0.35), (32, 32, 0.2), (64, 64, 0.1)),
    "drift": ((8, 2, 1.0), (16, 4, 0.7), (32, 8, 0.4), (64, 16, 0.2)),
    "ripple": ((128, 8, 1.0), (256, 16, 0.6)),
    "hemp": ((8, 128, 1.0), (16, 256, 0.8), (4, 32, 0.8)),
    "axe": ((32, 64, 1.0), (64, 128, 0.7), (8, 16, 0.8)),
    "grain": ((256, 256, 1.0), (128, 128, 0.8), (64, 64, 0.4)),
    "silk": ((32, 256, 1.0), (256, 32, 1.0), (128, 128, 0.5), (512, 512, 0.25)),
}


@cache
def texture(name: str) -> Array:
    """A periodic texture, [512, 512] float32 in [0, 1), every value equally frequent.

    As the values are ranks, a threshold of 0.8 means a fifth of the surface in every texture.
    """
    dice = Dice(*name.encode())
    field = np.zeros((TILE, TILE), np.float32)
    for down, across, weight in OCTAVES[name]:
        knots = dice.scatter(down * across, 0, 1).reshape(down, across)
        field = field + spline(spline(knots, TILE).T, TILE).T * weight
    ranks = np.empty(TILE * TILE, np.float32)
    ranks[np.argsort(field, axis=None, kind="stable")] = np.arange(TILE * TILE) / (TILE * TILE)
    return ranks.reshape(TILE, TILE)
