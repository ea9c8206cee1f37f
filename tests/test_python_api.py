"""The functions of `artgan` from Python, as docs/python.md shows them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import artgan
from artgan.errors import UserError
from tests.helpers import ON_CPU, ROOT, SMALL, assert_same_state, small_arguments, succeed
from tests.style.magenta_weights import keep_untrained_weights

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def test_importing_artgan_loads_nothing_heavy() -> None:
    code = "import sys, artgan; assert not {'torch', 'numpy', 'hydra', 'PIL'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_code_of_the_page_works(
    paintings: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    keep_untrained_weights()
    shutil.copytree(paintings, "paintings", ignore=shutil.ignore_patterns(".artgan"))
    shutil.copy(next(paintings.glob("river/*")), "photo.jpg")
    small = ", ".join(f'"{key}": {value!r}' for key, value in (SMALL | ON_CPU).items())
    places: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S):
        # A tiny network for a moment, and weights that are here.
        code = block.replace('max_time="30m"', "max_images=64")
        code = code.replace('"dataset.holdout"', f'{small}, "dataset.holdout"')
        code = code.replace("num=1000", "num=16").replace('"squeezenet"', f"{str(weights)!r}")
        exec(compile(code, "docs/python.md", "exec"), places)
    assert Image.open("first.png").size == (32, 32)
    assert places["scores"]["samples"] == 16
    assert Image.open("repainted.png").size == Image.open("photo.jpg").size


@pytest.mark.slow
def test_a_run_is_that_of_the_command_line(
    paintings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = artgan.train(paintings, max_images=24, name="python", **SMALL, **ON_CPU)
    run = artgan.train(resume=run, max_images=32)
    arguments = small_arguments(paintings)
    succeed("train.py", *arguments, "max_images=32", "name=command", cwd=tmp_path)
    assert_same_state(run / "last.ckpt", tmp_path / "checkpoints" / "command" / "last.ckpt")
    (image,) = artgan.load(run).paint([7])
    succeed("sample.py", "ckpt=checkpoints/command", "seed=7", "num=1", "out=out", cwd=tmp_path)
    with Image.open("out/seed7.png") as painted:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(painted))


def test_a_mistake_is_the_message_of_the_command_line(paintings: Path) -> None:
    with pytest.raises(UserError, match=r"lr: .* Did you mean model\.learning_rate\?"):
        artgan.train(paintings, lr=1)
    with pytest.raises(UserError, match="there is no such run folder or checkpoint"):
        artgan.load("nowhere")
