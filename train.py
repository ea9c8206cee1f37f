"""Trains a GAN on a folder of paintings: `python train.py dataset=folder dataset.root=PATH`."""

from artgan.errors import plain_errors
from artgan.options import Command, TrainConfig, launch
from artgan.training.launchers import is_first


def main(config: TrainConfig, command: Command) -> float | None:
    # Imported only now, so that --help, --cfg and mistakes answer at once.
    from artgan.training.run_folder import prepare

    with prepare(config, command) as (config, folder, paintings):
        from artgan.training.run import train

        finished = train(config, folder, paintings)
    if not finished and command.job_number is not None:
        raise KeyboardInterrupt  # whoever stops one job of a multirun wants no further ones

    if config.checkpoint.monitor is None:
        return None
    from artgan.comparison import last_figure

    return last_figure(folder, config.checkpoint.monitor)


if __name__ == "__main__":
    if is_first():
        launch(TrainConfig, "train", main)
    else:
        # For a further device of a run that another process begins.
        from artgan.training.run import join

        with plain_errors():
            join()
