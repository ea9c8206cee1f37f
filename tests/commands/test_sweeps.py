"""Sweeps as a user starts them, with each launcher and sweeper: real processes, real signals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from artgan.comparison import last_metric
from tests.helpers import ROOT, children, environment, script, small_arguments

LAUNCHERS = ("basic", "submitit_local")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def started(*arguments: object, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "-m", *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 500
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def last_descendant(pid: int) -> int:
    """The process that trains, for a launcher puts others between."""
    return last_descendant(children(pid)[0]) if children(pid) else pid


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_finishes_the_others_and_says_which_failed_and_why(
    paintings: Path, tmp_path: Path, launcher: str
) -> None:
    """Three jobs: one refused, one that diverges, and one that ends well."""
    done = script(
        "train.py",
        "-m",
        *small_arguments(paintings),
        f"hydra/launcher={launcher}",
        "model.learning_rate=-1,1e30,0.0003",
        "max_images=64",
        "checkpoint.every=16",
        "name=w",
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    heading, refused, diverged = done.stderr.splitlines()[-3:]
    assert heading == "2 of 3 jobs failed:"
    assert refused.startswith(
        "  #0 model.learning_rate=-1: model.learning_rate: -1 must be at least 0"
    )
    assert diverged.startswith("  #1 model.learning_rate=1e+30: A loss or weight is not finite")
    runs = tmp_path / "checkpoints"
    assert (runs / "w-2" / "last.ckpt").is_file()
    # What a sweep keeps is hidden from TensorBoard and checkpoints/*.
    assert sorted(path.name for path in runs.glob("[!.]*")) == ["w-1", "w-2"]


@pytest.mark.slow
@on_linux
def test_ctrl_c_ends_a_sweep_of_parallel_jobs(paintings: Path, tmp_path: Path) -> None:
    """Two jobs at once; the signal goes to the whole group, as a terminal sends it."""
    process = started(
        *small_arguments(paintings),
        "hydra/launcher=submitit_local",
        "seed=0,1",
        "max_images=100000000",
        "checkpoint.every=64",
        "name=w",
        cwd=tmp_path,
        start_new_session=True,
    )
    runs = tmp_path / "checkpoints"
    until(lambda: len(list(runs.glob("w-[01]/last.ckpt"))) == 2 or process.poll() is not None)
    trainers = [last_descendant(job) for job in children(process.pid)]
    assert len(trainers) == 2
    os.killpg(process.pid, signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted." in messages
    until(lambda: not any(Path(f"/proc/{trainer}").exists() for trainer in trainers))


@pytest.mark.slow
def test_a_search_goes_on_after_a_failure_and_finds_the_lowest_value(
    paintings: Path, tmp_path: Path
) -> None:
    """Six jobs of two kinds, one of which is refused."""
    done = script(
        "train.py",
        "-m",
        *small_arguments(paintings),
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=6",
        "hydra.sweeper.sampler.seed=0",
        "model.label_smoothing=0.1,0.9",
        "max_images=16",
        "evaluate_every=16",
        "evaluate.features=none",
        "evaluate.num=16",
        "dataset.holdout=0.5",
        "checkpoint.monitor=swd",
        "name=w",
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (results,) = tmp_path.glob("checkpoints/.sweeps/*/optimization_results.yaml")
    best = yaml.safe_load(results.read_text())
    values = [last_metric(run, "swd") for run in tmp_path.glob("checkpoints/w-*")]
    assert best["best_params"] == {"model.label_smoothing": 0.1}
    assert best["best_value"] == min(value for value in values if value is not None)
    assert f"{6 - len(values)} of 6 jobs failed:" in done.stderr
    assert "label_smoothing=0.9: model.label_smoothing: 0.9 must be at least 0" in done.stderr


@pytest.mark.parametrize(
    ("choice", "extra"),
    [
        (["hydra/launcher=submitit_local"], "slurm"),
        (["hydra/sweeper=optuna", "checkpoint.monitor=swd"], "optuna"),
    ],
)
def test_what_is_not_installed_is_named_with_the_command_that_gets_it(
    tmp_path: Path, choice: list[str], extra: str
) -> None:
    without = (
        "import sys; sys.modules['hydra_plugins'] = None; import runpy; "
        "sys.argv = ['train.py', '-m', 'seed=0,1', *sys.argv[1:]]; "
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", without, *choice], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == f'{choice[0]}: is not installed. pip install "artgan[{extra}]"\n'
    assert not list(tmp_path.iterdir())
