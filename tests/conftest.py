"""Real, small parts for the tests: a folder of paintings, and runs on it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from artgan.checkpoint import load_checkpoint
from artgan.config import CONFIGS, Command, TrainConfig, check, register
from artgan.data import inkwash

ROOT = Path(__file__).resolve().parent.parent
COUNT = 40


@pytest.fixture(scope="session")
def paintings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 JPEG paintings, wider than high, in two class folders."""
    root = tmp_path_factory.mktemp("paintings")
    for index in range(COUNT):
        folder = root / ("landscape" if index % 2 else "river")
        folder.mkdir(exist_ok=True)
        picture = Image.fromarray(inkwash.paint(0, index)).resize((100, 80))
        picture.save(folder / f"{index:03d}.jpg", quality=95)
    return root


@pytest.fixture
def configure(paintings: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Composes a configuration as `train.py` does, for short runs of a tiny network."""

    def configure(**overrides: Any) -> TrainConfig:
        register(TrainConfig)
        small: dict[str, Any] = {
            "dataset": "folder",
            "dataset.root": str(paintings),
            "output": str(tmp_path / "runs"),
            "resolution": 32,
            "model.width": 4,
            "batch_size": 8,
            "log_every": 16,
            "sample_every": 64,
            "max_images": 64,
            "trainer.accelerator": "cpu",
            "trainer.precision": "32",
        }
        chosen = small | {key.replace("__", "."): value for key, value in overrides.items()}
        arguments = [f"{key}={'null' if v is None else v}" for key, v in chosen.items()]
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = OmegaConf.to_object(compose("train", arguments))
        assert isinstance(config, TrainConfig)
        check(config)
        return config

    return configure


@pytest.fixture
def run(configure: Callable[..., TrainConfig]) -> Callable[..., Path]:
    """Trains in this process and gives the run folder."""

    def run(**overrides: Any) -> Path:
        from artgan.training.run import start

        config = configure(**overrides)
        given = [f"{key.replace('__', '.')}={value}" for key, value in overrides.items()]
        start(config, Command(given if config.resume else [], None))
        return Path(config.resume or f"{config.output}/{config.name}")

    return run


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
        timeout=300,
        **options,
    )


def environment() -> dict[str, str]:
    """This environment without what a test runner or an earlier run may have left in it."""
    return {key: value for key, value in os.environ.items() if not key.startswith("ARTGAN")}


def small_arguments(paintings: Path) -> list[str]:
    """Arguments of `train.py` for a tiny network on the CPU."""
    return [
        "dataset=folder",
        f"dataset.root={paintings}",
        "resolution=32",
        "model.width=4",
        "batch_size=8",
        "log_every=16",
        "trainer.accelerator=cpu",
        "trainer.precision=32",
    ]


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
