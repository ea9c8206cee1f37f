"""One function applied to many files on all cores, whatever becomes of the processes."""

import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeVar

from artgan.errors import UserError, printable

LOT = 16  # results sent at once; one by one they would cost a tenth more
AHEAD = 64  # results of each process that may wait for those before them; bounds the memory
ATTEMPTS = 2  # at a file, alone, before it is passed over
MOST_ENDED = 8  # files passed over before it cannot be their fault

Result = TypeVar("Result")


def map_in_processes(
    function: Callable[[str], Result], names: list[str]
) -> Iterator[Result | None]:
    """Like `map`, in several processes, but never far ahead of what has been taken.

    Each process takes every so manieth name, and sends its results through a pipe of its own. The
    pipe ends with the process, also in the midst of a result; another process then goes on there,
    with one name after the other.

    Args:
        function: of a module, as it runs in other processes; what it raises is raised here.
        names: of what it is given, such as files.

    Yields:
        What the function gave for each; None where its process was ended again and again.

    Raises:
        UserError: so many processes were ended that no file is to blame.
    """
    count = min(os.cpu_count() or 1, len(names))
    workers = [_Worker(function, names[first::count]) for first in range(count)]
    ended = 0
    try:
        for number, name in enumerate(names):
            worker = workers[number % count]
            while not worker.results:
                open_pipes = {
                    other.pipe: other
                    for other in workers
                    if other.names and len(other.results) < AHEAD
                }
                for pipe in wait(list(open_pipes)):
                    open_pipes[pipe].receive()  # type: ignore[index]
            result = worker.results.popleft()
            ended += result is None
            if ended == MOST_ENDED:
                raise UserError(
                    f"{printable(name)}: the process that read it was ended from outside, again "
                    f"and again, as with {ended - 1} other files. Nothing was lost; free some "
                    "memory and go on."
                )
            yield result
    finally:
        for worker in workers:  # also at Ctrl-C
            worker.process.terminate()
            worker.process.join()


class _Worker(Generic[Result]):
    """A process, and the next one after it was ended.

    Attributes:
        names: whose results are still to come.
        results: that came.
        pipe: through which they come.
        alone: so many names next to come were with one that ended a process; they come singly.
        attempts: at the first of these.
    """

    def __init__(self, function: Callable[[str], Result], names: list[str]) -> None:
        self.function = function
        self.names = deque(names)
        self.results: deque[Result | None] = deque()
        self.alone = 0
        self.attempts = 0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_work, args=(theirs, self.function, self._lots()), daemon=True
        )
        self.process.start()
        theirs.close()  # the last one that writes is the process now

    def _lots(self) -> list[list[str]]:
        names = list(self.names)
        together = range(self.alone, len(names), LOT)
        return [
            *([name] for name in names[: self.alone]),
            *(names[start : start + LOT] for start in together),
        ]

    def receive(self) -> None:
        """Takes the next results, or starts the next process."""
        try:
            received = self.pipe.recv()
        except (EOFError, OSError):
            self._go_on()
            return
        if isinstance(received, Exception):
            raise received
        self._take(received)

    def _go_on(self) -> None:
        self.attempts += self.alone > 0
        if self.attempts == ATTEMPTS:
            self._take([None])
        self.alone = self.alone or min(LOT, len(self.names))
        if self.names:
            self._start()

    def _take(self, received: list[Result | None]) -> None:
        self.results.extend(received)
        for _ in received:
            self.names.popleft()
        self.alone = max(0, self.alone - len(received))
        self.attempts = 0


def _work(pipe: Connection, function: Callable[[str], Result], lots: list[list[str]]) -> None:
    # Ctrl-C reaches all processes; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(BrokenPipeError):  # the first process was ended: nobody waits for the rest
        for lot in lots:
            pipe.send(_results(function, lot))


def _results(function: Callable[[str], Result], lot: list[str]) -> list[Result] | Exception:
    try:
        return [function(name) for name in lot]
    except Exception as error:
        error.add_note(traceback.format_exc())
        return error
