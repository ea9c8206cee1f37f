"""The command line: `artgan COMMAND …`, and the same from the scripts of a checkout."""

import errno
import math
import operator
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import reduce
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from artgan.arguments import MULTIRUN, PARSER, read_arguments
from artgan.config import (
    CONFIGS,
    Command,
    implied_by,
    register,
    validate,
)
from artgan.errors import UserError, not_among, plain_errors, printable
from artgan.help import help_text, overview
from artgan.options import SCHEMAS
from artgan.sweep import Sweep, note_failure
from artgan.version import __version__

# Launchers and sweepers that an extra installs.
EXTRAS = {"submitit_local": "slurm", "submitit_slurm": "slurm", "optuna": "optuna"}


def main(command: str | None = None) -> None:
    """Runs a command; without a name, as for `artgan`, the first argument names it."""
    arguments = sys.argv[1:]
    with plain_errors():
        if "--version" in arguments:
            print(f"artgan {__version__}")
            return
        if command is None:
            if not arguments or arguments[0] in ("--help", "-h", "help"):
                print(overview())
                return
            command = arguments.pop(0)
            if command not in SCHEMAS:
                raise UserError(f"artgan: {not_among(command, SCHEMAS)} All: artgan --help")
        if {"--help", "-h"} & set(arguments):
            flag = "--help" if "--help" in arguments else "-h"
            topics = arguments[arguments.index(flag) + 1 :]
            print(help_text(command, topics[0] if topics else None))
            return
        launch(command, arguments)


def launch(command: str, arguments: list[str]) -> None:
    """Composes the configuration that arguments ask for, checks it, and does the work.

    Raises:
        UserError: an argument cannot be used, or the work failed.
    """
    flags, overrides = read_arguments(command, arguments)
    if command == "train":
        given = dict(one.lstrip("+").partition("=")[::2] for one in overrides)
        overrides += [f"{key}={value}" for key, value in implied_by(given).items()]
    multirun = bool({*MULTIRUN} & {*flags})
    sweep = Sweep(overrides) if multirun else None
    overrides += sweep.overrides if sweep else []
    register()
    # Hydra then raises its exceptions instead of printing them, and we print them in plain words.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv[1:] = [*flags, *overrides]
    job = Job(command)
    with sweep.reported_failures() if sweep else nullcontext():
        try:
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=command)(job)()
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_explain(error)) from error
        except Exception as error:
            if not multirun or isinstance(error, UserError):
                raise
            # What a launcher or sweeper raises; jobs note their own failures.
            raise UserError(f"The sweep ended early: {type(error).__name__}: {error}") from error
    if job.mistake:
        raise UserError(job.mistake)


class Job:
    """What Hydra calls for each job; a launcher may carry it to another process or machine."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.mistake: str | None = None

    def __call__(self, composed: DictConfig) -> float | None:
        settings = HydraConfig.get()
        overrides: Any = OmegaConf.to_container(settings.overrides.task)
        number = settings.job.num if settings.mode == RunMode.MULTIRUN else None
        # Mistakes are kept, not raised: Hydra would print more, and end a multirun here.
        try:
            return self._work(composed, overrides, number)
        except UserError as error:
            mistake = str(error)
        except Exception as error:
            if number is None:
                raise
            sys.excepthook(*sys.exc_info())
            mistake = f"{type(error).__name__}: {error}"
        if number is None:
            self.mistake = mistake
        else:
            note_failure(Path(settings.runtime.output_dir), overrides, mistake)
        return math.inf  # the worst value for a search, which would end at an exception

    def _work(self, composed: DictConfig, overrides: list[str], number: int | None) -> float | None:
        try:
            values: Any = OmegaConf.to_container(composed, resolve=True)
            keys = [override.key_or_group for override in PARSER.parse_overrides(overrides)]
            config = validate(SCHEMAS[self.command], values, keys)
            given = {key: reduce(operator.getitem, key.split("."), values) for key in keys}
            return RUN[self.command](config, Command(given, overrides, number))
        except OmegaConfBaseException as error:
            raise UserError(_explain(error)) from error
        except OSError as error:
            # Any use of a path may end so; other errors have their message by now.
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise UserError(f"{error.filename!s:.80}…: this name is too long.") from error


def _train(config: Any, command: Command) -> float | None:
    from artgan.training.start import train

    folder, finished = train(config, command)
    if not finished and command.job_number is not None:
        raise KeyboardInterrupt  # whoever stops one job of a sweep wants no further ones
    if config.checkpoint.monitor is None:
        return None
    from artgan.comparison import last_metric

    return last_metric(folder, config.checkpoint.monitor)


def _sample(config: Any, command: Command) -> None:
    from artgan.sampling import sample

    _print_files(sample(config, command.given))


def _stylize(config: Any, command: Command) -> None:
    from artgan.style.batch import repaint

    _print_files(repaint(config, command.given))


def _evaluate(config: Any, command: Command) -> None:
    from artgan.evaluation import evaluate, table

    scores, folder = evaluate(config)
    print(f"{table(scores)}\n{folder}")


def _compare(config: Any, command: Command) -> None:
    from artgan.comparison import compare

    runs = [Path(run) for run in config.runs]
    table, page = compare(runs, config.by, config.out, config.overwrite)
    print(f"{table}\nSide by side: {printable(str(page))}")


def _export(config: Any, command: Command) -> None:
    from artgan.export import export

    print(export(config))


def _check(config: Any, command: Command) -> None:
    from artgan.data.folder import check_folder

    checkup, report = check_folder(Path(config.root))
    print(checkup.summary())
    for facts in checkup.unusable[:5]:
        print(f"  {printable(facts.file)}: {facts.reason}")
    print(f"Report: {printable(str(report))}")


RUN: dict[str, Callable[[Any, Command], float | None]] = {
    "train": _train,
    "sample": _sample,
    "evaluate": _evaluate,
    "compare": _compare,
    "export": _export,
    "stylize": _stylize,
    "check": _check,
}


def _print_files(files: list[Path]) -> None:
    first, *others = files
    print(first if not others else f"{first} and {len(others)} more beside it")


def _explain(error: Exception) -> str:
    """Says in one line which value is wrong."""
    missing = error.missing_cfg_file if isinstance(error, MissingConfigException) else None
    if missing and Path(missing).name in EXTRAS:
        group, _, name = missing.rpartition("/")
        return f'{group}={name}: is not installed. pip install "artgan[{EXTRAS[name]}]"'
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    full_key = getattr(cause, "full_key", None)
    message = str(cause).splitlines()[0]
    return f"{full_key}: {message}" if full_key else message
