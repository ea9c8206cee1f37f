"""`train.py` as a user meets it: real processes, real signals."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from artgan.checkpoint import load_checkpoint
from tests.helpers import (
    ROOT,
    assert_same_state,
    environment,
    script,
    small_arguments,
    succeed,
)


def images_seen(folder: Path) -> int:
    return load_checkpoint(folder / "last.ckpt")["artgan"]["progress"]["images_seen"]


def started(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Starts an endless training and waits until it is under way."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(cwd.glob("checkpoints/*/images-*.ckpt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def test_a_run_ends_by_saying_where_everything_lies_and_what_to_type_next(
    paintings: Path, tmp_path: Path
) -> None:
    output, messages = succeed(
        "train.py", *small_arguments(paintings), "max_images=64", "name=mine", cwd=tmp_path
    )
    assert re.search(r"Done: 64 images in \d:\d\d:\d\d, [\d,]+ images/s", output)
    for place in re.findall(r"^  (?:samples|checkpoint|TensorBoard) +(\S+)$", output, re.M):
        assert (tmp_path / place).exists(), place
    assert "artgan sample ckpt=checkpoints/mine" in output
    assert "tensorboard --logdir checkpoints" in output
    assert re.search(r"100% .*64 images, [\d,]+ images/s, 00:00 left", messages)
    assert "Traceback" not in messages


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, id="ctrl-c"), signal.SIGTERM],
)
def test_a_signal_saves_and_the_resumed_run_equals_the_uninterrupted_one(
    paintings: Path, tmp_path: Path, number: signal.Signals, run: Callable[..., Path]
) -> None:
    endless = [*small_arguments(paintings), "max_images=100000000", "checkpoint.every=64"]
    process = started(*endless, "name=mine", cwd=tmp_path)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    folder = tmp_path / "checkpoints" / "mine"
    paused = images_seen(folder)
    assert process.returncode == 0, errors
    assert f"Paused at {paused:,} images" in output
    assert "artgan train resume=checkpoints/mine" in output
    assert not list(folder.glob(".*.tmp"))

    run(resume=folder, max_images=paused + 40)
    whole = run(name="whole", max_images=paused + 40)
    assert_same_state(folder / "last.ckpt", whole / "last.ckpt")


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(paintings: Path, tmp_path: Path) -> None:
    # A batch that takes seconds, so that the second signal comes before its end.
    slow = ["batch_size=4096", "model.width=16", "max_images=100000000", "checkpoint.every=1"]
    process = started(*small_arguments(paintings), *slow, "name=mine", cwd=tmp_path)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT


@pytest.mark.slow
def test_ctrl_c_before_the_training_is_no_traceback(paintings: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *small_arguments(paintings)],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    # The line comes just before Lightning sets up; the packing and the imports lie behind.
    assert process.stderr is not None
    assert "40 of 40 images can be used" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode in (0, 130), errors  # 0 where the training had begun by then
    assert "Traceback" not in errors


@pytest.mark.slow
def test_ctrl_c_ends_a_whole_multirun(paintings: Path, tmp_path: Path) -> None:
    many = ["-m", "seed=0,1,2", "max_images=100000000", "checkpoint.every=64"]
    process = started(*small_arguments(paintings), *many, cwd=tmp_path)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output.count("Paused at") == 1
    assert len(list((tmp_path / "checkpoints").glob("[!.]*"))) == 1


@pytest.mark.slow
def test_two_processes_train_as_one(paintings: Path, tmp_path: Path) -> None:
    output, _ = succeed(
        "train.py",
        *small_arguments(paintings),
        "max_images=64",
        "trainer.devices=2",
        "evaluate_every=32",
        "evaluate.features=none",
        "evaluate.num=16",
        "checkpoint.monitor=swd",
        "model.conditional=true",
        "name=mine",
        cwd=tmp_path,
    )
    folder = tmp_path / "checkpoints" / "mine"
    assert images_seen(folder) == 64
    assert len(list(folder.glob("evaluated/*/metrics.json"))) == 2
    assert (folder / "best.ckpt").is_file()
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]
    assert len(list(folder.glob("events.*"))) == 1
    assert output.count("Done:") == 1


@pytest.mark.slow
def test_a_multirun_compares_settings_in_runs_of_their_own(paintings: Path, tmp_path: Path) -> None:
    succeed(
        "train.py",
        "-m",
        *small_arguments(paintings),
        "model.width=2,4",
        "max_images=16",
        "name=widths",
        cwd=tmp_path,
    )
    for number, width in enumerate((2, 4)):
        folder = tmp_path / "checkpoints" / f"widths-{number}"
        config = load_checkpoint(folder / "last.ckpt")["artgan"]["config"]
        assert config["model"]["width"] == width


def test_the_configuration_is_shown_without_a_run(tmp_path: Path) -> None:
    done = script("train.py", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0
    assert "learning_rate: 0.0005" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("train.py", "model.widht=3", "Did you mean model.width?"),
        ("train.py", "resume=checkpoints/nothing", "there is no run here"),
        ("train.py", "max_time=soon", "max_time: 'soon' is not a time"),
        ("sample.py", "ckpt=nothing", "no such run folder or checkpoint"),
        ("sample.py", "truncation=2", "truncation: 2 must be at least 0 and at most 1."),
    ],
)
def test_a_mistake_is_one_message_and_code_1(
    tmp_path: Path, name: str, argument: str, message: str
) -> None:
    done = script(name, argument, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.slow
def test_a_disk_too_small_for_the_curves_is_no_traceback(
    paintings: Path, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    output = f"output={small_disk('200k')}"
    done = script("train.py", *small_arguments(paintings), output, cwd=tmp_path)
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_files_that_cannot_be_used_are_counted_and_passed_over(
    paintings: Path, tmp_path: Path
) -> None:
    root = tmp_path / "mine"
    root.mkdir()
    for path in paintings.rglob("*.jpg"):
        (root / path.name).write_bytes(path.read_bytes())
    (root / "torn.jpg").write_bytes(path.read_bytes()[:500])
    (root / "page.jpg").write_text("<html>")
    _, messages = succeed("train.py", *small_arguments(root), "max_images=8", cwd=tmp_path)
    assert "40 paintings at 32×32 px" in messages
    assert "40 of 42 images can be used; 2 cannot (1 not an image but a web page, " in messages
    assert f"More in {root / '.artgan' / 'report.html'}" in messages


@pytest.mark.slow
def test_the_built_in_set_is_painted_once_and_trained_on(tmp_path: Path) -> None:
    for name in ("first", "second"):
        _, messages = succeed("train.py", "max_images=64", f"name={name}", cwd=tmp_path)
        assert "Training on 2,000 paintings at 64×64 px" in messages
    assert len(list((tmp_path / "datasets" / "inkwash").glob("*.png"))) == 2000
    assert len(list((tmp_path / "datasets" / "inkwash" / ".artgan").glob("*.pack"))) == 1
