"""The jobs of a sweep: each in a process of its own, and what is told of those that failed."""

import ctypes
import json
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from artgan.errors import UserError
from artgan.files import atomic_write

FAILURE = "failure.json"
END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)

Work = Callable[[], float | None]


def apart(work: Work) -> float | None:
    """Does `work` in a process of its own, so that one that is killed takes no other job with it.

    Signals that ask this process to stop are handed on to that one, which may save its state first.

    Args:
        work: gives a number, or nothing.

    Raises:
        UserError: `work` raised it, or came to another bad end.
        KeyboardInterrupt: it was stopped.
    """
    if sys.platform != "linux":
        return _tried(work)  # a forked process may not use the libraries of other systems
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    stops: list[int] = []

    def hand_on(number: int, _: FrameType | None) -> None:
        stops.append(number)
        if process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)

    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {kind: signal.getsignal(kind) for kind in kinds}
    process = fork.Process(target=_report, args=(work, sender, handlers))
    _handle({kind: hand_on for kind in kinds if handlers[kind] != signal.SIG_IGN})
    try:
        process.start()
        sender.close()  # else its end would not be seen here
        if stops:  # from before there was a process
            hand_on(stops[0], None)
        outcome = receiver.recv()
    except EOFError:
        outcome = KeyboardInterrupt() if stops else None
    except SystemExit:  # of submitit, when a job's time is over
        process.terminate()
        outcome = KeyboardInterrupt()
    finally:
        process.join()
        receiver.close()
        _handle(handlers)
    if process.exitcode and outcome is None:
        raise UserError(_bad_end(process))
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _handle(handlers: Mapping[signal.Signals, Any]) -> None:
    for kind, handler in handlers.items():
        signal.signal(kind, handler)


def _report(work: Work, sender: Connection, handlers: Mapping[signal.Signals, Any]) -> None:
    """Does the work, and sends what it gave or raised."""
    ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGTERM)
    os.setsid()  # Ctrl-C comes from the other process alone: twice, it would end this one at once
    _handle(handlers)
    try:
        sender.send(_tried(work))
    except UserError as error:
        sender.send(UserError(str(error)))  # a subclass may not be fit for sending
    except KeyboardInterrupt as error:
        sender.send(error)


def _tried(work: Work) -> float | None:
    try:
        return work()
    except UserError:
        raise
    except Exception as error:
        traceback.print_exc()
        raise UserError("".join(traceback.format_exception_only(error)).strip()) from error


def _bad_end(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code == -signal.SIGKILL:
        return "was killed, as the system does when it is short of memory."
    return f"was ended by {signal.Signals(-code).name}." if code < 0 else f"ended with code {code}."


def note_failure(folder: Path, overrides: Sequence[str], message: str) -> None:
    """Leaves word of a failed job in its folder, for the process that began the sweep.

    Args:
        folder: of the job, named after its number.
        overrides: `key=value` of the job.
        message: why it failed.
    """
    with atomic_write(folder / FAILURE) as file:
        file.write(json.dumps({"overrides": list(overrides), "message": message}).encode())


def failures(folder: Path, common: Sequence[str]) -> list[str]:
    """What to tell of the failed jobs of a sweep: a line for each, below a heading; none if none.

    Args:
        folder: of the sweep, with one folder for each job.
        common: `key=value` that all jobs have, and that need not be told.
    """
    jobs = sorted((path for path in folder.glob("*") if path.name.isdigit()), key=_number)
    lines = []
    for job in jobs:
        if (job / FAILURE).is_file():
            failure = json.loads((job / FAILURE).read_text())
            own = [override for override in failure["overrides"] if override not in common]
            message = " ".join(failure["message"].split())
            lines.append(f"  {' '.join([f'#{job.name}', *own])}: {message}")
    return [f"{len(lines)} of {len(jobs)} jobs failed:", *lines] if lines else []


def _number(job: Path) -> int:
    return int(job.name)
