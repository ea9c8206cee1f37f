"""The packed set: every painting decoded and cut once, kept as one uint8 array beside the folder.

    <root>/.artgan/files.json            what is known of each file, to notice changes
    <root>/.artgan/report.html           the same for a person to read, and report.json
    <root>/.artgan/<key>.npy             uint8 [rows, resolution, 3], all strips one after another
    <root>/.artgan/<key>.json            the file, length and direction of each strip, and checksums
    <root>/.artgan/features/<key>-….npz  features of its squares, to measure against

`key` is a hash of the contents of all files and of how they are cut, so that a pack is never
stale: another content or another setting is another pack.
"""

import hashlib
import io
import json
import mmap
import os
import socket
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from artgan.data.checkup import FOLDER, REPORT, Box, Checkup, read_record
from artgan.data.crop import Strip, cut
from artgan.data.decode import Found, find_pictures
from artgan.data.inspection import check_folder, conclude, examine
from artgan.errors import UserError, printable
from artgan.files import atomic_write, cannot_write, hold, read_checked, write_checked

ELSEWHERE = Path("datasets/.packs")
FEATURES = "features"
FEWEST_PAINTINGS = 16
# Raise when the same files and settings would give other pixels than before.
VERSION = 2
BLOCK = 2**20  # bytes verified at once


class Cut(NamedTuple):
    """How squares are cut from the paintings of a folder.

    Attributes:
        resolution: side of the squares, in pixels.
        crop: center, random or tiles.
        border: keep, or trim plain mounts and frames off before.
        deduplicate: whether only one of paintings that show the same is used.
    """

    resolution: int
    crop: str = "center"
    border: str = "keep"
    deduplicate: bool = False


@dataclass(frozen=True)
class Pack:
    """A folder of paintings, ready for training, as strips whose short side is the resolution.

    A square is a part of a strip; where it lies along a strip that is longer is chosen when it is
    taken, so that it can move from epoch to epoch.

    Attributes:
        rows: uint8 [rows, resolution, 3] in [0, 255], the strips one after another.
        starts: int64 [N], where in `rows` each strip begins.
        lengths: int64 [N], rows of each strip, ≥ resolution.
        lying: bool [N], whether the rows of a strip are columns of its painting.
        files: the file each strip came from, relative to the folder.
        key: hash of the contents and settings, 16 hexadecimal digits.
        checkup: what is in the folder.
        report: the page that tells it to a person.
    """

    rows: NDArray[np.uint8]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    lying: NDArray[np.bool_]
    files: list[str]
    key: str
    checkup: Checkup
    report: Path

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def resolution(self) -> int:
        return self.rows.shape[1]

    def split(self, holdout: float) -> tuple["Pack", "Pack"]:
        """Sets paintings aside that are never trained on.

        Which ones follows from their names alone, so it is the same for every run on them. Strips
        of one painting stay together, and so do paintings that show the same.

        Args:
            holdout: share of the paintings, 0 ≤ holdout < 1.

        Returns:
            Those to train on, and those held out, none for a share of 0.

        Raises:
            UserError: it leaves fewer than 16 paintings to train on.
        """
        if not holdout:
            return self, self._only(np.zeros(len(self), bool))
        first = {name: min(group) for group in self.checkup.duplicates for name in group}
        names = [first.get(name, name) for name in self.files]
        lots = {name: hashlib.sha256(os.fsencode(name)).digest() for name in names}
        drawn = set(sorted(lots, key=lots.__getitem__)[: round(holdout * len(lots))])
        held = np.array([name in drawn for name in names])
        left = len(lots) - len(drawn)
        if drawn and left < FEWEST_PAINTINGS:
            raise UserError(
                f"dataset.holdout: {holdout:g} leaves {left} of {len(lots)} paintings to train on; "
                f"at least {FEWEST_PAINTINGS} are needed."
            )
        return self._only(~held), self._only(held)

    def _only(self, chosen: NDArray[np.bool_]) -> "Pack":
        return replace(
            self,
            starts=self.starts[chosen],
            lengths=self.lengths[chosen],
            lying=self.lying[chosen],
            files=[file for file, kept in zip(self.files, chosen, strict=True) if kept],
        )

    def forget_read(self) -> None:
        """Takes what was read of a mapped file out of memory; the system may keep it cached.

        So the memory of a process does not grow to the size of the file.
        """
        if isinstance(self.rows, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
            self.rows._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

    def first_rows(
        self, strips: NDArray[np.int64], places: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Where in `rows` one square of each of some strips begins; arguments as of `squares`."""
        slack = self.lengths[strips] - self.resolution
        return self.starts[strips] + (places * (slack + 1)).astype(np.int64)

    def squares(self, strips: NDArray[np.int64], places: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Cuts one square from each of some strips.

        Args:
            strips: [n] numbers of the strips.
            places: [n] where along each, 0 ≤ place < 1; ½ is the middle.

        Returns:
            uint8 [n, resolution, resolution, 3].
        """
        first = self.first_rows(strips, places)
        squares = self.rows[first[:, None] + np.arange(self.resolution)]
        lying = self.lying[strips]
        squares[lying] = squares[lying].swapaxes(1, 2)
        return squares


def load_pack(root: Path, how: Cut) -> Pack:
    """Loads the pack of the paintings below `root`, and makes it first where there is none yet.

    Args:
        root: folder of paintings, searched recursively.
        how: to cut them.

    Raises:
        UserError: the folder is missing, or has fewer than 16 usable paintings.
    """
    with prepared(root) as (folder, found):
        before = read_record(folder)
        # In a new folder, checking and packing are one pass over the files.
        if before.facts:
            checkup = before = check_folder(root, folder, found, before)
            try:
                return _read_pack(checkup, folder, how)
            except FileNotFoundError:
                pass  # not there yet
            except (OSError, ValueError):
                array = printable(str(folder / f"{_key(checkup, how)}.npy"))
                print(f"{array}: damaged; making it anew from the paintings", file=sys.stderr)
        checkup = _write_pack(root, folder, how, found, before)
        try:
            return _read_pack(checkup, folder, how, verify=False)  # just written
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be mapped into memory ({error.strerror})."
            ) from error


def open_pack(root: Path, how: Cut, key: str) -> Pack:
    """The pack that another process has loaded, without another look at the paintings.

    Raises:
        UserError: it does not lie here.
    """
    folder = _place(root)
    try:
        # That process has verified it.
        pack = _read_pack(replace(read_record(folder), root=root), folder, how, verify=False)
    except (OSError, ValueError, KeyError, TypeError):
        pack = None
    if pack is None or pack.key != key:
        raise UserError(
            f"{root}: on {socket.gethostname()} other paintings lie here, or none, than where the "
            "run was started. All machines need them on a disk that they share."
        )
    return pack


@contextmanager
def prepared(root: Path) -> Iterator[tuple[Path, Found]]:
    """The folder for what is known of `root`, held against other processes until it is left.

    It lies in `root`, or elsewhere where that cannot be written.

    Yields:
        The folder, and what was found in `root`.

    Raises:
        UserError: there is no folder `root`, or no picture in it.
    """
    try:
        is_folder = root.is_dir()
    except OSError as error:
        raise UserError(f"dataset.root: {root} cannot be read ({error.strerror}).") from error
    if not is_folder:
        raise UserError(f"dataset.root: there is no folder {root}. Give that of your paintings.")
    found = find_pictures(root)
    if not found.names:
        raise UserError(
            f"{root}: no pictures in this folder or below it. artgan reads JPEG, PNG, WebP, TIFF, "
            "HEIC, AVIF, JPEG 2000, BMP, GIF, TGA, PPM and PGM files, and does not follow linked "
            "folders."
        )
    folder = _place(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = hold(folder / "lock", root)
    except OSError as error:
        raise cannot_write(folder, error) from error
    with lock:
        for left_over in folder.glob(".*.tmp"):
            left_over.unlink(missing_ok=True)
        yield folder, found


def _place(root: Path) -> Path:
    folder = root / FOLDER
    if os.access(folder if folder.exists() else root, os.W_OK):
        return folder
    return ELSEWHERE / _identity(root)


def _identity(root: Path) -> str:
    return f"{root.name}-{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]}"


def _contents(checkup: Checkup) -> str:
    # A file that cannot be used makes no other set of paintings.
    described = json.dumps([(facts.file, facts.sha256) for facts in checkup.usable])
    return hashlib.sha256(described.encode()).hexdigest()


def _key(checkup: Checkup, how: Cut) -> str:
    described = json.dumps([VERSION, *how, _contents(checkup)])
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def _read_pack(checkup: Checkup, folder: Path, how: Cut, verify: bool = True) -> Pack:
    """Reads a pack; an `OSError` says that it is not there, a `ValueError` that it is damaged."""
    key = _key(checkup, how)
    index = read_checked(folder / f"{key}.json")
    array = folder / f"{key}.npy"
    if verify and _crc(array) != index["crc"]:
        raise ValueError(array)
    files, lengths, lying = zip(*index["strips"], strict=True)
    return Pack(
        np.load(array, mmap_mode="c"),
        np.cumsum(lengths) - lengths,
        np.array(lengths, np.int64),
        np.array(lying, bool),
        list(files),
        key,
        checkup,
        folder / REPORT,
    )


def _crc(path: Path) -> int:
    """CRC-32 of a file, with a progress bar from the second second on."""
    crc = 0
    with (
        path.open("rb") as file,
        tqdm(
            total=path.stat().st_size,
            desc=f"Verifying {path.name}",
            unit="B",
            unit_scale=True,
            delay=1,
            leave=False,
            disable=None,
        ) as bar,
    ):
        while block := file.read(BLOCK):
            crc = zlib.crc32(block, crc)
            bar.update(len(block))
    return crc


def _write_pack(root: Path, folder: Path, how: Cut, found: Found, before: Checkup) -> Checkup:
    facts = []
    strips: list[tuple[str, int, bool]] = []
    try:
        # The name of a pack, and which duplicates it leaves out, are known only at the end.
        with tempfile.TemporaryFile(dir=folder) as draft:
            for described, cuts in examine(root, found.names, partial(_strips, how)):
                facts.append(described)
                for rows, lying in cuts or []:
                    strips.append((described.file, len(rows), lying))
                    draft.write(rows.tobytes())
            checkup = conclude(root, folder, facts, found.others, before)
            draft.seek(0)
            _write_chosen(draft, strips, checkup, folder, how)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return checkup


def _strips(how: Cut, image: Image.Image, frame: Box | None) -> list[Strip]:
    inner = image.crop(frame) if frame and how.border == "trim" else image
    return cut(inner, how.resolution, how.crop)


def _write_chosen(
    draft: IO[bytes], strips: list[tuple[str, int, bool]], checkup: Checkup, folder: Path, how: Cut
) -> None:
    left_out = checkup.superfluous if how.deduplicate else set()
    chosen = [strip for strip in strips if strip[0] not in left_out]
    count = len({file for file, _, _ in chosen})
    if count < FEWEST_PAINTINGS:
        raise UserError(_too_few(checkup, count))
    key = _key(checkup, how)
    shape = (sum(length for _, length, _ in chosen), how.resolution, 3)
    header = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    with atomic_write(folder / f"{key}.npy") as out:
        out.write(header.getvalue())
        crc = zlib.crc32(header.getvalue())
        for file, length, _ in strips:
            rows = draft.read(length * how.resolution * 3)
            if file not in left_out:
                out.write(rows)
                crc = zlib.crc32(rows, crc)
        # The array appears only once its index lies there: it is what marks a pack as whole.
        index = {"contents": _contents(checkup), "crc": crc, "strips": chosen}
        write_checked(folder / f"{key}.json", index)
    _remove_outdated(folder, _contents(checkup))


def _remove_outdated(folder: Path, contents: str) -> None:
    """Removes packs of what the folder held before, and features; no run could go on with those."""
    for array in folder.glob("*.npy"):
        index = array.with_suffix(".json")
        with suppress(OSError, ValueError):
            if read_checked(index)["contents"] == contents:
                continue
        array.unlink(missing_ok=True)
        index.unlink(missing_ok=True)
    for features in (folder / FEATURES).glob("*.np[yz]"):
        if not (folder / f"{features.name.partition('-')[0]}.npy").exists():
            features.unlink(missing_ok=True)


def _too_few(checkup: Checkup, count: int) -> str:
    reasons = "".join(
        f"\n  {printable(facts.file)}: {facts.reason}" for facts in checkup.unusable[:10]
    )
    return (
        f"{checkup.root}: {count} usable paintings; at least {FEWEST_PAINTINGS} are needed. "
        f"{len(checkup.unusable)} files cannot be used.{reasons}"
    )
