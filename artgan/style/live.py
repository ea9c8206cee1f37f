"""Progress of a painting: a bar with the losses, snapshots, TensorBoard, and a film."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

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

FILM_SIDE = 1024  # largest side of a film in pixels

# watch(step, steps, losses, image) is called after each iteration; image() gives the result so far,
# float32 [1, 3, h, w] in [0, 1], at the size of the present scale.
Watch = Callable[[int, int, dict[str, float], Callable[[], Tensor]], None]


@contextmanager
def watching(out: Path | None, config: StylizeConfig) -> Iterator[Watch]:
    """Shows the progress of an image, whose result is written to `out`, while the block runs.

    Raises:
        UserError: TensorBoard's events cannot be written.
    """
    name = out.stem if out else "image"
    folder = snapshots_of(out) if out and config.snapshot_every else None
    for earlier in folder.glob("*.png") if folder else ():  # of a result that is replaced
        earlier.unlink()
    with ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(desc=f"Painting {name}", unit="it", leave=False, disable=None)
        )
        writer = None
        if config.tensorboard:
            # Imported only here: slow, and seldom asked for.
            from torch.utils.tensorboard import SummaryWriter

            from artgan.events import report_write_errors

            events = Path(config.tensorboard) / name
            stack.enter_context(report_write_errors(events, partial(cannot_write, events)))
            writer = stack.enter_context(SummaryWriter(events))

        def watch(
            step: int, steps: int, losses: dict[str, float], image: Callable[[], Tensor]
        ) -> None:
            bar.total = steps
            bar.update(step - bar.n)
            bar.set_postfix({key: f"{value:.4g}" for key, value in losses.items()}, False)
            if writer:
                for key, value in losses.items():
                    writer.add_scalar(f"loss/{key}", value, step)
            if folder and step % config.snapshot_every == 0:
                snapshot = to_uint8(image())
                save_png(snapshot, folder / f"{step:06d}.png")
                if writer:
                    writer.add_image("image", snapshot, step)

        yield watch


def snapshots_of(file: Path) -> Path:
    """The folder of a result's snapshots."""
    return file.with_suffix(".snapshots")


def film_of(file: Path) -> Path:
    """The film of a result."""
    return file.with_suffix(".mp4")


def save_film(snapshots: Path, result: Image.Image, path: Path) -> None:
    """Writes a folder of snapshots and the result as a film of its size, at most `FILM_SIDE`."""
    scale = min(1, FILM_SIDE / max(result.size))
    width, height = (2 * round(side * scale / 2) for side in result.size)  # H.264 wants even sides

    def pixels(image: Image.Image) -> Tensor:
        small = image.resize((width, height), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)

    def images() -> Iterator[Tensor]:
        for frame in sorted(snapshots.glob("*.png"), key=lambda one: int(one.stem)):
            with Image.open(frame) as snapshot:
                yield pixels(snapshot)
        yield pixels(on_white(to_rgb(result)))

    save_mp4(images(), path)
