"""`sample.py` as a user meets it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import succeed


@pytest.mark.slow
def test_sampling_paints_what_the_last_grid_of_the_training_showed(
    run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = run(name="mine", max_images=64)
    output, _ = succeed("sample.py", f"ckpt={folder}", "device=cpu", cwd=tmp_path)
    painted = folder / "painted" / "images-000000064"
    assert output.startswith(str(painted / "grid-seed0-num64.png"))
    assert len(list(painted.glob("seed*.png"))) == 64
    grids = [painted / "grid-seed0-num64.png", folder / "samples" / "images-000000064.png"]
    sampled, trained = (np.asarray(Image.open(path)) for path in grids)
    np.testing.assert_array_equal(sampled, trained)


@pytest.mark.slow
def test_a_moved_checkpoint_needs_nothing_but_its_path(
    run: Callable[..., Path], tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere" / "大师.ckpt"
    moved.parent.mkdir()
    (run(name="mine", max_images=8) / "last.ckpt").rename(moved)
    succeed("sample.py", f"ckpt={moved}", "num=1", "out=here", cwd=tmp_path)
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
        "grid-seed0-num1.png",
        "seed0.png",
    ]
