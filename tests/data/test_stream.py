import itertools

import numpy as np
import torch
from numpy.typing import NDArray

from artgan.data.stream import PaintingStream


def numbered(count: int) -> NDArray[np.uint8]:
    """Paintings that are told apart by their value."""
    return np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 3, 2, 2)
    ).copy()


def numbers(stream: PaintingStream, batches: int) -> list[int]:
    taken = itertools.islice(stream, batches)
    return [int(image[0, 0, 0]) for batch in taken for image in batch]


def test_each_painting_is_seen_once_an_epoch_also_where_batches_do_not_divide_it() -> None:
    seen = numbers(PaintingStream(numbered(10), batch_size=4, seed=3), batches=5)
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_a_stream_begun_later_goes_on_where_the_first_would_be() -> None:
    whole = numbers(PaintingStream(numbered(10), batch_size=4, seed=3), batches=7)
    later = PaintingStream(numbered(10), batch_size=4, seed=3, images_seen=12)
    assert numbers(later, batches=4) == whole[12:]


def test_ranks_share_each_batch_of_one_process() -> None:
    together = numbers(PaintingStream(numbered(10), batch_size=4, seed=3), batches=5)
    ranks = [
        PaintingStream(numbered(10), batch_size=4, seed=3, rank=rank, world_size=2)
        for rank in (0, 1)
    ]
    first, second = (numbers(rank, batches=5) for rank in ranks)
    merged = [n for i in range(0, 10, 2) for n in (*first[i : i + 2], *second[i : i + 2])]
    assert merged == together


def test_another_seed_is_another_order() -> None:
    orders = [numbers(PaintingStream(numbered(10), 5, seed), batches=2) for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_fewer_paintings_than_a_batch_holds_are_repeated() -> None:
    seen = numbers(PaintingStream(numbered(3), batch_size=8, seed=0), batches=3)
    assert [seen.count(number) for number in range(3)] == [8, 8, 8]


def test_batches_are_uint8_tensors() -> None:
    batch = next(iter(PaintingStream(numbered(10), batch_size=4, seed=0)))
    assert batch.shape == (4, 3, 2, 2)
    assert batch.dtype == torch.uint8
