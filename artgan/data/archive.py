"""Zip archives of pictures: nothing of them is written before all of them are found safe."""

import re
import shutil
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NoReturn
from zipfile import ZipFile, ZipInfo

from tqdm import tqdm

from artgan.data.decode import SUFFIXES
from artgan.errors import UserError

# What no set of paintings reaches: pictures are compressed already, so zip gains little on them.
MOST_ENTRIES = 1_000_000
LARGEST_TOTAL = 2**40
LARGEST_RATIO = 100

LOCAL_HEADER = 30  # an entry's data stands at least so many bytes behind where the entry begins
ENCRYPTED = 0x1


class UnusableArchive(Exception):
    """An archive that is damaged, unsafe or the wrong one; its text is the reason, for a person."""


def check_archive(archive: Path) -> None:
    """Reads all pictures of a zip archive through, as `unpack` would, and writes nothing.

    Args:
        archive: zip file.

    Raises:
        UnusableArchive: it is no zip file, is damaged, not safe to unpack, or without pictures.
    """
    pictures = _pictures(archive, only=[])
    with byte_bar(f"Checking {archive.name}", _size(pictures)) as bar, ZipFile(archive) as file:
        for entry in pictures.values():
            for block in _blocks(file, entry):
                bar.update(len(block))


def unpack(archives: list[Path], folder: Path, only: list[str]) -> None:
    """Unpacks the pictures of zip archives into an empty folder.

    A top folder that all pictures of an archive share is left out; folders below it stay. Several
    archives come into a folder each, named after the archive.

    Args:
        archives: zip files.
        folder: takes the pictures, by `artgan.files.atomic_folder`: damage is found only as they
            are read.
        only: take only what lies below folders of these names; everything if empty.

    Raises:
        UserError: an archive is damaged, not safe to unpack or without pictures, or there is not
            room enough.
        OSError: the folder cannot be written.
    """
    contents = {}
    for archive in archives:
        with _named(archive):
            contents[archive] = _pictures(archive, only)
    total = sum(map(_size, contents.values()))
    free = shutil.disk_usage(folder).free
    if total > free:
        raise UserError(
            f"{folder.parent}: the pictures take {total / 1e9:.2f} GB, and {free / 1e9:.2f} GB are "
            "free on that disk. Free some space, or choose another place by dataset.root=PATH."
        )
    with byte_bar("Unpacking", total) as bar:
        for archive, pictures in contents.items():
            place = folder / archive.stem if len(contents) > 1 else folder
            with _named(archive), ZipFile(archive) as file:
                for path, entry in pictures.items():
                    target = place / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("xb") as out:
                        for block in _blocks(file, entry):
                            out.write(block)
                            bar.update(len(block))


def _pictures(archive: Path, only: list[str]) -> dict[PurePosixPath, ZipInfo]:
    """The pictures of an archive and where they shall lie, if all of it is safe to unpack."""
    try:
        with ZipFile(archive) as file:
            entries = file.infolist()
    except Exception as error:
        # Not only BadZipFile: damaged directories raise struct.error, ValueError and others.
        raise UnusableArchive(f"no whole zip archive ({error})") from error
    if len(entries) > MOST_ENTRIES:
        raise UnusableArchive(f"{len(entries):,} entries, more than {MOST_ENTRIES:,}")
    for entry in entries:
        if fault := _fault(entry):
            raise UnusableArchive(f"{entry.orig_filename!r} {fault}")
    for entry, following in pairwise(sorted(entries, key=lambda entry: entry.header_offset)):
        if entry.header_offset + LOCAL_HEADER + entry.compress_size > following.header_offset:
            raise UnusableArchive(f"{following.filename!r} lies within another entry")

    wanted = [entry for entry in entries if _wanted(PurePosixPath(entry.filename), only)]
    if not wanted:
        raise UnusableArchive("no pictures" + (f" below {' or '.join(only)}" if only else ""))
    paths = [PurePosixPath(entry.filename) for entry in wanted]
    _refuse_clashes(paths)
    total = sum(entry.file_size for entry in wanted)
    if total > min(LARGEST_TOTAL, LARGEST_RATIO * archive.stat().st_size):
        raise UnusableArchive(f"unpacks to {total:,} bytes, far more than pictures would")

    # A file at the top has only itself as parts, and is no folder to leave out.
    tops = {path.parts[:-1][:1] for path in paths}
    shared = len(tops.pop()) if len(tops) == 1 else 0
    return dict(zip((PurePosixPath(*path.parts[shared:]) for path in paths), wanted, strict=True))


def _fault(entry: ZipInfo) -> str | None:
    """Why an entry is not safe to unpack."""
    name = entry.orig_filename  # as the archive has it; `filename` ends at a NUL
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if any(unicodedata.category(character) == "Cc" for character in name):
        return "has control characters in its name"
    if re.match(r"/|[A-Za-z]:", name) or "\\" in name or ".." in name.split("/"):
        return "has a name that may lead out of the folder"
    if kind not in (0, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG):
        return "is a link or device, not a file"
    if entry.flag_bits & ENCRYPTED:
        return "is encrypted"
    return None


def _wanted(path: PurePosixPath, only: list[str]) -> bool:
    return (
        path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
        and (not only or not set(only).isdisjoint(path.parent.parts))
    )


def _refuse_clashes(paths: list[PurePosixPath]) -> None:
    """Refuses names that are one and the same file on some disks, and files named as folders."""
    folders = {_folded(parent) for path in paths for parent in path.parents}
    files: set[str] = set()
    for path in paths:
        if _folded(path) in files or _folded(path) in folders:
            raise UnusableArchive(f"{str(path)!r} clashes with another name, but for its case")
        files.add(_folded(path))


def _folded(path: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def _blocks(file: ZipFile, entry: ZipInfo) -> Iterator[bytes]:
    """The content of an entry: never more than it declares, and its CRC is right at the end."""
    try:
        with file.open(entry) as content:
            while block := content.read(2**20):
                yield block
    except Exception as error:
        # BadZipFile, zlib.error, EOFError, NotImplementedError, OSError from bzip2, ...
        raise UnusableArchive(f"{entry.filename!r} cannot be read ({error})") from error


def _size(pictures: dict[PurePosixPath, ZipInfo]) -> int:
    return sum(entry.file_size for entry in pictures.values())


def byte_bar(title: str, total: int | None = None, initial: int = 0) -> "tqdm[NoReturn]":
    """Shows bytes done, their rate and the time left, on a terminal only, and leaves no trace."""
    return tqdm(
        desc=title,
        total=total,
        initial=initial,
        unit="B",
        unit_scale=True,
        leave=False,
        disable=None,
    )


@contextmanager
def _named(archive: Path) -> Iterator[None]:
    try:
        yield
    except UnusableArchive as error:
        raise UserError(
            f"{archive}: {error}. Nothing was unpacked. Get another copy of it, or unpack it "
            "yourself and give the folder by dataset=folder dataset.root=PATH."
        ) from error
