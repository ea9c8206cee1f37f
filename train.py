"""Trains a GAN on a folder of paintings: `python train.py dataset=folder dataset.root=PATH`."""

import os
from pathlib import Path

from artgan.config import Command, TrainConfig, launch, load_config


def main(config: TrainConfig, command: Command) -> None:
    # Imported only now, so that --help, --cfg and mistakes answer at once.
    from artgan.training.run import start

    start(config, command)


def main_of_another_device(folder: Path) -> None:
    from artgan.training.run import train

    train(load_config(folder), folder)


if __name__ == "__main__":
    if run_folder := os.environ.get("ARTGAN_RUN_FOLDER"):
        main_of_another_device(Path(run_folder))
    else:
        launch(TrainConfig, "train", main)
