"""Every command that the README shows is run, and does what it says."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.vgg import cfgs, make_layers

from artgan.checkpoint import load_checkpoint
from tests.helpers import ON_CPU, ROOT, SMALL, serving, succeed

README = (ROOT / "README.md").read_text(encoding="utf-8")
# Commands that other programs carry out: the tests' own start, and TensorBoard, whose event files
# tests/training/test_run.py reads back.
TESTS = 'pip install -e ".[dev]" && pytest'
ELSEWHERE = {TESTS, "tensorboard --logdir checkpoints"}


def commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", README, re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line]


def test_the_readme_opens_with_a_picture_and_the_two_commands() -> None:
    picture = re.search(r"!\[.*?\]\((.*?)\)", README)
    assert picture is not None
    assert (ROOT / picture[1]).is_file()
    assert commands()[:2] == ["pip install -e . && python train.py", TESTS]


def test_every_place_that_the_readme_names_is_there() -> None:
    for place in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / place).exists(), place
    tree = re.search(r"^```text\n(.*?)^```", README, re.M | re.S)
    assert tree is not None
    folder = ROOT
    for line in tree[1].splitlines():
        name = line.split()[0]
        parent = folder if line.startswith(" ") else ROOT
        assert (parent / name).exists(), name
        if name.endswith("/") and not line.startswith(" "):
            folder = ROOT / name


def test_every_test_that_the_promises_name_is_there() -> None:
    promises = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", promises)
    assert named
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test


@pytest.fixture
def web(paintings: Path, tmp_path: Path) -> Iterator[str]:
    """A server with the paintings in an archive, under two names."""
    (tmp_path / "web").mkdir()
    for name in ("paintings.zip", "woodcuts.zip"):
        with ZipFile(tmp_path / "web" / name, "w") as archive:
            for file in sorted(paintings.rglob("*.jpg")):
                archive.write(file, file.name)
    with serving(tmp_path / "web") as address:
        yield address


@pytest.mark.slow
def test_the_readme_s_set_of_one_file_can_be_trained_on(web: str, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns(".*", "__pycache__", "checkpoints", "datasets", "*.egg-info")
    checkout = shutil.copytree(ROOT, tmp_path / "artgan", ignore=ignored)
    (example,) = re.findall(r"^```yaml\n(.*?)^```", README, re.M | re.S)
    served = example.replace("https://example.org/sets", web)
    assert served != example
    (checkout / "configs" / "dataset" / "woodcuts.yaml").write_text(served)
    arguments = [f"{key}={value}" for key, value in {**SMALL, **ON_CPU, "max_images": 8}.items()]
    arguments.append("dataset.insecure=true")  # the server here speaks plain HTTP
    done = subprocess.run(
        [sys.executable, checkout / "train.py", "dataset=woodcuts", "name=cut", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Training on 40 paintings" in done.stderr


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Networks for style, never trained: VGG's under their published names, and Magenta's where
    it is kept once it has been fetched."""
    from tests.style.magenta_weights import keep_untrained_weights

    torch.manual_seed(0)
    folder = tmp_path / "networks"
    folder.mkdir()
    for names, blocks in [(("vgg19-dcbb9e9d", "vgg19-d01eb7cb"), "E"), (("vgg16-00b39a1b",), "D")]:
        weights = {
            f"features.{key}": one for key, one in make_layers(cfgs[blocks]).state_dict().items()
        }
        for name in names:
            torch.save(weights, folder / f"{name}.pth")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    keep_untrained_weights()
    return folder


def expanded(argument: str, folder: Path) -> list[str]:
    """As a shell would expand it."""
    return sorted(map(str, folder.glob(argument))) if argument.endswith("/*") else [argument]


@pytest.mark.slow
def test_every_command_of_the_readme_works(
    paintings: Path, web: str, weights: Path, networks: Path, tmp_path: Path
) -> None:
    photos = sorted(paintings.glob("river/*"))[:2]
    (tmp_path / "photos").mkdir()
    for photo in photos:
        shutil.copy(photo, tmp_path / "photos")
    places = {"PHOTOS": tmp_path / "photos", "PHOTO": photos[0], "PATH": paintings}
    places |= {"PAINTING": photos[1], "ANOTHER": next(paintings.glob("landscape/*"))}
    for command in commands():
        if command in ELSEWHERE or command.startswith("pip"):
            continue  # the first command is run, whole, by the next test
        here = re.sub("|".join(places), lambda place: str(places[place[0]]), command)
        program, name, *arguments = shlex.split(here)
        arguments = [path for one in arguments for path in expanded(one, tmp_path)]
        assert program == "python"
        if name == "-m":
            subprocess.run([sys.executable, name, *arguments], cwd=tmp_path, check=True)
            continue
        if name == "evaluate.py":
            arguments.append("num=16")
            if "features=" not in command:
                arguments.append("features=none")  # the network would be fetched
        if name == "stylize.py":
            arguments = [one for one in arguments if not one.startswith("size=")] + ["size=64"]
            if "method=gatys" in arguments:
                arguments += ["iterations=2", f"weights_dir={networks}"]
        if "dataset=chinese_art" in arguments:
            arguments += [f"dataset.address={web}", "dataset.archives=[paintings.zip]"]
            arguments.append("dataset.insecure=true")
        if name == "train.py" and "resume=" in command:
            # The run before was cut short; this one goes on from there.
            arguments = [re.sub("max_images=.*", "max_images=128", one) for one in arguments]
        elif name == "train.py" and "--help" not in arguments:
            if "hydra/sweeper=optuna" in arguments:
                arguments.append("hydra.sweeper.n_trials=2")
            # The model is the one that the command means.
            short = {key: value for key, value in SMALL.items() if key != "model"}
            short["max_images"] = 64
            arguments += [f"{key}={short[key]}" for key in short if key not in command]
            if "evaluate_every=" in command:  # the network would be fetched
                arguments += [f"evaluate.features={weights}", "evaluate.num=16"]
        succeed(name, *arguments, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_the_main_job_of_the_readme_paints_like_its_dataset(tmp_path: Path) -> None:
    succeed("train.py", "name=mine", cwd=tmp_path, threads=None, timeout=800)
    folder = tmp_path / "checkpoints" / "mine"
    assert load_checkpoint(folder / "last.ckpt")["artgan"]["progress"]["seconds"] >= 240
    paintings = np.asarray(Image.open(folder / "samples" / "paintings.png"), np.float64)
    samples = np.asarray(Image.open(max((folder / "samples").glob("images-*.png"))), np.float64)
    # Paper tone and tonal range, channel by channel. Noise or a grey mush is far from both.
    np.testing.assert_allclose(samples.mean((0, 1)), paintings.mean((0, 1)), atol=15)
    np.testing.assert_allclose(samples.std((0, 1)), paintings.std((0, 1)), rtol=0.35)
