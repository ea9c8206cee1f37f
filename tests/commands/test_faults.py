"""Runs that are killed, starved and interrupted: real processes, real signals, real limits."""

import collections
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from artgan.checkpoint import load_checkpoint
from tests.helpers import (
    EVERYTHING,
    ROOT,
    assert_same_state,
    environment,
    small_arguments,
    succeed,
)
from tests.lives import KINDS, begin, die_at, kind_of, limit_memory, surround

# Writing is much of the time.
BUSY = [
    "max_images=96",
    "log_every=8",
    "sample_every=16",
    "checkpoint.every=8",
    "checkpoint.keep=2",
    "evaluate_every=32",
    "evaluate.features=none",
    "evaluate.num=16",
    "checkpoint.monitor=swd",
]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def copy_of(paintings: Path, root: Path) -> Path:
    """The same paintings, not packed yet."""
    return Path(shutil.copytree(paintings, root, ignore=shutil.ignore_patterns(".artgan")))


def scalars(folder: Path) -> dict[str, list[int]]:
    """Images seen at the points of each curve, as TensorBoard shows it."""
    log = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
    curves = {tag: [point.step for point in log.Scalars(tag)] for tag in log.Tags()["scalars"]}
    return curves | {tag: [one.step for one in log.Images(tag)] for tag in log.Tags()["images"]}


def until(condition: Callable[[], object], process: ForkServerProcess, log: Path) -> None:
    """Waits for a condition while a process runs."""
    while not condition():
        assert process.is_alive(), log.read_text()
        time.sleep(0.02)


def images_seen(folder: Path) -> int:
    return load_checkpoint(folder / "last.ckpt")["artgan"]["progress"]["images_seen"]


def slow_or_weekly(name: str, small: int, large: int) -> pytest.MarkDecorator:
    """A small case in CI, and a large one once a week."""
    cases = [pytest.param(small, marks=pytest.mark.slow)]
    cases += [pytest.param(large, marks=pytest.mark.weekly)]
    return pytest.mark.parametrize(name, cases)


@pytest.mark.timeout(1800)
@slow_or_weekly("fewest", 8, 50)
def test_a_run_killed_anywhere_goes_on_to_the_same_bits(
    paintings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fewest: int
) -> None:
    """Kills at an operation on a file of each kind in turn, some at random times."""
    log, note, chance = tmp_path / "log", tmp_path / "note", random.Random(0)
    kinds, hits, kills = itertools.cycle([*KINDS, None]), collections.Counter[str](), 0

    def is_enough() -> bool:
        return kills >= fewest and hits.keys() >= KINDS.keys()

    def life(folder: Path, root: Path, fault: bool) -> int | None:
        """One command of the user; the number of its process's end."""
        running = [path for path in folder.glob("*") if path.name != "config.yaml"]
        new = not (folder / "config.yaml").exists() or (not running and chance.random() < 0.5)
        command = [*small_arguments(root), *BUSY, f"name={folder.name}"]
        arguments = command if new else [f"resume={folder}"]
        kind = next(kinds) if fault else None
        aim = (kind, chance.randrange(12), chance.random() < 0.5, note)
        process = begin(arguments, tmp_path, log, die_at if kind else None, *(aim if kind else ()))
        if fault and kind is None:
            process.join(timeout=chance.uniform(0.2, 6))
            process.kill()
        process.join(timeout=300)
        return process.exitcode

    whole = tmp_path / "checkpoints" / "whole"
    assert life(whole, copy_of(paintings, tmp_path / "set" / "mine"), False) == 0, log.read_text()
    runs = 0
    while not is_enough():
        runs += 1
        folder, root = tmp_path / "checkpoints" / f"run{runs}", tmp_path / f"set{runs}" / "mine"
        copy_of(paintings, root)
        while (ended := life(folder, root, not is_enough())) != 0:
            # The log goes on from life to life, and a killed one may have added nothing to it.
            if ended == 1 and "this run is finished" in log.read_text().splitlines()[-1]:
                break  # it was killed once all was done
            assert ended == -signal.SIGKILL, log.read_text()
            kills += 1
            left = [str(path) for path in (*folder.rglob(".*.tmp"), *root.rglob(".*.tmp"))]
            found = [note.read_text()] if note.exists() else [*map(kind_of, left)]
            hits[found[0] if found and found[0] else "between files"] += 1
            note.unlink(missing_ok=True)
        for name in ("last.ckpt", "best.ckpt"):
            assert_same_state(folder / name, whole / name)
        assert scalars(folder) == scalars(whole)
        for scores in whole.glob("evaluated/*/metrics.json"):
            again = folder / scores.relative_to(whole)
            assert json.loads(again.read_bytes()) == json.loads(scores.read_bytes())
        assert not [*folder.rglob(".*.tmp"), *root.rglob(".*.tmp")]
        assert "Traceback" not in log.read_text()
    with capsys.disabled():
        print(f"\n{kills} kills in {runs} runs: {dict(hits.most_common())}")


@pytest.mark.slow
def test_of_two_runs_begun_or_resumed_at_once_one_trains(paintings: Path, tmp_path: Path) -> None:
    """Ten pairs."""
    folder = tmp_path / "checkpoints" / "mine"
    for pair in range(10):
        logs = [tmp_path / f"log{pair}-{number}" for number in range(2)]
        new = [*small_arguments(paintings), "max_images=8", "name=mine"]
        arguments = [f"resume={folder}", f"max_images={8 * pair + 8}"] if pair else new
        processes = [begin(arguments, tmp_path, log) for log in logs]
        for process in processes:
            process.join(timeout=120)
        ends = {
            process.exitcode: log.read_text() for process, log in zip(processes, logs, strict=True)
        }
        assert ends.keys() == {0, 1}, ends
        refusals = (
            "another process is training this run",
            "there is a run",
            "this run is finished",
        )
        assert any(refusal in ends[1].splitlines()[-1] for refusal in refusals), ends
        assert images_seen(folder) == 8 * pair + 8


@pytest.mark.slow
def test_too_little_memory_names_the_next_batch_size_to_try(
    paintings: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"

    def ended(attempt: int) -> int | None:
        chosen = ["batch_size=32768", "max_images=65536", "sample_every=100000000"]
        arguments = [*small_arguments(paintings), *chosen, f"name=attempt{attempt}"]
        process = begin(arguments, tmp_path, log, limit_memory, 1 << 30)
        process.join(timeout=500)
        return process.exitcode

    # Under such a limit a library below torch may crash, which no program can catch.
    assert next(code for code in map(ended, range(5)) if code != -signal.SIGSEGV) == 1
    message = log.read_text().splitlines()[-1]
    assert "Traceback" not in log.read_text()
    assert "batch_size: there is too little memory for 32768." in message
    assert "batch_size=16384" in message


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_run_which_goes_on_once_there_is_room(
    paintings: Path, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    log = tmp_path / "log"
    output = small_disk("6m")
    endless = ["max_images=100000000", "checkpoint.every=8", "checkpoint.keep=1000"]
    arguments = [*small_arguments(paintings), *endless, f"output={output}", "name=mine"]
    process = begin(arguments, tmp_path, log)
    process.join(timeout=300)
    assert process.exitcode == 1
    assert "the disk is full. Nothing was lost" in log.read_text().splitlines()[-1]
    assert "Traceback" not in log.read_text()
    folder = output / "mine"
    assert not list(folder.rglob(".*.tmp"))
    seen = images_seen(folder)
    for old in sorted(folder.glob("images-*.ckpt"))[:-2]:
        old.unlink()

    goal = [f"max_images={seen + 24}", "checkpoint.keep=1"]
    for arguments in ([f"resume={folder}"], [*small_arguments(paintings), "name=whole"]):
        process = begin([*arguments, *goal], tmp_path, log)
        process.join(timeout=300)
        assert process.exitcode == 0, log.read_text()
    assert_same_state(folder / "last.ckpt", tmp_path / "checkpoints" / "whole" / "last.ckpt")


@pytest.mark.slow
def test_a_folder_that_becomes_read_only_ends_the_run_with_one_message(
    paintings: Path, tmp_path: Path
) -> None:
    # Root may write anywhere, unless that is taken from it.
    plain = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    command = [*(plain if os.getuid() == 0 else []), sys.executable, str(ROOT / "train.py")]
    endless = ["max_images=100000000", "checkpoint.every=64", "name=mine"]
    process = subprocess.Popen(
        [*command, *small_arguments(paintings), *endless],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    folder = tmp_path / "checkpoints" / "mine"
    while not (folder / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    folder.chmod(0o500)
    errors = process.communicate(timeout=120)[1]
    folder.chmod(0o700)
    assert process.returncode == 1
    assert "cannot be written (Permission denied)" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert not list(folder.rglob(".*.tmp"))
    succeed("train.py", f"resume={folder}", f"max_images={images_seen(folder) + 8}", cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["an update", "a measurement"])
def test_sigterm_saves_at_64_px(
    paintings: Path, tmp_path: Path, moment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One process with the recommended recipe, on one core."""
    log, folder = tmp_path / "log", tmp_path / "checkpoints" / "mine"
    endless = ["dataset=folder", f"dataset.root={paintings}", "max_images=100000000", "name=mine"]
    # Painting the samples of the first measurement would take many minutes.
    endless += ["sample_every=160", "evaluate.features=none", "evaluate.num=100000"]
    endless += ["evaluate_every=160"] if moment == "a measurement" else []
    process = begin(endless, tmp_path, log)
    until((folder / "samples" / "images-000000160.png").exists, process, log)
    time.sleep(3)
    assert process.pid is not None
    began = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    process.join(timeout=300)
    seconds = time.monotonic() - began
    with capsys.disabled():
        print(f"\nfrom SIGTERM in the middle of {moment} to the end: {seconds:.1f} s")
    assert process.exitcode == 0, log.read_text()
    seen = images_seen(folder)
    assert seen == 160 if moment == "a measurement" else seen > 160
    assert f"Paused at {seen:,} images" in log.read_text()
    assert not (folder / "evaluated").exists()


@pytest.mark.slow
def test_a_job_of_slurm_goes_on_where_its_signal_ended_it(paintings: Path, tmp_path: Path) -> None:
    """The same batch script twice, as SLURM runs a requeued job again."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    tasks = {"NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "JOB_NAME": "paint"}
    job = {f"SLURM_{key}": value for key, value in (tasks | {"JOB_ID": "4711"}).items()}
    job["PATH"] = f"{scontrol.parent}:{os.environ['PATH']}"
    log, folder = tmp_path / "log", tmp_path / "checkpoints" / "mine"

    def script() -> ForkServerProcess:
        new = [*small_arguments(paintings), "max_images=800", "checkpoint.every=16", "name=mine"]
        again = (folder / "config.yaml").exists()
        return begin([f"resume={folder}"] if again else new, tmp_path, log, surround, job)

    process = script()
    until((folder / "last.ckpt").exists, process, log)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGUSR1)
    process.join(timeout=300)
    assert process.exitcode == 0, log.read_text()
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    assert images_seen(folder) < 800
    process = script()
    process.join(timeout=300)
    assert process.exitcode == 0, log.read_text()
    assert images_seen(folder) == 800

    whole = [*small_arguments(paintings), "max_images=800", "name=whole"]
    process = begin(whole, tmp_path, log)
    process.join(timeout=300)
    assert_same_state(folder / "last.ckpt", tmp_path / "checkpoints" / "whole" / "last.ckpt")


@pytest.mark.slow
def test_of_a_check_that_is_killed_no_process_is_left(paintings: Path, tmp_path: Path) -> None:
    for number in range(5):  # enough to be read by several processes
        copy_of(paintings, tmp_path / "mine" / str(number))
    process = subprocess.Popen(
        [sys.executable, "-m", "artgan", "check", str(tmp_path / "mine")],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first = psutil.Process(process.pid)
    while len(others := first.children()) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(3)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(others, timeout=60)
    assert not alive


@pytest.mark.timeout(7200)
@slow_or_weekly("updates", 1500, 10_000)
def test_many_updates_take_no_more_memory_than_five_hundred(
    paintings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], updates: int
) -> None:
    """One process with every part at work."""
    log, folder = tmp_path / "log", tmp_path / "checkpoints" / "mine"
    everything = [f"{key.replace('__', '.')}={value}" for key, value in EVERYTHING.items()]
    often = ["log_every=80", "sample_every=800", "checkpoint.every=800", "evaluate_every=4000"]
    measured = ["evaluate.features=none", "evaluate.num=16", "checkpoint.monitor=swd"]
    options = [*often, *measured, "dataset.holdout=0.4", "dataset.crop=random"]
    arguments = [*small_arguments(paintings), *everything, *options, f"max_images={8 * updates}"]
    process = begin([*arguments, "name=mine"], tmp_path, log)
    seen: list[tuple[int, int, int, int]] = []
    running = psutil.Process(process.pid)
    while process.is_alive():
        with contextlib.suppress(psutil.Error, IndexError):
            images = int(sorted(folder.glob("images-*.ckpt"))[-1].stem.partition("-")[2])
            taken = running.memory_info().rss, running.num_fds(), len(running.children(True))
            seen.append((images, *taken))
        time.sleep(0.2)
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert images_seen(folder) == 8 * updates

    def between(first: int, last: int) -> tuple[int, int, int]:
        """The most bytes, and the open files and child processes that never go, between updates.

        A file that is being written is open for a moment, so the fewest are what is kept open.
        """
        memory, files, children = zip(
            *(s[1:] for s in seen if first <= s[0] // 8 <= last), strict=True
        )
        return max(memory), min(files), min(children)

    early, late = between(500, 1000), between(updates - 200, updates)
    with capsys.disabled():
        print(
            f"\nafter 500 updates {early[0] / 1e6:,.0f} MB and {early[1]} open files, "
            f"near the end of {updates:,} {late[0] / 1e6:,.0f} MB and {late[1]}"
        )
    assert late[0] < 1.05 * early[0]
    assert late[1] <= early[1]
    assert (early[2], late[2]) == (0, 0)
