"""The state of a run that its parts hand on to each other."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

FIRST_GRIDS = (250, 500, 1_000, 2_000, 5_000)  # images after which one sees something at once


@dataclass
class Progress:
    """How far a run has come; kept in its checkpoints.

    Attributes:
        images_seen: paintings shown to the discriminator, over all devices.
        seconds: time spent in training, without set-up and pauses.
        rollbacks: how often the run went back to an earlier checkpoint.
    """

    images_seen: int = 0
    seconds: float = 0.0
    rollbacks: int = 0


class Clock:
    """Seconds of training, from any moment on; it stands still while paused."""

    def __init__(self) -> None:
        self._paused = 0.0

    def __call__(self) -> float:
        return time.monotonic() - self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - began


@dataclass
class RunState:
    """Where a run stands, and whether it is about to end.

    Attributes:
        max_images: budget in images, or infinite.
        max_seconds: budget in seconds of training, or infinite.
        batch_size: images in one update, over all devices.
        stopping: whether the run ends after this update; all ranks agree on it.
        interrupted: whether a signal asked it to end.
        requeue: whether that was SLURM's signal.
    """

    progress: Progress = field(default_factory=Progress)
    max_images: float = math.inf
    max_seconds: float = math.inf
    batch_size: int = 1
    clock: Clock = field(default_factory=Clock)
    stopping: bool = False
    interrupted: bool = False
    requeue: bool = False

    @property
    def used(self) -> float:
        """Share of the budget that is used up, in [0, 1]; schedules follow it."""
        progress = self.progress
        return min(
            max(progress.images_seen / self.max_images, progress.seconds / self.max_seconds), 1.0
        )

    def due(self, every: int) -> bool:
        """Whether the last update crossed a multiple of `every` images.

        No earlier update of the same step can have: see `Paintings.updates_together`.
        """
        return self.reached(self.progress.images_seen // every * every)

    def reached(self, images: int) -> bool:
        """Whether it was the last update that reached a number of images."""
        return 0 < images <= self.progress.images_seen < images + self.batch_size
