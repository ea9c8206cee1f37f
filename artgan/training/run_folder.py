"""The folder of a run: its name, its configuration, and who works in it."""

import datetime
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from artgan.config import CONFIG_FILE, Command, load_config, save_config
from artgan.data import sources
from artgan.data.classes import count_classes
from artgan.data.pack import Pack
from artgan.errors import UserError
from artgan.files import cannot_write
from artgan.options import (
    NAMED_FEATURES,
    ON_FEATURES,
    ModelConfig,
    TrainConfig,
    TrainerConfig,
    seconds,
)
from artgan.training.launchers import launched

AUGMENTATIONS = ("color", "translation", "cutout")
PENALTIES = ("r1", "r2", "gradient_penalty")
SMOOTHED = ("bce", "lsgan")
BUDGETS = ("epochs", "max_images", "max_time")
# What may change in a run that goes on: these keys, and all keys of these groups.
CHANGEABLE = {*BUDGETS, "resume", "dataset.root", "on_nan"}
CHANGEABLE |= {"log_every", "sample_every", "evaluate_every"}
CHANGEABLE_GROUPS = ("evaluate", "checkpoint", "trainer")
LOCK = ".lock"
TEMPORARY = ".*.tmp"


@contextmanager
def prepare(config: TrainConfig, command: Command) -> Iterator[tuple[TrainConfig, Path, Pack]]:
    """Settles what one `train.py` command asks for, before torch and Lightning are imported.

    Yields:
        The configuration, the folder of the run, new or to go on with, and the paintings. No other
        process can train in that folder until the block ends.

    Raises:
        UserError: something asked for is wrong or cannot be had, in which case no folder is made;
            or another process trains in it.
    """
    if config.resume is not None:
        folder = Path(config.resume)
        config = reopen(folder, command.overrides)
        _meet_others(config.trainer, command)
        with _held(folder):
            yield config, folder, sources.load_paintings(config.dataset, config.resolution)
        return
    settle(config)
    _meet_others(config.trainer, command)
    pack = sources.load_paintings(config.dataset, config.resolution)
    # Too large a share, or a set without classes, is refused before there is a folder.
    training, _ = pack.split(config.dataset.holdout)
    if config.model.conditional:
        count_classes(training)
    folder = claim_folder(config, command.job_number)
    with _held(folder):
        _refuse_taken(folder)  # by a process that was quicker
        save_config(config, folder)
        try:
            yield config, folder, pack
        except UserError:
            if {path.name for path in folder.iterdir()} == {CONFIG_FILE, LOCK}:
                shutil.rmtree(folder)  # refused before anything came of it
            raise


def _meet_others(config: TrainerConfig, command: Command) -> None:
    """Lets the processes that torchrun, srun or a person has started elsewhere find this one."""
    if launched() is None and config.num_nodes == 1:
        return
    if command.job_number is not None:
        raise UserError("-m: trains on one machine only. Start the runs one by one.")
    # Imported only now: it takes torch, and others wait.
    from artgan.training.distributed import meet

    meet()


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in a folder; the system lets go of it if this one dies.

    Raises:
        UserError: another process trains in it, or it cannot be written.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder}: another process trains this run. Wait for its end, or stop it first."
        ) from None
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def settle(config: TrainConfig) -> None:
    """Fills in what a new run's command left open, and refuses what cannot work, before any work.

    Args:
        config: changed in place: the dataset's own budget where none is given, and an absolute
            `dataset.root`, so that the run can go on from any folder.

    Raises:
        UserError: the name is taken or is no name, or the settings do not fit together.
    """
    if all(getattr(config, budget) is None for budget in BUDGETS):
        config.epochs = config.dataset.default_epochs
        config.max_time = config.dataset.default_max_time
    _check_together(config)
    sources.settle(config.dataset)
    if config.name is not None:
        if Path(config.name).name != config.name or config.name == "..":
            raise UserError(
                f"name: '{config.name}' must be the plain name of a folder. output= says where."
            )
        _refuse_taken(Path(config.output) / config.name)


def _check_together(config: TrainConfig) -> None:
    if config.max_time is not None:
        seconds(config.max_time)  # refuses a mistyped one
    _check_model(config.model)
    _settle_devices(config.trainer)
    devices = config.trainer.processes
    if config.on_nan == "rollback" and (devices > 1 or config.trainer.strategy == "ddp"):
        raise UserError(
            "on_nan: rollback is for a single device. Set trainer.devices=1, or on_nan=stop"
        )
    if config.batch_size % devices:
        raise UserError(
            f"batch_size: {config.batch_size} cannot be shared by {devices} devices. "
            f"Take a multiple of {devices}."
        )
    _settle_measuring(config)


def _settle_devices(config: TrainerConfig) -> None:
    """Takes the counts of devices and machines from torchrun or srun, which started them."""
    if place := launched():
        config.devices, config.num_nodes = place.devices, place.num_nodes
    elif config.num_nodes > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise UserError(
            f"trainer.num_nodes: {config.num_nodes} machines cannot find each other. Start "
            "train.py on each of them by torchrun or srun; docs/scaling.md shows how."
        )


def _settle_measuring(config: TrainConfig) -> None:
    """Refuses what cannot be measured, and gives the file of features its absolute path."""
    monitor, features = config.checkpoint.monitor, config.evaluate.features
    if monitor and config.evaluate_every is None:
        raise UserError(
            f"checkpoint.monitor: {monitor} is never measured. Say how often, in images: "
            "evaluate_every=50000"
        )
    if monitor in ON_FEATURES and features == "none":
        raise UserError(
            f"checkpoint.monitor: {monitor} needs features. Set evaluate.features=squeezenet, or "
            "checkpoint.monitor=swd"
        )
    if config.evaluate_every is not None and features not in (*NAMED_FEATURES, "none"):
        path = Path(features).expanduser().absolute()
        if not path.is_file():
            raise UserError(
                f"evaluate.features: there is no file {path}. It takes "
                f"{', '.join(NAMED_FEATURES)}, the file of a state dict of one of them, or none."
            )
        config.evaluate.features = str(path)


def _check_model(model: ModelConfig) -> None:
    unknown = set(model.augment) - set(AUGMENTATIONS)
    if unknown:
        raise UserError(
            f"model.augment: '{min(unknown)}' is none of {', '.join(AUGMENTATIONS)}. "
            "Write model.augment=[translation,cutout]"
        )
    if model.augment_target is not None and not model.augment:
        raise UserError(
            "model.augment_target: there is no augmentation to adapt. "
            "Add model.augment=[translation,cutout]"
        )
    if model.augment_target is not None and model.augment_probability != 1:
        raise UserError(
            "model.augment_probability: is adapted, from 0 on, with model.augment_target. "
            "Leave one of them out."
        )
    if model.augment_target is not None and model.loss in ("lsgan", "wgan_gp"):
        raise UserError(
            f"model.augment_target: the sign of D means nothing with the loss {model.loss}. "
            "Leave it out, or take model.loss=bce, hinge or rpgan."
        )
    if model.loss == "wgan_gp" and not model.gradient_penalty:
        raise UserError(
            "model.loss: wgan_gp has no bounds without its penalty. Add model.gradient_penalty=10"
        )
    penalties = [name for name in PENALTIES if getattr(model, name)]
    if penalties and model.normalization == "batch":
        raise UserError(
            f"model.{penalties[0]}: a gradient is that of one picture only where each is scored by "
            "itself, which BatchNorm does not. Add model.normalization=none"
        )
    if model.label_smoothing and model.loss not in SMOOTHED:
        raise UserError(
            f"model.label_smoothing: the loss {model.loss} has no labels. "
            f"It is for {' and '.join(SMOOTHED)}."
        )


def _refuse_taken(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and all(map(_is_leftover, folder.iterdir()))):
        raise UserError(
            f"name: there is a run {folder} already. Go on with it by "
            f"resume={shlex.quote(str(folder))}, or choose another name."
        )


def _is_leftover(path: Path) -> bool:
    """Whether no more than this is left of a run that came to nothing."""
    return path.name in (CONFIG_FILE, LOCK) or path.match(TEMPORARY)


def claim_folder(config: TrainConfig, job_number: int | None = None) -> Path:
    """Makes the folder of a new run, and writes its name into `config`.

    Args:
        config: settled.
        job_number: place in a multirun, which then ends the name.

    Raises:
        UserError: there is a run of that name, or the folder cannot be made.
    """
    name = config.name or _default_name(config)
    if job_number is not None:
        name += f"-{job_number}"
    folder = Path(config.output) / name
    attempt = 1
    if config.name is not None:
        _refuse_taken(folder)
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=config.name is not None)
            break
        except FileExistsError:  # begun in the same second
            attempt += 1
            folder = folder.with_name(f"{name}-{attempt}")
        except OSError as error:
            raise UserError(f"output: {folder} cannot be made ({error.strerror}).") from error
    config.name = folder.name
    return folder


def _default_name(config: TrainConfig) -> str:
    """Sorts by time, and says what is painted: 20261120-192310-inkwash-64px."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    assert config.dataset.root is not None
    # TensorBoard wants folders whose names are text, which those of paintings need not be.
    source = "".join(sign if sign.isprintable() else "_" for sign in Path(config.dataset.root).name)
    source = "-".join(source.split())
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
        if key not in CHANGEABLE and key.partition(".")[0] not in CHANGEABLE_GROUPS:
            raise UserError(
                f"{key}: cannot change in a run that goes on. Start a new one, without resume=."
            )
    kept = [override for override in overrides if not override.startswith("resume=")]
    if set(keys) & set(BUDGETS):
        kept = [f"{budget}=null" for budget in BUDGETS if budget not in keys] + kept
    config = load_config(folder, kept)
    _check_together(config)
    return config


def clear_temporaries(folder: Path) -> None:
    """Removes what a killed process left half-written under temporary names."""
    for path in folder.rglob(TEMPORARY):
        path.unlink(missing_ok=True)


def put_before_now(folder: Path) -> None:
    """Has the event files of a run that goes on sort before the one it is about to write.

    TensorBoard reads them in the order of their names, which begin with the second they were made
    in. One made in this second, or before the clock was set back, gets an earlier one.
    """
    now = int(time.time())
    files = sorted(folder.glob("events.out.tfevents.[0-9]*.*"))
    for place, path in enumerate(files):  # the order stands after each
        *kind, second, rest = path.name.split(".", 4)
        earlier = min(int(second), now - len(files) + place)
        path.rename(path.with_name(".".join([*kind, f"{earlier:010d}", rest])))
