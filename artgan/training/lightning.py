"""What Lightning needs of artgan: its trainer, data, checkpoints and event files."""

import copy
import io
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.warnings import PossibleUserWarning

from artgan.checkpoint import load_checkpoint
from artgan.data.pack import Pack
from artgan.data.stream import PaintingStream
from artgan.device import is_fast_at_bf16, pick_device
from artgan.errors import UserError
from artgan.files import atomic_write
from artgan.options import TrainConfig, TrainerConfig
from artgan.training.distributed import Ranks, cluster
from artgan.training.state import FIRST_GRIDS, RunState

# Images whose updates may come as one step: two such groups are on the device at a time, and a
# person who stops the run waits for one.
MOST_TOGETHER = 4096


def make_trainer(
    config: TrainerConfig, logger: TensorBoardLogger, callbacks: list[pl.Callback]
) -> pl.Trainer:
    """A trainer that runs until `GAN` stops it.

    Raises:
        UserError: the accelerator or devices are not available.
    """
    several = config.processes > 1 or config.strategy == "ddp"
    try:
        return pl.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=Ranks() if several else "auto",
            precision=pick_precision(config.precision, config.accelerator),  # type: ignore[arg-type]
            logger=logger,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO(), cluster()],
            max_epochs=-1,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise UserError(
            f"trainer: accelerator={config.accelerator} devices={config.devices} is not available "
            f"here ({str(error).splitlines()[0]}). Try trainer.accelerator=auto trainer.devices=1"
        ) from error


def pick_precision(precision: str, accelerator: str) -> str:
    """Lightning's name for a precision; `auto` is bfloat16 where the hardware is faster at it."""
    if precision == "auto":
        device = pick_device("auto") if accelerator in ("auto", "gpu") else accelerator
        precision = "bf16" if is_fast_at_bf16(device) else "32"
    return {"32": "32-true", "bf16": "bf16-mixed"}[precision]


class Paintings(pl.LightningDataModule):
    """Gives each rank its part of the stream, from where the run stands."""

    def __init__(
        self, pack: Pack, classes: list[str], config: TrainConfig, state: RunState
    ) -> None:
        super().__init__()
        self.pack = pack
        self.classes = classes
        self.config = config
        self.state = state

    def train_dataloader(self) -> PaintingStream:
        assert self.trainer is not None
        device = self.trainer.strategy.root_device
        return PaintingStream(
            self.pack,
            self.config.batch_size,
            self.config.seed,
            self.state.progress.images_seen,
            self.trainer.global_rank,
            self.trainer.world_size,
            self.updates_together if device.type == "cuda" else lambda images_seen: 1,
            device if holds(device, self.pack, self.config.trainer.paintings) else None,
            self.classes,
        )

    def updates_together(self, images_seen: int) -> int:
        """How many updates Lightning sees as one step: all until the next event.

        A GPU finishes an update before Lightning has called all its hooks. Between two points of
        the curves, grids, measurements or checkpoints only updates happen; whatever asks
        `RunState.due` or `RunState.reached` with another number must be listed here.
        """
        config = self.config
        events = [config.log_every, config.sample_every, config.checkpoint.every]
        events += [config.evaluate_every] if config.evaluate_every else []
        ends = [(images_seen // every + 1) * every for every in events]
        ends += [images for images in FIRST_GRIDS if images > images_seen]
        left = min(*ends, self.state.max_images) - images_seen
        return max(1, math.ceil(min(left, MOST_TOGETHER) / config.batch_size))


def holds(device: torch.device, pack: Pack, where: str) -> bool:
    """Whether a device keeps all paintings in its memory, by `trainer.paintings`."""
    if where == "auto":
        if device.type != "cuda":
            return False
        return pack.rows.nbytes <= torch.cuda.get_device_properties(device).total_memory / 4
    return where == "device"


class EventLog(TensorBoardLogger):
    """TensorBoard's event files, directly in the run folder."""

    def __init__(self, folder: Path, purge_step: int) -> None:
        super().__init__(
            folder, name="", version="", default_hp_metric=False, purge_step=purge_step
        )

    def save(self) -> None:
        """Writes no hparams.yaml: config.yaml is there already."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, and verifies them."""

    def load_checkpoint(self, path: str | Path, *_: object, **__: object) -> dict[str, Any]:
        # Copied out of the file, which the run will replace.
        return copy.deepcopy(load_checkpoint(Path(path)))

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        # Saved to memory first: torch hides a full disk behind an error of its own.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with atomic_write(Path(path)) as file:
            file.write(buffer.getbuffer())


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hides Lightning's remarks, which are about options that a user here does not have."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
