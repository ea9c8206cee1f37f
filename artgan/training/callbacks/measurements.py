"""How well a run paints, measured while it trains; the best state is kept."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from artgan.checkpoint import BEST, load_checkpoint
from artgan.data.pack import Pack
from artgan.measuring import (
    SCORES,
    SEED,
    SHEET,
    measure,
    reference_of,
    score_at,
    scores_folder,
    tags,
    usable_features,
    write_scores,
)
from artgan.metrics import PARTS
from artgan.options import ON_FEATURES, TrainConfig
from artgan.painter import draw_inputs
from artgan.training.callbacks.checkpoints import refuse_diverged
from artgan.training.callbacks.output import show, writer
from artgan.training.callbacks.stopping import Abandoned, Stopping
from artgan.training.gan import GAN
from artgan.training.state import RunState


class Measurements(pl.Callback):
    """Measures the averaged generator every few images and when the budget is used up.

    The scores are those that `artgan evaluate` gives. They go to TensorBoard and to `evaluated/` in
    the run's folder; the state with the lowest monitored metric is kept as `best.ckpt`. Training is
    not affected, and its clock stands still meanwhile. A run that is to end does not wait for a
    measurement; it is caught up on when the run is resumed.

    Attributes:
        tags: TensorBoard's name of each metric, and its place in `metrics.json`; once prepared.
        best: name, value and number of samples of the metric that `best.ckpt` was kept for, or
            None.
    """

    def __init__(
        self, config: TrainConfig, folder: Path, state: RunState, stopping: Stopping
    ) -> None:
        assert config.evaluate_every is not None
        self.every = config.evaluate_every
        self.config = config
        self.folder = folder
        self.state = state
        self.stopping = stopping
        self.tags: dict[str, tuple[str, ...]] = {}
        self.best: dict[str, Any] | None = None

    def prepare(self, training: Pack, held_out: Pack, device: str) -> None:
        """Does once what every measurement needs; only the first rank measures.

        Raises:
            UserError: the feature network is not available, and the command named its file or
                monitors a metric that needs it; or `best.ckpt` is damaged.
        """
        settings, monitor = self.config.evaluate, self.config.checkpoint.monitor
        self.extract = usable_features(
            settings.features, device, "evaluate.features", needed=monitor in ON_FEATURES
        )
        packs = dict(zip(PARTS, (training, held_out), strict=True))
        self.reference = reference_of(packs, self.config.dataset, settings.num, self.extract)
        names = [part.name for part in self.reference.parts]
        self.tags = tags(names, self.extract.name if self.extract else None)
        if (self.folder / BEST).is_file():
            callbacks = load_checkpoint(self.folder / BEST).get("callbacks", {})
            self.best = callbacks.get(type(self).__name__, {}).get("best")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best} if self.best else {}

    def is_missing(self) -> bool:
        """Whether the state that a run resumes from was to be measured, and was not."""
        seen = self.state.progress.images_seen
        scores = scores_folder(self.folder, seen) / SCORES
        return seen > 0 and self._due() and not scores.exists()

    def _due(self) -> bool:
        return self.state.due(self.every) or self.state.used >= 1

    def on_train_start(self, trainer: pl.Trainer, module: GAN) -> None:  # type: ignore[override]
        # The first rank knows for all which scores are in the folder.
        if trainer.strategy.broadcast(self.is_missing()):
            self._measure_all(trainer, module)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, *_: object
    ) -> None:
        if self._due():
            self._measure_all(trainer, module)

    def _measure_all(self, trainer: pl.Trainer, module: GAN) -> None:
        refuse_diverged(trainer, module, self.folder)
        if module.device.type != "cpu":
            torch.accelerator.synchronize(module.device)  # what is still to do there is training
        with self.state.clock.paused():
            better = trainer.is_global_zero and self._measure(trainer, module)
            # Saving takes all ranks, which wait here for the first; so does stopping.
            found = (better, self.state.stopping)
            better, self.state.stopping = trainer.strategy.broadcast(found)
            if better:
                trainer.save_checkpoint(self.folder / BEST)

    def _measure(self, trainer: pl.Trainer, module: GAN) -> bool:
        """Measures; returns whether this state is the best so far."""
        seen = self.state.progress.images_seen
        num, latent_dim = self.config.evaluate.num, self.config.model.latent_dim
        folder = scores_folder(self.folder, seen)
        try:
            with self.stopping.abandoning_at_signals():
                inputs = draw_inputs(SEED, num, latent_dim, module.classes)
                measured, sheet = measure(module.painter, inputs, self.reference, self.extract)
        except Abandoned:
            (folder / SCORES).unlink(missing_ok=True)  # those of a state that was rolled back
            self.state.stopping = True
            return False
        # The state may be in no file.
        described = {"checkpoint": None, "images_seen": seen, "seed": SEED, "ema": True}
        show(trainer, "nearest", sheet, folder / SHEET, seen)
        write_scores(described | measured, folder)
        for tag, place in self.tags.items():
            writer(trainer).add_scalar(tag, score_at(measured, place), seen)
        return self.config.checkpoint.monitor is not None and self._is_best(measured)

    def _is_best(self, measured: dict[str, Any]) -> bool:
        monitored = (self.reference.parts[-1].name, self.config.checkpoint.monitor)
        (tag,) = (tag for tag, place in self.tags.items() if place == monitored)
        value = score_at(measured, self.tags[tag])
        now = {"figure": tag, "samples": measured["samples"], "value": value}
        # With other features, paintings or counts, values are not comparable.
        best = self.best or {}
        same = all(best.get(key) == now[key] for key in ("figure", "samples"))
        if same and value >= best["value"]:
            return False
        self.best = now
        return True
