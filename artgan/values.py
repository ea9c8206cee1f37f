"""What the values of options can be: texts, paths, numbers, times."""

import os
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo

LARGEST_SEED = 2**32 - 1

STRICT = ConfigDict(
    extra="forbid", coerce_numbers_to_str=True, str_min_length=1, allow_inf_nan=False
)


def option(default: Any, meaning: str, **limits: Any) -> Any:
    """An option of a configuration.

    Args:
        default: its value if nothing else is asked for; `...` if one must be given.
        meaning: one line for `--help`, with the unit.
        limits: `ge`, `le` or `lt`.
    """
    more = {"description": meaning, "json_schema_extra": limits, **limits}
    if isinstance(default, list | dict):
        return Field(default_factory=default.copy, **more)
    return Field(default, **more)


def seconds(duration: str) -> float:
    """Reads a duration such as `90s`, `10m` or `1h30m`, in seconds.

    Raises:
        ValueError: it has another form, or is not above zero.
    """
    number = r"(\d+(?:\.\d*)?|\.\d+)"
    match = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s)?", duration.strip())
    hours, minutes, rest = (float(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + rest
    if total <= 0:
        raise ValueError(f"'{duration}' is not a time. Write it as 90s, 10m, 2h or 1h30m.")
    return total


def _duration(value: str) -> str:
    seconds(value)
    return value


Duration = Annotated[str, AfterValidator(_duration)]
# The words of PyTorch and Lightning for the same device.
Device = Annotated[
    Literal["auto", "cpu", "gpu", "mps"],
    BeforeValidator(lambda value: "gpu" if value == "cuda" else value),
]
Precision = Annotated[Literal["auto", "32", "bf16"], BeforeValidator(str)]
# `~` is the user's own folder.
Location = Annotated[str, AfterValidator(os.path.expanduser)]


def _count(value: object) -> object:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kM])", str(value))
    return round(float(match[1]) * {"k": 1e3, "M": 1e6}[match[2]], 3) if match else value


def _devices(value: object, info: ValidationInfo) -> object:
    if value != "auto":
        return value
    from torch import cuda  # only here: a command is checked without it

    return cuda.device_count() or 1 if info.data.get("accelerator") in ("auto", "gpu") else 1


# A number such as 50000 or 50k.
Count = Annotated[int, BeforeValidator(_count)]
# A number, or auto for all GPUs of a machine that are asked for.
Devices = Annotated[int, BeforeValidator(_devices)]
