"""artgan: trains a GAN on your paintings, then paints new ones.

    import artgan
    artgan.load("checkpoints/mine").paint(seeds=range(16))[0].save("first.png")

Options are those of the command line, with dots in a dict: `train("PATH", **{"model.width": 16})`.
Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artgan.version import __version__

if TYPE_CHECKING:
    from PIL.Image import Image

    from artgan.painter import Painter

__all__ = ["__version__", "evaluate", "load", "stylize", "train"]


def load(run: str | Path, ema: bool = True, device: str = "auto") -> Painter:
    """The trained generator of a run folder, checkpoint or exported file.

    Raises:
        UserError: it cannot be used, or the device (auto, cpu, gpu, mps) is not available.
    """
    from artgan.painter import load

    return load(run, ema, device)


def train(root: str | Path | None = None, **options: Any) -> Path:
    """Trains on a folder of paintings, or on `dataset=`, and returns the run's folder.

    Raises:
        UserError: an option or the paintings cannot be used, or training failed.
    """
    from artgan.config import Command, compose
    from artgan.training.start import train

    if root is not None:
        options = {"dataset": "folder", "dataset.root": str(root)} | options
    folder, _ = train(compose("train", options), Command(given=options))
    return folder


def evaluate(run: str | Path, **options: Any) -> dict[str, Any]:
    """Measures how well a run paints, and returns its scores, as `metrics.json` holds them.

    Raises:
        UserError: the run, an option or the paintings cannot be used.
    """
    from artgan.config import compose
    from artgan.evaluation import evaluate

    scores, _ = evaluate(compose("evaluate", {"ckpt": str(run)} | options))
    return scores


def stylize(
    photo: str | Path | Image,
    painting: str | Path | Image | Sequence[str | Path | Image],
    **options: Any,
) -> Image:
    """Repaints a photo like a painting, a folder of paintings, a run, or a blend of several.

    Raises:
        UserError: an image, the run or an option cannot be used.
    """
    from artgan.style import stylize

    return stylize(photo, painting, **options)
