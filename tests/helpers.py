"""Running the scripts as a user would, and comparing checkpoints."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from artgan.checkpoint import load_checkpoint
from artgan.data.inspection import Checkup
from artgan.data.pack import Pack
from artgan.networks.dcgan import Generator
from artgan.options import EvaluateConfig, SampleConfig

ROOT = Path(__file__).resolve().parent.parent
# A network and batch that a test can train in a moment, and where it gives the same bits.
SMALL = {"model": "dcgan", "resolution": 32, "model.width": 4, "batch_size": 8, "log_every": 16}
ON_CPU = {"trainer.accelerator": "cpu", "trainer.precision": "32"}
# Every option of the model at work, as keywords of the fixtures.
EVERYTHING = {
    "model__conditional": "true",
    "model__loss": "rpgan",
    "model__normalization": "none",
    "model__minibatch_std": "true",
    "model__r1": 0.5,
    "model__r2": 0.25,
    "model__gradient_penalty": 2,
    "model__penalty_every": 2,
    "model__penalty_final": 0.1,
    "model__augment": "[color,translation,cutout]",
    "model__augment_target": 0.6,
    "model__learning_rate_final": 0.1,
}
# And those that exclude these.
THE_OTHERS = {
    "model__loss": "wgan_gp",
    "model__normalization": "spectral",
    "model__gradient_penalty": 10,
    "model__augment": "[translation]",
    "model__augment_probability": 0.5,
}


class Hostile:
    """Unpickles as a call of os.mkdir, as an attacker would have it."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.proof),)


def pack_of(rows: NDArray[np.uint8]) -> Pack:
    """A pack of standing strips, uint8 [N, length, resolution, 3]."""
    count, length = rows.shape[:2]
    nothing = Checkup(Path(), [], [], {})
    return Pack(
        rows=rows.reshape(-1, *rows.shape[2:]),
        starts=np.arange(count) * length,
        lengths=np.full(count, length),
        lying=np.zeros(count, bool),
        files=[str(number) for number in range(count)],
        key="",
        checkup=nothing,
        report=Path(),
    )


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serves a folder on 127.0.0.1, and gives its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def script(
    name: str, *arguments: object, cwd: Path, threads: int | None = 1, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Runs a script of the checkout as a user would, from the folder `cwd`."""
    return subprocess.run(
        [sys.executable, str(ROOT / name), *map(str, arguments)],
        cwd=cwd,
        env=environment(threads),
        capture_output=True,
        text=True,
        **{"timeout": 300, **options},
    )


def succeed(name: str, *arguments: object, cwd: Path, **options: Any) -> tuple[str, str]:
    """Runs a script that must succeed; returns what it printed: output and messages."""
    done = script(name, *arguments, cwd=cwd, **options)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout, done.stderr


def environment(threads: int | None = 1) -> dict[str, str]:
    """This environment without what a test runner or an earlier run may have left in it.

    Args:
        threads: of torch; a tiny network is slower on several, and ten times so on a busy machine.
            None lets torch choose.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ARTGAN")}
    return kept | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def small_arguments(paintings: Path) -> list[str]:
    """Arguments of `train.py` for a tiny network on the CPU."""
    small = {"dataset": "folder", "dataset.root": paintings, **SMALL, **ON_CPU}
    return [f"{key}={value}" for key, value in small.items()]


def evaluation_of(ckpt: Path, **chosen: Any) -> EvaluateConfig:
    """Options of `evaluate.py` for a run of tiny networks, quickly."""
    small: dict[str, Any] = {"features": "none", "num": 24, "seed": 0, "device": "cpu"}
    return EvaluateConfig(ckpt=str(ckpt), **small | chosen)


def make_run(folder: Path, **more: object) -> Path:
    """A run folder with a generator of random weights at 32 px; `more` goes into its checkpoint."""
    torch.manual_seed(0)
    classes = more.get("classes", {})
    assert isinstance(classes, dict)
    state = {
        f"{prefix}.{name}": tensor
        for prefix in ("generator", "generator_ema")
        for name, tensor in Generator(32, 100 + len(classes), 8).state_dict().items()
    }
    config = {"resolution": 32, "model": {"latent_dim": 100, "width": 8}}
    described = {"format": 1, "config": config, "progress": {"images_seen": 12, "seconds": 1.0}}
    torch.save({"state_dict": state, "artgan": described | more}, folder / "last.ckpt")
    return folder


def sampling_of(ckpt: object, out: object, **chosen: Any) -> SampleConfig:
    """Options of `sample.py` for a run of tiny networks."""
    small: dict[str, Any] = {"num": 4, "frames": 4, "length": 3.0, "device": "cpu"}
    places = {"ckpt": str(ckpt) if ckpt else None, "out": str(out) if out else None}
    return SampleConfig(**places | small | chosen)


def children(pid: int) -> list[int]:
    """The processes that another has started and that have not been waited for."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def assert_same_state(one: Path, other: Path) -> None:
    """Every tensor of two checkpoints is the same, bit for bit: weights, EMA, Adam's moments."""
    first, second = load_checkpoint(one), load_checkpoint(other)
    assert first["artgan"]["progress"]["images_seen"] == second["artgan"]["progress"]["images_seen"]
    assert_same(first["state_dict"], second["state_dict"])
    assert_same(first["optimizer_states"], second["optimizer_states"])


def assert_same(first: Any, second: Any) -> None:
    """Two nested dicts or lists hold the same values, tensors bit for bit."""
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
