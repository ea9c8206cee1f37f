"""Cache files: what was written comes back, and a wrong bit is noticed."""

from pathlib import Path

import numpy as np
import pytest

from artgan.cache import new_cache, read_cache, write_cache

ROWS = np.arange(600, dtype=np.uint8).reshape(-1, 5, 3)


@pytest.mark.parametrize("mapped", [False, True])
def test_arrays_and_values_come_back(tmp_path: Path, mapped: bool) -> None:
    path = tmp_path / "cache.zip"
    with new_cache(path) as writer:
        writer.append("rows", ROWS[:3])
        writer.append("rows", ROWS[3:])
        writer.append("means", np.array([0.5, -1], np.float32))
        writer.about["files"] = ["雪.jpg", "b.png"]
    cache = read_cache(path, mapped)
    np.testing.assert_array_equal(cache.arrays["rows"], ROWS)
    np.testing.assert_array_equal(cache.arrays["means"], np.array([0.5, -1], np.float32))
    assert cache.about == {"files": ["雪.jpg", "b.png"]}
    cache.arrays["rows"][0] = 0  # a copy, not the file
    np.testing.assert_array_equal(read_cache(path).arrays["rows"], ROWS)


@pytest.mark.parametrize("mapped", [False, True])
def test_each_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path, mapped: bool) -> None:
    whole, flipped = tmp_path / "cache.zip", tmp_path / "flipped.zip"
    write_cache(whole, {"rows": ROWS[:4]}, files=["a", "b"])
    content = whole.read_bytes()
    noticed = 0
    for place in range(len(content)):
        flipped.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            cache = read_cache(flipped, mapped)
        except ValueError:
            noticed += 1
            continue
        np.testing.assert_array_equal(cache.arrays["rows"], ROWS[:4])
        assert cache.about == {"files": ["a", "b"]}
    assert noticed > len(content) / 2


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_cache(tmp_path / "cache.zip") as writer:
        writer.append("rows", ROWS)
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_cache(tmp_path / "cache.zip")
