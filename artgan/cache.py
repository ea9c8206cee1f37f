"""Files of what was computed once: arrays and plain values, each with a checksum.

A cache file is an uncompressed zip with one member for each array, its bytes, and `about.json` with
the arrays' types and shapes and the plain values. Zip keeps a CRC-32 of each member, so a wrong bit
is noticed when the file is read. What a cache holds can be computed again: treat a damaged file
like a missing one.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np
from numpy.typing import NDArray

from artgan.files import atomic_write, byte_bar

ABOUT = "about.json"
BLOCK = 2**20  # bytes verified at once


@dataclass(frozen=True)
class Cache:
    """What a cache file holds: arrays by name, and plain values as JSON has them."""

    arrays: dict[str, NDArray[Any]]
    about: dict[str, Any]


@dataclass
class CacheWriter:
    """A cache file being written, one array after another."""

    archive: ZipFile
    about: dict[str, Any] = field(default_factory=dict)  # plain values, written last
    arrays: dict[str, tuple[str, list[int]]] = field(default_factory=dict)  # type and shape
    _member: IO[bytes] | None = None

    def append(self, name: str, block: NDArray[Any]) -> None:
        """Appends rows to an array; all rows of one array come before those of the next.

        Args:
            name: of the array.
            block: [n, …] of the same type and row shape as the blocks before it.
        """
        if name not in self.arrays:
            self.close()
            self.arrays[name] = (block.dtype.str, [0, *block.shape[1:]])
            self._member = self.archive.open(name, "w", force_zip64=True)
        assert self._member is not None
        self._member.write(np.ascontiguousarray(block).data)
        self.arrays[name][1][0] += len(block)

    def close(self) -> None:
        """Ends the array being written."""
        if self._member:
            self._member.close()


@contextmanager
def new_cache(path: Path) -> Iterator[CacheWriter]:
    """Writes a cache file, whole or not at all.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    with atomic_write(path) as file, ZipFile(file, "w", ZIP_STORED) as archive:
        writer = CacheWriter(archive)
        try:
            yield writer
        finally:
            writer.close()
        content = {"arrays": writer.arrays, "about": writer.about}
        archive.writestr(ABOUT, json.dumps(content))


def write_cache(path: Path, arrays: Mapping[str, NDArray[Any]], **about: Any) -> None:
    """Writes arrays of at least one dimension, and plain values; errors as of `new_cache`."""
    with new_cache(path) as writer:
        writer.about = about
        for name, array in arrays.items():
            writer.append(name, array)


def read_cache(path: Path, mapped: bool = False, verify: bool = True) -> Cache:
    """Reads a cache file.

    Args:
        path: of the file.
        mapped: map the arrays into memory, copy on write, instead of reading them.
        verify: compare the checksums; with `mapped`, that takes one pass over the file.

    Raises:
        OSError: the file is not there, or cannot be read.
        ValueError: it is damaged.
    """
    file = path.open("rb")
    try:
        with file, ZipFile(file) as archive:
            content = json.loads(archive.read(ABOUT))
            arrays = {}
            for name, (dtype, shape) in content["arrays"].items():
                if not mapped:
                    array = np.frombuffer(bytearray(archive.read(name)), dtype)
                else:
                    with archive.open(name) as member:
                        start = file.tell()  # of the bytes: opening has read the member's header
                        if verify:
                            _verify(member, archive.getinfo(name).file_size, path)
                    array = np.memmap(path, dtype, "c", start, tuple(shape))
                arrays[name] = array.reshape(shape)
            return Cache(arrays, content["about"])
    except Exception as error:  # damage shows as any of a dozen exceptions of zipfile and numpy
        raise ValueError(f"{path} is damaged ({error!r})") from error


def _verify(member: IO[bytes], size: int, path: Path) -> None:
    """Reads a member through, with a progress bar after one second; zipfile compares its CRC."""
    with byte_bar(f"Verifying {path.name}", size, delay=1) as bar:
        while block := member.read(BLOCK):
            bar.update(len(block))
