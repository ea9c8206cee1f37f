"""Tiles: the parts that a large image is computed in."""

import sys
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from artgan.memory import is_out_of_memory

Computed = TypeVar("Computed")


class TileSize:
    """The side of tiles that fit into memory, in pixels; once memory runs out, it stays smaller."""

    def __init__(self, side: int, smallest: int) -> None:
        self.side = side
        self.smallest = smallest

    def compute(self, function: Callable[[int], Computed]) -> Computed:
        """Calls a function with the side of the tiles, again with smaller ones if need be."""
        side = self.side
        while True:
            try:
                computed = function(side)
            except (RuntimeError, MemoryError) as error:
                if side <= self.smallest or not is_out_of_memory(error):
                    raise
            else:
                self.side = side
                return computed
            side = max(side // 8 * 4, self.smallest)
            print(f"Too little memory: going on with tiles of {side} px.", file=sys.stderr)


class Span(NamedTuple):
    """A tile's height or width, in pixels: start to end, and low to high with its surroundings."""

    start: int
    end: int
    low: int
    high: int

    @property
    def outer(self) -> slice:
        return slice(self.low, self.high)

    @property
    def last(self) -> bool:
        return self.end == self.high

    def of(self, stride: int) -> slice:
        """Its positions in a layer of the whole image; the last span takes the rest."""
        return slice(self.start // stride, None if self.last else self.end // stride)

    def within(self, stride: int) -> slice:
        """The same positions in the layer of the tile with its surroundings."""
        shift = self.low // stride
        end = None if self.last else self.end // stride - shift
        return slice(self.start // stride - shift, end)


def spans(length: int, tile: int, stride: int, halo: int, smallest: int) -> list[Span]:
    """Divides a length into tiles that begin at multiples of a network's stride.

    Args:
        length: in pixels.
        tile: largest side of a tile in pixels; at least one stride is taken.
        stride: pixels from one position of the coarsest layer to the next.
        halo: pixels around a tile that its positions depend on, a multiple of `stride`.
        smallest: side of an image below which the network would enlarge it, in pixels.
    """
    step = max(tile // stride, 1) * stride
    lowest = max(length - smallest, 0) // stride * stride
    return [
        Span(
            start,
            min(start + step, length),
            max(min(start - halo, lowest), 0),
            min(start + step + halo, length),
        )
        for start in range(0, length, step)
    ]
