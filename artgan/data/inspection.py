"""What is known of a folder of paintings: each file read once, decoded fully and described."""

import errno
import hashlib
import os
import re
import stat
from collections import Counter
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from artgan.cache import read_cache, write_cache
from artgan.data import duplicates
from artgan.data.border import find_frame
from artgan.data.decode import UnusableImage, decode
from artgan.errors import counted, printable

RECORD = "files.cache"
VERSION = 2  # increment when the same file would be described in another way
ONE_COLOR = 1.5  # standard deviation, of 255 levels, below which an image shows nothing
LARGEST_FILE = 2**30  # bytes; no image that can be decoded within reason needs more

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Facts:
    """What is known of one image file.

    Attributes:
        file: name relative to the folder, with forward slashes.
        size: in bytes; -1 if it cannot be read, or is a folder that may not be searched.
        mtime_ns: time of its last change.
        sha256: of its content; empty if it cannot be read.
        reason: why it cannot be used; None if it can. What follows is then zero or None.
        format, mode: as Pillow names them, such as JPEG and CMYK.
        width, height: in pixels, upright.
        pages: how many pages or frames it has, of which the first is used.
        fingerprint: 64-bit perceptual hash.
        color: mean red, green, blue, 0 to 255.
        frame: left, top, right, bottom of what is inside a plain border; None without one.
    """

    file: str
    size: int
    mtime_ns: int
    sha256: str
    reason: str | None = None
    format: str | None = None
    mode: str | None = None
    width: int = 0
    height: int = 0
    pages: int = 0
    fingerprint: int = 0
    color: tuple[int, int, int] = (0, 0, 0)
    frame: Box | None = None

    @property
    def kind_of_reason(self) -> str:
        return re.split("[:,]", self.reason or "")[0]


@dataclass(frozen=True)
class Checkup:
    """What is known of a folder.

    Attributes:
        root: the folder.
        facts: of its image files, in the order of their names.
        duplicates: groups of files that show the same; the first of each is the one to keep.
        others: how many other files there are, by their lower-case ending ("" for none).
    """

    root: Path
    facts: list[Facts]
    duplicates: list[list[str]]
    others: dict[str, int]

    @property
    def usable(self) -> list[Facts]:
        return [facts for facts in self.facts if facts.reason is None]

    @property
    def unusable(self) -> list[Facts]:
        return [facts for facts in self.facts if facts.reason is not None]

    @property
    def many_paged(self) -> list[Facts]:
        """Albums and animations."""
        return [facts for facts in self.facts if facts.pages > 1]

    @property
    def superfluous(self) -> set[str]:
        """The files that `dataset.deduplicate=true` leaves out."""
        return {file for group in self.duplicates for file in group[1:]}

    @property
    def reasons(self) -> dict[str, int]:
        """How many files cannot be used for each kind of reason, the most frequent first."""
        return dict(Counter(facts.kind_of_reason for facts in self.unusable).most_common())

    def summary(self) -> str:
        """What is in the folder, as one line."""
        parts = [f"{len(self.usable):,} of {len(self.facts):,} images can be used"]
        if self.unusable:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.items())
            parts.append(f"{len(self.unusable):,} cannot ({reasons})")
        if self.superfluous:
            parts.append(counted(len(self.superfluous), "duplicate"))
        if framed := sum(facts.frame is not None for facts in self.facts):
            parts.append(f"{framed:,} with a plain border")
        if self.many_paged:
            parts.append(f"{len(self.many_paged):,} with several pages, of which the first is used")
        return f"{printable(str(self.root))}: {'; '.join(parts)}."


def write_record(checkup: Checkup, folder: Path) -> None:
    """Writes what is known into `folder`."""
    write_cache(
        folder / RECORD,
        {},
        version=VERSION,
        facts=[astuple(facts) for facts in checkup.facts],
        duplicates=checkup.duplicates,
        others=checkup.others,
    )


def read_record(folder: Path) -> Checkup:
    """What was known the last time; nothing if the record is missing or damaged."""
    try:
        about = read_cache(folder / RECORD).about
        if about["version"] != VERSION:
            raise ValueError(about["version"])
        facts = [
            Facts(*others, tuple(color), frame and tuple(frame))  # type: ignore[call-arg]
            for *others, color, frame in about["facts"]
        ]
        return Checkup(folder, facts, about["duplicates"], about["others"])
    except (OSError, ValueError, KeyError, TypeError):
        return Checkup(folder, [], [], {})


def is_current(root: Path, facts: Facts) -> bool:
    """Whether a file is as it was when it was described, by its size and time of change."""
    try:
        status = (root / facts.file).stat()
    except OSError:
        return False
    return (facts.size, facts.mtime_ns) == (status.st_size, status.st_mtime_ns)


def inspect_file(path: Path, name: str) -> tuple[Facts, Image.Image | None, Box | None]:
    """Reads, decodes and describes one file, under a name.

    If it can be used, its image follows, upright RGB, and the part of that which is inside a plain
    border, None without one. Large images are reduced.
    """
    try:
        content, mtime_ns = _read(path)
    except (OSError, MemoryError) as error:
        # A size that no file has, so that it is read again at the next start.
        reason = getattr(error, "strerror", None) or "there is too little memory"
        return Facts(name, -1, 0, "", f"cannot be read: {reason}"), None, None
    known = (name, len(content), mtime_ns, hashlib.sha256(content).hexdigest())
    try:
        decoded = decode(content)
        small = decoded.image.resize((32, 32), Image.Resampling.BOX)
        pixels = np.asarray(small, np.float64).reshape(-1, 3)
        red, green, blue = (round(level) for level in pixels.mean(0))
        if pixels.std(0).max() < ONE_COLOR:
            raise UnusableImage(f"only one colour, #{red:02x}{green:02x}{blue:02x}")
    except UnusableImage as error:
        return Facts(*known, reason=str(error)), None, None
    frame = find_frame(decoded.image)
    scale = decoded.width / decoded.image.width
    facts = Facts(
        *known,
        format=decoded.format,
        mode=decoded.mode,
        width=decoded.width,
        height=decoded.height,
        pages=decoded.pages,
        fingerprint=duplicates.fingerprint(small),
        color=(red, green, blue),
        frame=tuple(round(side * scale) for side in frame) if frame else None,  # type: ignore[arg-type]
    )
    return facts, decoded.image, frame


def _read(path: Path) -> tuple[bytes, int]:
    """The bytes of a file, and the time of its last change before they were read."""
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(errno.ENOENT, "a broken link")
    if not stat.S_ISREG(path.stat().st_mode):
        # Reading a pipe would never end.
        raise OSError(errno.EINVAL, "not a file, or a folder that may not be searched")
    with path.open("rb") as file:
        # Asked first: what changes while it is read will be read again at the next start.
        status = os.fstat(file.fileno())
        if status.st_size > LARGEST_FILE:
            raise OSError(errno.EFBIG, f"larger than {LARGEST_FILE >> 30} GiB")
        return file.read(), status.st_mtime_ns


def find_duplicates(root: Path, facts: list[Facts]) -> list[list[str]]:
    """Groups of files that show the same, the largest image of each group first."""
    usable = [entry for entry in facts if entry.reason is None]

    @lru_cache(maxsize=4096)
    def sketch(number: int) -> duplicates.Sketch | None:
        try:
            content, _ = _read(root / usable[number].file)
            return duplicates.sketch(decode(content).image)
        except (OSError, MemoryError, UnusableImage):
            return None  # changed in the meantime: the next check will say how

    groups = duplicates.group(
        [entry.sha256 for entry in usable], [entry.fingerprint for entry in usable], sketch
    )
    largest_first = [(-entry.width * entry.height, entry.file) for entry in usable]
    return [[file for _, file in sorted(largest_first[n] for n in group)] for group in groups]
