import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from artgan.errors import UserError
from artgan.files import atomic_folder, atomic_write, by_number
from tests.helpers import ROOT, environment


def test_the_final_name_never_holds_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with atomic_write(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"


def test_whoever_reads_the_old_file_keeps_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        with atomic_write(path) as file:
            file.write(b"new")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"


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


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "new" / "set") as folder:
        assert folder is not None
        (folder / "a").touch()
        assert not (tmp_path / "new" / "set").exists()
    assert [path.name for path in (tmp_path / "new" / "set").iterdir()] == ["a"]


def test_after_an_error_no_folder_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "set") as folder:
        assert folder is not None
        (folder / "a").touch()
        raise KeyboardInterrupt
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_full_disk_leaves_no_folder(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("64k")
    with (
        pytest.raises(UserError, match="set: the disk is full"),
        atomic_folder(disk / "set") as folder,
    ):
        assert folder is not None
        (folder / "a").write_bytes(bytes(1 << 20))
    assert not [path for path in disk.iterdir() if path.is_dir()]


FILL = """
import sys
from pathlib import Path
from artgan.files import atomic_folder
with atomic_folder(Path(sys.argv[1])) as folder:
    print(folder is not None, flush=True)
    if folder is not None:
        (folder / sys.argv[2]).touch()
        sys.stdin.read()
"""


def filling(path: Path, name: str) -> subprocess.Popen[str]:
    """A process that fills the folder with one file, until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", FILL, str(path), name],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_two_processes_one_fills_a_folder_and_the_other_takes_it(tmp_path: Path) -> None:
    first = filling(tmp_path / "set", "first")
    assert first.stdout is not None
    assert first.stdout.readline() == "True\n"
    second = filling(tmp_path / "set", "second")
    assert second.stderr is not None
    waiting = f"{tmp_path / 'set'}: another process is preparing it; waiting\n"
    assert second.stderr.readline() == waiting
    first.communicate()
    assert second.communicate()[0] == "False\n"
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["first"]


def test_where_the_process_that_fills_a_folder_is_killed_the_one_that_waits_fills_it(
    tmp_path: Path,
) -> None:
    first = filling(tmp_path / "set", "first")
    assert first.stdout is not None
    first.stdout.readline()
    second = filling(tmp_path / "set", "second")
    assert second.stderr is not None
    assert "another process is preparing it; waiting" in second.stderr.readline()
    first.kill()
    assert second.communicate(timeout=30)[0] == "True\n"
    first.communicate()
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["second"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    killed = filling(tmp_path / "set", "half")
    assert killed.stdout is not None
    killed.stdout.readline()
    killed.kill()
    killed.communicate()
    with atomic_folder(tmp_path / "set") as folder:
        assert folder is not None
        assert list(folder.iterdir()) == []


def test_files_are_in_the_order_of_their_numbers_also_of_ten_digits() -> None:
    names = ["images-999950000.ckpt", "images-1000000000.ckpt", "images-000050000.ckpt"]
    assert [path.name for path in by_number(map(Path, names))] == [names[2], names[0], names[1]]
