"""Writing files so that a file under its final name is always whole."""

import errno
import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import platformdirs
from filelock import FileLock, Timeout

from artgan.errors import UserError, printable

if TYPE_CHECKING:
    from tqdm import tqdm


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path` and renames it to `path` once it is whole.

    The bytes are synced before the rename, so that not even a power cut leaves a torn file. If the
    block raises, `path` stays as it was and the temporary file is removed.

    Args:
        path: of the file; missing parent folders are made.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):  # there is none, once it is renamed
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path | None]:
    """Gives an empty folder to fill, and renames it to `path` at the end of the block.

    Of several processes one fills it and the others wait. If the block raises, nothing is left.

    Args:
        path: of the folder; missing parents are made.

    Yields:
        The folder to fill; None if another process has just made `path`.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    if path.is_mount():
        raise UserError(f"{path}: is a mount point. Give a folder below it.")
    path = path.resolve()  # a link to an empty folder stays
    scratch = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with hold(path.with_name(f".{path.name}.lock"), path):
            if path.is_dir() and any(path.iterdir()):
                yield None
                return
            # Left by a killed process: under the lock no other one is at work there.
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            try:
                yield scratch
                if hasattr(os, "sync"):  # once: thousands of single syncs take minutes
                    os.sync()
                scratch.rename(path)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def hold(lock: Path, path: Path) -> AbstractContextManager[object]:
    """Takes a lock on `path`; prints a line if it has to wait for another process.

    The system releases the lock when its holder ends, however it ends.
    """
    lock_file = FileLock(lock)
    try:
        return lock_file.acquire(timeout=0)
    except Timeout:
        waiting = f"{printable(str(path))}: another process is preparing it; waiting"
        print(waiting, file=sys.stderr)
        return lock_file.acquire()


def refuse_to_replace(paths: Sequence[Path], overwrite: bool) -> None:
    """Refuses files that exist with a UserError, unless they may be replaced."""
    existing = [path for path in paths if path.exists()]
    if existing and not overwrite:
        more = f" So do {len(existing) - 1} more." if len(existing) > 1 else ""
        raise UserError(
            f"out: {existing[0]} exists already.{more} Give another place as out=, or replace it "
            "with overwrite=true"
        )


def by_number(paths: Iterable[Path]) -> list[Path]:
    """Files whose names differ in a zero-padded number, in its order."""
    return sorted(paths, key=lambda path: (len(path.name), path.name))


def user_cache() -> Path:
    """The user's folder for what can be computed or downloaded again."""
    return platformdirs.user_cache_path("artgan")


def absolute(path: str) -> str:
    """A path as it is from any folder; `~` is the user's own."""
    return str(Path(path).expanduser().absolute())


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def byte_bar(
    title: str, total: int | None = None, initial: int = 0, delay: float = 0
) -> "tqdm[NoReturn]":
    """A progress bar of bytes, their rate and the time left; on a terminal only, and not kept.

    It appears after `delay` seconds.
    """
    from tqdm import tqdm  # only here: `--help` should start quickly

    shown: dict[str, Any] = {"unit": "B", "unit_scale": True, "leave": False, "disable": None}
    return tqdm(desc=title, total=total, initial=initial, delay=delay, **shown)


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that the disk, or the user's quota, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def cannot_write(path: Path, error: OSError) -> UserError:
    """The message for a `path` that cannot be written."""
    if is_full(error):
        return UserError(
            f"{path}: the disk is full. Nothing was lost; free some space and try again."
        )
    return UserError(f"{path}: cannot be written ({error.strerror}). Choose another place.")
