"""The paintings, as Lightning asks for them."""

import pytorch_lightning as pl

from artgan.data.pack import Pack
from artgan.data.stream import PaintingStream
from artgan.training.module import GAN


class Paintings(pl.LightningDataModule):
    """Gives each rank its part of the stream, from where the run stands.

    Args:
        pack: the paintings.
        batch_size: over all ranks together.
        seed: of the order.
    """

    def __init__(self, pack: Pack, batch_size: int, seed: int) -> None:
        super().__init__()
        self.pack = pack
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> PaintingStream:
        assert self.trainer is not None
        module = self.trainer.lightning_module
        assert isinstance(module, GAN)
        return PaintingStream(
            self.pack,
            self.batch_size,
            self.seed,
            module.progress.images_seen,
            self.trainer.global_rank,
            self.trainer.world_size,
        )
