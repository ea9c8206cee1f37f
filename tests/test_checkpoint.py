import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from artgan.checkpoint import find_checkpoint, load_checkpoint
from artgan.errors import UserError


@pytest.fixture
def checkpoint(run: Callable[..., Path]) -> Path:
    return run(name="mine", max_images=8) / "last.ckpt"


class Hostile:
    """Unpickles as a call of os.mkdir, as an attacker would have it."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.proof),)


def test_a_checkpoint_describes_itself(checkpoint: Path) -> None:
    described = load_checkpoint(checkpoint)["artgan"]
    assert described["config"]["resolution"] == 32
    assert described["progress"]["images_seen"] == 8
    assert len(described["dataset_key"]) == 16


@pytest.mark.parametrize("form", ["zip", "bare pickle"])
def test_a_hostile_checkpoint_is_refused_and_runs_nothing(tmp_path: Path, form: str) -> None:
    path, proof = tmp_path / "evil.ckpt", tmp_path / "proof"
    content = {"artgan": {"format": 1}, "state_dict": Hostile(proof)}
    if form == "zip":
        torch.save(content, path)
        message = "Nothing of it was run"
    else:
        path.write_bytes(pickle.dumps(content))
        message = "is torn, or no checkpoint"
    with pytest.raises(UserError, match=message):
        load_checkpoint(path)
    assert not proof.exists()


@pytest.mark.parametrize("share", [0, 0.3, 0.999])
def test_a_truncated_checkpoint_is_refused(checkpoint: Path, share: float) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"last\.ckpt: is (torn|damaged)"):
        load_checkpoint(checkpoint)


def test_another_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(UserError, match="is damaged"):
        load_checkpoint(path)


def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, path)
    with pytest.raises(UserError, match="was not written by artgan"):
        load_checkpoint(path)


def test_a_checkpoint_of_another_version_is_refused(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["artgan"] |= {"format": 99, "version": "9.9.9"}
    torch.save(content, checkpoint)
    with pytest.raises(UserError, match=r"artgan 9\.9\.9 in format 99; this version reads"):
        load_checkpoint(checkpoint)


def test_a_run_folder_means_its_newest_state(checkpoint: Path) -> None:
    assert find_checkpoint(checkpoint.parent) == checkpoint
    assert find_checkpoint(checkpoint) == checkpoint


def test_no_checkpoint_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"last\.ckpt is missing"):
        find_checkpoint(tmp_path)
    with pytest.raises(UserError, match="no such run folder or checkpoint"):
        find_checkpoint(tmp_path / "nowhere")
