"""Where a run goes on: its newest checkpoint, and what may change in between."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from artgan.checkpoint import KEY, LAST, newest_checkpoint
from artgan.config import CONFIG_FILE, typed
from artgan.errors import UserError
from artgan.options import ModelConfig, TrainConfig
from artgan.training.callbacks.checkpoints import link
from artgan.training.launchers import is_first
from artgan.training.state import Progress


def last_state(folder: Path, config: TrainConfig, dataset_key: str) -> tuple[Path | None, Progress]:
    """The checkpoint that a run goes on from, and how far it had come.

    None and no progress for a run without a checkpoint, which begins at the beginning. The key is
    that of the paintings as they are now.

    Raises:
        UserError: no checkpoint is whole, or the newest does not fit the paintings or the
            configuration.
    """
    newest = newest_checkpoint(folder)
    if newest is None:
        return None, Progress()
    checkpoint, described = newest[0], newest[1][KEY]
    try:
        trained: dict[str, Any] = described["config"]
        # As in `load_config`, with defaults for what an older version did not write.
        model = asdict(typed(ModelConfig, trained["model"], str(checkpoint)))
        resolution, trainer = trained["resolution"], trained["trainer"]
        processes = trainer["devices"] * trainer.get("num_nodes", 1)
        progress, trained_on = Progress(**described["progress"]), described["dataset_key"]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{checkpoint}: does not describe its run ({error!r}).") from error
    if (model, resolution) != (asdict(config.model), config.resolution):
        raise UserError(
            f"{checkpoint}: was trained with another model or resolution than "
            f"{folder / CONFIG_FILE} says. Restore that file, or start a new run."
        )
    if trained_on != dataset_key:
        raise UserError(
            f"{checkpoint}: was trained on other paintings than are now in {config.dataset.root}. "
            "Restore them, say where they are now (dataset.root=…), or start a new run."
        )
    if processes != config.trainer.processes:
        print(
            f"{checkpoint}: was trained on {processes} devices, now on {config.trainer.processes}. "
            "Paintings and latents stay the same, but sums are rounded differently, so the bits "
            "are not.",
            file=sys.stderr,
        )
    if is_first() and not (folder / LAST).exists():
        link(checkpoint, folder / LAST)  # the run was killed before it could
    return checkpoint, progress
