"""Curves in TensorBoard, warnings in plain words, and the progress bar."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
from tqdm import tqdm

from artgan.training.callbacks.checkpoints import Diverged
from artgan.training.callbacks.output import say, writer
from artgan.training.gan import GAN
from artgan.training.health import discriminator_has_won
from artgan.training.state import RunState

# Points in a row at which the discriminator must have won before a warning.
PATIENCE = 5
RATE, DIVERSITY, AUGMENT = "images per second", "diversity", "augment probability"
TAGS = (*GAN.METRICS, RATE, DIVERSITY)


class Curves(pl.Callback):
    """Writes the curves to TensorBoard every few images, and warns when training goes wrong.

    `latest` is the value of each curve at its last point. A loss that is not finite raises
    `Diverged`.
    """

    def __init__(self, every: int, folder: Path, state: RunState) -> None:
        self.every = every
        self.folder = folder
        self.state = state
        self.latest: dict[str, float] = {}
        self._lopsided = 0

    def on_train_start(self, trainer: pl.Trainer, module: GAN) -> None:  # type: ignore[override]
        self._since = (self.state.progress.images_seen, self.state.clock())

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, *_: object
    ) -> None:
        if not (self.state.due(self.every) or self.state.stopping):
            return
        now = (self.state.progress.images_seen, self.state.clock())
        rate = (now[0] - self._since[0]) / max(now[1] - self._since[1], 1e-9)
        self._since = now
        self.latest = module.mean_metrics() | {RATE: rate}
        if module.config.model.augment_target is not None:
            self.latest[AUGMENT] = module.augment_probability.item()
        if not all(math.isfinite(value) for value in self.latest.values()):
            raise Diverged(self.state, self.folder)
        for tag, value in self.latest.items():
            writer(trainer).add_scalar(tag, value, now[0])
        if module.loss.probabilistic:
            self._warn()

    def _warn(self) -> None:
        """Warns once if it lasts; again only after the balance was restored in between."""
        warning = discriminator_has_won(
            self.latest["D(x)"], self.latest["D(G(z))"], self.latest["gradient norm/generator"]
        )
        self._lopsided = self._lopsided + 1 if warning else 0
        if warning and self._lopsided == PATIENCE:
            say(warning)


class ProgressBar(pl.Callback):
    """One line on the screen: share of the budget, images, images/s, time left, losses."""

    def __init__(self, state: RunState, curves: Curves) -> None:
        self.state = state
        self.curves = curves

    def on_train_start(self, trainer: pl.Trainer, module: GAN) -> None:  # type: ignore[override]
        self._bar = tqdm(
            total=100,
            bar_format="{percentage:3.0f}% |{bar:20}| {desc}",
            disable=not trainer.is_global_zero,
            # A log file wants a line now and then, not one every tenth of a second.
            mininterval=0.2 if sys.stderr.isatty() else 15,
        )
        self._start = (replace(self.state.progress), self.state.used)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, *_: object
    ) -> None:
        start, share_before = self._start
        progress, share = self.state.progress, self.state.used
        elapsed = progress.seconds - start.seconds
        rate = (progress.images_seen - start.images_seen) / max(elapsed, 1e-9)
        left = elapsed * (1 - share) / max(share - share_before, 1e-9)
        losses = "".join(
            f", {name.partition('/')[2]} loss {self.curves.latest[name]:.2f}"
            for name in ("loss/discriminator", "loss/generator")
            if name in self.curves.latest
        )
        self._bar.set_description_str(
            f"{progress.images_seen:,} images, {rate:,.0f} images/s, "
            f"{tqdm.format_interval(left)} left{losses}",
            refresh=False,
        )
        self._bar.update(100 * share - self._bar.n)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._bar.close()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, _: object) -> None:
        if hasattr(self, "_bar"):
            self._bar.close()
