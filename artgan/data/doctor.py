"""What is in a folder of paintings: every file read once, decoded fully, and described."""

import errno
import hashlib
import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from artgan.data import duplicates
from artgan.data.border import find_frame
from artgan.data.checkup import REPORT, Box, Checkup, Facts, read_record, write_record
from artgan.data.report import write_report
from artgan.data.scan import UnusableImage, decode, find_pictures
from artgan.errors import UserError

# Standard deviation, of 255 levels, below which a picture shows nothing.
ONE_COLOR = 1.5
LARGEST_FILE = 2**30  # bytes; no picture that can be decoded within reason needs more
# Fewer files than this are not worth the half second that other processes take to start.
FEW = 128
# Files that a process is given at once, and such lots ahead for each; the two bound the memory.
CHUNK, AHEAD = 16, 4

Result = TypeVar("Result")
Use = Callable[[Image.Image, Box | None], Result]
Examined = tuple[Facts, Result | None]


def check_folder(root: Path, folder: Path) -> Checkup:
    """Describes every picture below `root`, and reads only those that are new or have changed.

    Args:
        root: folder of paintings.
        folder: where the record of the last time lies, and this one's and its report will.
    """
    known = read_record(folder).facts_by_name
    names, others = find_pictures(root)
    stale = [name for name in names if not _is_current(root, known.get(name))]
    fresh = {facts.file: facts for facts, _ in examine(root, stale, _nothing)}
    return conclude(root, folder, [fresh.get(name) or known[name] for name in names], others)


def conclude(root: Path, folder: Path, facts: list[Facts], others: dict[str, int]) -> Checkup:
    """Looks for duplicates, and writes record and report, where anything has changed."""
    before = read_record(folder)
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
        UserError: one of the processes was ended from outside.
    """
    label = f"Checking {root.name}"
    with tqdm(total=len(names), desc=label, unit="img", leave=False, disable=None) as bar:
        for examined in _map_on_all_cores(partial(look, root, use), names):
            bar.update()
            yield examined


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


def _nothing(image: Image.Image, frame: Box | None) -> None:
    """For when a picture need only be described."""


def _read(path: Path) -> tuple[bytes, int]:
    """The bytes of a file, and the time of its last change before they were read."""
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(errno.ENOENT, "a link that leads nowhere")
    if not path.is_file():
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


def _map_on_all_cores(function: Callable[[str], Result], names: list[str]) -> Iterator[Result]:
    """Like `map`, in several processes, but never far ahead of what has been taken."""
    if len(names) < FEW:
        with _large_welcome():
            yield from map(function, names)
        return
    pool = ProcessPoolExecutor(
        mp_context=multiprocessing.get_context("spawn"), initializer=_start_process
    )
    waiting: deque[tuple[list[str], Future[list[Result]]]] = deque()
    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_map, function, chunk)))
            if len(waiting) > AHEAD * (os.cpu_count() or 1):
                yield from waiting[0][1].result()
                waiting.popleft()
        while waiting:
            yield from waiting[0][1].result()
            waiting.popleft()
    except BrokenProcessPool as error:
        raise UserError(
            f"A process was ended from outside, or by one of the files from {waiting[0][0][0]} to "
            f"{waiting[-1][0][-1]}. Try again; if it happens again, take those away."
        ) from error
    finally:
        # Also ends it at once at Ctrl-C.
        pool.shutdown(cancel_futures=True)


def _map(function: Callable[[str], Result], names: list[str]) -> list[Result]:
    with _large_welcome():
        return [function(name) for name in names]


def _start_process() -> None:
    # Ctrl-C reaches all processes; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process where the first one was killed; it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _large_welcome() -> Iterator[None]:
    """Scans of long scrolls are large; only what Pillow refuses outright is left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


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
