"""What is in a folder of paintings: every file read once, decoded fully, and described."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from artgan.data import duplicates
from artgan.data.border import find_frame
from artgan.data.checkup import REPORT, Box, Checkup, Facts, write_record
from artgan.data.decode import Found, UnusableImage, decode
from artgan.data.report import write_report
from artgan.workers import map_in_processes

# Standard deviation, of 255 levels, below which a picture shows nothing.
ONE_COLOR = 1.5
LARGEST_FILE = 2**30  # bytes; no picture that can be decoded within reason needs more
# Fewer files than this are not worth the half second that other processes take to start.
FEW = 128

Result = TypeVar("Result")
Use = Callable[[Image.Image, Box | None], Result]
Examined = tuple[Facts, Result | None]


def check_folder(root: Path, folder: Path, found: Found, before: Checkup) -> Checkup:
    """Describes every picture below `root`, and reads only those that are new or have changed.

    Args:
        root: folder of paintings.
        folder: where the record and its report will lie.
        found: what lies below `root`.
        before: what was known of it the last time.
    """
    known = before.facts_by_name
    stale = [name for name in found.names if not _is_current(root, known.get(name))]
    fresh = {facts.file: facts for facts, _ in examine(root, stale, _nothing)}
    facts = [fresh.get(name) or known[name] for name in found.names]
    return conclude(root, folder, facts, found.others, before)


def conclude(
    root: Path, folder: Path, facts: list[Facts], others: dict[str, int], before: Checkup
) -> Checkup:
    """Looks for duplicates, and writes record and report, where anything has changed."""
    if (facts, others) == (before.facts, before.others) and (folder / REPORT).exists():
        return replace(before, root=root)
    checkup = Checkup(root, facts, _find_duplicates(root, facts), others)
    write_record(checkup, folder)
    write_report(checkup, folder)
    return checkup


def _is_current(root: Path, known: Facts | None) -> bool:
    if known is None or known.size < 0:
        return False
    try:
        status = (root / known.file).stat()
    except OSError:
        return False
    return (known.size, known.mtime_ns) == (status.st_size, status.st_mtime_ns)


def examine(root: Path, names: list[str], use: Use[Result]) -> Iterator[Examined[Result]]:
    """Reads, decodes and describes files, on all cores, with a progress bar.

    Args:
        root: folder of paintings.
        names: files below it.
        use: what else to do with each usable picture while it is at hand; it is given the RGB
            picture and what in it lies within a plain border. It must be a function of a module,
            as it runs in other processes.

    Yields:
        Facts of each file, in the given order, and what `use` gave; None for an unusable file.

    Raises:
        UserError: one process after another was ended from outside.
    """
    looks = partial(look, root, use)
    results = map_in_processes(looks, names) if len(names) >= FEW else map(looks, names)
    label = f"Checking {root.name}"
    with tqdm(total=len(names), desc=label, unit="img", leave=False, disable=None) as bar:
        for name, examined in zip(names, results, strict=True):
            bar.update()
            yield examined or (_given_up(root, name), None)


def look(root: Path, use: Use[Result], name: str) -> Examined[Result]:
    """Reads, decodes and describes one file."""
    try:
        content, mtime_ns = _read(root / name)
    except (OSError, MemoryError) as error:
        # A size that no file has, so that it is tried again at the next start.
        reason = getattr(error, "strerror", None) or "there is too little memory"
        return Facts(name, -1, 0, "", f"cannot be read: {reason}"), None
    described = (name, len(content), mtime_ns, hashlib.sha256(content).hexdigest())
    try:
        picture = decode(content)
        small = picture.image.resize((32, 32), Image.Resampling.BOX)
        color = _mean_color(small)
    except UnusableImage as error:
        return Facts(*described, reason=str(error)), None
    frame = find_frame(picture.image)
    reduced = picture.width / picture.image.width
    facts = Facts(
        *described,
        format=picture.format,
        mode=picture.mode,
        width=picture.width,
        height=picture.height,
        fingerprint=duplicates.fingerprint(small),
        color=color,
        frame=tuple(round(side * reduced) for side in frame) if frame else None,  # type: ignore[arg-type]
    )
    return facts, use(picture.image, frame)


def _given_up(root: Path, name: str) -> Facts:
    reason = "ended the process that read it: damaged, or too large for the memory there was"
    size, mtime_ns = -1, 0
    with suppress(OSError):
        status = (root / name).stat()
        # So it is not tried again, perhaps in this process, until it is changed or touched.
        size, mtime_ns = status.st_size, status.st_mtime_ns
    return Facts(name, size, mtime_ns, "", reason)


def _nothing(image: Image.Image, frame: Box | None) -> None:
    """For when a picture need only be described."""


def _read(path: Path) -> tuple[bytes, int]:
    """The bytes of a file, and the time of its last change before they were read."""
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(errno.ENOENT, "a link that leads nowhere")
    if not stat.S_ISREG(path.stat().st_mode):
        # A pipe of that name would be waited for without end.
        raise OSError(errno.EINVAL, "not a file, or a folder that may not be searched")
    with path.open("rb") as file:
        # Asked first: what changes while it is read will be read again at the next start.
        status = os.fstat(file.fileno())
        if status.st_size > LARGEST_FILE:
            raise OSError(errno.EFBIG, f"larger than {LARGEST_FILE >> 30} GiB")
        return file.read(), status.st_mtime_ns


def _mean_color(small: Image.Image) -> tuple[int, int, int]:
    """Mean red, green and blue of a reduced picture; refuses one of a single colour."""
    pixels = np.asarray(small, np.float64).reshape(-1, 3)
    red, green, blue = (round(level) for level in pixels.mean(0))
    if pixels.std(0).max() < ONE_COLOR:
        raise UnusableImage(f"nothing but one colour, #{red:02x}{green:02x}{blue:02x}")
    return red, green, blue


def _find_duplicates(root: Path, facts: list[Facts]) -> list[list[str]]:
    usable = [entry for entry in facts if entry.reason is None]

    @lru_cache(maxsize=4096)
    def sketch(number: int) -> duplicates.Sketch | None:
        try:
            return duplicates.sketch(decode((root / usable[number].file).read_bytes()).image)
        except (OSError, UnusableImage):
            return None

    groups = duplicates.group(
        [entry.sha256 for entry in usable], [entry.fingerprint for entry in usable], sketch
    )

    def largest_first(number: int) -> tuple[int, str]:
        return -usable[number].width * usable[number].height, usable[number].file

    return [
        [usable[number].file for number in sorted(members, key=largest_first)] for members in groups
    ]
