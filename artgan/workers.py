"""One function mapped over many items on all cores, whatever happens to the processes."""

import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, Generic, TypeVar

from artgan.errors import UserError, printable

BATCH = 16  # results sent at once; singly, they would cost 10 % more time
AHEAD = 64  # results of each process that may wait for earlier ones; bounds the memory
ATTEMPTS = 2  # at an item that is alone in its batch, before it is skipped
MOST_SKIPPED = 8  # items, after which the items are not to blame

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_processes(
    function: Callable[[Item], Result], items: list[Item]
) -> Iterator[Result | None]:
    """Like `map`, in several processes, and never far ahead of what has been taken.

    With n processes, each takes every n-th item and sends its results through its own pipe. The
    pipe ends with the process, even in the middle of a result; a new process then continues, with
    one item at a time.

    Args:
        function: of a module, as other processes import it; its exceptions are raised here.
        items: its arguments, such as file names.

    Yields:
        The result for each item; None if its process was killed repeatedly.

    Raises:
        UserError: processes were killed for so many items that the items are not to blame.
    """
    count = min(os.cpu_count() or 1, len(items))
    workers = [_Worker(function, items[first::count]) for first in range(count)]
    skipped = 0
    try:
        for number, item in enumerate(items):
            worker = workers[number % count]
            while not worker.results:
                pipes: dict[Any, _Worker] = {
                    other.pipe: other
                    for other in workers
                    if other.items and len(other.results) < AHEAD
                }
                for pipe in wait(list(pipes)):
                    pipes[pipe].receive()
            result = worker.results.popleft()
            skipped += result is None
            if skipped == MOST_SKIPPED:
                raise UserError(
                    f"{printable(str(item))}: its process was killed repeatedly, as for "
                    f"{skipped - 1} others before. Nothing was lost; free some memory and start "
                    "again."
                )
            yield result
    finally:
        for worker in workers:  # also at Ctrl-C
            worker.process.terminate()
            worker.process.join()


class _Worker(Generic[Item, Result]):
    """A process, and those that replace it when it is killed."""

    def __init__(self, function: Callable[[Item], Result], items: list[Item]) -> None:
        self.function = function
        self.items = deque(items)  # whose results are still to come
        self.results: deque[Result | None] = deque()  # received, and not yet taken
        # How many of the next items shared a batch with one that killed its process; each gets a
        # batch of its own.
        self.suspects = 0
        self.attempts = 0  # at the first of these
        self._start()

    def _start(self) -> None:
        items, alone = list(self.items), self.suspects
        starts = [*range(alone), *range(alone, len(items), BATCH), len(items)]
        batches = [items[start:end] for start, end in pairwise(starts)]
        context = multiprocessing.get_context("spawn")
        self.pipe, sender = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_work, args=(sender, self.function, batches), daemon=True
        )
        # A script need not guard its calls by `if __name__ == "__main__"`: the new process does not
        # run it again, and so wait for itself.
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            self.process.start()
        finally:
            sys.modules["__main__"] = main
        sender.close()  # so that the pipe ends with the process

    def receive(self) -> None:
        """Receives the next results, or replaces the process."""
        try:
            received = self.pipe.recv()
        except (EOFError, OSError):
            self._replace()
            return
        if isinstance(received, Exception):
            raise received
        self._keep(received)

    def _replace(self) -> None:
        self.attempts += self.suspects > 0
        if self.attempts == ATTEMPTS:
            self._keep([None])
        self.suspects = self.suspects or min(BATCH, len(self.items))
        if self.items:
            self._start()

    def _keep(self, received: list[Result | None]) -> None:
        self.results.extend(received)
        for _ in received:
            self.items.popleft()
        self.suspects = max(0, self.suspects - len(received))
        self.attempts = 0


def _work(sender: Connection, function: Callable[[Item], Any], batches: list[list[Item]]) -> None:
    # Ctrl-C reaches all processes; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(BrokenPipeError):  # the first process was killed: nobody waits for the rest
        for batch in batches:
            results: list[Any] | Exception
            try:
                results = [function(item) for item in batch]
            except Exception as error:
                error.add_note(traceback.format_exc())
                results = error
            sender.send(results)
