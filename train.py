"""Trains a GAN on a folder of paintings: `python train.py dataset=folder dataset.root=PATH`."""

import os
from pathlib import Path

from artgan.config import RUN_FOLDER, Command, TrainConfig, launch
from artgan.errors import plain_errors


def main(config: TrainConfig, command: Command) -> float | None:
    # Imported only now, so that --help, --cfg and mistakes answer at once.
    from artgan.training.folder import prepare

    with prepare(config, command) as (config, folder, paintings):
        from artgan.training.run import train

        finished = train(config, folder, paintings)
    if not finished and command.job_number is not None:
        raise KeyboardInterrupt  # whoever stops one job of a multirun wants no further ones

    from artgan.comparison import last_figure

    monitor = config.checkpoint.monitor
    return last_figure(folder, monitor) if monitor else None


if __name__ == "__main__":
    if folder := os.environ.get(RUN_FOLDER):
        # Started by Lightning, for one more device of a run that another process has begun.
        from artgan.training.run import join

        with plain_errors():
            join(Path(folder))
    else:
        launch(TrainConfig, "train", main)
