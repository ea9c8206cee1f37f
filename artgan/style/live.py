"""Progress of a painting: a bar with the losses, snapshots, TensorBoard, and a film."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
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


@dataclass
class Live:
    """Shows the progress of one image; it is a `Watch`."""

    folder: Path | None  # of the snapshots, if any
    every: int  # steps between snapshots
    bar: "tqdm[Any]"
    writer: "SummaryWriter | None"  # of TensorBoard's events
    frames: list[Path] = field(default_factory=list)  # snapshots written so far

    def __call__(
        self, step: int, steps: int, losses: dict[str, float], image: Callable[[], Tensor]
    ) -> None:
        self.bar.total = steps
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix({name: f"{value:.4g}" for name, value in losses.items()}, False)
        if self.writer:
            for name, value in losses.items():
                self.writer.add_scalar(f"loss/{name}", value, step)
        if self.folder and step % self.every == 0:
            snapshot = to_uint8(image())
            self.frames.append(self.folder / f"{step:06d}.png")
            save_png(snapshot, self.frames[-1])
            if self.writer:
                self.writer.add_image("image", snapshot, step)


@contextmanager
def watching(out: Path | None, config: StylizeConfig) -> Iterator[Live]:
    """Shows the progress of an image, whose result is written to `out`, while the block runs.

    Raises:
        UserError: TensorBoard's events cannot be written.
    """
    name = out.stem if out else "image"
    snapshots = snapshots_of(out) if out and config.snapshot_every else None
    for earlier in snapshots.glob("*.png") if snapshots else ():  # of a result that is replaced
        earlier.unlink()
    events = config.tensorboard and Path(config.tensorboard).expanduser() / name
    shown = tqdm(desc=f"Painting {name}", unit="it", leave=False, disable=None)
    with shown as bar, _events(events) if events else nullcontext() as writer:
        yield Live(snapshots, config.snapshot_every, bar, writer)


@contextmanager
def _events(folder: Path) -> Iterator["SummaryWriter"]:
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
