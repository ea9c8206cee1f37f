"""Training on several devices: real processes on the CPU, which talk through gloo."""

import json
import multiprocessing
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing import connection
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
import yaml

from artgan.checkpoint import load_checkpoint
from artgan.config import Command, options_of
from artgan.errors import UserError
from artgan.options import TrainConfig
from artgan.training.distributed import RUN, own_environment
from artgan.training.gan import GAN
from artgan.training.launchers import Place, is_first, launched
from artgan.training.run import join
from artgan.training.run_folder import prepare
from tests.helpers import (
    EVERYTHING,
    ROOT,
    THE_OTHERS,
    assert_same_state,
    children,
    environment,
    small_arguments,
)

Run = Callable[..., Path]
Configure = Callable[..., TrainConfig]
Launcher = Callable[[int, int], dict[str, str]]
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["artgan.training.run"])

LOSSES: dict[str, dict[str, Any]] = {
    "bce": {},
    "hinge": {"model__loss": "hinge", "model__normalization": "spectral"},
    "lsgan": {"model__loss": "lsgan", "model__label_smoothing": 0.1},
    "wgan_gp": {**THE_OTHERS, "model__minibatch_std": "true"},
    "rpgan": EVERYTHING,
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun(rank: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets for one of two processes on one machine."""
    return {
        "TORCHELASTIC_RUN_ID": "none",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def srun(rank: int, port: int) -> dict[str, str]:
    """The variables that srun sets for one of two processes, each on a machine of its own."""
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "paint",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_PROCID": str(rank),
        "SLURM_NODEID": str(rank),
        "SLURM_LOCALID": "0",
        "MASTER_PORT": str(port),
    }


def train_as_rank(
    environments: Sequence[dict[str, str]], commands: Sequence[Sequence[str]], log: Path
) -> None:
    """Runs `train.py` with one list of arguments after another, in this process."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for variables, arguments in zip(environments, commands, strict=True):
        sys.argv = ["train.py", *arguments]
        with own_environment():
            os.environ |= variables
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


def train_together(
    commands: Sequence[Sequence[str]], log: Path, launcher: Launcher = torchrun
) -> list[int | None]:
    """Runs `train.py` in two processes, with the same arguments, and gives their exit codes."""
    ports = [free_port() for _ in commands]
    processes = []
    for rank in (0, 1):
        environments = [launcher(rank, port) for port in ports]
        arguments = (environments, commands, log)
        processes.append(FORK.Process(target=train_as_rank, args=arguments))
    for process in processes:
        process.start()
    while alive := [process for process in processes if process.is_alive()]:
        connection.wait([process.sentinel for process in alive])
        if any(process.exitcode for process in processes):
            for process in alive:
                process.terminate()  # as torchrun and srun do
                process.join(timeout=30)
                process.kill()
    return [process.exitcode for process in processes]


def assert_same_to_rounding(one: Path, other: Path) -> None:
    """After one update with a learning rate near zero."""
    first, second = (load_checkpoint(folder / "last.ckpt") for folder in (one, other))
    for network in (0, 1):
        states = [
            checkpoint["optimizer_states"][network]["state"] for checkpoint in (first, second)
        ]
        for number, state in states[0].items():
            # Adam's first moment is the gradient then, times 1 - beta1.
            expected, found = state["exp_avg"], states[1][number]["exp_avg"]
            assert expected.norm() > 0
            assert (found - expected).norm() <= 1e-4 * expected.norm(), (one, network, number)
    for key, expected in first["state_dict"].items():
        torch.testing.assert_close(second["state_dict"][key], expected, msg=f"{one} {key}")


@pytest.mark.slow
def test_an_update_of_two_processes_is_that_of_one(
    run: Run, paintings: Path, autoencoder: Path, tmp_path: Path
) -> None:
    """One update on the CPU for each of five losses, with all that depends on a whole batch, and
    one on latents, which the first process encodes.
    """
    latent = {"model": "latent", "resolution": 64, "weights_dir": autoencoder, "model__width": 4}
    cases = LOSSES | {"latents": latent | {"batch_size": 8}}
    commands = []
    for name, options in cases.items():
        one = {"model__learning_rate": 1e-9, "model__learning_rate_final": 1, "max_images": 8}
        chosen = options | one
        run(name=name, **chosen)
        given = [f"{key.replace('__', '.')}={value}" for key, value in chosen.items()]
        output = f"output={tmp_path / 'two'}"
        commands.append([*small_arguments(paintings), *given, f"name={name}", output])
    log = tmp_path / "log"
    assert train_together(commands, log) == [0, 0], log.read_text()

    for name in cases:
        assert_same_to_rounding(tmp_path / "runs" / name, tmp_path / "two" / name)


def adapt_as_rank(rank: int, config: TrainConfig, meeting: str, found: Any) -> None:
    dist.init_process_group("gloo", meeting, rank=rank, world_size=2)
    module = GAN(config, "key")
    module.augment_probability.fill_(0.5)
    logits = torch.ones(4) if rank == 0 else -torch.ones(4)
    module.adapt(logits)
    found.put(module.augment_probability.item())


@pytest.mark.slow
def test_all_ranks_adapt_the_augmentation_to_what_all_have_seen(
    configure: Configure, tmp_path: Path
) -> None:
    """To one the discriminator seems to overfit and to the other not; on the whole it does not."""
    config = configure(model__augment="[cutout]", model__augment_target=0.6)
    found = FORK.Queue()
    arguments = (config, f"file://{tmp_path / 'meeting'}", found)
    for rank in (0, 1):
        FORK.Process(target=adapt_as_rank, args=(rank, *arguments)).start()
    one, other = found.get(timeout=200), found.get(timeout=200)
    assert one == other < 0.5


def test_one_process_of_several_is_one_alone(run: Run) -> None:
    options = {"model__learning_rate": 1e-9, "max_images": 8}
    alone, one = run(name="alone", **options), run(name="one", trainer__strategy="ddp", **options)
    assert_same_to_rounding(alone, one)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [torchrun, srun])
def test_of_several_processes_one_claims_writes_and_prints(
    run: Run, paintings: Path, tmp_path: Path, launcher: Launcher
) -> None:
    """2 cases: processes that torchrun or srun has started."""
    alone = run(name="alone", sample_every=8, max_images=16, checkpoint__every=8)
    command = [
        *small_arguments(paintings),
        "sample_every=8",
        "max_images=16",
        "checkpoint.every=8",
        f"output={tmp_path / 'together'}",
    ]
    log = tmp_path / "log"
    assert train_together([command], log, launcher) == [0, 0], log.read_text()
    (folder,) = (tmp_path / "together").iterdir()  # by the default name, which is the time

    def names(folder: Path) -> set[str]:
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        return {"events" if name.startswith("events.") else name for name in files}

    assert names(folder) == names(alone)
    assert len(list(folder.glob("events.*"))) == 1
    printed = log.read_text()
    assert printed.count("40 of 40 images can be used") == printed.count("Done: 16 images") == 1
    assert "Traceback" not in printed


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit_and_one_can_take_over(
    run: Run, paintings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [*small_arguments(paintings), f"output={tmp_path}"]
    commands = [
        [*common, "name=whole", "max_images=64"],
        [*common, "name=part", "max_images=24"],
        [f"resume={tmp_path / 'part'}", "max_images=64"],
    ]
    log = tmp_path / "log"
    assert train_together(commands, log) == [0, 0], log.read_text()
    assert_same_state(tmp_path / "part" / "last.ckpt", tmp_path / "whole" / "last.ckpt")
    assert "was trained on" not in log.read_text()

    capsys.readouterr()
    run(resume=tmp_path / "part", max_images=72, **{"trainer.devices": 1})
    lines = [line for line in capsys.readouterr().err.splitlines() if "was trained on" in line]
    assert len(lines) == 1
    assert "was trained on 2 devices, now on 1." in lines[0]


@pytest.mark.slow
def test_a_mistake_is_reported_once(paintings: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    command = [*small_arguments(paintings), f"output={tmp_path}", "name=taken"]
    log = tmp_path / "log"
    assert train_together([command], log, srun)[0] == 1
    assert log.read_text().count("there is a run") == 1
    assert "Traceback" not in log.read_text()


def test_a_multirun_on_several_machines_is_refused(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in torchrun(0, free_port()).items():
        monkeypatch.setenv(key, value)
    refused = pytest.raises(UserError, match=r"^-m: trains on one machine only")
    with refused, prepare(configure(), Command(job_number=0)):
        pass


def test_machines_without_a_launcher_are_refused(run: Run) -> None:
    with pytest.raises(UserError, match=r"^trainer.num_nodes: 2 .* by torchrun or srun"):
        run(trainer__num_nodes=2)


@pytest.mark.parametrize("seen", ["folder", "paintings"])
def test_a_machine_that_does_not_share_the_disk_says_so(
    run: Run, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    config = asdict(configure())
    folder = run(name="mine", max_images=8) if seen == "folder" else tmp_path / "elsewhere"
    port = free_port()
    store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    store.set(RUN, json.dumps([str(folder), "0123456789abcdef", config]))
    for key, value in torchrun(1, port).items():
        monkeypatch.setenv(key, value)
    expected = "or has other paintings" if seen == "folder" else "run's folder cannot be read on"
    with own_environment(), pytest.raises(UserError, match=expected) as raised:
        join()
    assert socket.gethostname() in str(raised.value)


@pytest.mark.parametrize(
    ("given", "place", "first"),
    [
        ({}, None, True),
        (torchrun(0, 1), Place(0, 2, 1), True),
        (torchrun(1, 1), Place(1, 2, 1), False),
        (srun(1, 1), Place(1, 1, 2), False),
        (srun(1, 1) | {"SLURM_JOB_NAME": "bash"}, None, True),
        (srun(0, 1) | {"SLURM_NTASKS": "1"}, None, True),
    ],
)
def test_a_process_knows_its_place(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], place: Place | None, first: bool
) -> None:
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    assert (launched(), is_first()) == (place, first)


def test_the_files_to_copy_begin_a_run_and_go_on_with_it(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    batch = re.findall(r"```bash\n(#!.*?)```", text, re.S)[0]
    service, job = yaml.safe_load_all(re.findall(r"```yaml\n(.*?)```", text, re.S)[0])
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    container = pod["containers"][0]["args"][0].replace("/data/", "")

    for name in ("srun", "torchrun"):
        (tmp_path / name).write_text('#!/bin/sh\necho "$@"\n')
        (tmp_path / name).chmod(0o755)
    given = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": "1"}

    def command(script: str) -> list[str]:
        done = subprocess.run(
            ["bash", "-ec", script], cwd=tmp_path, env=given, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split("train.py ")[1].split()

    for script in (batch, container):
        new = command(script)
        assert "name=mine" in new
        assert {key.partition("=")[0] for key in new} <= {*options_of(TrainConfig)}
    (tmp_path / "checkpoints" / "mine").mkdir(parents=True)
    (tmp_path / "checkpoints" / "mine" / "config.yaml").touch()
    assert command(batch) == command(container) == ["resume=checkpoints/mine"]


ENDLESS = ("max_images=100000000", "checkpoint.every=8", "name=mine")


def wait_for(path: Path, processes: Sequence[subprocess.Popen[str]]) -> None:
    ends = time.monotonic() + 300
    while not path.exists():
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        assert time.monotonic() < ends
        time.sleep(0.1)


def begin(command: Sequence[object], cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that `train.py trainer.devices=2` has started, the first rank first."""
    found = [psutil.Process(pid) for pid in children(process.pid)]
    ranks = {one.environ().get("RANK"): one.pid for one in found}
    return [ranks["0"], ranks["1"]]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the processes in /proc")
@pytest.mark.parametrize("killed", ["train.py", "first rank", "second rank"])
def test_with_a_killed_process_the_others_end(paintings: Path, tmp_path: Path, killed: str) -> None:
    """3 cases: `train.py` itself is killed, or one of the two processes that it has started."""
    script = [ROOT / "train.py", *small_arguments(paintings), *ENDLESS, "trainer.devices=2"]
    process = begin(script, tmp_path)
    last = Path("checkpoints/mine/last.ckpt")
    wait_for(tmp_path / last, [process])
    ranks = ranks_of(process)
    victims = {"train.py": process.pid, "first rank": ranks[0], "second rank": ranks[1]}
    os.kill(victims[killed], signal.SIGKILL)
    # Its output ends only when no process holds it any more.
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if killed == "train.py" else 1)
    if killed != "train.py":
        assert printed.count("a process of this run was lost") == 1, printed
        assert printed.count(str(last)) == 1, printed
        assert "artgan train resume=checkpoints/mine" in printed
    assert "Traceback" not in printed
    assert load_checkpoint(tmp_path / last)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_run_on_two_devices(
    paintings: Path, tmp_path: Path, number: signal.Signals
) -> None:
    endless = ["max_images=100000000", "checkpoint.every=100000000", "name=mine"]
    script = [ROOT / "train.py", *small_arguments(paintings), *endless, "trainer.devices=2"]
    process = begin([*script, "sample_every=64"], tmp_path)
    folder = tmp_path / "checkpoints" / "mine"
    wait_for(folder / "samples" / "images-000000064.png", [process])
    process.send_signal(number)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    assert printed.count("Stopping, with a checkpoint") == 1, printed
    assert printed.count("Paused at ") == 1, printed
    assert "Traceback" not in printed

    seen = load_checkpoint(folder / "last.ckpt")["artgan"]["progress"]["images_seen"]
    process = begin([ROOT / "train.py", f"resume={folder}", f"max_images={seen + 8}"], tmp_path)
    printed, _ = process.communicate(timeout=120)
    assert f"Done: {seen + 8:,} images" in printed


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the processes in /proc")
def test_two_machines_of_torchrun_train_one_run_and_end_together(
    paintings: Path, tmp_path: Path
) -> None:
    """Two torchruns on one machine; then, in a second run, a process of the second is killed."""

    def machines(*more: str) -> list[subprocess.Popen[str]]:
        meeting = ["--master-addr", "127.0.0.1", "--master-port", free_port(), "--nnodes", 2]
        script = [ROOT / "train.py", *small_arguments(paintings), *more]
        each = ["-m", "torch.distributed.run", *meeting, "--nproc-per-node", 1]
        return [begin([*each, "--node-rank", rank, *script], tmp_path) for rank in (0, 1)]

    processes = machines("max_images=64", "name=whole")
    printed = "".join(process.communicate(timeout=300)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0], printed
    assert printed.count("Done: 64 images") == 1
    assert (tmp_path / "checkpoints" / "whole" / "last.ckpt").is_file()

    processes = machines(*ENDLESS)
    last = Path("checkpoints/mine/last.ckpt")
    wait_for(tmp_path / last, processes)
    (worker,) = children(processes[1].pid)
    os.kill(worker, signal.SIGKILL)
    printed = "".join(process.communicate(timeout=60)[0] for process in processes)
    assert [process.returncode for process in processes] == [1, 1]
    assert printed.count("a process of this run was lost") == 1
    assert printed.count(str(last)) == 1
    assert 'train.py", line' not in printed  # torchrun's own report has tracebacks
