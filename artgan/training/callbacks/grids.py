"""Grids of samples, as PNG and in TensorBoard."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from artgan.data.pack import Pack
from artgan.images import tile
from artgan.painter import draw_inputs, paint
from artgan.training.callbacks.curves import DIVERSITY
from artgan.training.callbacks.output import say, show, writer
from artgan.training.gan import GAN

SIDE = 8
SIDE_ABOVE_128_PX = 4  # of larger samples, which take longer and fill the screen as well
# Images before which there is no diversity yet that could have collapsed.
EARLY = 20_000
LEAST_DIVERSITY = 0.25


class SampleGrids(pl.Callback):
    """Paints the same latents every few images.

    The latents and classes are the first of `artgan sample seed=0`, so the last grid is what
    sampling gives. Grids go to `samples/` in the run's folder, with one of paintings to compare.
    """

    def __init__(self, folder: Path, pack: Pack) -> None:
        self.folder = folder / "samples"
        self.side = SIDE if pack.resolution <= 128 else SIDE_ABOVE_128_PX
        count = self.side**2
        spread = np.arange(0, len(pack), max(1, len(pack) // count))[:count]
        squares = pack.squares(spread, np.full(len(spread), 0.5))
        self.paintings = torch.from_numpy(squares).permute(0, 3, 1, 2)
        self._collapsed = False

    def on_train_start(self, trainer: pl.Trainer, module: GAN) -> None:  # type: ignore[override]
        if trainer.is_global_zero and module.progress.images_seen == 0:
            grid = tile(self.paintings, self.side)
            show(trainer, "paintings", grid, self.folder / "paintings.png", 0)
            self._paint(trainer, module)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, *_: object
    ) -> None:
        due = module.state.due(module.config.sample_every) or module.state.stopping
        if trainer.is_global_zero and due:
            self._paint(trainer, module)

    def path(self, images_seen: int) -> Path:
        """The grid of one state of the run."""
        return self.folder / f"images-{images_seen:09d}.png"

    def _paint(self, trainer: pl.Trainer, module: GAN) -> None:
        seen = module.progress.images_seen
        inputs = draw_inputs(0, self.side**2, module.config.model.latent_dim, module.classes)
        samples = paint(module.painter, inputs)
        show(trainer, "samples", tile(samples, self.side), self.path(seen), seen)
        ratio = diversity(samples, self.paintings)
        writer(trainer).add_scalar(DIVERSITY, ratio, seen)
        warning = diversity_has_collapsed(ratio) if seen > EARLY else None
        if warning and not self._collapsed:
            say(warning)
        self._collapsed = warning is not None


def diversity(images: Tensor, reference: Tensor) -> float:
    """Mean standard deviation of samples [N, 3, H, W], relative to paintings [M, 3, H, W]."""

    def spread(batch: Tensor) -> Tensor:
        return batch.float().std(dim=0).mean()

    return float(spread(images) / spread(reference).clamp_min(torch.finfo(torch.float).tiny))


def diversity_has_collapsed(ratio: float) -> str | None:
    """A warning if samples hardly differ, by their `diversity`, or None."""
    if ratio >= LEAST_DIVERSITY:
        return None
    return (
        f"Diversity has collapsed: samples differ from each other only {ratio:.0%} as much as the "
        "paintings do. If it lasts, go back to an earlier checkpoint, or start again with another "
        "seed, a smaller model.learning_rate or more paintings."
    )
