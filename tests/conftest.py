"""Real, small parts for the tests: a folder of paintings, and runs on it."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torchvision.models import squeezenet1_0

from artgan import download, inkwash
from artgan.config import Command, compose
from artgan.download import Download
from artgan.networks.taef2 import Decoder, Encoder
from artgan.options import TrainConfig
from tests.helpers import ON_CPU, SMALL, serving

COUNT = 40
# Tiny networks are slower on several threads, and ten times so on a busy machine.
torch.set_num_threads(1)
# A process that was started in the background or by nohup ignores these, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


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


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of a SqueezeNet that was never trained, to take features with."""
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.manual_seed(0)
    torch.save(squeezenet1_0(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights of TAEF2's shape that were never trained."""
    folder = tmp_path_factory.mktemp("autoencoder")
    torch.manual_seed(0)
    for name, network in {"encoder": Encoder(), "decoder": Decoder()}.items():
        state = {key: tensor.half() for key, tensor in network.state_dict().items()}
        torch.save(state, folder / f"taef2_{name}.pth")
    return folder


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """An empty folder and the address where it is served; torch keeps no weights yet.

    Weights may come from there, and one failure is enough to give up.
    """
    monkeypatch.setattr(download, "Download", partial(Download, insecure=True))
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "web"
    folder.mkdir()
    with serving(folder) as address:
        yield folder, address


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of a given size, such as `200k`, for as long as the test runs."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a small disk needs root; tests/test_files.py has a sibling")
        return disk

    yield mount
    subprocess.run(["umount", "-l", str(disk)], capture_output=True)


@pytest.fixture
def configure(paintings: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Composes a configuration as `train.py` does, for short runs of a tiny network."""

    def configure(**overrides: Any) -> TrainConfig:
        small: dict[str, Any] = {
            "dataset": "folder",
            "dataset.root": str(paintings),
            "output": str(tmp_path / "runs"),
            "sample_every": 64,
            "max_images": 64,
            **SMALL,
            **ON_CPU,
        }
        return compose("train", small | options(overrides))

    return configure


def options(keywords: dict[str, Any]) -> dict[str, Any]:
    """Options by their dotted names, from keywords such as `model__augment="[cutout]"`."""
    return {
        key.replace("__", "."): yaml.safe_load(value) if isinstance(value, str) else value
        for key, value in keywords.items()
    }


@pytest.fixture
def run(configure: Callable[..., TrainConfig]) -> Callable[..., Path]:
    """Trains in this process and gives the run folder."""

    def run(**overrides: Any) -> Path:
        from artgan.training.start import train

        config = configure(**overrides)
        folder, _ = train(config, Command(options(overrides) if config.resume else {}))
        return folder

    return run
