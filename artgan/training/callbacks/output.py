"""Where callbacks write: the event file, images and the screen."""

import sys
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from artgan import events
from artgan.files import atomic_write
from artgan.images import encode_png


def say(text: str) -> None:
    """Prints a line without tearing the progress bar."""
    tqdm.write(text, file=sys.stderr)


def writer(trainer: pl.Trainer) -> SummaryWriter:
    """The event file; on ranks other than the first, one that writes nothing."""
    assert isinstance(trainer.logger, TensorBoardLogger)
    return trainer.logger.experiment


def show(trainer: pl.Trainer, tag: str, image: Tensor, path: Path, step: int) -> None:
    """Writes an image uint8 [3, H, W] as PNG, and the same bytes to TensorBoard."""
    png = encode_png(image)
    with atomic_write(path) as file:
        file.write(png)
    file_writer = writer(trainer).file_writer
    assert file_writer is not None
    file_writer.add_summary(events.image_summary(tag, image, png), step)
