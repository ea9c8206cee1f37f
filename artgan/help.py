"""The texts of `--help`, made from the options themselves."""

import itertools
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import MISSING

from artgan.config import (
    CONFIGS,
    GROUPS,
    choices,
    choices_of,
    composed,
    flattened,
    meant_option,
    options_of,
    options_only_for,
)
from artgan.errors import UserError, nearest, not_among
from artgan.options import SCHEMAS, EvaluateConfig

WIDTH = 100


class Usage(NamedTuple):
    """How a command is typed."""

    example: str  # its arguments
    places: tuple[str, ...]  # options that arguments without a key set, in order
    first: tuple[str, ...]  # options that people set first; empty for all


USAGE = {
    "train": Usage(
        "[PATH] [option=value ...]",
        ("dataset.root",),
        (
            *("dataset", "dataset.root", "dataset.crop", "dataset.holdout", "model", "resolution"),
            *("max_time", "max_images", "epochs", "batch_size", "model.learning_rate"),
            *("name", "resume", "output", "seed", "sample_every", "evaluate_every"),
            *("trainer.accelerator", "trainer.devices"),
        ),
    ),
    "sample": Usage("RUN [option=value ...]", ("ckpt",), ()),
    "evaluate": Usage(
        "RUN [option=value ...]", ("ckpt",), ("ckpt", "dataset", "features", "num", "out", "device")
    ),
    "compare": Usage("RUN ... [by=kid]", ("runs",), ()),
    "export": Usage("RUN [out=FILE]", ("ckpt",), ()),
    "stylize": Usage(
        "PHOTO PAINTING [option=value ...]",
        ("content", "style"),
        (
            *("content", "style", "out", "overwrite", "size", "method", "preset", "strength"),
            *("color", "mask", "weights", "gallery", "seed", "weights_dir", "device"),
        ),
    ),
    "check": Usage("PATH", ("root",), ()),
}
ENDING = """\
--cfg job prints the whole configuration; -m runs every combination of comma-separated values, as in
-m seed=0,1,2; --config-dir DIR adds configuration files of your own."""


def overview() -> str:
    """The help of `artgan` itself."""
    lines = [
        "artgan COMMAND ...: trains a GAN on your paintings, then paints new ones.",
        "",
        *(
            f"  artgan {f'{name} {usage.example}':<46} {SCHEMAS[name].__doc__}"
            for name, usage in USAGE.items()
        ),
        "",
        "artgan COMMAND --help explains its options. tensorboard --logdir checkpoints shows runs.",
    ]
    return "\n".join(lines)


def help_text(command: str, topic: str | None = None) -> str:
    """The help of a command: on a topic such as model, on all, or on what people set first."""
    schema, usage = SCHEMAS[command], USAGE[command]
    values = flattened(composed(command, {}))
    names = [key for key in options_of(schema) if key in values]
    topics = list(dict.fromkeys(key.partition(".")[0] for key in names if "." in key))
    lines = [f"artgan {command} {usage.example}", schema.__doc__ or "", ""]
    ending = ENDING
    if topic is None and usage.first:
        names = list(usage.first)
        more = " or ".join([*topics, *(["gatys"] if command == "stylize" else []), "all"])
        ending = f"More: artgan {command} --help {more}\n{ENDING}"
    elif topic not in (None, "all"):
        own = options_only_for("gatys") if topic == "gatys" else set()
        names = [key for key in names if key in own or f"{key}.".startswith(f"{topic}.")]
        if not names:
            topic = nearest(topic, topics) or "all"
            return f"Nothing is known about this. Try artgan {command} --help {topic}"
        if topic in GROUPS:
            lines += [f"  {topic}={path.stem:<20} {opening(path)}" for path in choices(str(topic))]
            lines.append("")
    # The files of groups that the command takes unless others are chosen.
    listed = yaml.safe_load((CONFIGS / f"{command}.yaml").read_text(encoding="utf-8"))["defaults"]
    for entry in listed:
        if isinstance(entry, dict):
            values |= entry
    return "\n".join([*lines, *(_line(schema, key, values) for key in names), "", ending])


def _line(schema: Any, key: str, values: dict[str, Any]) -> str:
    if key in GROUPS:
        default = values[key] or "the run's"
        return _wrapped(key, f"{', '.join(path.stem for path in choices(key))} [{default}]")
    info = options_of(schema)[key]
    names = choices_of(info.annotation)
    text = f"{', '.join(map(str, names))}: {info.description}" if names else info.description
    own = schema is EvaluateConfig and key.startswith("dataset.")
    return _wrapped(key, f"{text} [{'as in the run' if own else _shown(values[key])}]")


def _wrapped(key: str, text: str) -> str:
    indent = " " * 29
    return textwrap.fill(f"  {key:<26} {text}", WIDTH, subsequent_indent=indent)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str) and value == MISSING:
        return "required"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "empty"
    return f"{value:g}" if isinstance(value, float) else str(value)


def opening(path: Path) -> str:
    """The first sentence of the comment that a configuration file opens with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = itertools.takewhile(lambda line: line.startswith("# "), lines)
    text = " ".join(line.removeprefix("# ") for line in comments if "@package" not in line)
    return re.split(r": |\. | \(", text)[0]


def right_key(command: str, flag: str, value: str) -> str:
    """The option for a flag such as `--lr=0.1`, or `--lr` with the argument after it.

    Raises:
        UserError: there is no such option.
    """
    if flag == "--cfg":
        raise UserError(f"{flag}: {not_among(value, ('job', 'hydra', 'all'))}")
    name, equals, given = flag.lstrip("-").partition("=")
    meant = meant_option(name.replace("-", "_"), SCHEMAS[command])
    if meant is None:
        raise UserError(f"{flag}: there is no such flag. See artgan {command} --help")
    value = given if equals else value
    return f"{meant}={shlex.quote(value) if value else 'VALUE'}"
