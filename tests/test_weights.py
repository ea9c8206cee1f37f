import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from artgan.download import Published
from artgan.errors import UserError
from artgan.weights import read_weights
from tests.helpers import Hostile

Web = tuple[Path, str]  # a folder, and the address where it is served


def state_dict(path: Path) -> Path:
    torch.save({"features.0.weight": torch.arange(100_000.0)}, path)
    return path


def publish(web: Web) -> tuple[Published, Path]:
    """Puts weights on the web; returns them and the file that torch is to keep."""
    folder, address = web
    file = state_dict(folder / "network.pth")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    file.rename(folder / "network.pth")
    kept = folder.parent / "torch" / "hub" / "checkpoints" / "network.pth"
    return Published("network.pth", f"{address}/network.pth", digest[:8]), kept


def test_weights_are_downloaded_once(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    published, kept = publish(web)
    assert published.download("go") == kept
    assert [path for path in kept.parent.iterdir() if path.suffix != ".lock"] == [kept]
    assert not capsys.readouterr().out  # results are printed there
    (web[0] / kept.name).unlink()
    state, digest = read_weights(published.download("go"), "Go")
    assert digest == hashlib.sha256(kept.read_bytes()).hexdigest()
    assert torch.equal(state["features.0.weight"], torch.arange(100_000.0))


def test_wrong_bytes_are_not_kept(web: Web) -> None:
    published, kept = publish(web)
    (web[0] / kept.name).write_bytes(b"<html>Please log in.</html>")
    with pytest.raises(UserError, match=rf"127.*{kept.name}.*not the file expected.*and go home"):
        published.download("go home")
    assert not [path for path in kept.parent.iterdir() if path.suffix != ".lock"]


def test_a_missing_page_is_named(web: Web) -> None:
    published = Published("network.pth", f"{web[1]}/network.pth", "00000000")
    with pytest.raises(UserError, match=r"network\.pth: .*answers 404 Not Found.*and go home"):
        published.download("go home")


def test_a_kept_file_that_was_damaged_is_not_used(web: Web) -> None:
    published, kept = publish(web)
    published.download("go")
    with kept.open("r+b") as file:
        file.seek(100_000)
        file.write(b"damage")
    with pytest.raises(UserError, match=rf"{kept.name}: not the file expected: .* Remove it"):
        published.download("go")


def test_a_hub_that_cannot_be_written_is_a_clear_error(web: Web) -> None:
    published, kept = publish(web)
    kept.parents[2].write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"torch.*cannot be written"):
        published.download("go")


def test_a_full_disk_is_a_clear_error(
    web: Web, monkeypatch: pytest.MonkeyPatch, small_disk: Callable[[str], Path]
) -> None:
    published, _ = publish(web)
    disk = small_disk("200k")
    monkeypatch.setenv("TORCH_HOME", str(disk))
    with pytest.raises(UserError, match="the disk is full"):
        published.download("go")
    assert not list(disk.rglob("*.pth"))


def test_weights_are_downloaded_encrypted_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"is not encrypted.*and go home"):
        Published("network.pth", "http://127.0.0.1:1/network.pth", "0").download("go home")


def test_weights_are_found_below_a_folder_by_the_names_they_are_known_by(tmp_path: Path) -> None:
    file = tmp_path / "one" / "two" / "network1_0-abc.pth"
    file.parent.mkdir(parents=True)
    state_dict(file)
    state_dict(tmp_path / "other.pth")
    assert Published("network1_0-abc.pth", "", "").find(tmp_path) == file
    assert Published("network.pth", "", "", ("network1_0*.pth",)).find(tmp_path) == file
    with pytest.raises(UserError, match=rf"weights_dir: there is no file vgg19\.pth in {tmp_path}"):
        Published("vgg19.pth", "", "").find(tmp_path)
    with pytest.raises(UserError, match="weights_dir: there is no folder"):
        Published("vgg19.pth", "", "").find(tmp_path / "nowhere")


@pytest.mark.parametrize("form", ["zip", "old", "bare pickle"])
def test_hostile_weights_are_refused_and_run_nothing(tmp_path: Path, form: str) -> None:
    path, proof = tmp_path / "evil.pth", tmp_path / "proof"
    content = {"features.0.weight": torch.zeros(2), "more": Hostile(proof)}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UserError, match=r"evil\.pth: .*Nothing in it was run\. Go home\."):
        read_weights(path, "Go home")
    assert not proof.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0, 1e-6, 0.3, 0.9, 0.99999])
def test_torn_weights_are_refused(tmp_path: Path, share: float, zipped: bool) -> None:
    path = tmp_path / "torn.pth"
    torch.save({"weight": torch.rand(100_000)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"torn\.pth: (cannot be read|is not a state dict)"):
        read_weights(path, "Go home")


@pytest.mark.parametrize(
    "content",
    [
        {"weight": 7},
        {"state_dict": {"weight": torch.zeros(2)}},
        {7: torch.zeros(2)},
        torch.zeros(2),
    ],
)
def test_something_else_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "else.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match=r"else\.pth: holds more than a state dict.*Go home\."):
        read_weights(path, "Go home")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(UserError, match=f"no file {path}. Go home."):
            read_weights(path, "Go home")
