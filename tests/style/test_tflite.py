import random
import shutil
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from artgan.errors import UserError
from artgan.files import sha256
from artgan.style import tflite
from artgan.style.tflite import PREDICTOR, TRANSFORMER, load_weights, read_tensors

FIRST = "MobilenetV2/Conv/weights"
DEPTHWISE = "MobilenetV2/expanded_conv_3/depthwise/depthwise_weights"
BIAS = "MobilenetV2/expanded_conv/project/Conv2D_bias"
GAMMA = "style_params/transformer/expand/conv1/conv/StyleNorm/Conv_1/weights"


class Stored:
    """A tensor of a TFLite file: integers, their scales and zero points."""

    def __init__(
        self, name: str, shape: tuple[int, ...], axis: int, seed: int = 0, dtype: type = np.int8
    ) -> None:
        draw = np.random.default_rng([seed, len(name)])
        self.name, self.axis = name, axis
        self.whole: NDArray[np.signedinteger] = draw.integers(-128, 128, shape).astype(dtype)
        self.scale = draw.uniform(0.001, 0.1, shape[axis]).astype(np.float32)
        self.zero = draw.integers(-9, 9, shape[axis])

    def real(self, *index: int) -> float:
        channel = index[self.axis]
        return (int(self.whole[index]) - int(self.zero[channel])) * float(self.scale[channel])


def written(path: Path, *tensors: Stored) -> Path:
    """A TFLite file, written by Google's own code."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, graph.tensors = 3, [schema.BufferT()], []
    for stored in tensors:
        tensor, buffer = schema.TensorT(), schema.BufferT()
        tensor.name, tensor.shape = stored.name, list(stored.whole.shape)
        tensor.type = {"int8": 9, "int32": 2, "int16": 7}[stored.whole.dtype.name]
        tensor.buffer = len(model.buffers)
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = stored.scale
        tensor.quantization.zeroPoint = stored.zero
        tensor.quantization.quantizedDimension = stored.axis
        buffer.data = np.frombuffer(stored.whole.tobytes(), np.uint8)
        graph.tensors.append(tensor)
        model.buffers.append(buffer)
    model.subgraphs = [graph]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(builder.Output())
    return path


def shapes(**wanted: tuple[int, ...]) -> dict[str, torch.Size]:
    return {name.replace("__", "."): torch.Size(shape) for name, shape in wanted.items()}


WANTED = shapes(
    predictor__first__weight=(4, 2, 3, 3), transformer__expand1__gamma__weight=(5, 7, 1, 1)
)


def make_weights(folder: Path, seed: int = 0, short: bool = False) -> Path:
    """A folder with both files, of one tensor each."""
    first, second = (one.patterns[0] if short else one.name for one in (PREDICTOR, TRANSFORMER))
    written(folder / first, Stored(FIRST, (4, 3, 3, 2), 0, seed))
    written(folder / "deeper" / second, Stored(GAMMA, (5, 1, 1, 7), 0, seed))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "artgan"


@pytest.fixture
def without_reader(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Removes the package that reads TFLite files."""
    return lambda: monkeypatch.setitem(sys.modules, "tflite.Model", None)


def test_integers_are_dequantised_in_the_layout_of_torch(tmp_path: Path) -> None:
    first, depthwise = Stored(FIRST, (4, 3, 5, 2), 0), Stored(DEPTHWISE, (1, 3, 5, 6), 3)
    bias = Stored(BIAS, (6,), 0, dtype=np.int32)
    file = written(tmp_path / "some.tflite", first, depthwise, bias)
    tensors = read_tensors(
        file,
        shapes(
            predictor__first__weight=(4, 2, 3, 5),
            predictor__blocks__3__depthwise__weight=(6, 1, 3, 5),
            predictor__blocks__0__project__bias=(6,),
        ),
    )
    weight, separate, added = tensors.values()
    for o, i, y, x in np.ndindex(*weight.shape):
        assert weight[o, i, y, x] == np.float32(first.real(o, y, x, i))
    for c, _, y, x in np.ndindex(*separate.shape):
        assert separate[c, 0, y, x] == np.float32(depthwise.real(0, y, x, c))
    for c in range(6):
        assert added[c] == np.float32(bias.real(c))
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())


@pytest.mark.parametrize(
    ("published", "own"),
    [
        (FIRST, "predictor.first.weight"),
        ("MobilenetV2/Conv_1/Conv2D_bias", "predictor.last.bias"),
        ("MobilenetV2/expanded_conv/depthwise/depthwise_bias", "predictor.blocks.0.depthwise.bias"),
        ("MobilenetV2/expanded_conv_16/expand/weights", "predictor.blocks.16.expand.weight"),
        ("mobilenet_conv/Conv/Conv2D_bias", "predictor.style.bias"),
        ("transformer/contract/conv3/weights", "transformer.contract3.weight"),
        ("transformer/residual/residual5/conv2/weights", "transformer.residual.5.conv2.weight"),
        ("transformer/expand/conv3/conv/weights", "transformer.expand3.weight"),
        (GAMMA, "transformer.expand1.gamma.weight"),
        (
            "style_params/transformer/residual/residual1/conv1/StyleNorm/Conv/Conv2D_bias",
            "transformer.residual.1.conv1.beta.bias",
        ),
    ],
)
def test_published_names_become_artgans(tmp_path: Path, published: str, own: str) -> None:
    shape = (6,) if published.endswith("bias") else (6, 1, 1, 2)
    file = written(tmp_path / "some.tflite", Stored(published, shape, 0, dtype=np.int32))
    wanted = torch.Size([6] if published.endswith("bias") else [6, 2, 1, 1])
    assert set(read_tensors(file, {own: wanted})) == {own}


def damaged(tmp_path: Path, fault: str) -> Path:
    stored = Stored(FIRST, (4, 3, 3, 2), 0)
    path = tmp_path / "some.tflite"
    if fault == "other integers":
        stored.whole = stored.whole.astype(np.int16)
    elif fault == "another shape":
        stored = Stored(FIRST, (4, 3, 3, 3), 0)
    elif fault == "too few numbers":
        stored.whole = stored.whole[:3]
        whole = written(path, stored).read_bytes()
        return patched(path, whole, (3, 3, 3, 2), (4, 3, 3, 2))
    elif fault == "millions of scales":
        stored.scale, stored.zero = np.ones(500_000, np.float32), np.zeros(500_000, int)
    elif fault == "not finite":
        stored.scale[1] = np.inf
    elif fault == "without the tensor":
        stored.name = "MobilenetV2/other/weights"
    elif fault == "empty":
        path.write_bytes(b"")
        return path
    elif fault == "not a TFLite file":
        path.write_bytes(b"<html>Please log in</html>" * 100)
        return path
    elif fault == "larger than a network":
        with path.open("wb") as file:
            file.truncate(10**12)
        return path
    elif fault == "a folder":
        path.mkdir()
        return path
    return written(path, stored)


def patched(path: Path, whole: bytes, old: tuple[int, ...], new: tuple[int, ...]) -> Path:
    before, after = (np.array(shape, "<i4").tobytes() for shape in (old, new))
    assert whole.count(before) == 1
    path.write_bytes(whole.replace(before, after))
    return path


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("other integers", "is neither int8 nor int32"),
        ("another shape", r"predictor\.first\.weight has the shape \[4, 3, 3, 3\]"),
        ("too few numbers", "reshape"),
        ("millions of scales", "500000 scales"),
        ("not finite", "is not finite"),
        ("without the tensor", r"it has no predictor\.first\.weight"),
        ("empty", "not a TFLite file"),
        ("not a TFLite file", "not a TFLite file"),
        ("larger than a network", "larger than 8,388,608 bytes"),
        ("a folder", "directory"),
    ],
)
def test_a_wrong_file_is_one_clear_message_and_needs_no_memory(
    tmp_path: Path, fault: str, message: str
) -> None:
    path = damaged(tmp_path, fault)
    tracemalloc.start()
    with pytest.raises(UserError, match=f"some.tflite: cannot be used .*{message}.* weights_dir"):
        read_tensors(path, shapes(predictor__first__weight=(4, 2, 3, 3)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * 2**20


def test_a_damaged_file_is_tensors_or_one_clear_message(tmp_path: Path) -> None:
    """400 files with some bytes changed, and each beginning of a file in steps of seven bytes."""
    wanted = shapes(predictor__first__weight=(4, 2, 3, 3))
    whole = written(tmp_path / "whole", Stored(FIRST, (4, 3, 3, 2), 0)).read_bytes()
    contents = [whole[:length] for length in range(0, len(whole), 7)]
    draw = random.Random(0)
    for _ in range(400):
        changed = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(changed))] = draw.choice((0, 1, 127, 128, 255))
        contents.append(bytes(changed))
    refused = 0
    for content in contents:
        file = tmp_path / "damaged"
        file.write_bytes(content)
        try:
            (tensor,) = read_tensors(file, wanted).values()
            assert tensor.shape == (4, 2, 3, 3)
            assert tensor.isfinite().all()
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("short", [False, True])
def test_weights_are_found_below_a_folder_by_either_name_and_kept(
    tmp_path: Path, cache: Path, short: bool, without_reader: Callable[[], None]
) -> None:
    folder = make_weights(tmp_path / "weights", short=short)
    tensors, key = load_weights(str(folder), WANTED)
    assert {name: tensor.shape for name, tensor in tensors.items()} == WANTED
    assert [file.name for file in (cache / "magenta").iterdir()] == [f"{key}.zip"]
    without_reader()
    again, same = load_weights(str(folder), WANTED)
    assert same == key
    assert all(torch.equal(again[name], tensors[name]) for name in WANTED)


def test_other_weights_are_kept_separately(tmp_path: Path) -> None:
    one, key = load_weights(str(make_weights(tmp_path / "one")), WANTED)
    other, other_key = load_weights(str(make_weights(tmp_path / "other", seed=1)), WANTED)
    assert key != other_key
    name = "predictor.first.weight"
    assert not torch.equal(one[name], other[name])
    assert torch.equal(load_weights(str(tmp_path / "one"), WANTED)[0][name], one[name])


@pytest.mark.parametrize("damage", ["torn", "flipped", "a folder"])
def test_damaged_converted_weights_are_converted_again(
    tmp_path: Path, cache: Path, damage: str
) -> None:
    folder = str(make_weights(tmp_path / "weights"))
    tensors, _ = load_weights(folder, WANTED)
    (kept,) = (cache / "magenta").iterdir()
    whole = kept.read_bytes()
    if damage == "torn":
        kept.write_bytes(whole[:100])
    elif damage == "flipped":
        place = whole.index(tensors["predictor.first.weight"].numpy().tobytes())
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    else:
        kept.unlink()
        kept.mkdir()
    again, _ = load_weights(folder, WANTED)
    assert all(torch.equal(again[name], tensors[name]) for name in WANTED)
    assert damage == "a folder" or kept.read_bytes() == whole


def test_weights_are_used_where_nothing_can_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    tensors, _ = load_weights(str(make_weights(tmp_path / "weights")), WANTED)
    assert set(tensors) == set(WANTED)


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weights_dir: there is no folder .*/none"):
        load_weights(str(tmp_path / "none"), WANTED)
    (tmp_path / PREDICTOR.patterns[0]).mkdir()
    with pytest.raises(UserError, match=r"no file magenta_.*_prediction_1\.tflite or style_pre"):
        load_weights(str(tmp_path), WANTED)


def publish(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Has the files of `make_weights` stand for the published ones."""
    parts = {
        part: replace(one, sha256=sha256(next(folder.rglob(one.name))))
        for part, one in tflite.PARTS.items()
    }
    monkeypatch.setattr(tflite, "PARTS", parts)


def test_published_weights_are_taken_from_torchs_hub_and_converted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_reader: Callable[[], None]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    folder = make_weights(tmp_path / "weights")
    publish(monkeypatch, folder)
    hub.mkdir(parents=True)
    for file in folder.rglob("*.tflite"):
        shutil.copy(file, hub)
    tensors, key = load_weights(None, WANTED)
    assert load_weights(str(folder), WANTED)[1] == key
    shutil.rmtree(hub)
    without_reader()
    again, _ = load_weights(None, WANTED)
    assert all(torch.equal(again[name], tensors[name]) for name in WANTED)


def test_another_file_than_the_published_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / PREDICTOR.name).write_bytes(b"<html>Please log in</html>")
    with pytest.raises(UserError, match="its SHA-256 is"):
        load_weights(None, WANTED)
