"""How a picture comes about, for those who watch: a bar, snapshots, TensorBoard, a film."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from artgan.data.decode import on_white, to_rgb
from artgan.files import cannot_write
from artgan.images import save_mp4, save_png
from artgan.options import StylizeConfig
from artgan.style.photo import to_levels

if TYPE_CHECKING:  # it takes long to import, and few ask for it
    from torch.utils.tensorboard import SummaryWriter

FILM_SIDE = 1024  # pixels of the long side of a film, at most


class Live:
    """Shows how a picture comes about: losses beside a bar, snapshots, TensorBoard, a film.

    Args:
        out: the result, beside which snapshots lie; None if there are to be none.
        every: steps between snapshots; None for none.
        bar: of its progress.
        writer: of TensorBoard's events, if any.
    """

    def __init__(
        self, out: Path | None, every: int | None, bar: "tqdm[Any]", writer: "SummaryWriter | None"
    ) -> None:
        self.out, self.every, self.bar, self.writer = out, every, bar, writer
        self.frames: list[Path] = []
        if out and every:
            for earlier in snapshots_of(out).glob("*.png"):  # replaced, too
                earlier.unlink()

    def __call__(
        self, step: int, steps: int, losses: dict[str, float], picture: Callable[[], Tensor]
    ) -> None:
        self.bar.total = steps
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix({name: f"{value:.4g}" for name, value in losses.items()}, False)
        if self.writer:
            for name, value in losses.items():
                self.writer.add_scalar(f"loss/{name}", value, step)
        if self.out and self.every and step % self.every == 0:
            levels = to_levels(picture())
            self.frames.append(snapshots_of(self.out) / f"{step:06d}.png")
            save_png(levels, self.frames[-1])
            if self.writer:
                self.writer.add_image("picture", levels, step)


@contextmanager
def watching(out: Path | None, config: StylizeConfig) -> Iterator[Live]:
    """Shows how a picture comes about for as long as the block runs.

    Args:
        out: the result; None if it is not written.
        config: says what is shown of it.

    Raises:
        UserError: TensorBoard's events cannot be written.
    """
    name = out.stem if out else "picture"
    folder = Path(config.tensorboard).expanduser() / name if config.tensorboard else None
    shown = tqdm(desc=f"Painting {name}", unit="it", leave=False, disable=None)
    with shown as bar, _events(folder) as writer:
        yield Live(out, config.snapshot_every, bar, writer)


@contextmanager
def _events(folder: Path | None) -> Iterator["SummaryWriter | None"]:
    """What writes TensorBoard's events to a folder, if they are asked for."""
    if not folder:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    from artgan.events import report_write_errors

    told = report_write_errors(folder, partial(cannot_write, folder))
    with told, SummaryWriter(folder) as writer:
        yield writer


def snapshots_of(file: Path) -> Path:
    """The folder of the snapshots of a result."""
    return file.with_suffix(".snapshots")


def film_of(file: Path) -> Path:
    """The film of how a result came about."""
    return file.with_suffix(".mp4")


def save_film(frames: list[Path], result: Image.Image, path: Path) -> None:
    """Writes snapshots, and the result, as a film of its size, or of `FILM_SIDE`."""
    scale = min(1, FILM_SIDE / max(result.size))
    width, height = (2 * round(side * scale / 2) for side in result.size)  # H.264 wants it even

    def levels(picture: Image.Image) -> Tensor:
        small = picture.resize((width, height), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)

    def pictures() -> Iterator[Tensor]:
        for frame in frames:
            with Image.open(frame) as snapshot:
                yield levels(snapshot)
        yield levels(on_white(to_rgb(result)))

    save_mp4(pictures(), path)
