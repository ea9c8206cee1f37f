import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from artgan.data.pack import Pack
from artgan.data.stream import PaintingStream
from tests.helpers import pack_of


def numbered(count: int, length: int = 2) -> Pack:
    """Strips 2 pixels wide, numbered in red, and their rows in green."""
    rows = np.zeros((count, length, 2, 3), np.uint8)
    rows[..., 0] = np.arange(count)[:, None, None]
    rows[..., 1] = np.arange(length)[:, None]
    return pack_of(rows)


def numbers(stream: PaintingStream, batches: int) -> list[int]:
    taken = itertools.islice(stream, batches)
    return [int(image[0, 0, 0]) for paintings, _ in taken for image in paintings.flatten(0, 1)]


def test_each_painting_is_seen_once_an_epoch_even_if_batches_do_not_divide_it() -> None:
    seen = numbers(PaintingStream(numbered(10), batch_size=4, seed=3), batches=5)
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_a_stream_started_later_continues_where_the_first_would_be() -> None:
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


def test_batches_are_uint8_tensors_in_the_layout_of_convolutions() -> None:
    batch, classes = next(iter(PaintingStream(numbered(10), batch_size=4, seed=0)))
    assert classes.shape == (1, 4, 0)
    assert batch.shape == (1, 4, 3, 2, 2)
    assert batch.dtype == torch.uint8
    assert batch[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("rank", [0, 1])
def test_batches_yielded_together_are_those_yielded_singly(rank: int) -> None:
    def stream(**options: Any) -> PaintingStream:
        return PaintingStream(numbered(10, 5), 4, 3, rank=rank, world_size=2, **options)

    alone = [paintings for paintings, _ in itertools.islice(stream(), 6)]
    together = stream(together=lambda seen: 1 + seen // 4)  # one, then two, then four
    sizes = []
    for batches, _ in itertools.islice(together, 3):
        sizes.append(len(batches))
        for batch in batches[: len(alone)]:
            assert torch.equal(batch, alone.pop(0)[0])
    assert sizes == [1, 2, 4]


def test_squares_cut_on_a_device_are_the_same() -> None:
    rows = np.random.default_rng(0).integers(0, 256, (10, 9, 4, 3), np.uint8)
    files = [f"{'ab'[number % 2]}/{number}" for number in range(10)]
    pack = replace(pack_of(rows), lying=np.arange(10) % 2 == 0, files=files)
    options: dict[str, Any] = {"batch_size": 4, "seed": 3, "classes": ["a", "b"]}
    held = PaintingStream(pack, device=torch.device("cpu"), **options)
    for pair in zip(held, itertools.islice(PaintingStream(pack, **options), 8), strict=False):
        for one, other in zip(*pair, strict=True):
            assert torch.equal(one, other)
            assert one.stride() == other.stride()


def test_each_painting_comes_with_its_class() -> None:
    classes = ["a", "b", "c"]
    pack = replace(numbered(10), files=[f"{'bca'[n % 3]}/deeper/{n}" for n in range(10)])
    for images_seen, rank in ((0, 0), (8, 0), (8, 1)):
        stream = PaintingStream(pack, 4, 3, images_seen, rank, 2, lambda _: 3, classes=classes)
        paintings, one_hot = next(iter(stream))
        assert one_hot.shape == (3, 2, 3)
        assert one_hot.dtype == torch.float32
        numbers = paintings[:, :, 0, 0, 0].int()
        expected = [[["bca"[n % 3] == name for name in classes] for n in row] for row in numbers]
        assert torch.equal(one_hot, torch.tensor(expected).float())


def places(pack: Pack, epochs: int, seed: int = 0) -> NDArray[np.uint8]:
    """[epochs, strips]: the first row of each strip's square."""
    stream = PaintingStream(pack, batch_size=len(pack), seed=seed)
    seen = np.zeros((epochs, len(pack)), np.uint8)
    for epoch, (batch, _) in enumerate(itertools.islice(stream, epochs)):
        seen[epoch, batch[0, :, 0, 0, 0].numpy()] = batch[0, :, 1, 0, 0].numpy()
    return seen


def test_the_square_moves_along_a_longer_strip_from_epoch_to_epoch() -> None:
    seen = places(numbered(50, length=5), epochs=40)
    counts = np.bincount(seen.ravel(), minlength=4)
    assert len(counts) == 4  # a square of 2 rows has 4 places in 5
    np.testing.assert_allclose(counts / seen.size, 0.25, atol=0.04)
    assert all(len(set(strip)) > 1 for strip in seen.T)


def test_a_stream_started_later_cuts_the_same_squares() -> None:
    pack = numbered(10, length=9)
    whole = list(itertools.islice(PaintingStream(pack, batch_size=4, seed=3), 7))
    later = PaintingStream(pack, batch_size=4, seed=3, images_seen=12)
    for (one, _), (other, _) in zip(whole[3:], later, strict=False):
        assert torch.equal(one, other)
