"""The state of a run that its parts hand on to each other."""

import math
from dataclasses import dataclass, field


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


@dataclass
class RunState:
    """Where a run stands, and whether it is about to end.

    Attributes:
        progress: how far it has come.
        max_images: budget in images, or infinite.
        max_seconds: budget in seconds of training, or infinite.
        stopping: whether the run ends after this update; all ranks agree on it.
        interrupted: whether a signal asked it to end.
        requeue: whether that was SLURM's signal.
    """

    progress: Progress = field(default_factory=Progress)
    max_images: float = math.inf
    max_seconds: float = math.inf
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
