"""Ends a run when its budget is used up, or when a signal asks for it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import SLURMEnvironment

from artgan.training.gan import GAN
from artgan.training.launchers import is_first
from artgan.training.state import RunState


class Abandoned(BaseException):
    """What was being done is abandoned because the run is to end; no error to recover from."""


class Stopping(pl.Callback):
    """Ends the run when its budget is used up, or when a person or the system asks for it.

    Ctrl-C, SIGTERM and the signal by which SLURM announces the end of a job end it after the
    current step, with a checkpoint; a second Ctrl-C ends the process at once.
    """

    def __init__(self, state: RunState) -> None:
        self.state = state
        self._abandons = False

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Handles the signals while the block runs."""
        numbers = {signal.SIGINT, signal.SIGTERM}
        if SLURMEnvironment.detect():
            # Lightning would save in the middle of an update; it leaves handled signals alone.
            numbers |= {SLURMEnvironment().requeue_signal or signal.SIGTERM}
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def abandoning_at_signals(self) -> Iterator[None]:
        """Abandons the block when a signal comes.

        Raises:
            Abandoned: one has come.
        """
        self._abandons = True
        try:
            if self.state.interrupted:
                raise Abandoned
            yield
        finally:
            self._abandons = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.state.interrupted and number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.state.requeue |= number not in (signal.SIGINT, signal.SIGTERM)
        if not self.state.interrupted and is_first():
            # Past Python's buffers: the signal may have come in the middle of another print.
            os.write(2, b"\nStopping, with a checkpoint. Ctrl-C again stops at once.\n")
        self.state.interrupted = True
        if self._abandons:
            self._abandons = False
            raise Abandoned

    def on_train_start(self, trainer: pl.Trainer, module: GAN) -> None:  # type: ignore[override]
        self._began = self.state.clock() - self.state.progress.seconds
        # Lightning has set a handler of its own, which would end the run without a checkpoint.
        signal.signal(signal.SIGTERM, self._on_signal)
        self.state.stopping = self.state.used >= 1  # only a measurement is missing

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, *_: object
    ) -> None:
        progress = self.state.progress
        progress.seconds = self.state.clock() - self._began
        if trainer.world_size > 1:
            # One clock for all: different schedules on each rank would part their weights.
            progress.seconds = trainer.strategy.broadcast(progress.seconds)
        stop = self.state.interrupted or self.state.used >= 1
        if trainer.world_size > 1:
            # A signal may come to one of them; all must stop after the same update.
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        self.state.stopping = stop
