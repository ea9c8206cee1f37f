"""The train command: checks and prepares a run before torch is imported, then trains it."""

from pathlib import Path

from artgan.config import Command
from artgan.options import TrainConfig
from artgan.training.launchers import is_first, launched
from artgan.training.run_folder import prepare


def train(config: TrainConfig, command: Command) -> tuple[Path, bool]:
    """Does what one `artgan train` asks for.

    Returns:
        The folder of the run, and whether its budget is used up.

    Raises:
        UserError: something asked for is wrong or not available, or as in `run.train`.
    """
    if launched():
        from artgan.training.distributed import rendezvous

        rendezvous()  # the others wait there while the first rank prepares
    if not is_first():
        from artgan.training.run import join

        return join()
    with prepare(config, command) as run:
        # Imported only now: torch takes seconds, and mistakes are answered at once.
        from artgan.training.run import train

        return run.folder, train(run)
