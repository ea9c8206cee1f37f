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
from tqdm import tqdm

from artgan.files import atomic_write

ABOUT = "about.json"
LOCAL_HEADER = 30  # bytes before the name in a member's header
BLOCK = 2**20  # bytes verified at once


@dataclass(frozen=True)
class Cache:
    """What a cache file holds.

    Attributes:
        arrays: by name.
        about: plain values, as JSON has them.
    """

    arrays: dict[str, NDArray[Any]]
    about: dict[str, Any]


@dataclass
class CacheWriter:
    """A cache file being written, one array after another.

    Attributes:
        about: plain values, written last.
    """

    archive: ZipFile
    about: dict[str, Any] = field(default_factory=dict)
    _arrays: dict[str, tuple[str, list[int]]] = field(default_factory=dict)
    _member: IO[bytes] | None = None

    def append(self, name: str, block: NDArray[Any]) -> None:
        """Appends rows to an array; all rows of one array come before those of the next.

        Args:
            name: of the array.
            block: [n, …] of the same type and row shape as the blocks before it.
        """
        if name not in self._arrays:
            self.close()
            self._arrays[name] = (block.dtype.str, [0, *block.shape[1:]])
            self._member = self.archive.open(name, "w", force_zip64=True)
        assert self._member is not None
        self._member.write(np.ascontiguousarray(block).data)
        self._arrays[name][1][0] += len(block)

    def close(self) -> None:
        """Ends the array being written."""
        if self._member:
            self._member.close()

    def finish(self) -> None:
        """Writes the types, the shapes and the plain values."""
        self.close()
        content = {"arrays": self._arrays, "about": self.about}
        self.archive.writestr(ABOUT, json.dumps(content))


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
        writer.finish()


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
                    if verify:
                        _verify(archive, name, path)
                    offset = _offset(file, archive, name)
                    array = np.memmap(path, dtype, "c", offset, tuple(shape))
                arrays[name] = array.reshape(shape)
            return Cache(arrays, content["about"])
    except Exception as error:  # damage shows as any of a dozen exceptions of zipfile and numpy
        raise ValueError(f"{path} is damaged ({error!r})") from error


def _verify(archive: ZipFile, name: str, path: Path) -> None:
    """Reads a member through, with a progress bar after one second; zipfile compares its CRC."""
    with (
        archive.open(name) as member,
        tqdm(
            desc=f"Verifying {path.name}",
            total=archive.getinfo(name).file_size,
            unit="B",
            unit_scale=True,
            delay=1,
            leave=False,
            disable=None,
        ) as bar,
    ):
        while block := member.read(BLOCK):
            bar.update(len(block))


def _offset(file: IO[bytes], archive: ZipFile, name: str) -> int:
    """Where a member's bytes begin in the file."""
    start = archive.getinfo(name).header_offset
    file.seek(start)
    header = file.read(LOCAL_HEADER)
    lengths = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return start + LOCAL_HEADER + sum(lengths)
