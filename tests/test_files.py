import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from artgan.errors import UserError
from artgan.files import atomic_write


def test_the_final_name_never_holds_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with atomic_write(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"


def test_after_an_error_the_old_file_stands_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208


def test_a_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "file") as file:
        file.write(b"x")
    (tmp_path / "plain").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "plain")]
    assert modes[0] == modes[1]


def test_a_full_disk_is_one_clear_message(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("64k")
    with pytest.raises(UserError, match="the disk is full"), atomic_write(disk / "f") as file:
        file.write(bytes(1 << 20))
    assert not list(disk.iterdir())


def test_a_folder_that_cannot_be_made_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), atomic_write(tmp_path / "file" / "x"):
        pass
