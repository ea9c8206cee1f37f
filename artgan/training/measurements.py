"""How well a run paints, measured while it trains, and the best state of it kept."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from artgan.checkpoint import BEST, load_checkpoint
from artgan.data.pack import Pack
from artgan.evaluation import (
    METRICS,
    PARTS,
    SEED,
    SHEET,
    figure,
    figures_folder,
    measure,
    reference_of,
    tags,
    usable_features,
    write_figures,
)
from artgan.options import ON_FEATURES, TrainConfig
from artgan.painter import draw_inputs
from artgan.training.callbacks import GivenUp, Stopping, due, refuse_diverged, show, writer
from artgan.training.gan import GAN


class Measurements(pl.Callback):
    """Measures the averaged generator every so many images and when the budget is used up.

    The figures are those that `evaluate.py` would give. They go to TensorBoard and to `evaluated/`
    in the run's folder; the state that had the least of the monitored figure is kept as
    `best.ckpt`. Nothing of the training is touched, and its clock stands still meanwhile. A run
    that is to end does not wait for it; it is made up for when the run goes on.

    Args:
        config: of the run, with `evaluate_every`.
        folder: of the run.
        stopping: knows the budget and the clock.

    Attributes:
        tags: TensorBoard's name of each figure, and where in `metrics.json` it stands; once
            prepared.
        best: name, value and count of samples of the figure that `best.ckpt` was kept for, or None.
    """

    def __init__(self, config: TrainConfig, folder: Path, stopping: Stopping) -> None:
        assert config.evaluate_every is not None
        self.every = config.evaluate_every
        self.config = config
        self.folder = folder
        self.stopping = stopping
        self.tags: dict[str, tuple[str, ...]] = {}
        self.best: dict[str, Any] | None = None

    def prepare(self, training: Pack, held_out: Pack, device: str) -> None:
        """Does once what every measurement needs; only the first process measures.

        Args:
            training: the paintings that are trained on.
            held_out: those that are not; may be empty.
            device: for the network that gives features.

        Raises:
            UserError: the features cannot be had, and the command named their file or monitors a
                figure on them; or `best.ckpt` is damaged.
        """
        settings, monitor = self.config.evaluate, self.config.checkpoint.monitor
        self.extract = usable_features(
            settings.features, device, "evaluate.features", needed=monitor in ON_FEATURES
        )
        packs = dict(zip(PARTS, (training, held_out), strict=True))
        self.reference = reference_of(packs, self.config.dataset, settings.num, self.extract)
        names = [part.name for part in self.reference.parts]
        self.tags = tags(names, self.extract.name if self.extract else None)
        self.best = _kept(self.folder / BEST)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best} if self.best else {}

    def owes(self, module: GAN) -> bool:
        """Whether the state that a run goes on from was to be measured, and was not."""
        figures = figures_folder(self.folder, module.progress.images_seen) / METRICS
        return module.progress.images_seen > 0 and self._due(module) and not figures.exists()

    def _due(self, module: GAN) -> bool:
        return due(module, self.every) or self.stopping.state.used >= 1

    def on_train_start(self, trainer: pl.Trainer, module: GAN) -> None:  # type: ignore[override]
        # Which figures lie in the folder, the first process knows for all.
        if trainer.strategy.broadcast(self.owes(module)):
            self._measure_all(trainer, module)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, *_: object
    ) -> None:
        if self._due(module):
            self._measure_all(trainer, module)

    def _measure_all(self, trainer: pl.Trainer, module: GAN) -> None:
        refuse_diverged(trainer, module, self.folder)
        if module.device.type != "cpu":
            torch.accelerator.synchronize(module.device)  # what is still to do there is training
        with self.stopping.clock.paused():
            better = trainer.is_global_zero and self._measure(trainer, module)
            # Saving takes all ranks, which wait here for the first; so does stopping.
            found = (better, trainer.should_stop)
            better, trainer.should_stop = trainer.strategy.broadcast(found)
            if better:
                trainer.save_checkpoint(self.folder / BEST)

    def _measure(self, trainer: pl.Trainer, module: GAN) -> bool:
        """Measures, and tells whether this state is the best so far."""
        seen = module.progress.images_seen
        num, latent_dim = self.config.evaluate.num, self.config.model.latent_dim
        folder = figures_folder(self.folder, seen)
        try:
            with self.stopping.given_up_for_signals():
                inputs = draw_inputs(SEED, num, latent_dim, module.classes)
                measured, sheet = measure(
                    module.generator_ema, inputs, self.reference, self.extract
                )
        except GivenUp:
            (folder / METRICS).unlink(missing_ok=True)  # those of a state that was rolled back
            trainer.should_stop = True
            return False
        # The state may lie in no file.
        state = {"checkpoint": None, "images_seen": seen, "seed": SEED, "ema": True}
        show(trainer, "nearest", sheet, folder / SHEET, seen)
        write_figures(state | measured, folder)
        for tag, place in self.tags.items():
            writer(trainer).add_scalar(tag, figure(measured, place), seen)
        return self.config.checkpoint.monitor is not None and self._is_best(measured)

    def _is_best(self, measured: dict[str, Any]) -> bool:
        monitored = (self.reference.parts[-1].name, self.config.checkpoint.monitor)
        (tag,) = (tag for tag, place in self.tags.items() if place == monitored)
        value = figure(measured, self.tags[tag])
        now = {"figure": tag, "samples": measured["samples"], "value": value}
        # Of other features, paintings or counts, it does not compare.
        same = self.best is not None and all(self.best[k] == now[k] for k in ("figure", "samples"))
        if same and self.best is not None and now["value"] >= self.best["value"]:
            return False
        self.best = now
        return True


def _kept(path: Path) -> dict[str, Any] | None:
    """For which figure the best state was kept; it says so itself."""
    if not path.is_file():
        return None
    return load_checkpoint(path).get("callbacks", {}).get(Measurements.__name__, {}).get("best")
