"""Grids of samples, as PNG and in TensorBoard."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from artgan.data.pack import Pack
from artgan.images import tile
from artgan.painter import draw_inputs, paint
from artgan.training.callbacks.curves import DIVERSITY
from artgan.training.callbacks.output import say, show, writer
from artgan.training.gan import GAN
from artgan.training.health import diversity, diversity_has_collapsed
from artgan.training.state import RunState

SIDE = 8
# Images before which there is no diversity yet that could have collapsed.
EARLY = 20_000


class SampleGrids(pl.Callback):
    """Paints the same latents every few images.

    The latents and classes are those of `sample.py seed=0`, so the last grid is what sampling
    gives. Grids go to `samples/` in the run's folder, with one of paintings for comparison.
    """

    def __init__(self, every: int, folder: Path, pack: Pack, state: RunState) -> None:
        self.every = every
        self.folder = folder / "samples"
        self.state = state
        spread = np.arange(0, len(pack), max(1, len(pack) // SIDE**2))[: SIDE**2]
        squares = pack.squares(spread, np.full(len(spread), 0.5))
        self.paintings = torch.from_numpy(squares).permute(0, 3, 1, 2)
        self._collapsed = False

    def on_train_start(self, trainer: pl.Trainer, module: GAN) -> None:  # type: ignore[override]
        if trainer.is_global_zero and self.state.progress.images_seen == 0:
            grid = tile(self.paintings, SIDE)
            show(trainer, "paintings", grid, self.folder / "paintings.png", 0)
            self._paint(trainer, module)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, *_: object
    ) -> None:
        if trainer.is_global_zero and (self.state.due(self.every) or self.state.stopping):
            self._paint(trainer, module)

    def path(self, images_seen: int) -> Path:
        """The grid of one state of the run."""
        return self.folder / f"images-{images_seen:09d}.png"

    def _paint(self, trainer: pl.Trainer, module: GAN) -> None:
        seen = self.state.progress.images_seen
        inputs = draw_inputs(0, SIDE**2, module.config.model.latent_dim, module.classes)
        samples = paint(module.generator_ema, inputs)
        show(trainer, "samples", tile(samples, SIDE), self.path(seen), seen)
        ratio = diversity(samples, self.paintings)
        writer(trainer).add_scalar(DIVERSITY, ratio, seen)
        warning = diversity_has_collapsed(ratio) if seen > EARLY else None
        if warning and not self._collapsed:
            say(warning)
        self._collapsed = warning is not None
