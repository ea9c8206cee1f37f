import ast
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from artgan import inkwash
from artgan.inkwash import generate, paint

#: What of numpy gives the same bits on every machine: arithmetic that IEEE 754 rounds exactly,
#: comparison, moving and sorting of values. No sin, exp, power, sum, mean, dot, interp, ...
EXACT = {
    "abs", "arange", "argsort", "asarray", "array", "atleast_1d", "clip", "concatenate", "empty",
    "flatnonzero", "floor", "maximum", "minimum", "roll", "sqrt", "stack", "where", "zeros",
    "float32", "floating", "int32", "int64", "ndarray", "uint8", "uint64",
    "random",
}  # fmt: skip
INEXACT_METHODS = {"sum", "mean", "std", "var", "prod", "dot", "trace", "random", "integers"}


@pytest.fixture(scope="module")
def gallery() -> NDArray[np.uint8]:
    """140 pictures, [140, 256, 256, 3]."""
    return np.stack([paint(seed=0, index=index) for index in range(140)])


@pytest.mark.parametrize(
    ("seed", "index", "sha256"),
    [
        (0, 0, "a3c56089909ee8face75c2d7186ba505eceb000df09d31217cb60e6644583f50"),
        (0, 1, "a7cc0921909f3a7ba7864b7f650b06600aa7cecd6852e0748ae014536e89a1ba"),
        (0, 5, "692a0a575eb8568ba7d41d93258f9829e38378bef68565f549f677d587a84c1b"),
        (1, 1999, "842d3c39c4fafcacb3faee0a3983249514b44239631050a6f94c97a27249869a"),
        (123456789, 3, "d7d7bb5c13b782713166b8b8d8e7bc5aeacf2018e16f7e62484b96e4f7730c68"),
    ],
)
def test_pixels_are_these_on_every_machine(seed: int, index: int, sha256: str) -> None:
    assert hashlib.sha256(paint(seed, index).tobytes()).hexdigest() == sha256


def test_only_exactly_rounded_operations_are_used() -> None:
    modules = Path(inkwash.__file__).parent.glob("*.py")
    trees = [ast.parse(module.read_text(encoding="utf-8")) for module in modules]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    of_numpy = {a.attr for a in attributes if isinstance(a.value, ast.Name) and a.value.id == "np"}
    of_random = {a.attr for a in attributes if ast.unparse(a.value) == "np.random"}
    imported = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}

    assert of_numpy <= EXACT
    assert of_random == {"PCG64"}
    assert imported == {"numpy"}
    assert not INEXACT_METHODS & {a.attr for a in attributes if ast.unparse(a.value) != "np"}
    assert not [node for node in nodes if isinstance(node, (ast.MatMult, ast.Pow))]


def test_a_picture_is_256_square_rgb_bytes(gallery: NDArray[np.uint8]) -> None:
    assert gallery[0].shape == (inkwash.SIZE, inkwash.SIZE, 3) == (256, 256, 3)
    assert gallery.dtype == np.uint8


def test_every_index_and_every_seed_gives_another_picture(gallery: NDArray[np.uint8]) -> None:
    pictures = {picture.tobytes() for picture in gallery} | {paint(1, 0).tobytes()}

    assert len(pictures) == len(gallery) + 1


def test_tones_run_from_black_ink_to_bare_paper(gallery: NDArray[np.uint8]) -> None:
    grey = gallery.mean(axis=-1).reshape(len(gallery), -1)

    assert 170 < grey.mean() < 225
    assert np.percentile(np.percentile(grey, 0.2, axis=1), 90) < 60
    assert np.percentile(grey, 90, axis=1).min() > 200


def test_sky_is_paler_than_land(gallery: NDArray[np.uint8]) -> None:
    assert gallery[:, :64].mean() > gallery[:, 96:].mean() + 5


def test_about_a_third_has_colour(gallery: NDArray[np.uint8]) -> None:
    red, green, blue = gallery.astype(int).transpose(3, 0, 1, 2)
    cold = green + blue > 2 * red  # paper and ink are warm, or neutral at the most
    warm = red - green > 20
    accented = (cold | warm).mean(axis=(1, 2)) > 0.02

    assert 0.2 < accented.mean() < 0.45


def test_a_generated_set_holds_the_painted_pixels_and_nothing_else(tmp_path: Path) -> None:
    done: list[int] = []

    generate(tmp_path, count=11, seed=7, progress=done.append)

    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [f"inkwash-{index:05d}.png" for index in range(11)]
    for index, file in enumerate(files):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), paint(7, index))
    assert done == list(range(1, 12))


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a process group")
def test_ctrl_c_leaves_no_processes(tmp_path: Path) -> None:
    program = (
        "import signal, sys; from pathlib import Path; from artgan.inkwash import generate\n"
        # A shell has what it starts in the background ignore Ctrl-C, and so its children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "generate(Path(sys.argv[1]), progress=lambda done: print(done, flush=True))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the first picture is done: all is under way

        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)  # ends when the last worker closes its pipes

    assert process.returncode == -signal.SIGINT, errors
    assert errors.rstrip().endswith("KeyboardInterrupt")
