"""A sweep (`-m`): where its jobs note failures, and what is reported of them at the end."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from artgan.errors import UserError
from artgan.files import atomic_write

FAILURE = "failure.json"


class Sweep:
    """A sweep that a command line asks for; its folder has one for each job, by its number.

    Raises:
        UserError: it is a search without a metric to minimise.
    """

    def __init__(self, overrides: Sequence[str]) -> None:
        self.given = {_unquoted(one) for one in overrides}
        given = dict(one.split("=", 1) for one in overrides if "=" in one)
        sweeper = given.get("hydra/sweeper", "basic")
        if sweeper != "basic" and "checkpoint.monitor" not in given:
            raise UserError(
                f"hydra/sweeper={sweeper}: a search needs a metric to minimise. Add "
                "evaluate_every=50000 checkpoint.monitor=swd (or kid, or fid)"
            )
        output = _folder(given.get("output", "checkpoints"))
        now = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
        self.folder = _folder(given.get("hydra.sweep.dir", f"{output}/.sweeps/{now}"))
        self.overrides = [f"hydra.sweep.dir='{self.folder}'"]  # have Hydra use the folder

    @contextmanager
    def reported_failures(self) -> Iterator[None]:
        """Ends the process with code 1 if jobs failed, and prints a line for each."""
        try:
            yield
        finally:
            failures = sorted(self.folder.glob(f"*/{FAILURE}"), key=_job_number)
            if failures:
                jobs = sum(path.name.isdigit() for path in self.folder.iterdir())
                print(f"{len(failures)} of {jobs} jobs failed:", file=sys.stderr)
            for path in failures:
                failure = json.loads(path.read_text())
                message = " ".join(failure["message"].split())
                own = [one for one in failure["overrides"] if _unquoted(one) not in self.given]
                print(f"  {' '.join([f'#{path.parent.name}', *own])}: {message}", file=sys.stderr)
        if failures:
            raise SystemExit(1)


def note_failure(folder: Path, overrides: Sequence[str], message: str) -> None:
    """Notes a failed job in its folder, for the process that began the sweep."""
    with atomic_write(folder / FAILURE) as file:
        file.write(json.dumps({"overrides": list(overrides), "message": message}).encode())


def _unquoted(override: str) -> str:
    """Without the quotes and escapes that Hydra changes between the command line and a job."""
    return override.translate(dict.fromkeys(map(ord, "\\'\"")))


def _folder(text: str) -> Path:
    return Path(text[1:-1] if text[:1] + text[-1:] in ("''", '""') else text).expanduser()


def _job_number(path: Path) -> int:
    return int(path.parent.name) if path.parent.name.isdigit() else -1
