"""TensorBoard's event files: images, and the settings of runs."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard.summary import hparams

from artgan.config import flattened
from artgan.errors import UserError, printable
from artgan.files import is_full


def image_summary(tag: str, image: Tensor, png: bytes) -> Summary:
    """An image uint8 [3, H, W], as the bytes of its PNG."""
    channels, height, width = image.shape
    shown = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=tag, image=shown)])


def settings(config: dict[str, Any], curves: Iterable[str]) -> tuple[Summary, ...]:
    """Fills the HPARAMS tab from a run's configuration, and from its curves by their tags."""
    flat: dict[str, Any] = {}
    for key, value in flattened(config).items():
        if isinstance(value, str | list):
            flat[key] = printable(value if isinstance(value, str) else " ".join(value))
        elif isinstance(value, int | float):
            flat[key] = value
    return hparams(flat, dict.fromkeys(curves, 0.0))


@contextmanager
def report_write_errors(folder: Path, message: Callable[[OSError], UserError]) -> Iterator[None]:
    """Raises one UserError if an event file in or below a folder cannot be written in the block.

    TensorBoard writes in a thread, which would print the error before it is passed on.
    """
    before = threading.excepthook

    def is_of_folder(error: BaseException | None) -> TypeGuard[OSError]:
        if not isinstance(error, OSError):
            return False
        if is_full(error) or not isinstance(error.filename, str | bytes):
            return is_full(error)
        path = Path(os.fsdecode(error.filename))
        return path.is_relative_to(folder) or folder.is_relative_to(path)

    def print_others(failure: threading.ExceptHookArgs) -> None:
        if not is_of_folder(failure.exc_value):
            before(failure)

    threading.excepthook = print_others
    try:
        yield
    except OSError as error:
        if not is_of_folder(error):
            raise
        raise message(error) from error
    finally:
        threading.excepthook = before
