"""The weights of Magenta's network: TFLite files of int8 numbers in, float32 tensors out.

Google publishes the network as two files for telephones. What they say is kept in the user's cache,
so that only the first start reads them.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from artgan.errors import UserError, printable
from artgan.files import atomic_write, sha256, user_cache

ADDRESS = (
    "https://storage.googleapis.com/download.tensorflow.org/models/tflite/task_library/"
    "style_transfer/android"
)


@dataclass(frozen=True)
class Published:
    """A file of Google's.

    Attributes:
        part: of the network that it holds.
        name: it is published by.
        short: another name that it is found by.
        digest: its SHA-256.
    """

    part: str
    name: str
    short: str
    digest: str


PUBLISHED = (
    Published(
        "predictor",
        "magenta_arbitrary-image-stylization-v1-256_int8_prediction_1.tflite",
        "style_predict_int8.tflite",
        "af6ad4b2e7aeba0675f32636082ab915ced5375229a3f8aff7e714c6213f5ed2",
    ),
    Published(
        "transformer",
        "magenta_arbitrary-image-stylization-v1-256_int8_transfer_1.tflite",
        "style_transfer_int8.tflite",
        "7a1550643cf034a4d813c0aa276976cd15da4141b4f1ec3631db1d0d9c8e2cd1",
    ),
)
LARGEST = 2**23  # bytes that a file has at most
MOST = 2**11  # tensors that it has at most
DTYPES = {2: np.dtype("<i4"), 9: np.dtype("i1")}  # by TFLite's numbers: int32 and int8
# Patterns that turn names in the files into those of `artgan.style.magenta`.
RENAMED = {
    r"^style_params/": "",
    r"^MobilenetV2/Conv/": "predictor/first/",
    r"^MobilenetV2/Conv_1/": "predictor/last/",
    r"^MobilenetV2/expanded_conv/": "predictor/blocks/0/",
    r"^MobilenetV2/expanded_conv_": "predictor/blocks/",
    r"^mobilenet_conv/Conv/": "predictor/style/",
    r"/residual/residual": "/residual/",
    r"/(contract|expand)/conv(\d)/": r"/\1\2/",
    r"/conv/": "/",
    r"/StyleNorm/Conv/": "/beta/",
    r"/StyleNorm/Conv_1/": "/gamma/",
    r"/(depthwise_)?weights$": "/weight",
    r"/(Conv2D|depthwise)_bias$": "/bias",
    r"/": ".",
}


def load_weights(
    weights_dir: str | None, shapes: Mapping[str, torch.Size]
) -> tuple[dict[str, Tensor], str]:
    """The weights of the network, fetched and converted where that has not been done yet.

    Args:
        weights_dir: folder in which, or below which, both files lie; None for Google's own.
        shapes: of the tensors, by their names, each of which begins with the part it is of.

    Returns:
        float32 tensors by name, and the first digits of the SHA-256 of both files.

    Raises:
        UserError: a file is missing, cannot be fetched, or is not one of this network.
    """
    if weights_dir:
        files = [_found(Path(weights_dir).expanduser(), published) for published in PUBLISHED]
        digests = [_digest(file) for file in files]
    else:
        files, digests = [], [published.digest for published in PUBLISHED]
    key = "-".join(digest[:16] for digest in digests)
    kept = user_cache() / "magenta" / f"{key}.safetensors"
    # Whatever is wrong with what was kept: it is made anew.
    with suppress(Exception):
        tensors = load_file(kept)
        if {name: tensor.shape for name, tensor in tensors.items()} == shapes:
            return tensors, key
    tensors = {}
    for published, file in zip(PUBLISHED, files or _fetched(kept.parent), strict=True):
        wanted = {name: shapes[name] for name in shapes if name.startswith(published.part)}
        tensors |= read_tensors(file, wanted)
    # Where nothing can be kept, as in a home that is read only, the next start converts again.
    with suppress(UserError), atomic_write(kept) as out:
        out.write(save(tensors))
    return tensors, key


def read_tensors(file: Path, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Tensors of a TFLite file, under our names, as the numbers that its integers stand for.

    Convolutions are given as torch has them: [out, in, kernel, kernel].

    Args:
        file: of any content; nothing larger than the tensors asked for is allocated.
        shapes: of the tensors, by our names.

    Returns:
        float32 tensors of these names and shapes.

    Raises:
        UserError: the file cannot be read, is damaged, or has not all of these tensors.

    Source: TensorFlow Lite 8-bit quantization specification: real = (int − zero point) × scale.
    """
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError(f"larger than {LARGEST:,} bytes")
        return _tensors(file.read_bytes(), shapes)
    except OSError as error:
        reason = str(error.strerror)
    except Exception as error:
        # Damage shows as any of a dozen exceptions of flatbuffers, struct and numpy.
        reason = str(error) or type(error).__name__
    raise UserError(
        f"{file}: cannot be used as a file of Magenta's network ({printable(reason):.200}). Get it "
        "anew, or leave weights_dir out to have it fetched."
    )


def _tensors(content: bytes, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    # Imported only where a file is read: it takes long.
    from tflite.Model import Model

    if content[4:8] != b"TFL3":
        raise ValueError("no TFLite file")
    model = Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    if graph.TensorsLength() > MOST:
        raise ValueError(f"{graph.TensorsLength():,} tensors")
    tensors = {}
    for number in range(graph.TensorsLength()):
        entry = graph.Tensors(number)
        name = published = entry.Name().decode()
        for theirs, ours in RENAMED.items():
            name = re.sub(theirs, ours, name)
        if name in shapes:
            data = model.Buffers(entry.Buffer()).DataAsNumpy()
            is_depthwise = published.endswith("depthwise_weights")
            tensors[name] = _tensor(name, entry, data, is_depthwise, shapes[name])
    if missing := sorted(set(shapes) - set(tensors)):
        raise ValueError(f"it has no {missing[0]}")
    return tensors


def _tensor(name: str, entry: Any, data: Any, is_depthwise: bool, wanted: torch.Size) -> Tensor:
    stored = entry.ShapeAsNumpy()
    # From [out, height, width, in], and [1, height, width, out] of depthwise convolutions.
    order = [0] if len(stored) == 1 else [3, 0, 1, 2] if is_depthwise else [0, 3, 1, 2]
    if tuple(stored[order]) != tuple(wanted):
        raise ValueError(f"{name} has the shape {stored.tolist()}")
    quantization = entry.Quantization()
    scale, zero = quantization.ScaleAsNumpy(), quantization.ZeroPointAsNumpy()
    along = np.ones(len(stored), int)
    along[quantization.QuantizedDimension()] = len(scale)
    if len(scale) != 1 and (along > stored).any():
        raise ValueError(f"{name} has {len(scale)} scales")
    if entry.Type() not in DTYPES:
        raise ValueError(f"{name} holds other numbers than int8 or int32")
    whole = data.view(DTYPES[entry.Type()]).reshape(stored)
    with np.errstate(all="ignore"):
        real = ((whole - zero.reshape(along)) * scale.reshape(along)).astype(np.float32)
    if not np.isfinite(real).all():
        raise ValueError(f"{name} is not finite")
    return torch.from_numpy(real).permute(*order).contiguous()


def _found(folder: Path, published: Published) -> Path:
    if not folder.is_dir():
        raise UserError(f"weights_dir: there is no folder {folder}.")
    for name in (published.name, published.short):
        for file in sorted(folder.rglob(name)):
            if file.is_file():
                return file
    raise UserError(
        f"weights_dir: neither {published.name} nor {published.short} lies in {folder} or below. "
        "Leave weights_dir out to have it fetched."
    )


def _digest(file: Path) -> str:
    try:
        return sha256(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}).") from error


def _fetched(folder: Path) -> list[Path]:
    # Imported only where it is needed: it takes long.
    from artgan.download import GIGABYTE, Download, WrongFile, fetch

    def verify(published: Published, file: Path) -> str:
        if (digest := sha256(file)) != published.digest:
            raise WrongFile(f"its SHA-256 is {digest:.8}…, expected {published.digest:.8}…")
        return digest

    files = [folder / published.name for published in PUBLISHED]
    for published, file in zip(PUBLISHED, files, strict=True):
        url = f"{ADDRESS}/{published.name}"
        otherwise = "give the folder that it lies in by weights_dir=PATH"
        fetch(Download(url, file, partial(verify, published), otherwise, LARGEST / GIGABYTE))
    return files
