"""One rank of a run that another process has prepared; torchrun starts it."""

from artgan.errors import plain_errors
from artgan.training.launchers import is_first

with plain_errors(quiet=not is_first()):
    from artgan.training.run import join

    join()
