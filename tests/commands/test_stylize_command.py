"""`stylize.py` as a user runs it, with random weights."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artgan import inkwash
from tests.helpers import ROOT, environment, script, succeed

# Small enough for a test.
GATYS = ["method=gatys", "backbone=random", "size=48", "device=cpu"]


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """A content and a style."""
    for index, name in enumerate(["photo.jpg", "painting.png"]):
        Image.fromarray(inkwash.paint(0, index)).resize((96, 64)).save(tmp_path / name)
    return ["content=photo.jpg", "style=painting.png"]


@pytest.mark.slow
def test_the_same_command_gives_the_same_bits(given: list[str], tmp_path: Path) -> None:
    """Two processes."""
    arguments = [*given, *GATYS, "iterations=3", "init=noise", "seed=5"]
    for name in ("one", "other"):
        output, messages = succeed("stylize.py", *arguments, f"out={name}.png", cwd=tmp_path)
        assert (output, messages) == (f"{name}.png\n", "")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    again = script("stylize.py", *arguments, "out=one.png", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith("out: one.png exists already.")


@pytest.mark.slow
def test_after_ctrl_c_the_image_so_far_is_written(given: list[str], tmp_path: Path) -> None:
    """One process, stopped once the second snapshot exists."""
    arguments = [*given, *GATYS, "iterations=100000", "snapshot_every=1", "out=result.png"]
    painting = subprocess.Popen(
        [sys.executable, str(ROOT / "stylize.py"), *arguments],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    second = tmp_path / "result.snapshots" / "000002.png"
    while painting.poll() is None and not second.exists():
        time.sleep(0.05)
    painting.send_signal(signal.SIGINT)
    output, messages = painting.communicate(timeout=60)
    assert (painting.returncode, output) == (130, "")
    assert messages == "Stopped: result.png is the image so far.\n"
    with Image.open(tmp_path / "result.png") as result:
        assert result.size == (48, 32)
        assert np.asarray(result).std() > 0


@pytest.mark.slow
def test_of_several_contents_a_bad_one_is_named_and_the_others_are_repainted(
    given: list[str], tmp_path: Path
) -> None:
    """One process."""
    (tmp_path / "text.jpg").write_text("text")
    contents = "content=[text.jpg,photo.jpg]"
    done = script("stylize.py", contents, given[1], *GATYS, "iterations=2", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    unusable, summary = done.stderr.splitlines()
    assert unusable.startswith("content: text.jpg cannot be used: ")
    assert summary == "1 of 2 images were not repainted; see painted/sheet-painting.png"
    names = sorted(path.name for path in (tmp_path / "painted").iterdir())
    assert names == ["photo-painting.png", "sheet-painting.png"]
