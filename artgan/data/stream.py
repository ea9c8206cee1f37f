"""The order in which paintings are seen: a pure function of the seed and of the images seen."""

from collections.abc import Iterator
from itertools import count as count_from

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artgan.data.pack import Pack


class PaintingStream:
    """An endless stream of batches: one permutation of the paintings after another.

    The stream holds no position of its own. Where it begins is counted in images seen, so a
    resumed training goes on with the very painting that would have been next, also in the middle
    of an epoch. A batch may span two epochs; no painting is dropped.

    Args:
        pack: the paintings, shared, not copied.
        batch_size: paintings in one update over all ranks; a multiple of `world_size`.
        seed: of the permutations.
        images_seen: where to begin.
        rank: which part of each batch is ours, 0 ≤ rank < world_size.
        world_size: number of processes that share each batch.

    Yields:
        uint8 [batch_size / world_size, 3, H, W], in channels_last layout
    """

    def __init__(
        self,
        pack: Pack,
        batch_size: int,
        seed: int,
        images_seen: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.pack = pack
        self.batch_size = batch_size
        self.seed = seed
        self.images_seen = images_seen
        self.rank = rank
        self.world_size = world_size
        self._drawn: tuple[int, NDArray[np.int64], NDArray[np.float64]] | None = None

    def __iter__(self) -> Iterator[Tensor]:
        share = self.batch_size // self.world_size
        for start in count_from(self.images_seen + self.rank * share, self.batch_size):
            squares = self.pack.squares(*self.chosen(start, share))
            yield torch.from_numpy(squares).permute(0, 3, 1, 2)

    def chosen(self, start: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Which strips stand from `start` on in the stream, and where along them squares lie."""
        strips, places = [], []
        while length > 0:
            epoch, position = divmod(start, len(self.pack))
            order, where = self._epoch(epoch)
            strips.append(order[position : position + length])
            places.append(where[position : position + length])
            start += len(strips[-1])
            length -= len(strips[-1])
        return np.concatenate(strips), np.concatenate(places)

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The order of an epoch, and where along each strip its square lies."""
        if self._drawn is None or self._drawn[0] != epoch:
            generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            order = generator.permutation(len(self.pack))
            self._drawn = epoch, order, generator.random(len(self.pack))
        return self._drawn[1:]
