"""What goes wrong while a run trains: the machine, the system, the numbers."""

import errno
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from artgan.checkpoint import load_checkpoint
from artgan.config import load_config
from artgan.errors import UserError
from artgan.memory import is_out_of_memory
from artgan.training.callbacks import measurements
from artgan.training.gan import GAN
from tests.helpers import assert_same_state

Run = Callable[..., Path]
At = Callable[[int, Callable[[GAN], object]], None]
MEASURED: dict[str, Any] = {
    "evaluate_every": 24,
    "evaluate__num": 16,
    "evaluate__features": "none",
    "dataset__holdout": 0.5,
}


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> At:
    """Has something happen in a run once it has seen a number of images."""

    def at(images_seen: int, act: Callable[[GAN], object]) -> None:
        step = GAN.training_step

        def training_step(module: GAN, *arguments: Any) -> None:
            step(module, *arguments)
            if module.progress.images_seen == images_seen:
                act(module)

        monkeypatch.setattr(GAN, "training_step", training_step)

    return at


def steps(folder: Path, tag: str) -> list[int]:
    """Images seen at the points of a curve, as TensorBoard shows it."""
    log = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return [point.step for point in log.Scalars(tag)]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("command", ["again", pytest.param("resume", marks=pytest.mark.slow)])
def test_a_run_killed_before_its_first_update_can_be_started_again_or_resumed(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    whole = run(name="whole")
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr("artgan.training.run.last_state", lambda *_: 1 / 0)
        run(name="mine")
    folder = tmp_path / "runs" / "mine"
    (folder / ".config.yaml.x.tmp").write_bytes(b"half")

    run(**{"name": "mine"} if command == "again" else {"resume": folder})

    assert_same_state(folder / "last.ckpt", whole / "last.ckpt")
    assert not list(folder.glob(".*.tmp"))


def test_of_two_processes_in_one_folder_the_second_is_refused(run: Run, tmp_path: Path) -> None:
    folder = run(name="mine", max_images=16)
    taken = tmp_path / "runs" / "taken"
    taken.mkdir()
    before = contents(tmp_path / "runs")
    with FileLock(folder / ".lock"), FileLock(taken / ".lock"):
        with pytest.raises(UserError, match=f"^{folder}: another process is training this run"):
            run(resume=folder, max_images=32)
        with pytest.raises(UserError, match=f"^{taken}: another process is training this run"):
            run(name="taken")
    assert contents(tmp_path / "runs") == before | {"taken/.lock": b""}
    run(resume=folder, max_images=32)


def test_the_folder_is_locked_until_training_ends(run: Run, at: At, tmp_path: Path) -> None:
    def refused(_: GAN) -> None:
        with pytest.raises(UserError, match="another process is training this run"):
            run(resume=tmp_path / "runs" / "mine")
        with pytest.raises(UserError, match="there is a run"):
            run(name="mine")

    at(16, refused)
    folder = run(name="mine", max_images=24)
    assert load_checkpoint(folder / "last.ckpt")["artgan"]["progress"]["images_seen"] == 24


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_refused_at_its_start_leaves_nothing(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"accelerator=gpu .* is not available"):
        run(name="mine", trainer__accelerator="gpu")
    assert not (tmp_path / "runs" / "mine").exists()


def test_missing_paintings_are_a_clear_error(
    run: Run, paintings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(paintings, tmp_path / "mine"))
    folder = run(name="mine", dataset__root=root, max_images=16)
    before = contents(folder)
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"there is no folder {root}"):
        run(resume=folder, max_images=32)
    assert contents(folder) == before
    # From any other folder the place is still found.
    monkeypatch.chdir(tmp_path)
    run(resume=folder, max_images=32, **{"dataset.root": "elsewhere"})
    assert load_config(folder).dataset.root == str(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "sample_every",
    [
        pytest.param(16, id="grid first"),
        pytest.param(1000, id="curves first", marks=pytest.mark.slow),
    ],
)
def test_a_run_whose_folder_is_deleted_is_saved_again(
    run: Run, at: At, tmp_path: Path, sample_every: int
) -> None:
    whole = run(name="whole", max_images=64)
    folder = tmp_path / "runs" / "mine"
    at(32, lambda _: shutil.rmtree(folder))

    with pytest.raises(UserError, match="was deleted or moved during training") as raised:
        run(name="mine", max_images=64, sample_every=sample_every, checkpoint__every=24)
    assert f"artgan train resume={folder}" in str(raised.value)
    run(resume=folder, max_images=64)

    assert_same_state(folder / "last.ckpt", whole / "last.ckpt")


def test_after_a_full_disk_a_run_resumes_from_its_last_checkpoint(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = run(name="whole", max_images=48)
    sync, full = os.fsync, [True]

    def sync_of_a_full_disk(descriptor: int) -> None:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if "images-000000032.ckpt" in name and full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync_of_a_full_disk)
    with pytest.raises(UserError, match=r"images-000000032\.ckpt: the disk is full"):
        run(name="mine", max_images=48, checkpoint__every=16)
    full.clear()
    folder = tmp_path / "runs" / "mine"
    assert not list(folder.rglob(".*.tmp"))
    assert not (folder / "images-000000032.ckpt").exists()

    run(resume=folder)

    assert_same_state(folder / "last.ckpt", whole / "last.ckpt")
    assert steps(folder, "loss/generator") == [16, 32, 48]


def diverge(module: GAN) -> None:
    with torch.no_grad():
        next(module.generator.parameters()).fill_(math.nan)


def test_a_run_that_diverges_once_is_rolled_back_and_ends(
    run: Run, at: At, capsys: pytest.CaptureFixture[str]
) -> None:
    at(40, lambda module: None if module.progress.rollbacks else diverge(module))
    folder = run(name="mine", on_nan="rollback", checkpoint__every=16, log_every=8)
    printed = capsys.readouterr().err
    assert "not finite after 48 images. Going back to the last good state" in printed
    assert printed.count("1 of at most 3 times") == printed.count("Training on 40 paintings") == 1
    last = load_checkpoint(folder / "last.ckpt")
    assert last["artgan"]["progress"]["rollbacks"] == 1
    assert all(tensor.isfinite().all() for tensor in last["state_dict"].values())
    # Points of discarded updates are not shown.
    assert steps(folder, "loss/generator") == [8, 16, 24, 32, 40, 48, 56, 64]


@pytest.mark.slow
def test_a_rolled_back_run_draws_other_noise_and_resumes_bit_for_bit(
    run: Run, at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"checkpoint__every": 16, "on_nan": "rollback"}
    plain = run(name="plain", **options)
    at(40, lambda module: None if module.progress.rollbacks else diverge(module))
    whole = run(name="whole", **options)
    part = run(name="part", **options | {"max_images": 56})

    run(resume=part, max_images=64)

    assert_same_state(part / "last.ckpt", whole / "last.ckpt")
    with pytest.raises(AssertionError):
        assert_same_state(plain / "last.ckpt", whole / "last.ckpt")


def test_a_run_is_rolled_back_to_its_beginning_and_three_times_at_most(
    run: Run, at: At, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    at(24, diverge)
    with pytest.raises(UserError, match=r"after 32 images. No checkpoint yet. Try a lower"):
        run(name="mine", on_nan="rollback")
    printed = capsys.readouterr().err
    assert [f"{n} of at most 3 times" in printed for n in range(1, 5)] == [True, True, True, False]
    assert not list((tmp_path / "runs").rglob("*.ckpt"))


def test_a_diverged_state_is_never_kept_as_the_best(run: Run, at: At, tmp_path: Path) -> None:
    at(24, diverge)
    with pytest.raises(UserError, match="not finite after 24 images"):
        run(name="mine", log_every=1000, checkpoint__monitor="swd", **MEASURED)
    assert not list((tmp_path / "runs").rglob("*.ckpt"))


def test_a_state_with_an_overflowed_moment_is_not_saved(run: Run, at: At, tmp_path: Path) -> None:
    def overflow(module: GAN) -> None:
        optimizer = module.trainer.optimizers[0]
        next(iter(optimizer.state.values()))["exp_avg_sq"].fill_(math.inf)

    at(24, overflow)
    with pytest.raises(UserError, match="not finite"):
        run(name="mine", max_images=24)
    assert not list((tmp_path / "runs").rglob("*.ckpt"))


def test_several_devices_cannot_be_rolled_back(run: Run) -> None:
    with pytest.raises(UserError, match="on_nan: rollback is for a single device"):
        run(on_nan="rollback", trainer__devices=2)


@pytest.mark.parametrize(
    ("batch_size", "error", "advice"),
    [
        (8, torch.OutOfMemoryError("CUDA out of memory."), "batch_size=4,"),
        (3, MemoryError(), "batch_size=1,"),
        (1, MemoryError(), "a smaller model.width or resolution,"),
    ],
)
def test_too_little_memory_names_what_to_try_next(
    run: Run, at: At, batch_size: int, error: Exception, advice: str
) -> None:
    def fail(_: GAN) -> None:
        raise error

    at(batch_size, fail)
    message = f"^batch_size: there is too little memory for {batch_size}. .* with {advice}"
    with pytest.raises(UserError, match=message):
        run(name="mine", batch_size=batch_size)


def test_other_errors_are_not_taken_for_a_lack_of_memory(run: Run, at: At) -> None:
    def fail(_: GAN) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    at(8, fail)
    with pytest.raises(RuntimeError, match="mat1"):
        run(name="mine")


def test_torchs_own_error_for_too_little_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


def interrupt(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Sends SIGTERM during the n-th measurement, which must not go on then."""
    measure, begun = measurements.measure, [0]

    def interrupted(*arguments: Any) -> Any:
        begun[0] += 1
        if begun[0] == number:
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("the measurement went on after the signal")
        return measure(*arguments)

    monkeypatch.setattr(measurements, "measure", interrupted)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "seen"), [(2, 48), (3, 64)], ids=["in between", "at the end"])
def test_a_signal_abandons_a_measurement_which_is_done_on_resume(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    seen: int,
) -> None:
    options = MEASURED | {"checkpoint__monitor": "swd"}
    whole = run(name="whole", **options)
    interrupt(monkeypatch, number)
    folder = run(name="mine", **options)
    assert f"Paused at {seen} images" in capsys.readouterr().out
    assert load_checkpoint(folder / "last.ckpt")["artgan"]["progress"]["images_seen"] == seen
    assert not (folder / "evaluated" / f"images-{seen:09d}").exists()

    run(resume=folder)

    assert_same_state(folder / "last.ckpt", whole / "last.ckpt")
    assert_same_state(folder / "best.ckpt", whole / "best.ckpt")
    tag = "evaluate/swd held-out"
    assert steps(folder, tag) == steps(whole, tag) == [24, 48, 64]
    for name in ("evaluated/images-000000048", "evaluated/images-000000064"):
        assert contents(folder / name) == contents(whole / name)
    with pytest.raises(UserError, match="this run is finished"):
        run(resume=folder)


def test_a_second_sigterm_changes_nothing(run: Run, at: At) -> None:
    """`timeout` sends two."""

    def terminate_twice(_: GAN) -> None:
        for _time in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    at(16, terminate_twice)
    before = signal.getsignal(signal.SIGTERM)
    folder = run(name="mine")
    assert load_checkpoint(folder / "last.ckpt")["artgan"]["progress"]["images_seen"] == 16
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_before_the_first_update_ends_the_run_after_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure = GAN.configure_optimizers

    def signalled(module: GAN) -> list[torch.optim.Optimizer]:
        os.kill(os.getpid(), signal.SIGTERM)
        return configure(module)

    monkeypatch.setattr(GAN, "configure_optimizers", signalled)
    folder = run(name="mine")
    assert load_checkpoint(folder / "last.ckpt")["artgan"]["progress"]["images_seen"] == 8


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A job of SLURM, whose `scontrol` writes its arguments here."""
    one_task = {"NTASKS": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_NAME": "paint"}
    for key, value in (one_task | {"JOB_ID": 4711}).items():
        monkeypatch.setenv(f"SLURM_{key}", str(value))
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nexit ${{FAILS:-0}}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    return tmp_path / "asked"


@pytest.mark.parametrize(
    ("array", "job"),
    [
        ({}, "4711"),
        pytest.param(
            {"SLURM_ARRAY_JOB_ID": "4700", "SLURM_ARRAY_TASK_ID": "11"},
            "4700_11",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["job", "array"],
)
def test_at_slurms_signal_a_run_is_saved_and_requeued(
    run: Run,
    at: At,
    slurm: Path,
    monkeypatch: pytest.MonkeyPatch,
    array: dict[str, str],
    job: str,
) -> None:
    whole = run(name="whole")
    for key, value in array.items():
        monkeypatch.setenv(key, value)
    at(24, lambda _: os.kill(os.getpid(), signal.SIGUSR1))

    folder = run(name="mine")
    assert slurm.read_text() == f"requeue {job}\n"
    assert load_checkpoint(folder / "last.ckpt")["artgan"]["progress"]["images_seen"] == 24
    run(resume=folder)

    assert_same_state(folder / "last.ckpt", whole / "last.ckpt")
    assert slurm.read_text() == f"requeue {job}\n"
    assert not list(folder.rglob("hpc_ckpt*"))


def test_a_failed_requeue_is_a_clear_error(
    run: Run, at: At, slurm: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FAILS", "1")
    at(24, lambda _: os.kill(os.getpid(), signal.SIGUSR1))
    with pytest.raises(UserError, match="is saved, but SLURM did not requeue job 4711"):
        run(name="mine")
    assert (tmp_path / "runs" / "mine" / "last.ckpt").exists()


def test_a_finished_run_is_not_requeued(run: Run, at: At, slurm: Path) -> None:
    at(64, lambda _: os.kill(os.getpid(), signal.SIGUSR1))
    run(name="mine", max_images=64)
    assert not slurm.exists()
