"""The README and the pages in docs/: their commands are run, their links and names are true.

Commands to run are in blocks marked `bash`; those marked `sh` need other machines.
"""

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
from tests.helpers import ROOT, SMALL, environment, serving, small_arguments, succeed

PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted(ROOT.glob("docs/*.md"))}
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES |= {name: (ROOT / name).read_text("utf-8") for name in ("CONTRIBUTING.md", "CHANGELOG.md")}
PAGES["README.md"] = README
MAIN_JOB = "pip install -e . && python train.py"
TESTS = 'pip install -e ".[dev]" && pytest'
# The main job has a test of its own, CI runs the tests in a virtual environment, and the event
# files that TensorBoard shows are read back in tests/training/test_run.py.
ELSEWHERE = {
    MAIN_JOB,
    TESTS,
    "python3 -m venv .venv && . .venv/bin/activate",
    "tensorboard --logdir checkpoints",
}
BUDGETS = ("max_images=", "max_time=", "epochs=")


def commands(page: str) -> list[str]:
    """The commands of a page, in order; a block with a whole script is none."""
    blocks = re.findall(r"^```bash\n(?!#!)(.*?)^```", PAGES[page], re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line not in ELSEWHERE]


def test_the_readme_is_short_and_opens_with_a_picture() -> None:
    assert len(README.splitlines()) <= 200
    assert re.search(r"^!\[.+\]\(docs/inkwash.jpg\)$", README.split("\n\n")[1])


@pytest.mark.parametrize("command", [MAIN_JOB, TESTS])
def test_the_two_commands_each_have_a_block_of_their_own(command: str) -> None:
    assert f"```bash\n{command}\n```\n" in README


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_link_leads_somewhere(page: str) -> None:
    folder = ROOT if (ROOT / page).exists() else ROOT / "docs"
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGES[page])
    links += re.findall(r"^\[[\w-]+\]: ([^:\s]+)$", PAGES[page], re.M)
    assert [link for link in links if not (folder / link).exists()] == []


def test_every_page_is_linked_in_the_readme() -> None:
    pages = {page.name for page in ROOT.glob("docs/*.md")}
    assert pages - {*re.findall(r"\(docs/([\w-]+\.md)\)", README)} == set()


def tree() -> set[Path]:
    """What the annotated tree of the README names: paths, commas, two spaces, a remark."""
    (text,) = re.findall(r"^```text\n(.*?)^```", README, re.M | re.S)
    named: set[Path] = set()
    folder = Path()
    for line in text.splitlines():
        names = re.split(r"\s{2,}", line.strip())[0].split(", ")
        parent = folder if line.startswith(" ") else Path()
        named |= {parent / name for name in names}
        folder = parent if line.startswith(" ") else Path(names[0])
    return named


def test_the_tree_of_the_readme_is_true() -> None:
    named = tree()
    assert [path for path in named if not (ROOT / path).exists()] == []
    scripts = {path.relative_to(ROOT) for path in ROOT.glob("*.py")}
    modules = {path.relative_to(ROOT) for path in ROOT.glob("artgan/*.py") if path.stem[0] != "_"}
    packages = {path.parent.relative_to(ROOT) for path in ROOT.glob("artgan/*/__init__.py")}
    assert (scripts | modules | packages) - named == set()


def test_every_promise_names_a_test() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGES["reliability.md"])
    assert named
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not (ROOT / "tests" / file).exists()
        or f"def {test}(" not in (ROOT / "tests" / file).read_text(encoding="utf-8")
    ]
    assert missing == []


@pytest.fixture(scope="module")
def mine(paintings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny network, for pages that speak of one."""
    folder = tmp_path_factory.mktemp("mine")
    succeed("train.py", *small_arguments(paintings), "max_images=64", "name=mine", cwd=folder)
    return folder / "checkpoints" / "mine"


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


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Networks for style, never trained: VGG's under their published names, and Magenta's where
    it is kept once it has been downloaded."""
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


class Reader:
    """Types the commands of a page, as quick ones.

    Args:
        folder: to type them in.
        places: what the page's names in capitals stand for.
        web: address of a server with paintings.
        weights: of SqueezeNet.
        autoencoder: folder of its weights.
        networks: folder of the weights for style.
    """

    def __init__(
        self,
        folder: Path,
        places: dict[str, Path],
        web: str,
        weights: Path,
        autoencoder: Path,
        networks: Path,
    ) -> None:
        self.folder, self.places, self.web = folder, places, web
        self.weights, self.autoencoder, self.networks = weights, autoencoder, networks

    def types(self, command: str) -> None:
        command = command.replace("resolution=256", "resolution=64 model=latent")
        names = rf"\b({'|'.join(self.places)})\b"
        here = re.sub(names, lambda name: str(self.places[name[0]]), command)
        program, *arguments = shlex.split(here, comments=True)
        arguments = [path for one in arguments for path in self.expanded(one)]
        if program == "python":
            script, *arguments = arguments
            start, subcommand = [str(ROOT / script)], Path(script).stem
        else:
            assert program == "artgan", command
            subcommand = arguments[0]
            start = ["-m", "artgan"]
        done = subprocess.run(
            [sys.executable, *start, *arguments, *self.shortened(subcommand, command)],
            cwd=self.folder,
            env=environment() | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, (command, done.stderr)

    def expanded(self, argument: str) -> list[str]:
        """As a shell would expand it."""
        if not argument.endswith("/*"):
            return [argument]
        return sorted(map(str, self.folder.glob(argument)))

    def shortened(self, subcommand: str, command: str) -> list[str]:
        """Options that make a command quick, and keep it from downloads."""
        if "--help" in command:
            return []
        if subcommand == "evaluate":
            return ["num=16"] + ([] if "features=" in command else ["features=none"])
        if subcommand == "stylize":
            gatys = ["iterations=2", f"weights_dir={self.networks}"]
            return ["size=64"] + (gatys if "method=gatys" in command else [])
        return self.shortened_training(command) if subcommand == "train" else []

    def shortened_training(self, command: str) -> list[str]:
        if "resume=" in command:  # the run of an earlier command, which was cut short
            return ["max_images=128"]
        # The model is the one that the command means.
        small = {key: value for key, value in SMALL.items() if key != "model"} | {"max_images": 64}
        options = [f"{key}={value}" for key, value in small.items() if f"{key}=" not in command]
        if "hydra/sweeper=optuna" in command:
            options.append("hydra.sweeper.n_trials=2")
        if "evaluate_every=" in command:
            options += [f"evaluate.features={self.weights}", "evaluate.num=16"]
        if "model=latent" in command:
            options.append(f"weights_dir={self.autoencoder}")
        if "dataset=inkwash" in command:  # few paintings instead of 2,000
            options += ["dataset.source=folder", f"dataset.root={self.places['PATH']}"]
        if "dataset=chinese_art" in command:
            options += [f"dataset.address={self.web}", "dataset.archives=[paintings.zip]"]
        if "dataset=chinese_art" in command or "dataset=woodcuts" in command:
            options.append("dataset.insecure=true")  # the server here speaks plain HTTP
        return options


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in sorted(PAGES) if commands(page)])
def test_the_commands_of_a_page_work(
    page: str,
    paintings: Path,
    mine: Path,
    web: str,
    weights: Path,
    autoencoder: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    photos = sorted(paintings.glob("river/*"))[:2]
    (tmp_path / "photos").mkdir()
    for photo in photos:
        shutil.copy(photo, tmp_path / "photos")
    places = {"PHOTOS": tmp_path / "photos", "PHOTO": photos[0], "PATH": paintings}
    places |= {"PAINTING": photos[1], "ANOTHER": next(paintings.glob("landscape/*"))}
    if "name=mine" not in "".join(commands(page)):
        shutil.copytree(mine, tmp_path / "checkpoints" / "mine")
    # A configuration file that the page shows, with this server's address.
    shown = re.findall(r"`([\w/-]+\.yaml)`:\n\n```yaml\n(.*?)^```", PAGES[page], re.M | re.S)
    for name, text in shown:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text.replace("https://example.org/sets", web))
    networks = request.getfixturevalue("networks") if "stylize" in PAGES[page] else tmp_path
    reader = Reader(tmp_path, places, web, weights, autoencoder, networks)
    for command in commands(page):
        reader.types(command)


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
