"""Processes of `train.py` that start at once, forked from one that has torch imported."""

import multiprocessing
import os
import re
import resource
import runpy
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.helpers import ROOT

# What a file is, by its path.
KINDS = {
    "pack": r"/\.artgan/",
    "checkpoint": r"\.ckpt",
    "grid": r"/samples/",
    "measurement": r"/evaluated/",
    "event file": r"tfevents",
    "configuration": r"config\.yaml",
}


def kind_of(path: str) -> str | None:
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, path)), None)


def begin(
    arguments: list[str],
    cwd: Path,
    log: Path,
    prepare: Callable[..., None] | None = None,
    *more: Any,
) -> ForkServerProcess:
    """Starts `train.py`.

    Args:
        arguments: of the command.
        cwd: where it is given.
        log: what it prints.
        prepare: called in the new process before all else, with the arguments that follow.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.lives", "artgan.training.run"])
    parts = (arguments, cwd, log, prepare, more)
    process = context.Process(target=_live, args=parts, daemon=True)  # ends with a failing test
    process.start()
    return process


def _live(
    arguments: list[str],
    cwd: Path,
    log: Path,
    prepare: Callable[..., None] | None,
    more: tuple[Any, ...],
) -> None:
    os.chdir(cwd)
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.argv = ["train.py", *arguments]
    if prepare:
        prepare(*more)
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


def die_at(kind: str, number: int, half: bool, note: Path) -> None:
    """Has this process killed at its n-th operation on a file of a kind: opening, renaming, ….

    Args:
        kind: of the file.
        number: of the operation, from 0 on.
        half: whether what was about to be synced or appended is half written then.
        note: file to write the kind to.
    """
    left = [number]

    def count(path: str) -> bool:
        if kind_of(path) != kind:
            return False
        left[0] -= 1
        return left[0] < 0

    def die() -> None:
        note.write_text(kind)
        os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.link", "os.remove", "os.mkdir"):
            return
        if not isinstance(arguments[0], str | bytes | os.PathLike) or arguments[0] == note:
            return
        path = os.fsdecode(arguments[0])
        if count(path):
            if half and event == "open" and arguments[1] == "ab":
                descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
                os.write(descriptor, b"\x18\x00\x00\x00\x00\x00\x00\x00\xa3\x7f\x4b\x22\x09")
            die()

    sync = os.fsync

    def half_synced(descriptor: int) -> None:
        if count(str(Path(f"/proc/self/fd/{descriptor}").readlink())):
            if half:
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            die()
        sync(descriptor)

    os.fsync = half_synced  # type: ignore[assignment]
    sys.addaudithook(watch)


def limit_memory(more: int) -> None:
    """Limits the memory of this process to a number of bytes more than it has."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + more, taken + more))


def surround(variables: dict[str, str]) -> None:
    """Adds to the environment of this process."""
    os.environ.update(variables)
