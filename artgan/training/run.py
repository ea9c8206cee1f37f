"""A run: its folder, its budget, and the training from the start or from where it stopped."""

import datetime
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.tensorboard.summary import hparams

from artgan.checkpoint import KEY, LAST, load_checkpoint
from artgan.config import Command, TrainConfig, TrainerConfig, load_config, save_config, seconds
from artgan.data.pack import Pack
from artgan.data.sources import load_paintings, report
from artgan.errors import UserError
from artgan.files import atomic_write
from artgan.training.callbacks import (
    FIGURES,
    Checkpoints,
    Curves,
    ProgressBar,
    SampleGrids,
    Stopping,
)
from artgan.training.datamodule import Paintings
from artgan.training.module import GAN, Progress

# Set for the processes that Lightning starts for the other devices: the run they belong to.
RUN_FOLDER = "ARTGAN_RUN_FOLDER"
BUDGETS = ("epochs", "max_images", "max_time")
CHANGEABLE = (
    *BUDGETS,
    "resume",
    "dataset.root",  # the same paintings may lie elsewhere now
    "log_every",
    "sample_every",
    "checkpoint.",
    "trainer.",
)


def start(config: TrainConfig, command: Command) -> None:
    """Does what one `train.py` command asks: a new run, or going on with one."""
    if config.resume is not None:
        folder = Path(config.resume)
        train(reopen(folder, command.overrides), folder)
        return
    folder = claim_folder(config, command.job_number)
    try:
        train(config, folder)
    except BaseException:
        # A run that came to nothing leaves its name free.
        with suppress(OSError):
            folder.rmdir()
        raise


def claim_folder(config: TrainConfig, job_number: int | None = None) -> Path:
    """Makes the folder of a new run, and settles its name and budget in `config`.

    Args:
        config: changed in place: `name` is filled, and the dataset's own budget where none is
            given.
        job_number: place in a multirun, which then ends the name.

    Raises:
        UserError: there is a run of that name.
    """
    if all(getattr(config, budget) is None for budget in BUDGETS):
        config.epochs = config.dataset.default_epochs
        config.max_time = config.dataset.default_max_time
    if config.max_time is not None:
        seconds(config.max_time)  # refuses a mistyped one before any work
    share = config.trainer.devices * config.trainer.num_nodes
    if config.batch_size % share:
        raise UserError(
            f"batch_size: {config.batch_size} cannot be shared by {share} devices. "
            f"Take a multiple of {share}."
        )
    name = config.name or _default_name(config)
    if job_number is not None:
        name += f"-{job_number}"
    folder = Path(config.output) / name
    for attempt in range(2, 100):
        if config.name is None and folder.exists():  # begun in the same second
            folder = folder.with_name(f"{name}-{attempt}")
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UserError(
            f"name: there is a run {folder} already. Go on with it by resume={folder}, or choose "
            "another name."
        ) from None
    except OSError as error:
        raise UserError(f"output: {folder} cannot be made ({error.strerror}).") from error
    config.name = folder.name
    return folder


def _default_name(config: TrainConfig) -> str:
    """Sorts by time, and says what is painted: 20261120-192310-inkwash-64px."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    source = Path(config.dataset.root).resolve().name
    return f"{now}-{source}-{config.resolution}px"


def reopen(folder: Path, overrides: list[str]) -> TrainConfig:
    """Reads the configuration of a run that shall go on, with what may change in between.

    Args:
        folder: of the run.
        overrides: `key=value` of the command; a new budget replaces the old one.

    Raises:
        UserError: there is no such run, or a key is given that would make it another run.
    """
    if folder.is_file():
        raise UserError(f"resume: {folder} is a file. Give the run folder: resume={folder.parent}")
    keys = [override.lstrip("+").partition("=")[0] for override in overrides]
    for key in keys:
        if not key.startswith(CHANGEABLE):
            raise UserError(
                f"{key}: cannot change in a run that goes on. Start a new one, without resume=."
            )
    kept = [override for override in overrides if not override.startswith("resume=")]
    if set(keys) & set(BUDGETS):
        kept = [f"{budget}=null" for budget in BUDGETS if budget not in keys] + kept
    config = load_config(folder, kept)
    if config.max_time is not None:
        seconds(config.max_time)
    return config


def train(config: TrainConfig, folder: Path) -> None:
    """Trains the run in `folder` until its budget is used up or someone stops it.

    Goes on from `last.ckpt` where there is one, and prints where the results lie.

    Args:
        config: of the run.
        folder: of the run; it exists.

    Raises:
        UserError: the dataset or a device cannot be used, the dataset is another one than the
            run began with, or the run is finished.
    """
    is_first_process = RUN_FOLDER not in os.environ
    pack = load_paintings(config.dataset, config.resolution)
    module = GAN(config, pack.key)
    checkpoint = folder / LAST if (folder / LAST).is_file() else None
    if checkpoint is not None:
        module.progress = _read_progress(checkpoint, pack)
    stopping = Stopping(*_budget(config, len(pack.paintings)))
    if stopping.share(module.progress) >= 1:
        raise UserError(
            f"{folder}: this run is finished, after {module.progress.images_seen:,} images. "
            f"Give it more to go on: resume={folder} max_images=… (or epochs=… or max_time=…)"
        )
    curves = Curves(config.log_every, folder)
    grids = SampleGrids(config.sample_every, folder, pack.paintings)
    callbacks = [
        stopping,
        curves,
        # Before the grids: a system that ends the run may not wait for those.
        Checkpoints(folder, config.checkpoint.every, config.checkpoint.keep),
        grids,
        ProgressBar(stopping, curves),
    ]
    logger = EventLog(
        folder,
        name="",
        version="",
        default_hp_metric=False,
        # Points that were logged after the checkpoint will be logged again.
        purge_step=module.progress.images_seen + 1 if checkpoint else None,
    )
    with _quiet_lightning(), _restored_environment():
        trainer = _make_trainer(config.trainer, logger, callbacks)
        if is_first_process:
            report(config.dataset, pack)
            device = str(trainer.strategy.root_device)
            print(f"{folder}: training on {device}, precision {trainer.precision}", file=sys.stderr)
            _clear_temporaries(folder)
            _log_hyperparameters(logger, config)
            save_config(config, folder)
        os.environ[RUN_FOLDER] = str(folder.resolve())
        trainer.fit(
            module,
            datamodule=Paintings(pack.paintings, config.batch_size, config.seed),
            ckpt_path=checkpoint,
            weights_only=True,
        )
    if is_first_process:
        _print_outcome(folder, module, stopping, grids.latest)


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
    """Writes checkpoints so that a file under its final name is always whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        with atomic_write(Path(path)) as file:
            torch.save(checkpoint, file)


def _make_trainer(
    config: TrainerConfig, logger: TensorBoardLogger, callbacks: list[pl.Callback]
) -> pl.Trainer:
    # The discriminator's update leaves the generator's gradients unused, and the other way round.
    several = config.devices * config.num_nodes > 1 or config.strategy == "ddp"
    strategy = DDPStrategy(find_unused_parameters=True) if several else "auto"
    try:
        return pl.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=strategy,
            precision=pick_precision(config.precision, config.accelerator),  # type: ignore[arg-type]
            sync_batchnorm=several and config.accelerator != "cpu" and torch.cuda.is_available(),
            logger=logger,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            max_epochs=-1,  # Stopping ends it
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, RuntimeError) as error:
        raise UserError(f"trainer: {str(error).splitlines()[0]}") from error


def _budget(config: TrainConfig, paintings: int) -> tuple[float, float]:
    """Images and seconds after which the run ends."""
    images = [config.max_images, config.epochs and config.epochs * paintings]
    max_images = min((count for count in images if count is not None), default=math.inf)
    return max_images, seconds(config.max_time) if config.max_time else math.inf


def _read_progress(checkpoint: Path, pack: Pack) -> Progress:
    described = load_checkpoint(checkpoint)[KEY]
    if described["dataset_key"] != pack.key:
        raise UserError(
            f"{checkpoint}: was trained on other paintings than now lie in the dataset's folder. "
            "Put them back as they were, or start a new run."
        )
    return Progress(**described["progress"])


def _clear_temporaries(folder: Path) -> None:
    """Removes what a killed process left half-written under temporary names."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def _log_hyperparameters(logger: TensorBoardLogger, config: TrainConfig) -> None:
    """Fills TensorBoard's HPARAMS tab, which takes each figure's latest value from its curve."""
    flat = {key: value for key, value in _flatten(asdict(config)).items() if value is not None}
    for summary in hparams(flat, dict.fromkeys(FIGURES, 0.0)):
        file_writer = logger.experiment.file_writer
        assert file_writer is not None
        file_writer.add_summary(summary)


def _flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's own remarks are about options that a user here does not have."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def _restored_environment() -> Iterator[None]:
    """Takes back what Lightning's launcher sets, which would stop the next run of a multirun."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _print_outcome(folder: Path, module: GAN, stopping: Stopping, grid: Path | None) -> None:
    progress = module.progress
    if stopping.share(progress) < 1:
        print(f"Paused at {progress.images_seen:,} images. Go on with:")
        print(f"  python train.py resume={folder}")
        return
    rate = progress.images_seen / max(progress.seconds, 1e-9)
    print(
        f"Done: {progress.images_seen:,} images in "
        f"{datetime.timedelta(seconds=round(progress.seconds))}, {rate:,.0f} images/s\n"
        f"  samples      {grid}\n"
        f"  checkpoint   {folder / LAST}\n"
        f"  TensorBoard  {folder}\n"
        "Next:\n"
        f"  python sample.py ckpt={folder}\n"
        f"  tensorboard --logdir {folder.parent}\n"
        f"  python train.py resume={folder} max_images={2 * progress.images_seen}"
    )
