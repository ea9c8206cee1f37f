"""The order in which paintings are seen: a pure function of the seed and the images seen."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artgan.data.classes import one_hot
from artgan.data.pack import Pack


class PaintingStream:
    """An endless stream of batches: one permutation of the paintings after another.

    The stream has no state of its own: it starts at a number of images seen, so a resumed run
    continues with the painting that would have been next, even in the middle of an epoch. A batch
    may span two epochs; no painting is dropped.

    Args:
        pack: the paintings, shared, not copied.
        batch_size: paintings in one update over all ranks; a multiple of `world_size`.
        seed: of the permutations.
        images_seen: where to start.
        rank: which part of each batch to yield, 0 ≤ rank < world_size.
        world_size: number of processes that share each batch.
        together: how many batches to yield at once, given the images seen before them.
        device: where to keep all paintings and cut their squares; None leaves them in their file.
        classes: names of the K subfolders that are classes; none for an unconditional model.

    Yields:
        Paintings, uint8 [together, batch_size / world_size, 3, H, W], each batch in channels_last
        layout, and the class of each, float32 [together, batch_size / world_size, K] one-hot.
    """

    def __init__(
        self,
        pack: Pack,
        batch_size: int,
        seed: int,
        images_seen: int = 0,
        rank: int = 0,
        world_size: int = 1,
        together: Callable[[int], int] = lambda images_seen: 1,
        device: torch.device | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        self.pack = pack
        self.classes = torch.from_numpy(one_hot(pack.files, classes))
        self.batch_size = batch_size
        self.seed = seed
        self.images_seen = images_seen
        self.rank = rank
        self.world_size = world_size
        self.together = together
        self._drawn: tuple[int, NDArray[np.int64], NDArray[np.float64]] | None = None
        self._on_device = None if device is None else _OnDevice(pack, self.classes, device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        share = self.batch_size // self.world_size
        seen = self.images_seen
        while True:
            batches = self.together(seen)
            start = seen + self.rank * share
            chosen = [self.chosen(start + i * self.batch_size, share) for i in range(batches)]
            strips, places = (np.concatenate(part) for part in zip(*chosen, strict=True))
            if self._on_device:
                squares, classes = self._on_device.squares(strips, places)
            else:
                squares = torch.from_numpy(self.pack.squares(strips, places))
                classes = self.classes[strips]
                self.pack.forget_read()
            paintings = squares.unflatten(0, (batches, share)).permute(0, 1, 4, 2, 3)
            yield paintings, classes.unflatten(0, (batches, share))
            seen += batches * self.batch_size

    def chosen(self, start: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The strips from `start` on in the stream, and the places of their squares."""
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
        """The order of an epoch, and the place of the square along each strip."""
        if self._drawn is None or self._drawn[0] != epoch:
            generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            order = generator.permutation(len(self.pack))
            self._drawn = epoch, order, generator.random(len(self.pack))
        return self._drawn[1:]


class _OnDevice:
    """A pack on a device, which cuts the squares there."""

    def __init__(self, pack: Pack, classes: Tensor, device: torch.device) -> None:
        self.pack = pack
        self.classes = classes.to(device)
        self.rows = torch.tensor(pack.rows, device=device)
        pack.forget_read()
        self.lying = torch.tensor(pack.lying, device=device)
        self.offsets = torch.arange(pack.resolution, device=device)

    def squares(
        self, strips: NDArray[np.int64], places: NDArray[np.float64]
    ) -> tuple[Tensor, Tensor]:
        """Like `Pack.squares`, and the classes, on the device, without waiting for it."""
        first, numbers = (
            self._sent(torch.from_numpy(part))
            for part in (self.pack.first_rows(strips, places), strips)
        )
        squares = self.rows[first[:, None] + self.offsets]
        lying = self.lying[numbers][:, None, None, None]
        # In this order, as the result takes the layout of the first choice.
        return torch.where(~lying, squares, squares.transpose(1, 2)), self.classes[numbers]

    def _sent(self, numbers: Tensor) -> Tensor:
        if self.rows.is_cuda:
            numbers = numbers.pin_memory()  # else the copy waits for all earlier work
        return numbers.to(self.rows.device, non_blocking=True)
