"""The order in which paintings are seen: a pure function of the seed and of the images seen."""

from collections.abc import Iterator
from itertools import count as count_from

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class PaintingStream:
    """An endless stream of batches: one permutation of the paintings after another.

    The stream holds no position of its own. Where it begins is counted in images seen, so a
    resumed training goes on with the very painting that would have been next, also in the middle
    of an epoch. A batch may span two epochs; no painting is dropped.

    Args:
        paintings: uint8 [N, 3, H, W], shared, not copied.
        batch_size: paintings in one update over all ranks; a multiple of `world_size`.
        seed: of the permutations.
        images_seen: where to begin.
        rank: which part of each batch is ours, 0 ≤ rank < world_size.
        world_size: number of processes that share each batch.

    Yields:
        uint8 [batch_size / world_size, 3, H, W]

    Example:
        >>> stream = PaintingStream(np.zeros((10, 3, 64, 64), np.uint8), batch_size=4, seed=0)
        >>> next(iter(stream)).shape
        torch.Size([4, 3, 64, 64])
    """

    def __init__(
        self,
        paintings: NDArray[np.uint8],
        batch_size: int,
        seed: int,
        images_seen: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.paintings = paintings
        self.batch_size = batch_size
        self.seed = seed
        self.images_seen = images_seen
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[Tensor]:
        share = self.batch_size // self.world_size
        for start in count_from(self.images_seen + self.rank * share, self.batch_size):
            yield torch.from_numpy(self.paintings[self.indices(start, share)])

    def indices(self, start: int, length: int) -> NDArray[np.int64]:
        """Which paintings stand at positions `start` to `start + length` of the stream."""
        total = len(self.paintings)
        chosen = []
        while length > 0:
            epoch, position = divmod(start, total)
            chosen.append(self._order(epoch)[position : position + length])
            start += len(chosen[-1])
            length -= len(chosen[-1])
        return np.concatenate(chosen)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            self._permutation = generator.permutation(len(self.paintings))
        return self._permutation
