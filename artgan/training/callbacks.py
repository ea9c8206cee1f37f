"""What happens around the updates: stopping, curves, sample grids, checkpoints, progress."""

import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from artgan import events
from artgan.checkpoint import LAST
from artgan.config import CONFIG_FILE, save_config
from artgan.data.pack import Pack
from artgan.errors import UserError
from artgan.files import atomic_write, by_number
from artgan.images import encode_png, tile
from artgan.painter import draw_inputs, paint
from artgan.training.gan import GAN
from artgan.training.health import discriminator_has_won, diversity, diversity_has_collapsed
from artgan.training.launchers import is_first
from artgan.training.state import RunState

GRID_SIDE = 8
# Points of the curves in a row at which the discriminator must have won before we say so.
PATIENCE = 5
# Images before which there is no diversity yet that could have collapsed.
EARLY = 20_000
RATE, DIVERSITY = "images per second", "diversity"
AUGMENT = "augment probability"
FIGURES = (*GAN.METRICS, RATE, DIVERSITY)


class Diverged(UserError):
    """A loss, a weight or a moment of the optimisers is no longer a number.

    Args:
        module: of the run.
        folder: of the run, to name its last good checkpoint.

    Attributes:
        what: has happened, in one sentence.
        rollbacks: how often the run had been rolled back before.
    """

    def __init__(self, module: GAN, folder: Path) -> None:
        seen, last = module.progress.images_seen, folder / LAST
        self.what = f"A loss or weight is no longer a number after {seen:,} images."
        self.rollbacks = module.progress.rollbacks
        good = f"The last good checkpoint is {last}." if last.exists() else "No checkpoint yet."
        super().__init__(
            f"{self.what} {good} Try a lower model.learning_rate, trainer.precision=32 or "
            "on_nan=rollback."
        )


def refuse_diverged(trainer: pl.Trainer, module: GAN, folder: Path) -> None:
    """Keeps a state that nothing can be made of from being saved.

    Raises:
        Diverged: a value in it is not finite.
    """
    moments = (
        moment
        for optimizer in trainer.optimizers
        for state in optimizer.state.values()
        for moment in state.values()
    )
    if not all(bool(t.isfinite().all()) for t in (*module.state_dict().values(), *moments)):
        raise Diverged(module, folder)


def due(module: GAN, every: int) -> bool:
    """Whether this step's last batch has crossed a multiple of `every` images.

    No earlier one can have: see `Paintings.updates_together`.
    """
    seen = module.progress.images_seen
    return seen // every > (seen - module.config.batch_size) // every


def say(text: str) -> None:
    """Prints a line without tearing the progress bar."""
    tqdm.write(text, file=sys.stderr)


class Clock:
    """Seconds of training, from any moment on: time that is spent `paused` does not pass."""

    def __init__(self) -> None:
        self._paused = 0.0

    def __call__(self) -> float:
        return time.monotonic() - self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - began


class GivenUp(BaseException):
    """What was being done is given up, for the run is to end; no error that one recovers from."""


class Stopping(pl.Callback):
    """Ends the run when its budget is used up, or when a person or the system asks for it.

    Ctrl-C, SIGTERM and the signal by which SLURM announces the end of a job end it after the
    current step, with a checkpoint; a second Ctrl-C ends the process at once.

    Args:
        state: of the run.
        clock: of the training.
    """

    def __init__(self, state: RunState, clock: Clock) -> None:
        self.state = state
        self.clock = clock
        self._gives_up = False

    @contextmanager
    def taking_signals(self) -> Iterator[None]:
        """Takes the signals while the block runs."""
        numbers = {signal.SIGINT, signal.SIGTERM}
        if SLURMEnvironment.detect():
            # Lightning would save in the midst of an update; it leaves alone what is taken.
            numbers |= {SLURMEnvironment().requeue_signal or signal.SIGTERM}
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def given_up_for_signals(self) -> Iterator[None]:
        """Does not wait for the block to end when a signal comes.

        Raises:
            GivenUp: one has come.
        """
        self._gives_up = True
        try:
            if self.state.interrupted:
                raise GivenUp
            yield
        finally:
            self._gives_up = False

    def on_train_start(self, trainer: pl.Trainer, module: GAN) -> None:  # type: ignore[override]
        self._began = self.clock() - module.progress.seconds
        # Lightning has set a handler of its own, which would end the run without a checkpoint.
        signal.signal(signal.SIGTERM, self._on_signal)
        trainer.should_stop = self.state.used >= 1  # only a measurement is missing

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.state.interrupted and number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.state.requeue |= number not in (signal.SIGINT, signal.SIGTERM)
        if not self.state.interrupted and is_first():
            # Past Python's buffers: the signal may have come in the midst of another print.
            os.write(2, b"\nStopping, with a checkpoint. Ctrl-C once more: at once.\n")
        self.state.interrupted = True
        if self._gives_up:
            self._gives_up = False
            raise GivenUp

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, *_: object
    ) -> None:
        progress = module.progress
        progress.seconds = self.clock() - self._began
        if trainer.world_size > 1:
            # One clock for all: schedules that differed between ranks would part their weights.
            progress.seconds = trainer.strategy.broadcast(progress.seconds)
        stop = self.state.interrupted or self.state.used >= 1
        if trainer.world_size > 1:
            # A signal may come to one of them; all must stop after the same update.
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        trainer.should_stop = stop


class Curves(pl.Callback):
    """Writes the curves to TensorBoard, over images seen, and warns when training goes wrong.

    Args:
        every: images between two points.
        folder: of the run, to name its last good checkpoint.
        clock: of the training.

    Raises:
        Diverged: a loss is no longer a number.
    """

    def __init__(self, every: int, folder: Path, clock: Clock) -> None:
        self.every = every
        self.folder = folder
        self.clock = clock
        self.figures: dict[str, float] = {}
        self._lopsided = 0

    def on_train_start(self, trainer: pl.Trainer, module: GAN) -> None:  # type: ignore[override]
        self._since = (module.progress.images_seen, self.clock())

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, *_: object
    ) -> None:
        if not (due(module, self.every) or trainer.should_stop):
            return
        now = (module.progress.images_seen, self.clock())
        rate = (now[0] - self._since[0]) / max(now[1] - self._since[1], 1e-9)
        self._since = now
        self.figures = module.mean_metrics() | {RATE: rate}
        if module.config.model.augment_target is not None:
            self.figures[AUGMENT] = module.augment_probability.item()
        if not all(math.isfinite(value) for value in self.figures.values()):
            raise Diverged(module, self.folder)
        for tag, value in self.figures.items():
            writer(trainer).add_scalar(tag, value, module.progress.images_seen)
        if module.loss.probabilistic:
            self._warn()

    def _warn(self) -> None:
        """Warns once, when it has lasted; again only after it has been well in between."""
        warning = discriminator_has_won(
            self.figures["D(x)"], self.figures["D(G(z))"], self.figures["gradient norm/generator"]
        )
        self._lopsided = self._lopsided + 1 if warning else 0
        if warning and self._lopsided == PATIENCE:
            say(warning)


class SampleGrids(pl.Callback):
    """Paints the same latents again and again, as PNG and in TensorBoard.

    The latents and classes are those of `sample.py seed=0`, so the last grid is what sampling
    gives.

    Args:
        every: images between two grids.
        folder: of the run; grids go to `samples/` in it.
        pack: the paintings, some of which are shown beside.
    """

    def __init__(self, every: int, folder: Path, pack: Pack) -> None:
        self.every = every
        self.folder = folder / "samples"
        spread = np.arange(0, len(pack), max(1, len(pack) // GRID_SIDE**2))[: GRID_SIDE**2]
        squares = pack.squares(spread, np.full(len(spread), 0.5))
        self.paintings = torch.from_numpy(squares).permute(0, 3, 1, 2)
        self._collapsed = False

    def on_train_start(self, trainer: pl.Trainer, module: GAN) -> None:  # type: ignore[override]
        if trainer.is_global_zero and module.progress.images_seen == 0:
            grid = tile(self.paintings, GRID_SIDE)
            show(trainer, "paintings", grid, self.folder / "paintings.png", 0)
            self._paint(trainer, module)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, *_: object
    ) -> None:
        if trainer.is_global_zero and (due(module, self.every) or trainer.should_stop):
            self._paint(trainer, module)

    def path(self, images_seen: int) -> Path:
        """Where the grid of one state of the run lies."""
        return self.folder / f"images-{images_seen:09d}.png"

    def _paint(self, trainer: pl.Trainer, module: GAN) -> None:
        seen = module.progress.images_seen
        latent_dim = module.config.model.latent_dim
        inputs = draw_inputs(0, GRID_SIDE**2, latent_dim, module.classes)
        samples = paint(module.generator_ema, inputs)
        show(trainer, "samples", tile(samples, GRID_SIDE), self.path(seen), seen)
        ratio = diversity(samples, self.paintings)
        writer(trainer).add_scalar(DIVERSITY, ratio, seen)
        warning = diversity_has_collapsed(ratio) if seen > EARLY else None
        if warning and not self._collapsed:
            say(warning)
        self._collapsed = warning is not None


class Checkpoints(pl.Callback):
    """Saves the run every so many images and at its end, and keeps the newest few.

    Args:
        folder: of the run.
        every: images between two checkpoints.
        keep: how many to keep, besides `last.ckpt`, which is the newest under a second name.
    """

    def __init__(self, folder: Path, every: int, keep: int) -> None:
        self.folder = folder
        self.every = every
        self.keep = keep

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, *_: object
    ) -> None:
        if not (due(module, self.every) or trainer.should_stop):
            return
        # Points before a checkpoint are never logged again, those after it always.
        writer(trainer).flush()
        self._save(trainer, module)
        if trainer.is_global_zero and not (self.folder / CONFIG_FILE).exists():
            save_config(module.config, self.folder)
            raise gone(self.folder)

    def on_exception(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, error: BaseException
    ) -> None:
        """Keeps what a run had come to whose folder was deleted or moved under it."""
        missing = not (self.folder / CONFIG_FILE).exists()
        if missing and isinstance(error, FileNotFoundError) and trainer.world_size == 1:
            save_config(module.config, self.folder)
            self._save(trainer, module)

    def _save(self, trainer: pl.Trainer, module: GAN) -> None:
        refuse_diverged(trainer, module, self.folder)
        path = self.folder / f"images-{module.progress.images_seen:09d}.ckpt"
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            link(path, self.folder / LAST)
            for old in by_number(self.folder.glob("images-*.ckpt"))[: -self.keep]:
                old.unlink()


def gone(folder: Path) -> UserError:
    """What to tell a person who took the folder of a run away under it."""
    return UserError(
        f"{folder}: was deleted or moved while training. The state of the run lies there again. "
        f"Go on with: python train.py resume={shlex.quote(str(folder))}"
    )


def link(path: Path, name: Path) -> None:
    """Gives a file a second name, replacing what had it before, in one step."""
    temporary = name.with_name(f".{name.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(path)
    except OSError:  # a file system without hard links
        with atomic_write(name) as file:
            file.write(path.read_bytes())
    else:
        temporary.replace(name)


class ProgressBar(pl.Callback):
    """One line on the screen: share of the budget, images, images/s, time left, losses.

    Args:
        stopping: knows the budget.
        curves: knows the latest losses.
    """

    def __init__(self, stopping: Stopping, curves: Curves) -> None:
        self.stopping = stopping
        self.curves = curves

    def on_train_start(self, trainer: pl.Trainer, module: GAN) -> None:  # type: ignore[override]
        self._bar = tqdm(
            total=100,
            bar_format="{percentage:3.0f}% |{bar:20}| {desc}",
            disable=not trainer.is_global_zero,
            # A log file wants a line now and then, not one every tenth of a second.
            mininterval=0.2 if sys.stderr.isatty() else 15,
        )
        self._start = (replace(module.progress), self.stopping.state.used)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, *_: object
    ) -> None:
        start, share_before = self._start
        progress, share = module.progress, self.stopping.state.used
        elapsed = progress.seconds - start.seconds
        rate = (progress.images_seen - start.images_seen) / max(elapsed, 1e-9)
        left = elapsed * (1 - share) / max(share - share_before, 1e-9)
        losses = "".join(
            f", {name.partition('/')[2]} loss {self.curves.figures[name]:.2f}"
            for name in ("loss/discriminator", "loss/generator")
            if name in self.curves.figures
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


def writer(trainer: pl.Trainer) -> SummaryWriter:
    """The event file; on ranks other than the first, one that writes nothing."""
    assert isinstance(trainer.logger, TensorBoardLogger)
    return trainer.logger.experiment


def show(trainer: pl.Trainer, tag: str, picture: Tensor, path: Path, step: int) -> None:
    """Writes a picture uint8 [3, H, W] as PNG, and the same bytes to TensorBoard."""
    png = encode_png(picture)
    with atomic_write(path) as file:
        file.write(png)
    file_writer = writer(trainer).file_writer
    assert file_writer is not None
    file_writer.add_summary(events.picture(tag, picture, png), step)
