"""The weights of Magenta's network: TFLite files of int8 numbers in, float32 tensors out.

Google publishes the network as two files for phones. The converted tensors are kept in the user's
cache, so that only the first start reads these files.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from artgan.cache import read_cache, write_cache
from artgan.download import Published
from artgan.errors import UserError, printable
from artgan.files import sha256, user_cache

ADDRESS = (
    "https://storage.googleapis.com/download.tensorflow.org/models/tflite/task_library/"
    "style_transfer/android"
)
PREDICTOR = Published(
    "magenta_arbitrary-image-stylization-v1-256_int8_prediction_1.tflite",
    f"{ADDRESS}/magenta_arbitrary-image-stylization-v1-256_int8_prediction_1.tflite",
    "af6ad4b2e7aeba0675f32636082ab915ced5375229a3f8aff7e714c6213f5ed2",
    ("style_predict_int8.tflite",),
)
TRANSFORMER = Published(
    "magenta_arbitrary-image-stylization-v1-256_int8_transfer_1.tflite",
    f"{ADDRESS}/magenta_arbitrary-image-stylization-v1-256_int8_transfer_1.tflite",
    "7a1550643cf034a4d813c0aa276976cd15da4141b4f1ec3631db1d0d9c8e2cd1",
    ("style_transfer_int8.tflite",),
)
PARTS = {"predictor": PREDICTOR, "transformer": TRANSFORMER}  # by the prefix of their tensors
ADVICE = "give its folder as weights_dir=PATH"
LARGEST = 2**23  # bytes of a file at most
MOST = 2**11  # tensors of a file at most
DTYPES = {2: np.dtype("<i4"), 9: np.dtype("i1")}  # by TFLite's numbers: int32 and int8
# Patterns that turn names in the files into those of `artgan.style.magenta.Network`.
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
    """The weights of the network, downloaded and converted at the first start.

    Args:
        weights_dir: folder with both files at any depth, or one of them with the other beside or
            below it; None for Google's own.
        shapes: of the tensors, by name; each name begins with the part that it belongs to.

    Returns:
        float32 tensors by name, and the first digits of the SHA-256 of both files.

    Raises:
        UserError: a file is missing, cannot be downloaded, or is not one of this network.
    """
    files: list[Path] = []
    if weights_dir:
        folder = Path(weights_dir)
        folder = folder.parent if folder.is_file() else folder
        files = [published.find(folder) for published in PARTS.values()]
    try:
        path = cache_path([sha256(file) for file in files])
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}).") from error
    with suppress(OSError, ValueError):  # missing or damaged
        arrays = read_cache(path).arrays
        if {name: array.shape for name, array in arrays.items()} == shapes:
            # Cloned, since the alignment in memory decides how convolutions round.
            return {name: torch.tensor(array) for name, array in arrays.items()}, path.stem
    files = files or [published.download(ADVICE) for published in PARTS.values()]
    tensors: dict[str, Tensor] = {}
    for part, file in zip(PARTS, files, strict=True):
        wanted = {name: shape for name, shape in shapes.items() if name.startswith(part)}
        tensors |= read_tensors(file, wanted)
    with suppress(UserError):  # such as a read-only home: converted again next time
        write_cache(path, {name: tensor.numpy() for name, tensor in tensors.items()})
    return tensors, path.stem


def cache_path(digests: Sequence[str] = ()) -> Path:
    """Where converted weights are kept, by the SHA-256 of both files, by default the published."""
    digests = digests or [published.sha256 for published in PARTS.values()]
    return user_cache() / "magenta" / f"{'-'.join(digest[:16] for digest in digests)}.zip"


def read_tensors(file: Path, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Reads tensors of a TFLite file, under artgan's names and dequantised.

    Convolutions are in torch's layout: [out, in, kernel, kernel].

    Args:
        file: of any content; nothing larger than the tensors asked for is allocated.
        shapes: of the tensors, by artgan's names.

    Returns:
        float32 tensors of these names and shapes.

    Raises:
        UserError: the file cannot be read, is damaged, or lacks a tensor.

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
        "again, or leave weights_dir out to download it."
    )


def _tensors(content: bytes, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    # Imported only where a file is read: it is slow.
    from tflite.Model import Model

    if content[4:8] != b"TFL3":
        raise ValueError("not a TFLite file")
    model = Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    if graph.TensorsLength() > MOST:
        raise ValueError(f"{graph.TensorsLength():,} tensors")
    tensors = {}
    for number in range(graph.TensorsLength()):
        entry = graph.Tensors(number)
        name = published = entry.Name().decode()
        for pattern, own in RENAMED.items():
            name = re.sub(pattern, own, name)
        if name in shapes:
            data = model.Buffers(entry.Buffer()).DataAsNumpy()
            is_depthwise = published.endswith("depthwise_weights")
            tensors[name] = _tensor(name, entry, data, is_depthwise, shapes[name])
    if missing := sorted(set(shapes) - set(tensors)):
        raise ValueError(f"it has no {missing[0]}")
    return tensors


def _tensor(name: str, entry: Any, data: Any, is_depthwise: bool, wanted: torch.Size) -> Tensor:
    stored = entry.ShapeAsNumpy()
    # Stored as [out, height, width, in], depthwise convolutions as [1, height, width, out].
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
        raise ValueError(f"{name} is neither int8 nor int32")
    whole = data.view(DTYPES[entry.Type()]).reshape(stored)
    with np.errstate(all="ignore"):
        real = ((whole - zero.reshape(along)) * scale.reshape(along)).astype(np.float32)
    if not np.isfinite(real).all():
        raise ValueError(f"{name} is not finite")
    return torch.from_numpy(real).permute(*order).contiguous()
