"""What can be configured: the types and ranges of every key, and how a command line is read.

The values and their explanations stand once, in `configs/*.yaml`; the dataclasses here give each
key its type and range. `--help` is made from both.
"""

import difflib
import errno
import itertools
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from artgan.errors import UserError, plain_errors
from artgan.files import atomic_write
from artgan.sweep import apart, failures, note_failure

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
GROUPS = ("dataset", "model", "method", "preset")
# Figures that tell which state of a run is the best, and those of them that are taken on features.
MONITORS = ("kid", "fid", "swd")
ON_FEATURES = ("kid", "fid")
# Networks of features whose weights are fetched.
NAMED_FEATURES = ("inception", "squeezenet")
# Networks whose features say what content and style are.
BACKBONES = ("vgg19", "vgg16", "vgg19_caffe", "vgg16_caffe", "squeezenet", "random")
CONFIG_FILE = "config.yaml"
# First line of a group's file that also sets keys outside its group.
GLOBAL = "# @package _global_"
MULTIRUN = ("-m", "--multirun")
# What Hydra can have installed for sweeps, and the extra of ours that brings it.
EXTRAS = {"submitit_local": "slurm", "submitit_slurm": "slurm", "optuna": "optuna"}
FLAGS_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--info", "-i")
HELP_ENDING = """\
--cfg job shows the whole configuration of a command without running it;
-m runs every combination of comma-separated values, as in -m seed=0,1,2."""

Config = TypeVar(
    "Config", "TrainConfig", "SampleConfig", "EvaluateConfig", "ExportConfig", "StylizeConfig"
)
Typed = TypeVar("Typed")


def _number(low: float, high: float = float("inf"), *, below: bool = False) -> Any:
    """A required key from `low` to `high`; `below` excludes `high` itself."""
    return field(default=MISSING, metadata={"low": low, "high": high, "below": below})


def _choice(*choices: str | int) -> Any:
    return field(default=MISSING, metadata={"choices": choices})


@dataclass
class DatasetConfig:
    source: str = _choice("inkwash", "folder", "archives", "huggingface")
    root: str | None = MISSING
    flip: bool = MISSING
    crop: str = _choice("center", "random", "tiles")
    border: str = _choice("keep", "trim")
    deduplicate: bool = MISSING
    holdout: float = _number(0, 1, below=True)
    default_epochs: int | None = _number(1)
    default_max_time: str | None = MISSING
    address: str | None = MISSING
    archives: list[str] = MISSING
    only: list[str] = MISSING
    largest: float = _number(0)
    insecure: bool = MISSING
    terms: str | None = MISSING
    repo: str | None = MISSING
    split: str | None = MISSING
    column: str | None = MISSING
    label: str | None = MISSING
    streaming: bool = MISSING
    artist: str | None = MISSING
    genre: str | None = MISSING
    style: str | None = MISSING


@dataclass
class ModelConfig:
    conditional: bool = MISSING
    latent_dim: int = _number(1, 2**16)
    width: int = _number(1, 2**12)
    loss: str = _choice("bce", "hinge", "lsgan", "wgan_gp", "rpgan")
    label_smoothing: float = _number(0, 0.5)
    normalization: str = _choice("batch", "spectral", "none")
    minibatch_std: bool = MISSING
    r1: float = _number(0)
    r2: float = _number(0)
    gradient_penalty: float = _number(0)
    penalty_every: int = _number(1)
    penalty_final: float = _number(0, 1)
    augment: list[str] = MISSING
    augment_probability: float = _number(0, 1)
    augment_target: float | None = _number(0, 1)
    learning_rate: float = _number(0, 1e30)  # far more would be infinite in float32
    learning_rate_final: float = _number(0, 1)
    beta1: float = _number(0, 1, below=True)
    beta2: float = _number(0, 1, below=True)
    ema_half_life: float = _number(0)
    ema_ramp: float = _number(0)


@dataclass
class EvaluationConfig:
    features: str = MISSING
    num: int = _number(16)


@dataclass
class CheckpointConfig:
    every: int = _number(1)
    keep: int = _number(1)
    monitor: str | None = _choice(*MONITORS)


@dataclass
class TrainerConfig:
    accelerator: str = _choice("auto", "cpu", "gpu", "mps")
    devices: int = _number(1)
    num_nodes: int = _number(1)
    strategy: str = _choice("auto", "ddp")
    precision: str = _choice("auto", "32", "bf16")
    cuda_graph: bool = MISSING
    paintings: str = _choice("auto", "device", "file")

    @property
    def processes(self) -> int:
        """One for each device of all machines."""
        return self.devices * self.num_nodes


@dataclass
class TrainConfig:
    """Everything that `train.py` takes; see `configs/train.yaml` for the meaning of each key."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    resolution: int = _choice(32, 64, 128, 256)
    batch_size: int = _number(1, 2**20)
    epochs: int | None = _number(1)
    max_images: int | None = _number(1)
    max_time: str | None = MISSING
    seed: int = _number(0, 2**32 - 1)
    name: str | None = MISSING
    resume: str | None = MISSING
    output: str = MISSING
    log_every: int = _number(1)
    sample_every: int = _number(1)
    evaluate_every: int | None = _number(1)
    on_nan: str = _choice("stop", "rollback")
    evaluate: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass
class SampleConfig:
    """Everything that `sample.py` takes; see `configs/sample.yaml` for the meaning of each key."""

    ckpt: str | None = MISSING
    num: int = _number(1)
    seed: int = _number(0, 2**32 - 1)
    classes: list[str] = MISSING
    out: str | None = MISSING
    truncation: float = _number(0, 1)
    ema: bool = MISSING
    interpolate: int = _number(0)
    frames: int = _number(1)
    layout: str = _choice("single", "scroll")
    length: float = _number(1, 1000)
    from_image: str | None = MISSING
    device: str = _choice("auto", "cpu", "cuda", "mps")


@dataclass
class EvaluateConfig:
    """Everything that `evaluate.py` takes; see `configs/evaluate.yaml` for each key's meaning.

    A key of the dataset that is MISSING is as the run has it.
    """

    ckpt: str | None = MISSING
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    features: str = MISSING
    num: int = _number(16)
    seed: int = _number(0, 2**32 - 1)
    ema: bool = MISSING
    out: str | None = MISSING
    device: str = _choice("auto", "cpu", "cuda", "mps")


@dataclass
class ExportConfig:
    """Everything that `export.py` takes; see `configs/export.yaml` for the meaning of each key."""

    ckpt: str | None = MISSING
    out: str | None = MISSING


@dataclass
class StylizeConfig:
    """Everything that `stylize.py` takes; see `configs/stylize.yaml` for the meaning of each key.

    Content, style and mask are one name or a list of them.
    """

    content: Any = MISSING
    style: Any = MISSING
    out: str | None = MISSING
    overwrite: bool = MISSING
    size: int | None = _number(16, 2**16)
    style_size: int | None = _number(16, 2**16)
    weights: list[float] = MISSING
    gallery: bool = MISSING
    color: str = _choice("style", "content")
    mask: Any = MISSING
    tile: int | None = _number(128)
    seed: int = _number(0, 2**32 - 1)
    weights_dir: str | None = MISSING
    device: str = _choice("auto", "cpu", "cuda", "mps")
    method: str = _choice("magenta", "gatys")
    strength: float = _number(0, 1)
    init: str = MISSING
    precision: str = _choice("auto", "32", "bf16")
    snapshot_every: int = _number(0)
    animation: bool = MISSING
    tensorboard: str | None = MISSING
    preset: str = _choice("best", "adam", "keras", "gatys2016")
    backbone: str = _choice(*BACKBONES)
    content_layers: list[str] = MISSING
    content_weight: float = _number(0)
    style_layers: list[str] = MISSING
    style_layer_weights: list[float] = MISSING
    style_weight: float = _number(0)
    losses: str = _choice("gatys", "udacity", "keras", "covariance")
    total_variation: float = _number(0)
    pooling: str = _choice("max", "average")
    optimizer: str = _choice("adam", "lbfgs")
    learning_rate: float = _number(0, 1e30)
    iterations: int = _number(1)
    first_size: int | None = _number(16, 2**16)
    scale_step: float = _number(1.1, 16)
    averaging: float = _number(0, 1, below=True)


@dataclass
class Recipe:
    """How a picture was painted with a generator; kept in the picture.

    Attributes:
        kind: single, grid or scroll.
        seed: of the picture, or of the first in a grid.
        truncation: of the latents.
        ema: averaged generator, or the raw one.
        num: pictures in a grid.
        length: of a scroll, in its heights.
        classes: that it is of, mixed in equal parts; none if its seed says.
    """

    kind: str = _choice("single", "grid", "scroll")
    seed: int = _number(0, 2**53)
    truncation: float = _number(0, 1)
    ema: bool = MISSING
    num: int = _number(1, 10_000)
    length: float = _number(1, 1000)
    classes: list[str] = MISSING


def seconds(duration: str) -> float:
    """Reads a duration such as `90s`, `10m` or `1h30m`, in seconds.

    Raises:
        UserError: it is not of that form, or not above zero.
    """
    match = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?", duration.strip())
    try:
        hours, minutes, rest = (float(part or 0) for part in match.groups()) if match else (0, 0, 0)
    except ValueError:
        hours, minutes, rest = 0, 0, 0
    total = hours * 3600 + minutes * 60 + rest
    if total <= 0:
        raise UserError(f"max_time: '{duration}' is not a time. Write it as 90s, 10m, 2h or 1h30m.")
    return total


def check(config: Any, prefix: str = "", left_open: Sequence[str] = ()) -> None:
    """Refuses a value outside the range or choices of its key.

    Args:
        config: a dataclass of this module, filled.
        prefix: what stands before the names of its keys, such as `model.`.
        left_open: groups whose keys may be MISSING.

    Raises:
        UserError: naming the key, the value, and what is allowed.
    """
    for key in fields(config):
        value, name, allowed = getattr(config, key.name), prefix + key.name, key.metadata
        if is_dataclass(value):
            check(value, name + ".", left_open)
        elif value == MISSING:
            if prefix.removesuffix(".") not in left_open:
                raise UserError(f"{name}: a value is needed. Add {name}=… to the command.")
        elif value == "":
            raise UserError(f"{name}: is empty. Give a value, or null for none.")
        elif value is None or not allowed:
            continue
        elif "choices" in allowed:
            if value not in allowed["choices"]:
                raise UserError(f"{name}: {not_among(value, allowed['choices'])}")
        else:
            low, high, below = allowed["low"], allowed["high"], allowed["below"]
            if not (low <= value <= high) or (below and value == high):
                limit = "" if high == float("inf") else f" and {'below' if below else 'at most'} "
                limit += "" if high == float("inf") else f"{high:,}"
                raise UserError(f"{name}: {value} must be at least {low:,}{limit}.")
        # YAML reads nan and inf as numbers, and no range above refuses an infinite learning rate.
        if isinstance(value, float) and value in (float("inf"), float("-inf")):
            raise UserError(f"{name}: {value} is not a finite number.")


def save_config(config: TrainConfig, folder: Path) -> None:
    """Writes the resolved configuration of a run into its folder."""
    with atomic_write(folder / CONFIG_FILE) as file:
        file.write(OmegaConf.to_yaml(OmegaConf.structured(config)).encode())


def load_config(folder: Path, overrides: list[str] | None = None) -> TrainConfig:
    """Reads the configuration of the run in `folder`, with `overrides` (`key=value`) on top.

    Raises:
        UserError: there is no run in the folder, or its configuration cannot be read.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{folder}: no run lies here ({CONFIG_FILE} is missing).")
    try:
        given = OmegaConf.load(path), OmegaConf.from_dotlist(overrides or [])
        # Under it the values of today, for keys that the version that began the run did not have.
        values = OmegaConf.merge(config_defaults(), *given)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]}).") from error
    return typed(TrainConfig, values, str(path))


@cache
def config_defaults() -> dict[str, Any]:
    """The values in `configs/`: those of `train.yaml`, of every dataset, and of the plain model."""
    files = {"": "train", "dataset": "dataset/_common", "model": "model/dcgan"}
    defaults: dict[str, Any] = {}
    for group, name in files.items():
        values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
        kept = {key: value for key, value in values.items() if key not in ("defaults", "hydra")}
        defaults |= {group: kept} if group else kept
    return defaults


def stylize_config(options: dict[str, Any]) -> "StylizeConfig":
    """The configuration that a command line of `stylize.py` with these options has.

    Raises:
        UserError: an option does not exist, or has a value that it cannot have.
    """
    for key, value in options.items():
        if mistake := _unknown(key, StylizeConfig):
            raise UserError(f"{mistake} All of them: python stylize.py --help")
        if key in GROUPS:
            _refuse_choice(key, value)
    return typed(StylizeConfig, composed("stylize", options) | options, "stylize")


def composed(name: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """The values of a file in `configs/`, and of those that its defaults list, in their order.

    Args:
        name: of the file, without its ending.
        chosen: file of each group that is another one than the defaults say.
    """
    path = CONFIGS / f"{name}.yaml"
    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    values: dict[str, Any] = {}
    for entry in own.pop("defaults", ["_self_"]):
        if entry == "_self_":
            values |= {key: value for key, value in own.items() if key != "hydra"}
        elif isinstance(entry, dict):
            for group in entry.keys() & GROUPS:
                values |= composed(f"{group}/{chosen.get(group, entry[group])}", chosen)
        elif entry != "schema":
            values |= composed(f"{path.parent.name}/{entry}", chosen)
    return values


def typed(schema: type[Typed], values: Any, origin: str) -> Typed:
    """Fills a dataclass of this module from a file's values, and checks types and ranges.

    Raises:
        UserError: naming `origin`, the file, and what in it is wrong.
    """
    try:
        return _filled(schema, OmegaConf.merge(OmegaConf.structured(schema), values))
    except (OmegaConfBaseException, UserError, ValueError) as error:
        raise UserError(f"{origin}: {_explain(error)}") from error


def replaced(own: Typed, given: Typed) -> Typed:
    """A dataclass of this module with those keys of another on top that are not MISSING."""
    chosen = {key: value for key, value in vars(given).items() if value != MISSING}
    return replace(own, **chosen)  # type: ignore[type-var]


def _filled(schema: type[Typed], values: Any, left_open: Sequence[str] = ()) -> Typed:
    """The dataclass of checked values; only those of groups left open may be MISSING."""
    filled = _built(schema, OmegaConf.to_container(values, resolve=True))
    check(filled, left_open=left_open)
    return filled


def _built(schema: Any, values: Any) -> Any:
    # Not OmegaConf.to_object, which has no place for a value that is MISSING.
    parts = {
        key.name: _built(key.type, values[key.name]) if is_dataclass(key.type) else values[key.name]
        for key in fields(schema)
    }
    return schema(**parts)


@dataclass(frozen=True)
class Command:
    """How the command line reached a configuration.

    Attributes:
        overrides: the `key=value` arguments of this job, as typed.
        job_number: place of this job in a multirun (`-m`), None in a single run.
    """

    overrides: list[str]
    job_number: int | None


def register(schema: type) -> None:
    """Makes the types known to Hydra under the name that the files in `configs/` give them."""
    store = ConfigStore.instance()
    store.store(name="schema", node=schema)
    store.store(group="dataset", name="schema", node=DatasetConfig)
    store.store(group="model", name="schema", node=ModelConfig)


def launch(
    schema: type[Config], config_name: str, run: Callable[[Config, Command], float | None]
) -> None:
    """Composes `configs/<config_name>.yaml` with the command line, checks it, and calls `run`.

    A mistake of the user ends the process with one message and code 1. In a multirun the other
    jobs are done all the same, and the failed ones are told of at the end.

    Args:
        schema: the dataclass that the composed configuration must fit.
        config_name: name of the file in `configs/`, without its ending.
        run: does the work, and may give a figure for a search to lessen.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text(schema, config_name))
        return
    register(schema)
    # Hydra then raises its exceptions instead of printing them, and we say it in our words.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    job = _Job(schema, run)
    with plain_errors(), Sweep.failures_told():
        try:
            # Hydra's parser wants -m before the overrides; people write it anywhere.
            sys.argv[1:] = sorted(sys.argv[1:], key=lambda one: one not in MULTIRUN)
            sys.argv[1:] = [
                argument
                if argument.startswith("-") or flag in FLAGS_WITH_VALUE
                else _checked(argument, schema)
                for flag, argument in itertools.pairwise(sys.argv)
            ]
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(job)()
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_explain(error)) from error
        except Exception as error:
            if Sweep.begun is None:
                raise
            # What a launcher or sweeper raises; the jobs' own mistakes do not come here.
            raise UserError(f"The sweep ended early: {type(error).__name__}: {error}") from error
        if job.mistake:
            raise UserError(job.mistake)


class _Job:
    """What Hydra calls for each job; a launcher may carry it to another process or machine."""

    def __init__(self, schema: Any, run: Callable[[Any, Command], float | None]) -> None:
        self.schema = schema
        self.run = run
        self.home = os.getpid()
        self.mistake: str | None = None

    def __call__(self, composed: DictConfig) -> float | None:
        cfg = HydraConfig.get()
        multirun = cfg.mode == RunMode.MULTIRUN
        # As typed: `${…}` in them is of the configuration, not of Hydra's.
        overrides: Any = OmegaConf.to_container(cfg.overrides.task)
        command = Command(overrides, cfg.job.num if multirun else None)
        left_open = [group for group, choice in cfg.runtime.choices.items() if choice is None]
        # As long as Lightning finds Hydra at work, it starts the other processes of a run with
        # arguments of its own making.
        HydraConfig.instance().cfg = None
        work = partial(self._work, composed, left_open, command)
        # Mistakes are kept rather than raised: Hydra would print more, and end a multirun here.
        if not multirun:
            try:
                work()
            except UserError as error:
                self.mistake = str(error)
            return None
        try:
            return apart(work)
        except UserError as error:
            mistake = str(error)
        except KeyboardInterrupt:
            if os.getpid() == self.home:
                raise
            mistake = "was stopped."
        note_failure(Path(cfg.runtime.output_dir), command.overrides, mistake)
        return math.inf  # the worst of all for a search, which ends at what is no number

    def _work(self, composed: DictConfig, left_open: list[str], command: Command) -> float | None:
        try:
            return self.run(_filled(self.schema, composed, left_open), command)
        except OmegaConfBaseException as error:
            raise UserError(_explain(error)) from error
        except OSError as error:
            # Any look at a path may find so; whatever else can go wrong has its message by now.
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise UserError(f"{error.filename!s:.80}…: this name is too long.") from error


class Sweep(Callback):
    """Knows where the jobs of this process's multirun leave word; Hydra makes it, by `configs/`."""

    begun: ClassVar["Sweep | None"] = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        sweeper = config.hydra.runtime.choices["hydra/sweeper"]
        if sweeper != "basic" and OmegaConf.select(config, "checkpoint.monitor") is None:
            # Not a UserError, of which Hydra would make a warning.
            sys.exit(
                f"hydra/sweeper={sweeper}: a search needs a figure to lessen. Add evaluate_every="
                "50000 checkpoint.monitor=swd (or kid, or fid) to a command of train.py"
            )
        self.folder = Path(config.hydra.sweep.dir)
        self.overrides: Any = OmegaConf.to_container(config.hydra.overrides.task)
        Sweep.begun = self

    @classmethod
    @contextmanager
    def failures_told(cls) -> Iterator[None]:
        """Ends the process with code 1 if jobs failed, and a line for each, however it ends."""
        cls.begun = None
        told: list[str] = []
        try:
            yield
        finally:
            if cls.begun:
                told = failures(cls.begun.folder, cls.begun.overrides)
                print(*told, sep="\n", end="\n" if told else "", file=sys.stderr)
        if told:
            sys.exit(1)


def _checked(argument: str, schema: type) -> str:
    """Refuses an argument whose key or group choice does not exist, naming the nearest right one.

    Returns:
        The argument, quoted where Hydra's grammar could not read its value, such as a path with
        brackets or Chinese characters in it, or a list of such names.
    """
    parser = OverridesParser.create()
    multirun = bool({*MULTIRUN} & set(sys.argv))
    try:
        override = parser.parse_override(argument)
        readable = multirun or not override.is_sweep_override()
    except HydraException:
        readable = False
    if not readable:
        key, equals, value = argument.partition("=")
        escaped = value.replace("'", r"\'")
        if value[:1] + value[-1:] == "[]":
            items = ",".join(f"'{item.strip()}'" for item in escaped[1:-1].split(","))
            argument = f"{key}=[{items}]"
        else:
            argument = f"{key}='{escaped}'"
        try:
            override = parser.parse_override(argument if equals else "")
        except HydraException:
            raise UserError(f"'{key}{equals}{value}' cannot be read. Write key=value.") from None
    key = override.key_or_group
    if key.startswith("hydra"):
        return argument
    if mistake := _unknown(key, schema):
        raise UserError(f"{mistake} All of them: {_script()} --help")
    if override.is_delete():
        raise UserError(f"{key}: cannot be taken away. Set another value, or null.")
    if key in GROUPS and not override.is_sweep_override():
        _refuse_choice(key, override.value())
    return argument


def _unknown(key: str, schema: type) -> str | None:
    """Says that a key does not exist, and which comes nearest; None if it does."""
    known = _keys(schema)
    if key in known:
        return None
    by_leaf = {name.rpartition(".")[2]: name for name in known}
    near = difflib.get_close_matches(key, [*known, *by_leaf], n=1)
    hint = f" Did you mean '{by_leaf.get(near[0], near[0])}'?" if near else ""
    return f"'{key}' is not an option.{hint}"


def _refuse_choice(group: str, choice: object) -> None:
    choices = [path.stem for path in _choices(group)]
    if choice not in choices:
        raise UserError(f"{group}: {not_among(choice, choices)}")


def _choices(group: str) -> list[Path]:
    """The files of a group that can be chosen; others build on those that begin with `_`."""
    return [path for path in sorted((CONFIGS / group).glob("*.yaml")) if path.stem[0] != "_"]


def _script() -> str:
    return f"python {Path(sys.argv[0]).name}"


def _explain(error: Exception) -> str:
    """Says in one line which value was wrong."""
    if isinstance(error, UserError):
        return str(error)
    missing = error.missing_cfg_file if isinstance(error, MissingConfigException) else None
    if missing and Path(missing).name in EXTRAS:
        group, _, name = missing.rpartition("/")
        return f'{group}={name}: is not installed. Get it by pip install -e ".[{EXTRAS[name]}]"'
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    message = str(cause).splitlines()[0]
    if "is not a ListConfig" in message:
        message = "is a list. Write its parts in brackets, as [one,two]."
    full_key = getattr(cause, "full_key", None)
    return f"{full_key}: {message}" if full_key else message


def not_among(value: object, choices: Iterable[object]) -> str:
    """Says what a value could have been, and which of it comes nearest."""
    names = [str(choice) for choice in choices]
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"'{value}' is none of {', '.join(names)}.{hint}"


def _keys(schema: type, prefix: str = "") -> list[str]:
    """The dotted names of all keys of a dataclass and of those within it."""
    names: list[str] = []
    for key in fields(schema):
        names.append(prefix + key.name)
        if is_dataclass(key.type):
            names += _keys(key.type, prefix + key.name + ".")  # type: ignore[arg-type]
    return names


def flattened(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nest of dicts as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def documented_keys(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yields (dotted key, default as written, explanation) of each line of a config file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    group = "" if path.parent == CONFIGS or GLOBAL in lines else f"{path.parent.name}."
    section = ""
    for line in lines:
        match = re.fullmatch(r"( *)(\w+):(?: +([^#\s][^#]*?))?(?: +# (.*))?", line)
        if match is None:
            continue
        indent, key, default, explanation = match.groups()
        if not indent:
            section = "" if default else key + "."
        if default and section != "hydra.":
            yield group + section + key, default, explanation or ""


def help_text(schema: type, config_name: str) -> str:
    """The text of `--help`: every key with its default, unit and meaning, from the YAML files."""
    path = CONFIGS / f"{config_name}.yaml"
    lines = [_opening(path), "", *_help_lines(path)]
    for group in GROUPS:
        if group in _keys(schema):
            for choice in sorted((CONFIGS / group).glob("*.yaml")):
                title = f"{group}={choice.stem}: " if choice in _choices(group) else ""
                lines += ["", title + _opening(choice), *_help_lines(choice)]
    return "\n".join([*lines, "", HELP_ENDING])


def _opening(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = itertools.takewhile(lambda line: line.startswith("# "), lines)
    return "\n".join(line.removeprefix("# ") for line in comments if line != GLOBAL)


def _help_lines(path: Path) -> list[str]:
    words = {"???": "required", "null": "none"}
    return [
        f"  {key:<26} {explanation} [{words.get(default, default)}]"
        for key, default, explanation in documented_keys(path)
    ]
