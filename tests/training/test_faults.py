"""What goes wrong while a run trains: faults of the machine, of the system, of the numbers."""

import errno
import math
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from artgan.checkpoint import load_checkpoint
from artgan.errors import UserError
from artgan.memory import is_out_of_memory
from artgan.training import measurements
from artgan.training.callbacks import SampleGrids
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
    """Has something happen in a run once it has seen so many images."""

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


@pytest.mark.parametrize("command", ["again", "resume"])
def test_a_run_killed_before_its_first_update_can_begin_anew_and_go_on(
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
        with pytest.raises(UserError, match=f"^{folder}: another process trains this run"):
            run(resume=folder, max_images=32)
        with pytest.raises(UserError, match=f"^{taken}: another process trains this run"):
            run(name="taken")
    assert contents(tmp_path / "runs") == before | {"taken/.lock": b""}
    run(resume=folder, max_images=32)


def test_the_folder_is_held_from_its_making_to_the_end_of_the_training(
    run: Run, at: At, tmp_path: Path
) -> None:
    def refused(_: GAN) -> None:
        with pytest.raises(UserError, match="another process trains this run"):
            run(resume=tmp_path / "runs" / "mine")
        with pytest.raises(UserError, match="there is a run"):
            run(name="mine")

    at(16, refused)
    folder = run(name="mine", max_images=24)
    assert load_checkpoint(folder / "last.ckpt")["artgan"]["progress"]["images_seen"] == 24


@pytest.mark.parametrize("hours", [1, pytest.param(9000, marks=pytest.mark.slow)])
def test_points_stand_in_order_where_the_clock_was_set_back(
    run: Run, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    folder = run(name="mine", max_images=48, checkpoint__every=32)
    (folder / "events.out.tfevents.kept").touch()  # by a person
    now = time.time
    for images, ahead in ((64, 1), (80, 2)):
        # As if killed after its last point, with the last checkpoint 16 images before.
        shutil.copy(sorted(folder.glob("images-*.ckpt"))[-2], folder / "last.ckpt")
        monkeypatch.setattr(time, "time", lambda ahead=ahead: now() - ahead * hours * 3600)
        run(resume=folder, max_images=images, **{"checkpoint.every": 16})
    assert steps(folder, "loss/generator") == [16, 32, 48, 64, 80]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_of_a_run_that_is_refused_at_its_start_nothing_is_left(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"accelerator=gpu .* cannot be had"):
        run(name="mine", trainer__accelerator="gpu")
    assert not (tmp_path / "runs" / "mine").exists()


def test_paintings_that_are_gone_are_a_clear_error(
    run: Run, paintings: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(paintings, tmp_path / "mine"))
    folder = run(name="mine", dataset__root=root, max_images=16)
    before = contents(folder)
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"there is no folder {root}"):
        run(resume=folder, max_images=32)
    assert contents(folder) == before
    run(resume=folder, max_images=32, **{"dataset.root": tmp_path / "elsewhere"})


@pytest.mark.parametrize("sample_every", [16, 1000], ids=["grid first", "curves first"])
def test_nothing_is_lost_where_the_folder_is_deleted_while_training(
    run: Run, at: At, tmp_path: Path, sample_every: int
) -> None:
    whole = run(name="whole", max_images=64)
    folder = tmp_path / "runs" / "mine"
    at(32, lambda _: shutil.rmtree(folder))

    with pytest.raises(UserError, match="was deleted or moved while training") as told:
        run(name="mine", max_images=64, sample_every=sample_every, checkpoint__every=24)
    assert f"resume={folder}" in str(told.value)
    run(resume=folder, max_images=64)

    assert_same_state(folder / "last.ckpt", whole / "last.ckpt")


def test_a_disk_that_is_full_for_a_while_costs_no_more_than_the_way_to_the_last_checkpoint(
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


def lose(module: GAN) -> None:
    with torch.no_grad():
        next(module.generator.parameters()).fill_(math.nan)


def test_a_run_that_diverges_once_is_rolled_back_and_ends(
    run: Run, at: At, capsys: pytest.CaptureFixture[str]
) -> None:
    at(40, lambda module: None if module.progress.rollbacks else lose(module))
    folder = run(name="mine", on_nan="rollback", checkpoint__every=16, log_every=8)
    said = capsys.readouterr().err
    assert "no longer a number after 48 images. Going back to the last good state" in said
    assert said.count("1 of at most 3 times") == said.count("Training on 40 paintings") == 1
    last = load_checkpoint(folder / "last.ckpt")
    assert last["artgan"]["progress"]["rollbacks"] == 1
    assert all(tensor.isfinite().all() for tensor in last["state_dict"].values())
    # Those of what was discarded are not shown.
    assert steps(folder, "loss/generator") == [8, 16, 24, 32, 40, 48, 56, 64]


def test_what_was_rolled_back_goes_another_way_and_the_same_after_a_pause(
    run: Run, at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"checkpoint__every": 16, "on_nan": "rollback"}
    plain = run(name="plain", **options)
    at(40, lambda module: None if module.progress.rollbacks else lose(module))
    whole = run(name="whole", **options)
    part = run(name="part", **options | {"max_images": 56})

    run(resume=part, max_images=64)

    assert_same_state(part / "last.ckpt", whole / "last.ckpt")
    with pytest.raises(AssertionError):
        assert_same_state(plain / "last.ckpt", whole / "last.ckpt")


def test_a_run_is_rolled_back_to_its_beginning_and_three_times_at_most(
    run: Run, at: At, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    at(24, lose)
    with pytest.raises(UserError, match=r"after 32 images. No checkpoint yet. Try a lower"):
        run(name="mine", on_nan="rollback")
    said = capsys.readouterr().err
    assert [f"{n} of at most 3 times" in said for n in range(1, 5)] == [True, True, True, False]
    assert not list((tmp_path / "runs").rglob("*.ckpt"))


def test_no_state_that_is_lost_is_kept_as_the_best(run: Run, at: At, tmp_path: Path) -> None:
    at(24, lose)
    with pytest.raises(UserError, match="no longer a number after 24 images"):
        run(name="mine", log_every=1000, checkpoint__monitor="swd", **MEASURED)
    assert not list((tmp_path / "runs").rglob("*.ckpt"))


def test_a_moment_that_has_overflown_is_not_saved(run: Run, at: At, tmp_path: Path) -> None:
    def overflow(module: GAN) -> None:
        optimizer = module.trainer.optimizers[0]
        next(iter(optimizer.state.values()))["exp_avg_sq"].fill_(math.inf)

    at(24, overflow)
    with pytest.raises(UserError, match="no longer a number"):
        run(name="mine", max_images=24)
    assert not list((tmp_path / "runs").rglob("*.ckpt"))


def test_several_devices_cannot_be_rolled_back(run: Run) -> None:
    with pytest.raises(UserError, match="on_nan: rollback is for a single device"):
        run(on_nan="rollback", trainer__devices=2)


@pytest.mark.parametrize(("fitting", "advice"), [(3, "2 fits"), (0, "Not even 1 fits")])
def test_too_little_memory_is_told_with_a_batch_that_fits(
    run: Run, monkeypatch: pytest.MonkeyPatch, fitting: int, advice: str
) -> None:
    update = GAN.update

    def limited(module: GAN, penalized: bool, paintings: torch.Tensor, *rest: Any) -> None:
        if len(paintings) > fitting:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        update(module, penalized, paintings, *rest)

    monkeypatch.setattr(GAN, "update", limited)
    with pytest.raises(UserError, match=f"^batch_size: there is not enough memory for 8. {advice}"):
        run(name="mine")


def test_memory_that_lacks_beside_the_updates_is_not_blamed_on_the_batch(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(SampleGrids, "_paint", fail)
    with pytest.raises(UserError, match=r"^There is memory for the updates.* resume=\S+/mine$"):
        run(name="mine")


def test_other_errors_are_no_lack_of_memory(run: Run, at: At) -> None:
    def fail(_: GAN) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    at(8, fail)
    with pytest.raises(RuntimeError, match="mat1"):
        run(name="mine")


def test_torch_says_that_the_machine_has_too_little_memory_in_words_that_are_known() -> None:
    with pytest.raises(RuntimeError) as told:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(told.value)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Has a SIGTERM come in the midst of the n-th measurement; gives those begun so far."""

    def interrupted(number: int) -> list[int]:
        paint, begun = measurements.measure, [0]

        def measure(*arguments: Any) -> Any:
            begun[0] += 1
            if begun[0] == number:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            return paint(*arguments)

        monkeypatch.setattr(measurements, "measure", measure)
        return begun

    return interrupted


@pytest.mark.parametrize(("number", "seen"), [(2, 48), (3, 64)], ids=["in between", "at the end"])
def test_a_signal_does_not_wait_for_a_measurement_which_is_made_up_for(
    run: Run,
    interrupted: Callable[[int], list[int]],
    capsys: pytest.CaptureFixture[str],
    number: int,
    seen: int,
) -> None:
    options = MEASURED | {"checkpoint__monitor": "swd"}
    whole = run(name="whole", **options)
    interrupted(number)
    began = time.monotonic()
    folder = run(name="mine", **options)
    assert time.monotonic() - began < 60
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
    """A job of SLURM, whose `scontrol` notes here what it is asked for."""
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
def test_at_slurms_signal_a_run_saves_and_asks_to_be_run_again(
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


def test_a_job_that_slurm_does_not_run_again_is_told_of(
    run: Run, at: At, slurm: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FAILS", "1")
    at(24, lambda _: os.kill(os.getpid(), signal.SIGUSR1))
    with pytest.raises(UserError, match="is saved, but SLURM did not put job 4711 back"):
        run(name="mine")
    assert (tmp_path / "runs" / "mine" / "last.ckpt").exists()


def test_a_run_at_its_end_does_not_ask_to_be_run_again(run: Run, at: At, slurm: Path) -> None:
    at(64, lambda _: os.kill(os.getpid(), signal.SIGUSR1))
    run(name="mine", max_images=64)
    assert not slurm.exists()
