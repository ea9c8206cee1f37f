"""Trains a GAN on a folder of paintings: `python train.py dataset=folder dataset.root=PATH`."""

import os
from pathlib import Path

from artgan.config import Command, TrainConfig, launch, load_config
from artgan.errors import plain_errors


def main(config: TrainConfig, command: Command) -> None:
    # Imported only now, so that --help, --cfg and mistakes answer at once.
    from artgan.training.run import start

    start(config, command)


def join(folder: Path) -> None:
    """Trains on one more device, in a run that another process has begun."""
    from artgan.training.run import train

    with plain_errors():
        train(load_config(folder), folder)


if __name__ == "__main__":
    if folder := os.environ.get("ARTGAN_RUN_FOLDER"):
        join(Path(folder))
    else:
        launch(TrainConfig, "train", main)
