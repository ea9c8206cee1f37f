"""One training run: everything wired together, from the paintings to the last line on screen."""

import datetime
import io
import math
import os
import shlex
import subprocess
import sys
import time
from contextlib import nullcontext, redirect_stderr, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

from artgan.checkpoint import BEST, LAST
from artgan.config import CONFIG_FILE, save_config
from artgan.data.sources import announce
from artgan.device import pick_device
from artgan.errors import UserError
from artgan.events import report_write_errors, settings
from artgan.files import cannot_write
from artgan.latents import Latents, encode, load_decoder
from artgan.memory import is_out_of_memory, keep_freed_memory
from artgan.options import TrainConfig
from artgan.training.callbacks.checkpoints import Checkpoints, Diverged, folder_removed
from artgan.training.callbacks.curves import TAGS, Curves, ProgressBar
from artgan.training.callbacks.grids import LATEST, SampleGrids
from artgan.training.callbacks.measurements import Measurements
from artgan.training.callbacks.output import say, writer
from artgan.training.callbacks.stopping import Stopping
from artgan.training.distributed import (
    RUN,
    end_with_parent,
    is_lost_rank,
    lost,
    own_environment,
    rendezvous,
    start_ranks,
    wait_for_run,
)
from artgan.training.gan import GAN
from artgan.training.graph import captures
from artgan.training.launchers import is_first, launched
from artgan.training.lightning import EventLog, Paintings, holds, make_trainer, quiet_lightning
from artgan.training.resume import last_state
from artgan.training.run_folder import TEMPORARY, Run, describe, open_run
from artgan.training.state import Progress, RunState
from artgan.values import seconds

MOST_ROLLBACKS = 3


def train(run: Run) -> bool:
    """Trains a prepared run on all its devices; returns whether the budget is used up.

    Raises:
        UserError: a device is not available, the dataset has changed since the run began, the run
            is finished, there is too little memory, or a loss is not finite.
    """
    with own_environment():
        if run.config.autoencoder != "none" and run.config.trainer.processes > 1:
            _latents(run)  # once, before the other ranks read them
        if launched():
            rendezvous().set(RUN, describe(run))  # to the ranks that `wait_for_run`
        elif run.config.trainer.processes > 1:
            start_ranks(run.config.trainer, run.folder, describe(run))
            _, progress = last_state(run.folder, run.config, run.paintings.key)
            return _new_state(run, progress).used >= 1
        return _train(run)


def join() -> tuple[Path, bool]:
    """Trains on one more device, in a run that another process has prepared.

    Raises:
        UserError: the run or its paintings cannot be read on this machine.
    """
    if RUN in os.environ:
        end_with_parent()
    run = open_run(wait_for_run())
    # The first rank prints the same.
    with nullcontext() if is_first() else redirect_stderr(io.StringIO()):
        return run.folder, _train(run)


def _train(run: Run) -> bool:
    """Trains until the budget is used up, which is returned, or someone stops the run."""
    config, folder = run.config, run.folder
    with quiet_lightning(), report_write_errors(folder, partial(_write_error, folder)):
        rollbacks = 0
        while True:
            try:
                return _fit(run, rollbacks)
            except Diverged as error:
                rollbacks = error.rollbacks + 1
                if config.on_nan == "stop" or rollbacks > MOST_ROLLBACKS:
                    raise
                say(
                    f"{error.reason} Going back to the last good state and on with other noise: "
                    f"{rollbacks} of at most {MOST_ROLLBACKS} times."
                )
            except (MemoryError, RuntimeError) as error:
                if is_lost_rank(error):
                    # What started the ranks is to notice the lost one first, and ends the others.
                    time.sleep(0 if is_first() and RUN not in os.environ else 10)
                    raise lost(folder) from error
                if not is_out_of_memory(error):
                    raise
                smaller = "a smaller model.width or resolution"
                if config.batch_size > config.trainer.processes:
                    smaller = f"batch_size={config.batch_size // 2}"
                raise UserError(
                    f"batch_size: there is too little memory for {config.batch_size}. Start a new "
                    f"run with {smaller}, or end other programs and resume this one."
                ) from error


def _fit(run: Run, rollbacks: int) -> bool:
    """Trains from the newest checkpoint on, to which the run has gone back `rollbacks` times."""
    config, folder = run.config, run.folder
    checkpoint, progress = last_state(folder, config, run.paintings.key)
    progress.rollbacks = max(progress.rollbacks, rollbacks)
    state = _new_state(run, progress)
    latents = _latents(run) if config.autoencoder != "none" else None
    to_images = load_decoder(latents, config.weights_dir) if latents else None
    module = GAN(config, run.paintings.key, state, run.classes, to_images)
    stopping, curves, grids = Stopping(state), Curves(folder), SampleGrids(folder, run.paintings)
    measurements = Measurements(config, folder, state, stopping) if config.evaluate_every else None
    if _is_finished(state, measurements):
        raise UserError(
            f"{folder}: this run is finished, after {progress.images_seen:,} images in "
            f"{_duration(progress)}. To go on, give it more in total: "
            f"resume={shlex.quote(str(folder))} max_images=… (or epochs=… or max_time=…)"
        )
    # Points that were logged after the checkpoint will be logged again.
    logger = EventLog(folder, purge_step=progress.images_seen + 1 if checkpoint else 0)
    # Stopping first, since the others ask whether this is the end. Checkpoints after all that
    # belongs to a state: a killed run that goes on from it would not have it.
    middle = [curves, grids, *([measurements] if measurements else [])]
    callbacks = [stopping, *middle, Checkpoints(folder), ProgressBar(curves)]
    trainer = make_trainer(config.trainer, logger, callbacks)
    if is_first():
        _begin(run, trainer, measurements, quiet=rollbacks > 0)
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    learned = latents.pack if latents else run.paintings
    data = Paintings(learned, list(run.classes), config, state)
    # The exception is Lightning's, for a signal that came before ours were set.
    with stopping.handling_signals(), suppress(SIGTERMException):
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    finished = _is_finished(state, measurements)
    if is_first():
        best = measurements.best if measurements else None
        _print_outcome(folder, progress, finished, grids.path(progress.images_seen), best)
        # submitit requeues what it started.
        if state.requeue and not finished and "SUBMITIT_EXECUTOR" not in os.environ:
            _requeue()
    return finished


def _latents(run: Run) -> Latents:
    """The paintings as latents, encoded on the device to train on if they are not yet."""
    config = run.config
    return encode(
        run.paintings,
        config.dataset.flip,
        config.weights_dir,
        pick_device(config.trainer.accelerator),
    )


def _new_state(run: Run, progress: Progress) -> RunState:
    config = run.config
    images = [config.max_images, config.epochs and config.epochs * len(run.paintings)]
    max_images = min((count for count in images if count is not None), default=math.inf)
    max_seconds = seconds(config.max_time) if config.max_time else math.inf
    return RunState(progress, max_images, max_seconds, config.batch_size)


def _begin(run: Run, trainer: pl.Trainer, measurements: Measurements | None, quiet: bool) -> None:
    """What the first rank does before the first update: says what is trained, and records it."""
    config, folder = run.config, run.folder
    if not quiet:
        announce(run.paintings, config.dataset.crop, run.held_out, run.classes)
        print(f"{folder}: {_choices(config, trainer, run)}", file=sys.stderr)
        print(f"The newest samples are always in {folder / LATEST}", file=sys.stderr)
    for path in folder.rglob(TEMPORARY):
        path.unlink(missing_ok=True)  # half-written by a process that was killed
    curves = [*TAGS]
    if measurements:
        measurements.prepare(run.paintings, run.held_out, str(trainer.strategy.root_device))
        curves += measurements.tags
    save_config(config, folder)
    file_writer = writer(trainer).file_writer
    assert file_writer is not None
    for summary in settings(asdict(config), curves):
        file_writer.add_summary(summary)


def _choices(config: TrainConfig, trainer: pl.Trainer, run: Run) -> str:
    """One line on what was chosen by the machine and the size of the dataset."""
    device = trainer.strategy.root_device
    kept = (
        "on the device" if holds(device, run.paintings, config.trainer.paintings) else "in a file"
    )
    count = config.trainer.processes
    on = f"{count} devices, the first {device}" if count > 1 else device
    line = f"training on {on}, precision {trainer.precision}, paintings {kept}"
    if config.autoencoder != "none":
        line += f", as latents of {config.autoencoder}"
    if captures(config.trainer, device):
        line += ", updates as a CUDA graph"
    return line


def _is_finished(state: RunState, measurements: Measurements | None) -> bool:
    return state.used >= 1 and not (measurements and measurements.is_missing())


def _requeue() -> None:
    """Has SLURM run the job again.

    Source: the scontrol(1) manual page; the names of the variables, sbatch(1).
    """
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"The run is saved, but SLURM did not requeue job {job} ({error}). Submit it again."
        ) from error
    print(f"Requeued as job {job}.")


def _write_error(folder: Path, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError) and (folder / CONFIG_FILE).exists():
        return folder_removed(folder)
    return cannot_write(folder, error)


def _print_outcome(
    folder: Path, progress: Progress, finished: bool, grid: Path, best: dict[str, Any] | None
) -> None:
    run = shlex.quote(str(folder))
    if not finished:
        print(f"Paused at {progress.images_seen:,} images. Resume with:")
        print(f"  artgan train resume={run}")
        return
    rate = progress.images_seen / max(progress.seconds, 1e-9)
    kept = f"\n  best         {folder / BEST}, {best['figure']} {best['value']:.4g}" if best else ""
    print(
        f"Done: {progress.images_seen:,} images in {_duration(progress)}, {rate:,.0f} images/s\n"
        f"  samples      {grid}\n"
        f"  checkpoint   {folder / LAST}{kept}\n"
        f"  TensorBoard  {folder}\n"
        "Next:\n"
        f"  artgan sample ckpt={run}\n"
        f"  tensorboard --logdir {shlex.quote(str(folder.parent))}\n"
        f"  artgan train resume={run} max_images={2 * progress.images_seen}"
    )


def _duration(progress: Progress) -> str:
    return str(datetime.timedelta(seconds=round(progress.seconds)))
