"""The wheel, installed into a fresh environment, used in an empty folder."""

import os
import site
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from artgan import __version__
from tests.helpers import ROOT, small_arguments


@pytest.fixture(scope="module")
def artgan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an installed wheel; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", str(ROOT)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([*pip, f"--python={python}", "install", "--no-deps", str(wheel)], check=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "venv" / "bin" / "artgan"


@pytest.mark.slow
def test_the_wheel_does_everything_in_an_empty_folder(
    artgan: Path, paintings: Path, tmp_path: Path
) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*arguments: object) -> str:
        done = subprocess.run(
            [str(artgan), *map(str, arguments)],
            cwd=tmp_path,
            env=environment | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    assert run("--version") == f"artgan {__version__}\n"
    small = [one for one in small_arguments(paintings) if not one.startswith("dataset")]
    assert "40 of 40" in run("check", paintings)
    run("train", paintings, *small, "max_images=16", "name=mine")
    assert "Done: 32 images" in run("train", "resume=checkpoints/mine", "max_images=32")
    run("sample", "checkpoints/mine", "num=4", "out=painted")
    assert Image.open(tmp_path / "painted" / "seed0.png").size == (32, 32)
    run("evaluate", "checkpoints/mine", "features=none", "num=16")
    run("compare", "checkpoints/mine")
    run("export", "checkpoints/mine", "out=mine.safetensors")
    photo, painting = sorted(paintings.glob("river/*"))[:2]
    gatys = ["method=gatys", "backbone=random", "size=32", "iterations=1", "out=repainted.png"]
    run("stylize", photo, painting, *gatys)
    assert max(Image.open(tmp_path / "repainted.png").size) == 32
    code = "import artgan; print(len(artgan.load('checkpoints/mine').paint(seeds=range(3))))"
    python = subprocess.run(
        [artgan.with_name("python"), "-c", code],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert python.stdout == "3\n"
    where = subprocess.run(
        [artgan.with_name("python"), "-c", "import artgan; print(artgan.__file__)"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert str(ROOT) not in where.stdout
