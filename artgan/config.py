"""Composing, checking, saving and reading configurations."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from artgan.errors import UserError, nearest, not_among
from artgan.files import atomic_write
from artgan.options import SCHEMAS, DatasetConfig, EvaluateConfig, GatysConfig, TrainConfig

PACKAGE = Path(__file__).resolve().parent
# Packed into the wheel beside this file; at the top of a checkout.
CONFIGS = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
CONFIG_FILE = "config.yaml"
# Options that choose a file of that folder in `configs/`.
GROUPS = ("dataset", "model", "method", "preset")
BOUNDS = {"ge": "at least", "le": "at most", "lt": "below"}
# What people type for an option of another name.
ALIASES = {
    "lr": ("model.learning_rate", "learning_rate"),
    "size": ("resolution",),
    "image_size": ("resolution",),
    "batch": ("batch_size",),
    "bs": ("batch_size",),
    "steps": ("max_images", "iterations"),
    "max_steps": ("max_images",),
    "num_epochs": ("epochs",),
    "gpus": ("trainer.devices",),
    "gpu": ("trainer.devices", "device"),
    "cuda": ("trainer.accelerator", "device"),
    "data": ("dataset.root", "root"),
    "dataroot": ("dataset.root", "root"),
    "path": ("dataset.root", "root"),
    "root": ("dataset.root", "root"),
    "outdir": ("output", "out"),
    "output": ("out",),
    "out": ("output",),
    "checkpoint": ("ckpt",),
    "run": ("ckpt", "resume"),
    "seeds": ("seed",),
    "n": ("num", "name"),
    "c": ("content", "ckpt"),
    "s": ("style", "seed"),
    "o": ("out", "output"),
    "r": ("resume",),
    "b": ("batch_size",),
    "trunc": ("truncation",),
    "photo": ("content",),
    "painting": ("style",),
}

Schema = TypeVar("Schema")


@dataclass(frozen=True)
class Command:
    """How the command line reached a configuration."""

    given: dict[str, Any] = field(default_factory=dict)  # dotted option → value, only those typed
    overrides: list[str] = field(default_factory=list)  # the same as Hydra reads them, `key=value`
    job_number: int | None = None  # place in a multirun (`-m`), None in a single run


@cache
def options_of(schema: Any) -> dict[str, FieldInfo]:
    """All options of a configuration by their dotted names, its groups among them."""
    found: dict[str, FieldInfo] = {}
    for key, info in schema.__pydantic_fields__.items():
        found[key] = info
        nested = DatasetConfig if (schema, key) == (EvaluateConfig, "dataset") else info.annotation
        if is_dataclass(nested):
            found |= {f"{key}.{name}": one for name, one in options_of(nested).items()}
    return found


def register() -> None:
    """Makes the defaults of all options known to Hydra, as `COMMAND_options`."""
    for command, schema in SCHEMAS.items():
        node = defaults(schema) | {"hydra": {"run": {"dir": "."}, "output_subdir": None}}
        ConfigStore.instance().store(name=f"{command}_options", node=node)


def defaults(schema: Any) -> dict[str, Any]:
    """The default of each option, nested; `???` for one that must be given."""
    values: dict[str, Any] = {}
    for key, info in schema.__pydantic_fields__.items():
        if is_dataclass(info.annotation):
            values[key] = defaults(info.annotation)
        elif (schema, key) == (EvaluateConfig, "dataset"):
            values[key] = dict.fromkeys(options_of(DatasetConfig), MISSING)  # as in the run
        else:
            required = info.is_required()
            values[key] = MISSING if required else info.get_default(call_default_factory=True)
    return values


def compose(command: str, options: dict[str, Any]) -> Any:
    """The configuration of a command such as train, with options by their dotted names.

    Raises:
        UserError: an option does not exist, or has a value it cannot have.
    """
    for key, value in options.items():
        refuse_unknown(key, command)
        if key in GROUPS:
            refuse_choice(key, value)
    if command == "train":
        options = implied_by(options) | options
    groups = {key: value for key, value in options.items() if key in GROUPS}
    values = composed(command, groups)
    for key, value in options.items():
        if key not in groups:
            put(values, key, str(value) if isinstance(value, Path) else value)
    return validate(SCHEMAS[command], values, groups)


def implied_by(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the options of a new training imply: a recipe for large images, a folder by its root."""
    if "resume" in options:
        return {}
    implied = {}
    large = str(options.get("resolution")) in ("256", "512")
    if large and "model" not in options and str(options.get("autoencoder")) != "none":
        implied["model"] = "latent"
    rooted = str(options.get("dataset.root")) not in ("None", "null")
    if rooted and not {"dataset", "dataset.source"} & {*options}:
        implied["dataset"] = "folder"
    return implied


def composed(command: str, groups: dict[str, Any]) -> dict[str, Any]:
    """The values that a command composes with the chosen files of groups, unchecked."""
    register()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        found = hydra_compose(command, [f"{key}={value}" for key, value in groups.items()])
    values: Any = OmegaConf.to_container(found)
    return {key: value for key, value in values.items() if key != "hydra"}


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted option in nested values."""
    *path, last = key.split(".")
    for part in path:
        values = values[part]
    values[last] = value


def validate(schema: Any, values: dict[str, Any], groups: Iterable[str] = ()) -> Any:
    """Checks composed values; `???` stands where nothing was given, groups are those chosen.

    Raises:
        UserError: naming an option, its value, and what is allowed.
    """
    values = values | {}
    if schema is EvaluateConfig:
        own = {key: value for key, value in values["dataset"].items() if value != MISSING}
        # Another set comes with its own defaults; otherwise the run's dataset counts.
        values["dataset"] = defaults(DatasetConfig) | own if "dataset" in groups else own
    for key, value in flattened(values).items():
        if isinstance(value, str) and value == MISSING:
            raise UserError(f"{key}: a value is needed. Add {key}=… to the command.")
    return typed(schema, values)


def typed(schema: type[Schema], values: Any, origin: str = "") -> Schema:
    """A configuration from nested plain values; what is missing takes its default.

    The origin is the file they are from, for the message.

    Raises:
        UserError: naming the option, its value, and what is allowed.
    """
    try:
        return TypeAdapter(schema).validate_python(values)
    except ValidationError as error:
        reason = _explain(schema, error.errors()[0])
        raise UserError(f"{origin}: {reason}" if origin else reason) from error


def save_config(config: TrainConfig, folder: Path) -> None:
    """Writes the configuration of a run into its folder."""
    with atomic_write(folder / CONFIG_FILE) as file:
        file.write(yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True).encode())


def load_config(folder: Path) -> TrainConfig:
    """Reads the configuration of the run in `folder`.

    Raises:
        UserError: there is no run in the folder, or its configuration cannot be read.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{folder}: there is no run here ({CONFIG_FILE} is missing).")
    try:
        # What an older version did not write takes its default.
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if not isinstance(values, dict):
            raise ValueError("it holds no options")
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]}).") from error
    return typed(TrainConfig, values, str(path))


def options_only_for(method: str) -> set[str]:
    """The options of `stylize` that only this method reads."""
    return {"strength"} if method == "magenta" else {*options_of(GatysConfig)}


def refuse_unknown(key: str, command: str) -> None:
    """Refuses an option that does not exist with a UserError that names the nearest one."""
    schema = SCHEMAS[command]
    if key in options_of(schema):
        return
    near = meant_option(key, schema)
    hint = f" Did you mean {near}?" if near else ""
    raise UserError(f"{key}: there is no such option.{hint} All: artgan {command} --help all")


def meant_option(key: str, schema: Any) -> str | None:
    """The option that a name stands for: its other name, its last part, or the nearest of them."""
    known = options_of(schema)
    by_last_part = {name.rpartition(".")[2]: name for name in known}
    meant = [name for name in ALIASES.get(key.rpartition(".")[2], ()) if name in known]
    near = meant[0] if meant else nearest(key, [*known, *by_last_part])
    return None if near is None else by_last_part.get(near, near)


def choices(group: str, folders: Iterable[Path] = ()) -> list[Path]:
    """The files of a group that can be chosen; others build on those that begin with `_`."""
    found = [path for folder in (CONFIGS, *folders) for path in (folder / group).glob("*.yaml")]
    return sorted((path for path in found if path.stem[0] != "_"), key=lambda path: path.stem)


def refuse_choice(group: str, choice: object, folders: Iterable[Path] = ()) -> None:
    """Refuses a choice of a group that has no file with a UserError that names the choices."""
    names = [path.stem for path in choices(group, folders)]
    if choice not in names:
        raise UserError(f"{group}: {not_among(choice, names)}")


def flattened(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """The values that a type allows by name; none if it is another type."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((found for one in get_args(annotation) if (found := choices_of(one))), ())


def kinds_of(annotation: Any) -> set[Any]:
    """The plain types that a type is made of, such as str and list; both of them for Any."""
    if annotation is Any:
        return {str, list}
    if get_origin(annotation) is Literal:
        return {type(one) for one in get_args(annotation)}
    return {get_origin(annotation) or annotation}.union(*map(kinds_of, get_args(annotation)))


def _explain(schema: Any, error: ErrorDetails) -> str:
    """Says in one line which value is wrong, and what it can be."""
    known, value, kind = options_of(schema), error["input"], error["type"]
    path = [str(part) for part in error["loc"] if isinstance(part, str)]
    while len(path) > 1 and ".".join(path) not in known and ".".join(path[:-1]) in known:
        path.pop()  # pydantic's name for a member of a union
    key = ".".join(path)
    if key not in known or kind == "unexpected_keyword_argument":
        near = nearest(key, known)
        return f"{key}: there is no such option." + (f" Did you mean {near}?" if near else "")
    if kind == "literal_error":
        return f"{key}: {not_among(value, choices_of(known[key].annotation))}"
    if kind in ("greater_than_equal", "less_than_equal", "less_than"):
        limits: Any = known[key].json_schema_extra
        bounds = (f"{BOUNDS[name]} {limit:,}" for name, limit in limits.items())
        return f"{key}: {value} must be {' and '.join(bounds)}."
    reasons = {
        "missing": f"a value is needed. Add {key}=… to the command.",
        "value": error["msg"].partition(", ")[2],
        "string": "is empty. Give a value, or null for none." if value == "" else "is not a text.",
        "list": "is a list. Write its items in brackets, as [one,two].",
        "finite": f"{value} is not a finite number.",
        "int": f"'{value}' is not a whole number.",
        "float": f"'{value}' is not a number.",
        "bool": f"'{value}' is neither true nor false.",
    }
    return f"{key}: {reasons.get(kind.partition('_')[0], error['msg'])}"
