import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from artgan.checkpoint import load_checkpoint
from artgan.errors import UserError
from artgan.export import export
from artgan.options import ExportConfig, SampleConfig
from artgan.sampling import load_painter, sample
from artgan.training.run_folder import reopen
from tests.helpers import make_run, sampling_of

CLASSES = {"山水": 3, "river": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of a run with classes."""
    return make_run(tmp_path_factory.mktemp("run"), classes=CLASSES)


@pytest.fixture
def exported(folder: Path, tmp_path: Path) -> Path:
    return export(ExportConfig(ckpt=str(folder), out=str(tmp_path / "mine.safetensors")))


def test_an_exported_file_is_replaced_only_if_asked_for(folder: Path, exported: Path) -> None:
    exported.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"mine\.safetensors exists already.* overwrite=true"):
        export(ExportConfig(ckpt=str(folder), out=str(exported)))
    assert exported.read_bytes() == b"mine"
    export(ExportConfig(ckpt=str(folder), out=str(exported), overwrite=True))
    assert exported.read_bytes() != b"mine"


def test_an_exported_file_is_not_resumed_or_exported_again(exported: Path) -> None:
    with pytest.raises(UserError, match=r"^resume: .*mine\.safetensors is an exported generator"):
        reopen(exported, {})
    with pytest.raises(UserError, match=r"^ckpt: .*mine\.safetensors is an exported generator al"):
        export(ExportConfig(ckpt=str(exported)))


def settings(ckpt: Path | None, out: Path, **more: Any) -> SampleConfig:
    few = {"seed": 3, "truncation": 0.9, "frames": 2, "length": 2.0}
    return sampling_of(ckpt, out, **(few | more))


def painted(files: list[Path]) -> dict[str, bytes]:
    """The pixels of pictures by their names: what else is in them names the checkpoint."""
    return {file.name: Image.open(file).tobytes() for file in files}


@pytest.mark.parametrize("more", [{}, {"layout": "scroll"}, {"classes": ["river"]}], ids=str)
def test_an_exported_generator_paints_the_same_bits(
    folder: Path, exported: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    of_run = sample(settings(folder, tmp_path / "run", **more))
    of_file = sample(settings(exported, tmp_path / "file", **more))
    assert painted(of_run) == painted(of_file)


def test_a_picture_of_an_exported_generator_can_be_painted_again(
    exported: Path, tmp_path: Path
) -> None:
    for picture in sample(settings(exported, tmp_path / "out"))[:2]:
        (again,) = sample(settings(None, tmp_path / "again", from_image=str(picture)))
        assert again.read_bytes() == picture.read_bytes()
    moved = tmp_path / "elsewhere" / "other.safetensors"
    moved.parent.mkdir()
    exported.rename(moved)
    (again,) = sample(settings(moved.parent, tmp_path / "moved", from_image=str(picture)))
    assert painted([again]) == {again.name: painted([picture])[picture.name]}


def test_the_header_says_what_the_weights_are(folder: Path, exported: Path) -> None:
    with safe_open(exported, "pt") as file:
        header = file.metadata()
    assert {key: json.loads(value) for key, value in header.items() if key != "artgan"} == {
        "format": 1,
        "resolution": 32,
        "model": {"latent_dim": 100, "width": 8},
        "classes": CLASSES,
        "images_seen": 12,
    }
    state = load_checkpoint(folder / "last.ckpt")["state_dict"]
    weights = load_file(exported)
    assert len(weights) == len(load_painter(exported).generator.state_dict())
    for name, tensor in weights.items():
        assert torch.equal(tensor, state[f"generator_ema.{name}"])


def test_without_out_the_file_lies_beside_the_checkpoint(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    assert export(ExportConfig(ckpt=str(folder))) == folder / "last.safetensors"


def test_a_mistake_leaves_no_file(folder: Path, exported: Path, tmp_path: Path) -> None:
    before = exported.read_bytes()
    for ckpt, out, message in (
        (None, None, "ckpt: no run given"),
        (str(folder), str(tmp_path / "mine.ckpt"), r"out: .* must end in \.safetensors"),
        (str(tmp_path / "nowhere"), str(exported), "no such run folder"),
        (str(folder), "/dev/null/mine.safetensors", "cannot be written"),
    ):
        with pytest.raises(UserError, match=message):
            export(ExportConfig(ckpt=ckpt, out=out))
    assert list(tmp_path.iterdir()) == [exported]
    assert exported.read_bytes() == before


def test_the_raw_generator_is_not_in_it(exported: Path) -> None:
    with pytest.raises(UserError, match=r"ema: .* holds only the averaged generator"):
        load_painter(exported, ema=False)


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, str]], object]) -> None:
    with safe_open(path, "pt") as file:
        header = file.metadata()
    weights = load_file(path)
    change(weights, header)
    save_file(weights, path, header)


def poison(weights: dict[str, Any], _: dict[str, str]) -> None:
    weights["layers.0.weight"][0, 0, 0, 0] = math.nan


FIRST = "layers.0.weight"
CHANGES: list[tuple[Callable[[dict[str, Any], dict[str, str]], object], str]] = [
    (poison, "holds numbers that are not finite"),
    (lambda weights, _: weights.pop(FIRST), "do not fit together"),
    (lambda weights, _: weights.update(more=torch.zeros(2)), "do not fit together"),
    (lambda weights, _: weights.update({FIRST: torch.zeros(3, 3)}), "do not fit together"),
    (lambda weights, _: weights.update({FIRST: weights[FIRST].half()}), "not a tensor of weights"),
    (lambda _, header: header.clear(), "was not written by artgan"),
    (lambda _, header: header.pop("artgan"), "was not written by artgan"),
    (lambda _, header: header.update(format="99", artgan="9.9"), "by artgan 9.9 in format 99"),
    (lambda _, header: header.pop("model"), "is damaged"),
    (lambda _, header: header.update(classes="{"), "is damaged"),
    (lambda _, header: header.update(classes="[" * 10**5), "is damaged"),
    (lambda _, header: header.update(model="[]"), "do not fit together"),
    (lambda _, header: header.update(model='{"width": 1e99, "latent_dim": 1}'), "do not fit"),
    (lambda _, header: header.update(resolution="NaN"), "do not fit together"),
    (lambda _, header: header.update(images_seen="1e999"), "do not fit together"),
    (lambda _, header: header.update(images_seen="9" * 5000), "is damaged"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES, ids=range(len(CHANGES)))
def test_contents_that_do_not_fit_are_refused(
    exported: Path, change: Callable[[dict[str, Any], dict[str, str]], object], reason: str
) -> None:
    rewritten(exported, change)
    with pytest.raises(UserError, match=reason) as raised:
        load_painter(exported)
    assert len(str(raised.value).splitlines()) == 1


def header_of(content: bytes) -> dict[str, Any]:
    return json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])


def with_header(content: bytes, header: bytes) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def moved(content: bytes, name: str, **entry: object) -> bytes:
    header = header_of(content)
    header[name] |= entry
    return with_header(content, json.dumps(header).encode())


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:7],
        lambda content: content[:100],
        lambda content: content[:-1],
        lambda content: content + b"more",
        lambda content: struct.pack("<Q", 2**63) + content[8:],
        lambda content: struct.pack("<Q", len(content)) + content[8:],
        lambda content: with_header(content, b"no JSON"),
        lambda content: with_header(content, b"[" * 10**6),
        lambda content: with_header(content, b"\xff" * 100),
        lambda content: with_header(content, b"{}"),
        lambda content: moved(content, FIRST, data_offsets=[0, 4]),
        lambda content: moved(content, FIRST, data_offsets=[2**62, 2**63]),
        lambda content: moved(content, FIRST, data_offsets=[-4, 4]),
        lambda content: moved(content, FIRST, shape=[2**40, 2**40]),
        lambda content: moved(content, FIRST, dtype="F999"),
        lambda content: moved(content, "layers.1.bias", data_offsets=[0, 256]),
        lambda content: b"PK" + content,
    ],
    ids=range(18),
)
def test_a_damaged_file_is_refused_in_one_line(
    exported: Path, damage: Callable[[bytes], bytes]
) -> None:
    exported.write_bytes(damage(exported.read_bytes()))
    with pytest.raises(UserError, match=f"^{exported}: ") as raised:
        load_painter(exported)
    assert len(str(raised.value).splitlines()) == 1
