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

SATURATION = 0.98
VANISHED_GRADIENT = 1e-5
# Points in a row at which the discriminator must have won before a warning.
PATIENCE = 5
RATE, DIVERSITY, AUGMENT = "images per second", "diversity", "augment probability"
TAGS = (*GAN.METRICS, RATE, DIVERSITY)


class Curves(pl.Callback):
    """Writes the curves to TensorBoard every few images, and warns when training goes wrong.

    `latest` is the value of each curve at its last point. A loss that is not finite raises
    `Diverged`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.latest: dict[str, float] = {}
        self._lopsided = 0

    def on_train_start(self, trainer: pl.Trainer, module: GAN) -> None:  # type: ignore[override]
        self._since = (module.progress.images_seen, module.state.clock())

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, *_: object
    ) -> None:
        if not (module.state.due(module.config.log_every) or module.state.stopping):
            return
        now = (module.progress.images_seen, module.state.clock())
        rate = (now[0] - self._since[0]) / max(now[1] - self._since[1], 1e-9)
        self._since = now
        self.latest = module.mean_metrics() | {RATE: rate}
        if module.config.model.augment_target is not None:
            self.latest[AUGMENT] = module.augment_probability.item()
        if not all(math.isfinite(value) for value in self.latest.values()):
            raise Diverged(module.state, self.folder)
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


def discriminator_has_won(
    real_probability: float, fake_probability: float, gradient_norm: float
) -> str | None:
    """A warning if the discriminator errs too rarely for the generator to learn from, or None.

    It goes by the means of D(x) and D(G(z)) over recent images, and by the L2 norm of the
    generator's gradient.

    Source: Arjovsky and Bottou 2017 (arXiv:1701.04862), sections 2.2 and 2.3, on what a perfect
    discriminator does to the generator's gradient.
    """
    separated = real_probability - fake_probability > SATURATION
    if not (separated or gradient_norm < VANISHED_GRADIENT):
        return None
    return (
        f"The discriminator has won: it rates paintings {real_probability:.3f} and generated "
        f"images {fake_probability:.3f} (0 is fake, 1 is real; the generator's gradient is "
        f"{gradient_norm:.2g}). Longer training will change little unless the generator catches "
        "up. A smaller model.learning_rate or model.width, or more paintings, keep the balance "
        "longer."
    )


class ProgressBar(pl.Callback):
    """One line on the screen: share of the budget, images, images/s, time left, losses."""

    def __init__(self, curves: Curves) -> None:
        self.curves = curves

    def on_train_start(self, trainer: pl.Trainer, module: GAN) -> None:  # type: ignore[override]
        self._bar = tqdm(
            total=100,
            bar_format="{percentage:3.0f}% |{bar:20}| {desc}",
            disable=not trainer.is_global_zero,
            # A log file wants a line now and then, not one every tenth of a second.
            mininterval=0.2 if sys.stderr.isatty() else 15,
        )
        self._start = (replace(module.progress), module.state.used)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, *_: object
    ) -> None:
        start, share_before = self._start
        progress, share = module.progress, module.state.used
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
