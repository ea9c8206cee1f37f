"""The packed set: every painting decoded and cut once, kept as one uint8 array beside the folder.

    <root>/.artgan/files.cache   what is known of each file, to notice changes
    <root>/.artgan/report.html   the same for a person to read; report.json for programs
    <root>/.artgan/<key>.pack    the strips of all paintings, and the file each came from
    <root>/.artgan/features/     features of the squares, to measure against

`key` is a hash of the contents of all files and of how they are cut, so a pack is never stale:
other contents or other settings make another pack.
"""

import hashlib
import json
import mmap
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from artgan.cache import CacheWriter, read_cache
from artgan.data.inspection import Checkup, Facts
from artgan.data.report import REPORT
from artgan.errors import UserError, counted, printable

FEATURES = "features"
SUFFIX = ".pack"
INDEX = {"starts": np.int64, "lengths": np.int64, "lying": np.bool_}  # arrays beside `rows`
FEWEST_PAINTINGS = 16  # or squares of them, with tiles
VERSION = 3  # part of the key: increment when the same files and settings give other pixels

IndexEntry = tuple[str, int, int, bool]  # of one strip: file, first row, number of rows, lying


class Cut(NamedTuple):
    """How squares are cut from the paintings of a folder.

    Attributes:
        resolution: side of the squares, in pixels.
        crop: center, random or tiles.
        border: keep, or trim plain mounts and frames first.
        deduplicate: whether only one of several paintings that show the same is used.
    """

    resolution: int
    crop: str = "center"
    border: str = "keep"
    deduplicate: bool = False


@dataclass(frozen=True)
class Pack:
    """A folder of paintings, ready for training, as strips whose short side is the resolution.

    A square is a part of a strip. Where a strip is longer than the square, its place is chosen
    when it is taken, so that it can move from epoch to epoch.

    Attributes:
        rows: uint8 [rows, resolution, 3] in [0, 255], the rows of all strips.
        starts: int64 [N], where in `rows` each strip begins.
        lengths: int64 [N], rows of each strip, ≥ resolution.
        lying: bool [N], whether the rows of a strip are columns of its painting.
        files: the file each strip came from, relative to the folder.
        key: hash of the contents and settings, 16 hexadecimal digits.
        checkup: what is in the folder.
        report: the page that shows it.
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
        of one painting stay together, and so do duplicates. Those to train on are returned first.

        Raises:
            UserError: it leaves fewer than 16 paintings or, with tiles, squares to train on.
        """
        if not holdout:
            return self, self._only(np.zeros(len(self), bool))
        first = {name: min(group) for group in self.checkup.duplicates for name in group}
        names = [first.get(name, name) for name in self.files]
        lots = {name: hashlib.sha256(os.fsencode(name)).digest() for name in names}
        drawn = set(sorted(lots, key=lots.__getitem__)[: round(holdout * len(lots))])
        held = np.array([name in drawn for name in names])
        left = int((~held).sum())
        if drawn and left < FEWEST_PAINTINGS:
            raise UserError(
                f"dataset.holdout: {holdout:g} leaves {left} of {len(self)} to train on; "
                f"at least {FEWEST_PAINTINGS} are needed. Choose a smaller share."
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
        """Drops what was read of a mapped file from this process's memory.

        The system may keep it cached, but the process does not grow to the size of the file.
        """
        if isinstance(self.rows, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
            self.rows._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

    def first_rows(
        self, strips: NDArray[np.int64], places: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Where in `rows` the squares begin; arguments as of `squares`."""
        slack = self.lengths[strips] - self.resolution
        return self.starts[strips] + (places * (slack + 1)).astype(np.int64)

    def squares(self, strips: NDArray[np.int64], places: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Cuts one square from each of n strips: uint8 [n, resolution, resolution, 3].

        The places are where along each strip, 0 ≤ place < 1; ½ is the middle.
        """
        first = self.first_rows(strips, places)
        squares = self.rows[first[:, None] + np.arange(self.resolution)]
        lying = self.lying[strips]
        squares[lying] = squares[lying].swapaxes(1, 2)
        return squares


def pack_path(folder: Path, facts: Iterable[Facts], how: Cut) -> Path:
    """Where the pack of these files is; its stem is the key."""
    described = json.dumps([VERSION, *how, _contents(facts)])
    return folder / f"{hashlib.sha256(described.encode()).hexdigest()[:16]}{SUFFIX}"


def _contents(facts: Iterable[Facts]) -> str:
    # A file that cannot be used does not make it another set.
    described = sorted((entry.file, entry.sha256) for entry in facts if entry.reason is None)
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def is_whole(path: Path) -> bool:
    """Whether a pack is there and undamaged; a damaged one is removed."""
    try:
        read_cache(path, mapped=True)
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        message = "damaged; making it again from the paintings"
        print(f"{printable(str(path))}: {message}", file=sys.stderr)
        path.unlink(missing_ok=True)
        return False
    return True


def read_pack(checkup: Checkup, folder: Path, how: Cut) -> Pack:
    """Reads the pack of a folder that was checked; it was verified, or has just been written.

    Raises:
        OSError: it is not there, or cannot be read.
        ValueError: it is damaged.
    """
    path = pack_path(folder, checkup.facts, how)
    cache = read_cache(path, mapped=True, verify=False)
    rows, files = cache.arrays["rows"], cache.about["files"]
    # Copies, as the arrays in the file are not aligned.
    starts, lengths, lying = (np.array(cache.arrays[name]) for name in INDEX)
    return Pack(rows, starts, lengths, lying, files, path.stem, checkup, folder / REPORT)


def write_index(
    writer: CacheWriter, strips: Iterable[IndexEntry], checkup: Checkup, how: Cut
) -> None:
    """Writes which strips are used, in the order of their files, after the rows of all strips.

    Raises:
        UserError: there are fewer than 16 usable paintings or, with tiles, squares.
    """
    left_out = checkup.superfluous if how.deduplicate else set()
    used = sorted(entry for entry in strips if entry[0] not in left_out)
    if len(used) < FEWEST_PAINTINGS:
        hint = ""
        found = counted(len({file for file, *_ in used}), "usable painting")
        if how.crop == "tiles":
            found = f"{counted(len(used), 'square')} from {found}"
        elif any(
            max(one.width, one.height) > 2 * min(one.width, one.height) for one in checkup.usable
        ):
            hint = "dataset.crop=tiles cuts several squares from a long one. "
        reasons = "".join(
            f"\n  {printable(facts.file)}: {facts.reason}" for facts in checkup.unusable[:10]
        )
        raise UserError(
            f"{checkup.root}: {found}; at least {FEWEST_PAINTINGS} are needed. {hint}"
            f"{counted(len(checkup.unusable), 'file')} cannot be used.{reasons}"
        )
    files, *index = zip(*used, strict=True)
    for (name, dtype), values in zip(INDEX.items(), index, strict=True):
        writer.append(name, np.array(values, dtype))
    writer.about |= {"contents": _contents(checkup.facts), "files": files}


def remove_outdated(folder: Path, checkup: Checkup) -> None:
    """Removes packs of other contents or an older format, and features; no run could use them."""
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(OSError, ValueError):
            about = read_cache(path, mapped=True, verify=False).about
            if about["contents"] == _contents(checkup.facts):
                continue
        path.unlink(missing_ok=True)
    for path in folder.glob("*.npy"):
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
    (folder / "files.json").unlink(missing_ok=True)
    for path in (folder / FEATURES).glob("*-*"):
        if not (folder / f"{path.name.partition('-')[0]}{SUFFIX}").exists():
            path.unlink(missing_ok=True)
