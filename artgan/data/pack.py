"""The packed set: every painting decoded and cut once, kept as one uint8 array beside the folder.

    <root>/.artgan/files.json            sizes, times and SHA-256 of the files, to notice changes
    <root>/.artgan/<key>.npy             uint8 [N, 3, resolution, resolution]
    <root>/.artgan/<key>.json            which file each painting came from, and what was skipped

`key` is a hash of the contents of all files and of how they are cut, so that a pack is never
stale: another content or resolution is another pack.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from artgan.data.scan import UnusableImage, decode, find_images, square_transform
from artgan.errors import UserError
from artgan.files import atomic_write

FOLDER = ".artgan"
FEWEST_PAINTINGS = 16
# Raise when the same files and settings would give other pixels than before.
VERSION = 1


@dataclass(frozen=True)
class Skipped:
    """A file that could not be used, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class Pack:
    """A folder of paintings, ready for training.

    Attributes:
        paintings: uint8 [N, 3, resolution, resolution] in [0, 255].
        files: the N files they came from, relative to the folder.
        skipped: the files that could not be used.
        key: hash of the contents and settings, 16 hexadecimal digits.
        path: the .npy file.
    """

    paintings: NDArray[np.uint8]
    files: list[str]
    skipped: list[Skipped]
    key: str
    path: Path


def load_pack(root: Path, resolution: int, fallback: Path) -> Pack:
    """Loads the pack of the paintings below `root`, and makes it first where there is none yet.

    Args:
        root: folder of paintings, searched recursively.
        resolution: side of the squares, in pixels.
        fallback: folder that takes the pack where `root` cannot be written.

    Raises:
        UserError: the folder is missing, or has fewer than 16 usable paintings.
    """
    if not root.is_dir():
        raise UserError(f"dataset.root: there is no folder {root}. Give that of your paintings.")
    files = find_images(root)
    if not files:
        raise UserError(
            f"{root}: no pictures in this folder or below it. artgan reads JPEG, PNG, WebP, TIFF, "
            "BMP, GIF, AVIF, PPM and PGM files."
        )
    folder = root / FOLDER if os.access(root, os.W_OK) else fallback / _identity(root)
    key = _key(_contents(root, files, folder), resolution)
    array, index = folder / f"{key}.npy", folder / f"{key}.json"
    try:
        return _read_pack(array, index, key)
    except (OSError, ValueError, KeyError, TypeError):
        # Not there yet, or damaged: either way it is made from the paintings.
        _write_pack(root, files, resolution, array, index)
    return _read_pack(array, index, key)


def _read_pack(array: Path, index: Path, key: str) -> Pack:
    described = json.loads(index.read_text(encoding="utf-8"))
    skipped = [Skipped(**entry) for entry in described["skipped"]]
    return Pack(np.load(array, mmap_mode="c"), described["files"], skipped, key, array)


def _identity(root: Path) -> str:
    return f"{root.name}-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8]}"


def _contents(root: Path, files: list[Path], folder: Path) -> list[tuple[str, str]]:
    """(name, SHA-256) of each file; only files whose size or time has changed are read again."""
    record = folder / "files.json"
    known = _read_record(record)
    current: dict[str, list[Any]] = {}
    unread = []
    for file in files:
        name = file.as_posix()
        try:
            status = (root / file).stat()
        except OSError as error:
            current[name] = [-1, -1, error.strerror]
            continue
        entry = known.get(name)
        if entry and entry[:2] == [status.st_size, status.st_mtime_ns]:
            current[name] = entry
        else:
            unread.append(name)
            current[name] = [status.st_size, status.st_mtime_ns, None]
    for name in tqdm(unread, "Reading", unit="img", leave=False, disable=None):
        try:
            current[name][2] = hashlib.sha256((root / name).read_bytes()).hexdigest()
        except OSError as error:
            # A size that never fits, so that the file is tried again at the next start.
            current[name] = [-1, -1, error.strerror]
    if current != known:
        with atomic_write(record) as out:
            out.write(json.dumps(current, ensure_ascii=False).encode())
    return [(name, entry[2]) for name, entry in current.items()]


def _read_record(path: Path) -> dict[str, Any]:
    """What the record says; nothing where it is missing or damaged, as it can be made anew."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _key(contents: list[tuple[str, str]], resolution: int) -> str:
    described = json.dumps([VERSION, resolution, "center", contents])
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def _write_pack(root: Path, files: list[Path], resolution: int, array: Path, index: Path) -> None:
    transform = square_transform(resolution)

    def cut(file: Path) -> NDArray[np.uint8] | Skipped:
        try:
            content = (root / file).read_bytes()
            square = transform(decode(content))
        except UnusableImage as error:
            return Skipped(file.as_posix(), str(error))
        except OSError as error:
            return Skipped(file.as_posix(), f"cannot be read: {error.strerror}")
        return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))

    used: list[str] = []
    skipped: list[Skipped] = []
    # Pillow decodes and resizes outside Python's lock, so threads use all cores.
    pool = ThreadPoolExecutor(os.cpu_count())
    squares = tqdm(
        pool.map(cut, files), "Packing", len(files), unit="img", leave=False, disable=None
    )
    with closing(squares), _cancelling(pool), _large_welcome(), atomic_write(array) as out:
        _write_header(out, 0, resolution)
        for file, square in zip(files, squares, strict=True):
            if isinstance(square, Skipped):
                skipped.append(square)
            else:
                used.append(file.as_posix())
                out.write(square.tobytes())
        if len(used) < FEWEST_PAINTINGS:
            raise UserError(_too_few(root, len(used), skipped))
        # The header has room for any count, so the true one goes in last.
        out.seek(0)
        _write_header(out, len(used), resolution)
        # The array appears only once its index lies there: it is what marks a pack as whole.
        with atomic_write(index) as index_out:
            described = {"files": used, "skipped": [asdict(entry) for entry in skipped]}
            index_out.write(json.dumps(described, ensure_ascii=False).encode())


@contextmanager
def _cancelling(pool: ThreadPoolExecutor) -> Iterator[None]:
    """Drops what the pool has not begun, so that Ctrl-C ends the packing at once."""
    try:
        yield
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _large_welcome() -> Iterator[None]:
    """Scans of long scrolls are large; only what Pillow refuses outright is left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _too_few(root: Path, count: int, skipped: list[Skipped]) -> str:
    reasons = "".join(f"\n  {entry.file}: {entry.reason}" for entry in skipped[:10])
    return (
        f"{root}: {count} usable paintings; at least {FEWEST_PAINTINGS} are needed. "
        f"{len(skipped)} files cannot be used.{reasons}"
    )


def _write_header(out: Any, count: int, resolution: int) -> None:
    shape = (count, 3, resolution, resolution)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
