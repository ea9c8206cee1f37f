"""The main job on 3,861 real paintings, where they are at hand, and on a GPU, where there is one.

The siblings that need neither are in test_train_command.py and tests/data.
"""

from pathlib import Path

import pytest
import torch

from tests.helpers import ROOT, small_arguments, succeed

PAINTINGS = ROOT.parent / "shared" / "data" / "chinese_paintings"


@pytest.mark.slow
@pytest.mark.skipif(not PAINTINGS.is_dir(), reason="the real paintings are not on this machine")
@pytest.mark.parametrize("resolution", [64, 128])
def test_real_paintings_are_packed_trained_on_resumed_and_painted(
    tmp_path: Path, resolution: int
) -> None:
    root = tmp_path / "paintings"
    root.mkdir()
    for folder in PAINTINGS.iterdir():
        # Links, since the pack is written beside the paintings.
        (root / folder.name).mkdir()
        for file in folder.iterdir():
            (root / folder.name / file.name).symlink_to(file)
    settings = ["dataset=folder", f"dataset.root={root}", f"resolution={resolution}"]
    size = ["model.width=16", "batch_size=16", "max_images=320", "name=real"]
    _, messages = succeed("train.py", *settings, *size, cwd=tmp_path)
    assert f"3,861 paintings at {resolution}×{resolution} px" in messages
    assert "3,861 of 3,861 images can be used" in messages
    succeed("train.py", "resume=checkpoints/real", "max_images=640", cwd=tmp_path)
    succeed("sample.py", "ckpt=checkpoints/real", "num=4", cwd=tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")
def test_training_and_sampling_on_a_gpu(paintings: Path, tmp_path: Path) -> None:
    arguments = [one for one in small_arguments(paintings) if not one.startswith("trainer.")]
    _, messages = succeed("train.py", *arguments, "max_images=64", "name=gpu", cwd=tmp_path)
    assert "training on cuda:0, precision bf16-mixed" in messages
    succeed("train.py", "resume=checkpoints/gpu", "max_images=128", cwd=tmp_path)
    succeed("sample.py", "ckpt=checkpoints/gpu", "num=4", cwd=tmp_path)
