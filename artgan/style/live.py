"""Progress of a painting: a bar with the losses, snapshots, TensorBoard, and a film."""

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
from artgan.style.photo import to_uint8

if TYPE_CHECKING:  # slow to import, and seldom asked for
    from torch.utils.tensorboard import SummaryWriter

FILM_SIDE = 1024  # largest side of a film in pixels

# watch(step, steps, losses, image) is called after each iteration; image() gives the result so far,
# float32 [1, 3, h, w] in [0, 1], at the size of the present scale.
Watch = Callable[[int, int, dict[str, float], Callable[[], Tensor]], None]


class Live:
    """Shows the progress of one image; it is a `Watch`.

    Attributes:
        frames: snapshots written so far.

    Args:
        out: file of the result, beside which snapshots are written; None for none.
        every: steps between snapshots; None for none.
        bar: that shows the losses.
        writer: of TensorBoard's events, if any.
    """

    def __init__(
        self, out: Path | None, every: int | None, bar: "tqdm[Any]", writer: "SummaryWriter | None"
    ) -> None:
        self.out, self.every, self.bar, self.writer = out, every, bar, writer
        self.frames: list[Path] = []
        if out and every:
            for earlier in snapshots_of(out).glob("*.png"):  # of a result that is replaced
                earlier.unlink()

    def __call__(
        self, step: int, steps: int, losses: dict[str, float], image: Callable[[], Tensor]
    ) -> None:
        self.bar.total = steps
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix({name: f"{value:.4g}" for name, value in losses.items()}, False)
        if self.writer:
            for name, value in losses.items():
                self.writer.add_scalar(f"loss/{name}", value, step)
        if self.out and self.every and step % self.every == 0:
            snapshot = to_uint8(image())
            self.frames.append(snapshots_of(self.out) / f"{step:06d}.png")
            save_png(snapshot, self.frames[-1])
            if self.writer:
                self.writer.add_image("picture", snapshot, step)


@contextmanager
def watching(out: Path | None, config: StylizeConfig) -> Iterator[Live]:
    """Shows the progress of an image while the block runs.

    Args:
        out: file of the result; None if it is not written.
        config: `snapshot_every` and `tensorboard` say what is shown.

    Raises:
        UserError: TensorBoard's events cannot be written.
    """
    name = out.stem if out else "image"
    folder = Path(config.tensorboard).expanduser() / name if config.tensorboard else None
    shown = tqdm(desc=f"Painting {name}", unit="it", leave=False, disable=None)
    with shown as bar, _events(folder) as writer:
        yield Live(out, config.snapshot_every, bar, writer)


@contextmanager
def _events(folder: Path | None) -> Iterator["SummaryWriter | None"]:
    if not folder:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    from artgan.events import report_write_errors

    reported = report_write_errors(folder, partial(cannot_write, folder))
    with reported, SummaryWriter(folder) as writer:
        yield writer


def snapshots_of(file: Path) -> Path:
    """The folder of a result's snapshots."""
    return file.with_suffix(".snapshots")


def film_of(file: Path) -> Path:
    """The film of a result."""
    return file.with_suffix(".mp4")


def save_film(frames: list[Path], result: Image.Image, path: Path) -> None:
    """Writes snapshots and the result as a film of the result's size, at most `FILM_SIDE`."""
    scale = min(1, FILM_SIDE / max(result.size))
    width, height = (2 * round(side * scale / 2) for side in result.size)  # H.264 wants even sides

    def pixels(image: Image.Image) -> Tensor:
        small = image.resize((width, height), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)

    def images() -> Iterator[Tensor]:
        for frame in frames:
            with Image.open(frame) as snapshot:
                yield pixels(snapshot)
        yield pixels(on_white(to_rgb(result)))

    save_mp4(images(), path)
