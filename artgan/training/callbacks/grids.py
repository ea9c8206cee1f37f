"""Grids of samples, as PNG and in TensorBoard."""

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from artgan.data.pack import Pack
from artgan.files import atomic_write
from artgan.images import tile
from artgan.painter import draw_inputs, paint
from artgan.training.callbacks.curves import DIVERSITY
from artgan.training.callbacks.output import say, show, writer
from artgan.training.gan import GAN
from artgan.training.state import FIRST_GRIDS

SIDE = 8
SIDE_ABOVE_128_PX = 4  # of larger samples, which take longer and fill the screen as well
FIRST_SIDE_ABOVE_128_PX = 2  # of the first grids, which would take as long as the training between
LATEST = Path("samples") / "latest.png"  # in the folder of a run
# Images before which there is no diversity yet that could have collapsed.
EARLY = 20_000
LEAST_DIVERSITY = 0.25


class SampleGrids(pl.Callback):
    """Paints the same latents every few images, and more often at first.

    The latents and classes are the first of `artgan sample seed=0`, so the last grid is what
    sampling gives. Grids go to `samples/` in the run's folder, the newest also as `latest.png`,
    with one of paintings to compare.
    """

    def __init__(self, folder: Path, pack: Pack) -> None:
        self.latest = folder / LATEST
        self.folder = self.latest.parent
        large = pack.resolution > 128
        self.side = SIDE_ABOVE_128_PX if large else SIDE
        self.first_side = FIRST_SIDE_ABOVE_128_PX if large else SIDE
        count = self.side**2
        spread = np.arange(0, len(pack), max(1, len(pack) // count))[:count]
        squares = pack.squares(spread, np.full(len(spread), 0.5))
        self.paintings = torch.from_numpy(squares).permute(0, 3, 1, 2)
        self._collapsed = False

    def on_train_start(self, trainer: pl.Trainer, module: GAN) -> None:  # type: ignore[override]
        if trainer.is_global_zero and module.progress.images_seen == 0:
            grid = tile(self.paintings, self.side)
            show(trainer, "paintings", grid, self.folder / "paintings.png", 0)
            self._paint(trainer, module, self.first_side)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, *_: object
    ) -> None:
        state = module.state
        if not trainer.is_global_zero:
            return
        if state.due(module.config.sample_every) or state.stopping:
            self._paint(trainer, module, self.side)
        elif any(map(state.reached, FIRST_GRIDS)):
            self._paint(trainer, module, self.first_side)

    def path(self, images_seen: int) -> Path:
        """The grid of one state of the run."""
        return self.folder / f"images-{images_seen:09d}.png"

    def _paint(self, trainer: pl.Trainer, module: GAN, side: int) -> None:
        seen = module.progress.images_seen
        inputs = draw_inputs(0, side**2, module.config.model.latent_dim, module.classes)
        samples = paint(module.painter, inputs)
        show(trainer, "samples", tile(samples, side), self.path(seen), seen)
        with atomic_write(self.latest) as file:
            file.write(self.path(seen).read_bytes())
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
