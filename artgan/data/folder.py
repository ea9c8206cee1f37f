"""From a folder of paintings to its pack: locked, inspected, cut, and remembered."""

import hashlib
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from zipfile import is_zipfile

from tqdm import tqdm

from artgan.cache import new_cache
from artgan.data.crop import Strip, cut
from artgan.data.decode import SUFFIXES, find_images
from artgan.data.inspection import (
    Checkup,
    Facts,
    find_duplicates,
    inspect_file,
    is_current,
    read_record,
    write_record,
)
from artgan.data.pack import (
    Cut,
    IndexEntry,
    Pack,
    is_whole,
    pack_path,
    read_pack,
    remove_outdated,
    write_index,
)
from artgan.data.report import REPORT, write_report
from artgan.errors import UserError, printable
from artgan.files import cannot_write, hold
from artgan.workers import map_in_processes

FOLDER = ".artgan"  # what artgan keeps beside the paintings of a folder
ELSEWHERE = Path("datasets/.packs")  # the same for folders that cannot be written
KILLED = "killed the process that read it: damaged, or too large for the free memory"
FEW = 128  # files that this process has read before others would have started


def check_folder(root: Path) -> tuple[Checkup, Path]:
    """Inspects the files below `root` that are new or have changed; returns all, and the report.

    Raises:
        UserError: there is no such folder, no image in it, or no place to write the report.
    """
    with _opened(root, "root") as folder:
        for _ in folder.inspect(folder.stale, None):
            pass
        return folder.finish_check(), folder.cache / REPORT


def load_pack(root: Path, how: Cut) -> Pack:
    """Loads the pack of the paintings below `root`, which is made first if it is not there.

    Raises:
        UserError: the folder is missing, or has too few usable paintings.
    """
    with _opened(root, "dataset.root") as folder:
        if folder.stale or not folder.is_packed(how):
            _write_pack(folder, how)
        try:
            return read_pack(folder.finish_check(), folder.cache, how)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder.cache}: the pack cannot be read ({error}).") from error


def open_pack(root: Path, how: Cut, key: str) -> Pack:
    """Opens the pack that another process has loaded, without checking the paintings again.

    Raises:
        UserError: it is not here.
    """
    cache = _cache_folder(root)
    with suppress(OSError, ValueError):
        pack = read_pack(replace(read_record(cache), root=root), cache, how)
        if pack.key == key:
            return pack
    raise UserError(
        f"{root}: on {socket.gethostname()} this folder is missing, or has other paintings than "
        "where the run was started. Put them on a disk that all machines share."
    )


@dataclass
class _Folder:
    """A folder of paintings while it is inspected."""

    root: Path
    cache: Path  # where artgan keeps what it knows of the folder
    names: list[str]  # of its image files
    others: dict[str, int]  # how many other files there are, by their ending
    checkup: Checkup  # of the last time, until `finish_check`
    facts: dict[str, Facts]  # what is known now, by name

    @property
    def stale(self) -> list[str]:
        return [name for name in self.names if name not in self.facts]

    def is_packed(self, how: Cut) -> bool:
        return is_whole(pack_path(self.cache, self.facts.values(), how))

    def inspect(self, names: list[str], how: Cut | None) -> Iterator[tuple[str, Strip]]:
        """Inspects files, on all cores, with a progress bar; yields their strips, in order."""
        function = partial(_inspect, self.root, how)
        results = map_in_processes(function, names) if len(names) >= FEW else map(function, names)
        label = f"Checking {self.root.name}"
        with tqdm(total=len(names), desc=label, unit="img", leave=False, disable=None) as bar:
            for name, result in zip(names, results, strict=True):
                bar.update()
                self.facts[name], strips = result or (_passed_over(self.root, name, KILLED), [])
                yield from ((name, strip) for strip in strips)

    def finish_check(self) -> Checkup:
        """Finds duplicates, and writes record and report, if anything has changed."""
        facts = [self.facts[name] for name in self.names]
        changed = (facts, self.others) != (self.checkup.facts, self.checkup.others)
        if changed or not (self.cache / REPORT).exists():
            duplicates = find_duplicates(self.root, facts)
            self.checkup = Checkup(self.root, facts, duplicates, self.others)
            write_record(self.checkup, self.cache)
            write_report(self.checkup, self.cache)
        return self.checkup


@contextmanager
def _opened(root: Path, option: str) -> Iterator[_Folder]:
    """A folder of paintings, locked against other processes; refused if it is missing or empty.

    The option is for messages.
    """
    try:
        is_folder = root.is_dir()
        refuse_file(root, option)
    except OSError as error:
        raise UserError(f"{option}: {root} cannot be read ({error.strerror}).") from error
    if not is_folder:
        raise UserError(f"{option}: there is no folder {root}. Give the folder of your paintings.")
    names, others = find_images(root)
    if not names:
        held = ", ".join(f"{n:,} {kind or 'without ending'}" for kind, n in others.items())
        raise UserError(
            f"{root}: no images in this folder or below it, but {held or 'nothing'}. artgan reads "
            "JPEG, PNG, WebP, TIFF, HEIC, AVIF, JPEG 2000, BMP, GIF, TGA, PPM and PGM files, and "
            "does not unpack archives or follow linked folders."
        )
    cache = _cache_folder(root)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = hold(cache / "lock", root)
    except OSError as error:
        raise cannot_write(cache, error) from error
    with lock:
        for leftover in cache.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        checkup = replace(read_record(cache), root=root)
        known = {facts.file: facts for facts in checkup.facts if is_current(root, facts)}
        kept = {name: known[name] for name in names if name in known}
        yield _Folder(root, cache, names, others, checkup, kept)


def refuse_file(root: Path, option: str) -> None:
    """Refuses a file where a folder of paintings is asked for; UserError says what to do."""
    if not root.is_file():
        return
    fault, advice = "is a file, not a folder", "Give the folder of your paintings."
    if is_zipfile(root):
        archive, folder = (
            shlex.quote(str(path)) for path in (root, root.with_name(f"{root.stem}-unpacked"))
        )
        fault = "is a zip archive"
        advice = f"Unpack it by: python -m zipfile -e {archive} {folder}\nThen give {folder}"
    elif root.suffix.lower() in SUFFIXES:
        fault = "is one image"
        advice = f"Give the folder of your paintings, such as {root.absolute().parent}"
    raise UserError(f"{option}: {root} {fault}. {advice}")


def _cache_folder(root: Path) -> Path:
    folder = root / FOLDER
    if os.access(folder if folder.exists() else root, os.W_OK):
        return folder
    digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()
    return ELSEWHERE / f"{root.name}-{digest[:8]}"


def _inspect(root: Path, how: Cut | None, name: str) -> tuple[Facts, list[Strip]]:
    try:
        facts, image, frame = inspect_file(root / name, name)
        if image is None or how is None:
            return facts, []
        inner = image.crop(frame) if frame and how.border == "trim" else image
        return facts, cut(inner, how.resolution, how.crop)
    except Exception as error:  # one file must not end the check of a folder
        reason = "too large for this machine's memory"
        if not isinstance(error, MemoryError):
            reason = f"cannot be inspected: {type(error).__name__}: {error}"
        return _passed_over(root, name, reason), []


def _passed_over(root: Path, name: str, reason: str) -> Facts:
    size, mtime_ns = -1, 0
    with suppress(OSError):
        status = (root / name).stat()
        # So it is not tried again, perhaps in this process, until it is changed or touched.
        size, mtime_ns = status.st_size, status.st_mtime_ns
    return Facts(name, size, mtime_ns, "", reason)


def _write_pack(folder: _Folder, how: Cut) -> None:
    """Packs the paintings; each file is read once, those that are new or have changed first.

    Then it is known whether the pack is there already: files that were only touched, or that cannot
    be used, do not change it.
    """
    if any(folder.cache.glob("*.npy")):
        message = "was packed by an earlier version of artgan; packing it again"
        print(f"{printable(str(folder.root))}: {message}", file=sys.stderr)
    draft = folder.cache / ".pack.tmp"
    usable = [name for name, facts in folder.facts.items() if facts.reason is None]
    strips: list[IndexEntry] = []
    start = 0
    with new_cache(draft) as writer:
        for names in (folder.stale, usable):
            for file, (rows, lying) in folder.inspect(names, how):
                writer.append("rows", rows)
                strips.append((file, start, len(rows), lying))
                start += len(rows)
            packed = folder.is_packed(how)
            if packed:
                break
        if not packed:
            write_index(writer, strips, folder.finish_check(), how)
    if packed:
        draft.unlink()
    else:
        draft.replace(pack_path(folder.cache, folder.facts.values(), how))
        remove_outdated(folder.cache, folder.finish_check())
