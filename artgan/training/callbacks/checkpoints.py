"""Checkpoints: when a run is saved, and what is never saved."""

import shlex
from pathlib import Path

import pytorch_lightning as pl

from artgan.checkpoint import LAST
from artgan.config import CONFIG_FILE, save_config
from artgan.errors import UserError
from artgan.files import atomic_write, by_number
from artgan.training.callbacks.output import writer
from artgan.training.gan import GAN
from artgan.training.state import RunState


class Diverged(UserError):
    """A loss, a weight or a moment of the optimisers is not finite.

    Attributes:
        reason: in one sentence.
        rollbacks: how often the run had been rolled back before.
    """

    def __init__(self, state: RunState, folder: Path) -> None:
        seen, last = state.progress.images_seen, folder / LAST
        self.reason = f"A loss or weight is not finite after {seen:,} images."
        self.rollbacks = state.progress.rollbacks
        good = f"The last good checkpoint is {last}." if last.exists() else "No checkpoint yet."
        super().__init__(
            f"{self.reason} {good} Try a lower model.learning_rate, trainer.precision=32 or "
            "on_nan=rollback."
        )


def refuse_diverged(trainer: pl.Trainer, module: GAN, folder: Path) -> None:
    """Keeps a useless state from being saved.

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
        raise Diverged(module.state, folder)


class Checkpoints(pl.Callback):
    """Saves the run every few images and at its end, and keeps the newest checkpoints.

    `last.ckpt` is the newest under a second name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, *_: object
    ) -> None:
        if not (module.state.due(module.config.checkpoint.every) or module.state.stopping):
            return
        # Points before a checkpoint are never logged again, those after it always.
        writer(trainer).flush()
        self._save(trainer, module)
        if trainer.is_global_zero and not (self.folder / CONFIG_FILE).exists():
            save_config(module.config, self.folder)
            raise folder_removed(self.folder)

    def on_exception(  # type: ignore[override]
        self, trainer: pl.Trainer, module: GAN, error: BaseException
    ) -> None:
        """Saves a run whose folder was deleted or moved while it trained."""
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
            keep = module.config.checkpoint.keep
            for old in by_number(self.folder.glob("images-*.ckpt"))[:-keep]:
                old.unlink()


def folder_removed(folder: Path) -> UserError:
    """The message for a run whose folder was removed while it trained."""
    return UserError(
        f"{folder}: was deleted or moved during training. The run was saved there again. Resume "
        f"with: artgan train resume={shlex.quote(str(folder))}"
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
