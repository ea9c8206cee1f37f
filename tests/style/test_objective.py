"""The parts that a picture is computed in; the losses in them are in test_gatys.py."""

from artgan.style.objective import cut


def test_cuts_cover_a_length_once() -> None:
    for length in (1, 15, 16, 100, 256, 257):
        parts = cut(length, tile=64, stride=16, halo=32)
        assert [n for part in parts for n in range(part.start, part.end)] == list(range(length))
        for part in parts:
            assert part.low % 16 == part.start % 16 == 0
            assert part.low == max(min(part.start - 32, (length - 32) // 16 * 16), 0)
            assert part.high == min(part.end + 32, length) or part.last
        assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
