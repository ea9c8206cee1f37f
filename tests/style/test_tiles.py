"""Tiles; the losses computed in them are tested in test_gatys.py."""

import pytest
import torch

from artgan.style.tiles import TileSize, spans


def test_spans_cover_a_length_once() -> None:
    for length in (1, 15, 16, 100, 256, 257):
        parts = spans(length, tile=64, stride=16, halo=32, smallest=32)
        assert [n for part in parts for n in range(part.start, part.end)] == list(range(length))
        for part in parts:
            assert part.low % 16 == part.start % 16 == 0
            assert part.low == max(min(part.start - 32, (length - 32) // 16 * 16), 0)
            assert part.high == min(part.end + 32, length) or part.last
        assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]


def test_tiles_are_halved_when_memory_runs_out_and_stay_small(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def compute(tile: int) -> int:
        if tile > 256:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return tile

    size = TileSize(1024, smallest=128)
    assert size.compute(compute) == size.side == 256
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert size.compute(compute) == 256
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("another")])
def test_errors_that_smaller_tiles_do_not_avoid_are_raised(error: Exception) -> None:
    def compute(tile: int) -> int:
        raise error

    with pytest.raises(type(error)):
        TileSize(1024, smallest=128).compute(compute)
