"""The folder of a run: its name, its configuration, and the lock on it."""

import datetime
import itertools
import json
import shlex
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from artgan.config import CONFIG_FILE, Command, load_config, put, save_config, typed
from artgan.data import sources
from artgan.data.classes import count_classes
from artgan.data.pack import Pack
from artgan.errors import UserError
from artgan.files import absolute, cannot_write
from artgan.options import NAMED_FEATURES, ON_FEATURES, TrainConfig
from artgan.training.launchers import launched
from artgan.training.recipe import check_model

BUDGETS = ("epochs", "max_images", "max_time")
# What may change in a run that is resumed: these options, and all options of these groups.
CHANGEABLE = {*BUDGETS, "resume", "dataset.root", "weights_dir", "on_nan"}
CHANGEABLE |= {"log_every", "sample_every", "evaluate_every"}
CHANGEABLE_GROUPS = ("evaluate", "checkpoint", "trainer")
LOCK = ".lock"
TEMPORARY = ".*.tmp"


@dataclass(frozen=True)
class Run:
    """A run that is ready to train.

    Attributes:
        paintings: to train on.
        held_out: those that are never trained on; may be empty.
        classes: name of each class and how many squares it has; empty without classes.
    """

    config: TrainConfig
    folder: Path
    paintings: Pack
    held_out: Pack
    classes: dict[str, int]


@contextmanager
def prepare(config: TrainConfig, command: Command) -> Iterator[Run]:
    """Prepares what one `artgan train` asks for, before torch and Lightning are imported.

    Yields:
        The run, new or resumed. No other process can train in its folder until the block ends.

    Raises:
        UserError: something asked for is wrong or not available, in which case no folder is made;
            or another process trains in it.
    """
    if command.job_number is not None and (launched() or config.trainer.num_nodes > 1):
        raise UserError("-m: trains on one machine only. Start the runs one by one.")
    if config.resume is not None:
        folder = Path(config.resume)
        config = reopen(folder, command.given)
        with _locked(folder):
            pack = sources.load_paintings(config.dataset, config.resolution)
            yield _run(config, folder, pack)
        return
    settle(config)
    pack = sources.load_paintings(config.dataset, config.resolution)
    # Too large a share, or a dataset without classes, is refused before there is a folder.
    run = _run(config, Path(), pack)
    folder = claim_folder(config, command.job_number)
    with _locked(folder):
        _refuse_taken(folder)  # by a process that was quicker
        save_config(config, folder)
        try:
            yield replace(run, folder=folder)
        except UserError:
            if {path.name for path in folder.iterdir()} == {CONFIG_FILE, LOCK}:
                shutil.rmtree(folder)  # refused before anything came of it
            raise


def describe(run: Run) -> str:
    """A prepared run as text, for the other processes that train it."""
    return json.dumps([str(run.folder.resolve()), run.paintings.key, asdict(run.config)])


def open_run(described: str) -> Run:
    """The run of `describe`, prepared on this machine or on one that shares its disk.

    Raises:
        UserError: it cannot be read on this machine.
    """
    place, dataset_key, values = json.loads(described)
    folder, config = Path(place), typed(TrainConfig, values)
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"{folder}: the run's folder cannot be read on {socket.gethostname()}. All machines "
            "need it on a shared disk: output=PATH"
        )
    pack = sources.reload_paintings(config.dataset, config.resolution, dataset_key)
    return _run(config, folder, pack)


def _run(config: TrainConfig, folder: Path, pack: Pack) -> Run:
    paintings, held_out = pack.split(config.dataset.holdout)
    classes = count_classes(paintings) if config.model.conditional else {}
    return Run(config, folder, paintings, held_out, classes)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in a folder; the system unlocks it if this one dies."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder}: another process is training this run. Wait for it, or stop it first."
        ) from None
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def settle(config: TrainConfig) -> None:
    """Fills in what a new run's command left open, and refuses what cannot work, before any work.

    That is the dataset's own budget if none is given, and an absolute `dataset.root`, so that the
    run can be resumed from any folder.

    Raises:
        UserError: the name is taken or is not a name, or the settings do not fit together.
    """
    if all(getattr(config, budget) is None for budget in BUDGETS):
        config.epochs = config.dataset.default_epochs
        config.max_time = config.dataset.default_max_time
    _check_together(config)
    sources.settle(config.dataset)
    if config.name is not None:
        if Path(config.name).name != config.name or config.name == "..":
            raise UserError(f"name: '{config.name}' must be the plain name of a folder in output=.")
        _refuse_taken(Path(config.output) / config.name)


def _check_together(config: TrainConfig) -> None:
    check_model(config)
    config.weights_dir = config.weights_dir and absolute(config.weights_dir)
    trainer = config.trainer
    if place := launched():
        trainer.devices, trainer.num_nodes = place.devices, place.num_nodes
    elif trainer.num_nodes > 1:
        raise UserError(
            f"trainer.num_nodes: {trainer.num_nodes} machines cannot find each other. Start "
            "the run on each of them by torchrun or srun (docs/scaling.md shows how), or set "
            "trainer.num_nodes=1."
        )
    devices = trainer.processes
    if config.on_nan == "rollback" and (devices > 1 or trainer.strategy == "ddp"):
        raise UserError(
            "on_nan: rollback is for a single device. Set trainer.devices=1, or on_nan=stop"
        )
    if config.batch_size % devices:
        raise UserError(
            f"batch_size: {config.batch_size} cannot be shared by {devices} devices. "
            f"Choose a multiple of {devices}."
        )
    _check_measuring(config)


def _check_measuring(config: TrainConfig) -> None:
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
        path = Path(absolute(features))
        if not path.is_file():
            raise UserError(
                f"evaluate.features: there is no file {path}. It can be "
                f"{', '.join(NAMED_FEATURES)}, the file of a state dict of one of them, or none."
            )
        config.evaluate.features = str(path)


def _refuse_taken(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and all(map(_is_leftover, folder.iterdir()))):
        raise UserError(
            f"name: there is a run {folder} already. Resume it with "
            f"resume={shlex.quote(str(folder))}, or choose another name."
        )


def _is_leftover(path: Path) -> bool:
    """Whether a file is all that is left of a run that never began."""
    return path.name in (CONFIG_FILE, LOCK) or path.match(TEMPORARY)


def claim_folder(config: TrainConfig, job_number: int | None = None) -> Path:
    """Makes the folder of a new run, and writes its name into `config`.

    In a multirun the number of the job ends the name.

    Raises:
        UserError: there is a run of that name, or the folder cannot be made.
    """
    name = config.name or _default_name(config)
    if job_number is not None:
        name += f"-{job_number}"
    folder = Path(config.output) / name
    if config.name is not None:
        _refuse_taken(folder)
    for attempt in itertools.count(2):
        try:
            folder.mkdir(parents=True, exist_ok=config.name is not None)
            break
        except FileExistsError:  # begun in the same second
            folder = folder.with_name(f"{name}-{attempt}")
        except OSError as error:
            raise UserError(f"output: {folder} cannot be made ({error.strerror}).") from error
    config.name = folder.name
    return folder


def _default_name(config: TrainConfig) -> str:
    """Sorts by time, and says what is painted: 20261120-192310-inkwash-64px."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    assert config.dataset.root is not None
    # TensorBoard wants folders whose names are text, which the names of users' folders need not be.
    source = "".join(one if one.isprintable() else "_" for one in Path(config.dataset.root).name)
    return f"{now}-{'-'.join(source.split())}-{config.resolution}px"


def reopen(folder: Path, given: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a run to resume, with the options given; a new budget replaces the old.

    Raises:
        UserError: there is no such run, or an option is given that would make it another run.
    """
    if folder.is_file() and folder.suffix == ".safetensors":
        raise UserError(
            f"resume: {folder} is an exported generator, without what training needs. Give the run "
            "folder that it came from."
        )
    if folder.is_file():
        raise UserError(f"resume: {folder} is a file. Give the run folder: resume={folder.parent}")
    for key in given:
        if key not in CHANGEABLE and key.partition(".")[0] not in CHANGEABLE_GROUPS:
            raise UserError(
                f"{key}: cannot change in a run that is resumed. Start a new one, without resume=."
            )
    values = asdict(load_config(folder))
    if given.keys() & set(BUDGETS):
        values |= dict.fromkeys(BUDGETS)
    for key, value in given.items():
        if key != "resume":
            put(values, key, value)
    config = typed(TrainConfig, values)
    assert config.dataset.root is not None
    config.dataset.root = absolute(config.dataset.root)
    _check_together(config)
    return config
