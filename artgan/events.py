"""What TensorBoard's event files hold besides curves: pictures, and the settings of runs."""

from collections.abc import Iterable
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard.summary import hparams

from artgan.config import flattened
from artgan.errors import printable


def picture(tag: str, image: Tensor, png: bytes) -> Summary:
    """A picture uint8 [3, H, W], as the bytes of its PNG."""
    channels, height, width = image.shape
    shown = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=tag, image=shown)])


def settings(config: dict[str, Any], figures: Iterable[str]) -> tuple[Summary, ...]:
    """Fills the HPARAMS tab, which takes each figure's latest value from its curve.

    Args:
        config: of a run, a nest of dicts.
        figures: tags of the curves to rank runs by.
    """
    flat = {
        key: value if isinstance(value, int | float) else printable(_text(value))
        for key, value in flattened(config).items()
        if isinstance(value, int | float | str | list)
    }
    return hparams(flat, dict.fromkeys(figures, 0.0))


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else " ".join(value)
