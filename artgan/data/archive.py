"""Zip archives of images: downloaded, verified, and unpacked only once all are found safe."""

import hashlib
import re
import shutil
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from zipfile import ZipFile, ZipInfo

from artgan.data.decode import SUFFIXES, is_hidden
from artgan.download import Download, WrongFile, fetch
from artgan.errors import UserError
from artgan.files import byte_bar, sha256

# Beyond any set of paintings; images are compressed already, so zip gains little on them.
MOST_ENTRIES = 1_000_000
LARGEST_TOTAL = 2**40
LARGEST_RATIO = 100

ENTRY = re.compile(r"(?:([0-9a-fA-F]{40})\s+)?([^\s/\\:][^\s\\:]*\.zip)")
LOCAL_HEADER = 30  # bytes at least between the begin of an entry and its data


def download_archives(
    address: str, archives: list[str], folder: Path, largest: float, insecure: bool = False
) -> dict[Path, str]:
    """Downloads the archives that are not in a folder yet, and verifies all of them.

    Each is "git-blob-SHA-1 name", or "name" if no checksum is published; a name may contain
    folders, which are made in `folder`. It has at most `largest` gigabytes.

    Returns:
        The file of each archive, in order, with its checksum as `git-blob-sha1:…`, or as
        `sha256:…` if none is published; all images of such an archive have been read.

    Raises:
        UserError: an archive cannot be downloaded or written, or is not the one expected.
    """
    checksums = {}
    for entry in archives:
        match = ENTRY.fullmatch(entry)
        if not match or ".." in match[2].split("/"):
            raise UserError(
                f"dataset.archives: {entry!r} is neither NAME.zip nor 'GIT_BLOB_SHA1 NAME.zip'."
            )
        file = folder / match[2]
        advice = f"put it at {file}, or give a folder by dataset=folder dataset.root=PATH"
        url, verify = f"{address.rstrip('/')}/{match[2]}", partial(_verify, published=match[1])
        checksums[file] = fetch(Download(url, file, verify, advice, largest, insecure))
    return checksums


def _verify(file: Path, published: str | None) -> str:
    """The checksum of a file: the published one or, if there is none, of a whole archive."""
    if published is None:
        images = _images(file, only=[])
        with byte_bar(f"Checking {file.name}", _size(images)) as bar, ZipFile(file) as archive:
            for entry in images.values():
                for block in _blocks(archive, entry):
                    bar.update(len(block))
        return f"sha256:{sha256(file)}"
    header = b"blob %d\0" % file.stat().st_size
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, lambda: hashlib.sha1(header, usedforsecurity=False))
    if digest.hexdigest() != published.lower():
        raise WrongFile(f"its git blob SHA-1 is {digest.hexdigest()}, expected {published}")
    return f"git-blob-sha1:{digest.hexdigest()}"


def unpack(archives: list[Path], folder: Path, only: list[str]) -> None:
    """Unpacks the images of zip archives into an empty folder.

    A top folder that all images of an archive share is dropped; folders below it stay. Each of
    several archives gets a folder of its own, named after it. If `only` names folders, only images
    below these are unpacked. The folder is one of `atomic_folder`: damage is found on the way.

    Raises:
        UserError: an archive is damaged, unsafe to unpack or without images, or the disk has too
            little space.
        OSError: the folder cannot be written.
    """
    contents = {}
    for archive in archives:
        with _refusing(archive):
            contents[archive] = _images(archive, only)
    total = sum(map(_size, contents.values()))
    free = shutil.disk_usage(folder).free
    if total > free:
        raise UserError(
            f"{folder.parent}: the images take {total / 1e9:.2f} GB, and {free / 1e9:.2f} GB are "
            "free on that disk. Free some space, or choose another place by dataset.root=PATH."
        )
    with byte_bar("Unpacking", total) as bar:
        for archive, images in contents.items():
            place = folder / archive.stem if len(contents) > 1 else folder
            with _refusing(archive), ZipFile(archive) as file:
                for path, entry in images.items():
                    target = place / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("xb") as out:
                        for block in _blocks(file, entry):
                            out.write(block)
                            bar.update(len(block))


def _images(archive: Path, only: list[str]) -> dict[PurePosixPath, ZipInfo]:
    """The images of an archive by the path they are unpacked to, if all of it is safe to unpack."""
    try:
        with ZipFile(archive) as file:
            entries = file.infolist()
    except Exception as error:
        # Not only BadZipFile: damaged directories raise struct.error, ValueError and others.
        raise WrongFile(f"not a whole zip archive ({error})") from error
    if len(entries) > MOST_ENTRIES:
        raise WrongFile(f"{len(entries):,} entries, more than {MOST_ENTRIES:,}")
    for entry in entries:
        if fault := _fault(entry):
            raise WrongFile(f"{entry.orig_filename!r} {fault}")
    for entry, following in pairwise(sorted(entries, key=lambda entry: entry.header_offset)):
        if entry.header_offset + LOCAL_HEADER + entry.compress_size > following.header_offset:
            raise WrongFile(f"{following.filename!r} overlaps another entry")

    wanted = [entry for entry in entries if _wanted(PurePosixPath(entry.filename), only)]
    if not wanted:
        raise WrongFile("no images" + (f" below {' or '.join(only)}" if only else ""))
    paths = [PurePosixPath(entry.filename) for entry in wanted]
    _refuse_clashes(paths)
    total = sum(entry.file_size for entry in wanted)
    if total > min(LARGEST_TOTAL, LARGEST_RATIO * archive.stat().st_size):
        raise WrongFile(f"unpacks to {total:,} bytes, far more than images would")

    # A file at the top has no folder to drop.
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
    if entry.flag_bits & 0x1:
        return "is encrypted"
    return None


def _wanted(path: PurePosixPath, only: list[str]) -> bool:
    return (
        path.suffix.lower() in SUFFIXES
        and not any(map(is_hidden, path.parts))
        and (not only or not set(only).isdisjoint(path.parent.parts))
    )


def _refuse_clashes(paths: list[PurePosixPath]) -> None:
    """Refuses names that are the same file on some disks, and files named like folders."""

    def folded(path: PurePosixPath) -> str:
        return unicodedata.normalize("NFC", str(path)).casefold()

    taken = {folded(parent) for path in paths for parent in path.parents}
    for path in paths:
        if folded(path) in taken:
            raise WrongFile(f"{str(path)!r} clashes with another name")
        taken.add(folded(path))


def _blocks(file: ZipFile, entry: ZipInfo) -> Iterator[bytes]:
    """The content of an entry: never more than it declares, its CRC verified at the end."""
    try:
        with file.open(entry) as content:
            while block := content.read(2**20):
                yield block
    except Exception as error:
        # BadZipFile, zlib.error, EOFError, NotImplementedError, OSError from bzip2, ...
        raise WrongFile(f"{entry.filename!r} cannot be read ({error})") from error


def _size(images: dict[PurePosixPath, ZipInfo]) -> int:
    return sum(entry.file_size for entry in images.values())


@contextmanager
def _refusing(archive: Path) -> Iterator[None]:
    try:
        yield
    except WrongFile as error:
        raise UserError(
            f"{archive}: {error}. Nothing was unpacked. Download it again, or unpack it yourself "
            "and give the folder by dataset=folder dataset.root=PATH."
        ) from error
