"""One training: everything wired together, from the paintings to the last line on the screen."""

import copy
import datetime
import gc
import io
import logging
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from pytorch_lightning.utilities.warnings import PossibleUserWarning

from artgan.checkpoint import BEST, KEY, LAST, load_checkpoint, newest_checkpoint
from artgan.config import CONFIG_FILE, config_defaults, load_config, save_config
from artgan.data.classes import count_classes
from artgan.data.pack import Pack
from artgan.data.sources import announce, reload_paintings
from artgan.errors import UserError
from artgan.events import settings, unwritable_said_once
from artgan.files import atomic_write, cannot_write
from artgan.memory import is_out_of_memory, keep_freed_memory
from artgan.options import TrainConfig, TrainerConfig, seconds
from artgan.training.callbacks import (
    FIGURES,
    Checkpoints,
    Clock,
    Curves,
    Diverged,
    ProgressBar,
    SampleGrids,
    Stopping,
    gone,
    link,
    say,
)
from artgan.training.datamodule import Paintings, holds
from artgan.training.distributed import TO_PREPARE, cluster, together, told
from artgan.training.gan import GAN
from artgan.training.graph import CapturedGraph, captures
from artgan.training.launchers import is_first
from artgan.training.measurements import Measurements
from artgan.training.run_folder import clear_temporaries, put_before_now
from artgan.training.state import Progress, RunState

MOST_ROLLBACKS = 3


def join() -> None:
    """Trains on one more device, in a run that another process begins.

    Raises:
        UserError: the run or its paintings cannot be seen from this machine.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process gets it, too, and decides
    folder, dataset_key = told()
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"{folder}: the run's folder cannot be seen from {socket.gethostname()}. All machines "
            "need it on a disk that they share: output=PATH"
        )
    config = load_config(folder)
    pack = reload_paintings(config.dataset, config.resolution, dataset_key)
    with redirect_stderr(io.StringIO()):  # the first process says the same
        train(config, folder, pack)


def train(config: TrainConfig, folder: Path, pack: Pack) -> bool:
    """Trains the run in `folder` until its budget is used up or someone stops it.

    Goes on from its newest checkpoint where there is one, and prints where the results lie.

    Args:
        config: of the run.
        folder: of the run; it exists.
        pack: the paintings; those held out are taken off here.

    Returns:
        Whether the budget is used up.

    Raises:
        UserError: a device cannot be used, the dataset is another one than the run began with,
            the run is finished, the memory is too small, or a loss is no longer a number.
    """
    pack, held_out = pack.split(config.dataset.holdout)
    events_told = unwritable_said_once(folder, partial(_told, folder))
    with _quiet_lightning(), _restored_environment(), events_told:
        rollbacks = 0
        while True:
            try:
                return _train(config, folder, pack, held_out, rollbacks)
            except Diverged as error:
                rollbacks = error.rollbacks + 1
                if config.on_nan == "stop" or rollbacks > MOST_ROLLBACKS:
                    raise
                say(
                    f"{error.what} Going back to the last good state, to go on from there with "
                    f"other noise: {rollbacks} of at most {MOST_ROLLBACKS} times."
                )
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                break
    # Only here is the memory free again that the error held.
    raise UserError(_too_large(config, folder, pack))


def _train(config: TrainConfig, folder: Path, pack: Pack, held_out: Pack, rollbacks: int) -> bool:
    """Trains as `train` does, from the newest checkpoint on.

    Args:
        config: of the run.
        folder: of the run.
        pack: the paintings to train on.
        held_out: those that are not.
        rollbacks: how often the run has gone back to where it now goes on from.

    Raises:
        Diverged: a loss or weight is no longer a number.
        RuntimeError: there is not enough memory, among others.
    """
    checkpoint, progress = last_state(folder, config, pack.key)
    progress.rollbacks = max(progress.rollbacks, rollbacks)
    if checkpoint and is_first() and not (folder / LAST).exists():
        link(checkpoint, folder / LAST)  # the run was killed before it could
    state = RunState(progress, *_budget(config, len(pack)))
    stopping = Stopping(state, Clock())
    classes = count_classes(pack) if config.model.conditional else {}
    module = GAN(config, pack.key, state, classes)
    grids = SampleGrids(config.sample_every, folder, pack)
    measurements = Measurements(config, folder, stopping) if config.evaluate_every else None

    def is_finished() -> bool:
        owes = measurements is not None and measurements.owes(module)
        return state.used >= 1 and not owes

    if is_finished():
        raise UserError(
            f"{folder}: this run is finished, after {progress.images_seen:,} images in "
            f"{_duration(progress)}. To go on, give it more in all: "
            f"resume={shlex.quote(str(folder))} max_images=… (or epochs=… or max_time=…)"
        )
    logger = EventLog(
        folder,
        name="",
        version="",
        default_hp_metric=False,
        # Points that were logged after the checkpoint will be logged again.
        purge_step=progress.images_seen + 1 if checkpoint else 0,
    )
    callbacks = _callbacks(config, folder, stopping, grids, measurements)
    trainer = _make_trainer(config.trainer, logger, callbacks)
    if is_first():
        if not rollbacks:
            announce(pack, config.dataset.crop, held_out, classes)
            print(f"{folder}: {_choices(config.trainer, trainer, pack)}", file=sys.stderr)
        clear_temporaries(folder)
        figures = [*FIGURES]
        if measurements:
            measurements.prepare(pack, held_out, str(trainer.strategy.root_device))
            figures += measurements.tags
        save_config(config, folder)
        put_before_now(folder)
        _log_hyperparameters(logger, config, figures)
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
    others = isinstance(trainer.strategy, Ranks)
    with (
        together(config.trainer, folder, pack.key) if others else nullcontext(),
        stopping.taking_signals(),
        suppress(SIGTERMException),  # Lightning's word for one that came before we took them
    ):
        trainer.fit(
            module,
            datamodule=Paintings(pack, config, state.max_images),
            ckpt_path=checkpoint,
            weights_only=True,
        )
    finished = is_finished()
    if is_first():
        best = measurements.best if measurements else None
        grid = grids.path(module.progress.images_seen)
        _print_outcome(folder, module.progress, finished, grid, best)
        # What submitit has started, it puts back by itself.
        if state.requeue and not finished and "SUBMITIT_EXECUTOR" not in os.environ:
            _requeue()
    return finished


def _too_large(config: TrainConfig, folder: Path, pack: Pack) -> str:
    """What to tell a person whose memory is too small; tries half the batch, a quarter, ….

    Returns:
        The message.
    """
    batch_size = config.batch_size
    problem = f"batch_size: there is not enough memory for {batch_size}."
    if config.trainer.processes > 1:
        return f"{problem} Start a new run with a smaller one."
    print(f"{problem} Trying what would fit.", file=sys.stderr)
    if _fits(config, pack):
        return (
            "There is memory for the updates, but not for what is done besides: the start, grids, "
            "measurements. End other programs, or set evaluate.num lower, and go on: "
            f"resume={shlex.quote(str(folder))}"
        )
    while batch_size > 1:
        batch_size //= 2
        if _fits(replace(config, batch_size=batch_size), pack):
            return f"{problem} {batch_size} fits: start a new run with batch_size={batch_size}"
    return f"{problem} Not even 1 fits: start a new run with a smaller model.width or resolution."


def _fits(config: TrainConfig, pack: Pack) -> bool:
    """Whether there is memory for a few updates, on a module that is thrown away."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    # The last of them is captured, where updates are replayed as a CUDA graph.
    images = (CapturedGraph.WARM_UP + 1) * config.batch_size
    classes = count_classes(pack) if config.model.conditional else {}
    state = RunState(max_images=images)
    stopping = Stopping(state, Clock())
    try:
        with _quiet_lightning(), _restored_environment(), stopping.taking_signals():
            _make_trainer(config.trainer, False, [stopping]).fit(
                GAN(config, pack.key, state, classes), datamodule=Paintings(pack, config, images)
            )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    if state.interrupted:
        raise KeyboardInterrupt
    return True


def _requeue() -> None:
    """Has SLURM run the job again.

    Raises:
        UserError: it does not.

    Source: the scontrol(1) manual page; the names of the variables, sbatch(1).
    """
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"The run is saved, but SLURM did not put job {job} back into its queue ({error}). "
            "Submit it again."
        ) from error
    print(f"Put back into the queue as job {job}.")


def last_state(folder: Path, config: TrainConfig, dataset_key: str) -> tuple[Path | None, Progress]:
    """The checkpoint that a run goes on from, and how far it had come.

    Args:
        folder: of the run.
        config: of the run.
        dataset_key: of the paintings as they are now.

    Returns:
        None and no progress for a run without a checkpoint, which begins at the beginning.

    Raises:
        UserError: no checkpoint is whole, or the newest does not fit the paintings or the
            configuration.
    """
    newest = newest_checkpoint(folder)
    if newest is None:
        return None, Progress()
    checkpoint, described = newest[0], newest[1][KEY]
    try:
        # As in `load_config`, for keys that the version that wrote it did not have.
        model = config_defaults()["model"] | described["config"]["model"]
        resolution = described["config"]["resolution"]
        progress = Progress(**described["progress"])
        trained_on = described["dataset_key"]
        trainer = described["config"]["trainer"]
        processes = trainer["devices"] * trainer.get("num_nodes", 1)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{checkpoint}: says too little of its run ({error!r}).") from error
    if (model, resolution) != (asdict(config.model), config.resolution):
        raise UserError(
            f"{checkpoint}: was trained with another model or resolution than "
            f"{folder / CONFIG_FILE} says. Put that file back as it was, or start a new run."
        )
    if trained_on != dataset_key:
        raise UserError(
            f"{checkpoint}: was trained on other paintings than now lie in {config.dataset.root}. "
            "Put them back as they were, say where they lie now (dataset.root=…), or start a new "
            "run."
        )
    if processes != config.trainer.processes:
        print(
            f"{checkpoint}: was trained on {processes} devices, now on {config.trainer.processes}. "
            "Paintings and latents stay the same; sums are rounded otherwise, so it is not the "
            "same bit for bit.",
            file=sys.stderr,
        )
    return checkpoint, progress


def _callbacks(
    config: TrainConfig,
    folder: Path,
    stopping: Stopping,
    grids: SampleGrids,
    measurements: Measurements | None,
) -> list[pl.Callback]:
    curves = Curves(config.log_every, folder, stopping.clock)
    return [
        stopping,
        curves,
        grids,
        *([measurements] if measurements else []),
        # After all that belongs to a state: a killed run that goes on from it would not have it.
        Checkpoints(folder, config.checkpoint.every, config.checkpoint.keep),
        ProgressBar(stopping, curves),
    ]


def pick_precision(precision: str, accelerator: str) -> str:
    """Lightning's name for a precision; `auto` is bfloat16 where the hardware multiplies it faster.

    Args:
        precision: auto, 32 or bf16.
        accelerator: auto, cpu, gpu or mps.
    """
    if precision == "auto":
        if accelerator in ("auto", "gpu") and torch.cuda.is_available():
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        elif accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
            fast = False
        else:
            capabilities = torch.cpu.get_capabilities()
            fast = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
        precision = "bf16" if fast else "32"
    return {"32": "32-true", "bf16": "bf16-mixed"}[precision]


class EventLog(TensorBoardLogger):
    """TensorBoard events right in the run folder."""

    def save(self) -> None:
        """Writes no hparams.yaml: config.yaml lies there already."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints so that a file under its final name is always whole, and verifies them."""

    def load_checkpoint(self, path: str | Path, *_: object, **__: object) -> dict[str, Any]:
        # Copied out of the file, which the run will replace.
        return copy.deepcopy(load_checkpoint(Path(path)))

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        # Saved to memory first: torch hides a full disk behind an error of its own.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with atomic_write(Path(path)) as file:
            file.write(buffer.getbuffer())


class Ranks(DDPStrategy):
    """Lightning's processes for several devices; `GAN` itself averages what each has computed.

    `DistributedDataParallel` would send the gradients of both networks at the update of either.
    """

    def configure_ddp(self) -> None:
        assert self.lightning_module is not None
        # Processors of another make may have drawn other bits.
        for tensor in self.lightning_module.state_dict().values():
            first = tensor.contiguous()
            torch.distributed.broadcast(first, 0)
            tensor.copy_(first)


def _make_trainer(
    config: TrainerConfig, logger: TensorBoardLogger | bool, callbacks: list[pl.Callback]
) -> pl.Trainer:
    several = config.processes > 1 or config.strategy == "ddp"
    try:
        return pl.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=Ranks(timeout=TO_PREPARE) if several else "auto",
            precision=pick_precision(config.precision, config.accelerator),  # type: ignore[arg-type]
            logger=logger,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO(), cluster()],
            max_epochs=-1,  # Stopping ends it
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise UserError(
            f"trainer: accelerator={config.accelerator} devices={config.devices} cannot be had "
            f"here ({str(error).splitlines()[0]}). Try trainer.accelerator=auto trainer.devices=1"
        ) from error


def _choices(config: TrainerConfig, trainer: pl.Trainer, pack: Pack) -> str:
    """In one line, what was chosen by the machine and the size of the set."""
    device = trainer.strategy.root_device
    where = "on the device" if holds(device, pack, config.paintings) else "in their file"
    on = f"{config.processes} devices, the first {device}" if config.processes > 1 else device
    line = f"training on {on}, precision {trainer.precision}, paintings {where}"
    if captures(config, device):
        line += ", updates as a CUDA graph"
    if device.type == "cpu" and trainer.precision == "bf16-mixed":
        line += ", deep convolutions as matrix products"
    return line


def _budget(config: TrainConfig, paintings: int) -> tuple[float, float]:
    """Images and seconds after which the run ends."""
    images = [config.max_images, config.epochs and config.epochs * paintings]
    max_images = min((count for count in images if count is not None), default=math.inf)
    return max_images, seconds(config.max_time) if config.max_time else math.inf


def _log_hyperparameters(
    logger: TensorBoardLogger, config: TrainConfig, figures: list[str]
) -> None:
    file_writer = logger.experiment.file_writer
    assert file_writer is not None
    for summary in settings(asdict(config), figures):
        file_writer.add_summary(summary)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's own remarks are about options that a user here does not have."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _told(folder: Path, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError) and (folder / CONFIG_FILE).exists():
        return gone(folder)
    return cannot_write(folder, error)


@contextmanager
def _restored_environment() -> Iterator[None]:
    """Takes back what Lightning's launcher sets, which would stop the next run of a multirun."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _print_outcome(
    folder: Path,
    progress: Progress,
    finished: bool,
    grid: Path,
    best: dict[str, Any] | None,
) -> None:
    run = shlex.quote(str(folder))
    if not finished:
        print(f"Paused at {progress.images_seen:,} images. Go on with:")
        print(f"  python train.py resume={run}")
        return
    rate = progress.images_seen / max(progress.seconds, 1e-9)
    kept = f"\n  the best     {folder / BEST}, {best['figure']} {best['value']:.4g}" if best else ""
    print(
        f"Done: {progress.images_seen:,} images in {_duration(progress)}, {rate:,.0f} images/s\n"
        f"  samples      {grid}\n"
        f"  checkpoint   {folder / LAST}{kept}\n"
        f"  TensorBoard  {folder}\n"
        "Next:\n"
        f"  python sample.py ckpt={run}\n"
        f"  tensorboard --logdir {shlex.quote(str(folder.parent))}\n"
        f"  python train.py resume={run} max_images={2 * progress.images_seen}"
    )


def _duration(progress: Progress) -> str:
    return str(datetime.timedelta(seconds=round(progress.seconds)))
