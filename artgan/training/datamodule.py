"""The paintings, as Lightning asks for them."""

import math

import pytorch_lightning as pl
import torch

from artgan.data.pack import Pack
from artgan.data.stream import PaintingStream
from artgan.options import TrainConfig
from artgan.training.gan import GAN

# Images whose updates may come as one step: two such groups lie on the device at a time, and a
# person who stops the run waits for one.
MOST_TOGETHER = 4096


class Paintings(pl.LightningDataModule):
    """Gives each rank its part of the stream, from where the run stands.

    Args:
        pack: the paintings.
        config: of the run.
        max_images: after which the run ends, or infinite.
    """

    def __init__(self, pack: Pack, config: TrainConfig, max_images: float) -> None:
        super().__init__()
        self.pack = pack
        self.config = config
        self.max_images = max_images

    def train_dataloader(self) -> PaintingStream:
        assert self.trainer is not None
        module = self.trainer.lightning_module
        assert isinstance(module, GAN)
        device = self.trainer.strategy.root_device
        return PaintingStream(
            self.pack,
            self.config.batch_size,
            self.config.seed,
            module.progress.images_seen,
            self.trainer.global_rank,
            self.trainer.world_size,
            self.updates_together if device.type == "cuda" else lambda images_seen: 1,
            device if holds(device, self.pack, self.config.trainer.paintings) else None,
            list(module.classes),
        )

    def updates_together(self, images_seen: int) -> int:
        """How many updates Lightning sees as one step: as many as end at the next event.

        A GPU is done with an update before Lightning has called all its hooks. Between two points
        of the curves, grids, measurements or checkpoints nothing but updates happens; whatever
        asks `due` with another key must be named here.
        """
        config = self.config
        events = [config.log_every, config.sample_every, config.checkpoint.every]
        events += [config.evaluate_every] if config.evaluate_every else []
        ends = [(images_seen // every + 1) * every for every in events]
        left = min(*ends, self.max_images) - images_seen
        return max(1, math.ceil(min(left, MOST_TOGETHER) / config.batch_size))


def holds(device: torch.device, pack: Pack, where: str) -> bool:
    """Whether a device holds all paintings itself.

    Args:
        device: of the training.
        pack: the paintings.
        where: device, file, or auto: the device if it is a GPU, and they take no more than a
            quarter of its memory.
    """
    if where == "auto":
        if device.type != "cuda":
            return False
        return pack.rows.nbytes <= torch.cuda.get_device_properties(device).total_memory / 4
    return where == "device"
