"""Running the scripts as a user would, and comparing checkpoints."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from artgan.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
# A network and batch that a test can train in a moment, and where it gives the same bits.
SMALL = {"resolution": 32, "model.width": 4, "batch_size": 8, "log_every": 16}
ON_CPU = {"trainer.accelerator": "cpu", "trainer.precision": "32"}


def script(
    name: str, *arguments: object, cwd: Path, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Runs `train.py` or `sample.py` as a user would, from the folder `cwd`."""
    return subprocess.run(
        [sys.executable, str(ROOT / name), *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        **{"timeout": 300, **options},
    )


def succeed(name: str, *arguments: object, cwd: Path, **options: Any) -> tuple[str, str]:
    """Runs a script that must end well, and gives what it printed: output and messages."""
    done = script(name, *arguments, cwd=cwd, **options)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout, done.stderr


def environment() -> dict[str, str]:
    """This environment without what a test runner or an earlier run may have left in it."""
    return {key: value for key, value in os.environ.items() if not key.startswith("ARTGAN")}


def small_arguments(paintings: Path) -> list[str]:
    """Arguments of `train.py` for a tiny network on the CPU."""
    small = {"dataset": "folder", "dataset.root": paintings, **SMALL, **ON_CPU}
    return [f"{key}={value}" for key, value in small.items()]


def assert_same_state(one: Path, other: Path) -> None:
    """Every tensor of two checkpoints is the same, bit for bit: weights, EMA, Adam's moments."""
    first, second = load_checkpoint(one), load_checkpoint(other)
    assert first["artgan"]["progress"]["images_seen"] == second["artgan"]["progress"]["images_seen"]
    assert_same(first["state_dict"], second["state_dict"])
    assert_same(first["optimizer_states"], second["optimizer_states"])


def assert_same(first: Any, second: Any) -> None:
    """Two nests of dicts and lists hold the same values, tensors bit for bit."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for left, right in zip(first, second, strict=True):
            assert_same(left, right)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second
