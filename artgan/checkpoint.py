"""What a checkpoint holds, and reading one that may come from anywhere.

A checkpoint is a Lightning checkpoint of tensors and plain values, with one entry more: `artgan`
describes it (format, version, configuration, images seen, dataset, classes). An exported file holds
the averaged generator alone, as safetensors, and the same description in its header.
"""

import json
import pickletools
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from artgan.errors import UserError, printable
from artgan.files import by_number

# Increment when an older artgan could not use a newer checkpoint, or the other way round.
FORMAT = 1
KEY = "artgan"
LAST = "last.ckpt"
BEST = "best.ckpt"
EXPORTED = ".safetensors"
AVERAGED = "generator_ema."
TO_IMAGES = "to_images."  # weights that make images of latents
# All that the pickles of checkpoints build. Torch allows more, such as arrays of any size.
PLAIN = re.compile(r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch \w+Storage")
DTYPES = (torch.float32, torch.int64)  # of weights, and of BatchNorm's count of batches


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Loads a checkpoint onto the CPU; no code in it is run, whatever it holds.

    Takes little more memory than the size of the file. The checksums in a `.ckpt` file are
    verified, so a single wrong bit is noticed.

    Args:
        path: a `.ckpt` file, or a `.safetensors` file that `artgan export` wrote.

    Returns:
        The checkpoint; its tensors may be read from the file only when they are used.
        `checkpoint["artgan"]` describes it.

    Raises:
        UserError: the file is missing, torn, damaged, not from artgan, of another format, or holds
            code or weights that are not finite.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such checkpoint.")
    try:
        read = _read_exported if path.suffix == EXPORTED else _read_pickled
        checkpoint = read(path)
    except UserError:
        raise
    except Exception as error:
        # Damage shows as any of a dozen exceptions of torch, zipfile, pickle and safetensors.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: is damaged ({printable(reason):.200}).") from None
    described = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(described, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"{path}: was not written by artgan.")
    if described.get("format") != FORMAT:
        version, form = (printable(str(described.get(key)))[:20] for key in ("version", "format"))
        raise UserError(
            f"{path}: was written by artgan {version} in format {form}; this version reads format "
            f"{FORMAT}. Use the version that wrote it."
        )
    for name, tensor in checkpoint["state_dict"].items():
        if fault := _fault(tensor):
            raise UserError(f"{path}: is damaged ({printable(str(name)):.100} {fault}).")
    return checkpoint


def _read_pickled(path: Path) -> Any:
    # Only the zip format is read: the old bare pickle format has no list of contents to check.
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: is torn, or not a checkpoint.")
    with zipfile.ZipFile(path) as file:
        entries = file.infolist()
        # So nothing unpacks to more than the file, and no bytes are read twice.
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("it declares more than it holds")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{entry.filename!r} is compressed")
            with file.open(entry) as content:
                while content.read(2**20):
                    pass  # its CRC-32 is compared at the end
        for entry in entries:
            if entry.filename.lower().endswith("/data.pkl"):
                _refuse_code(path, file.read(entry))
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _read_exported(path: Path) -> dict[str, Any]:
    """An exported file, in the form of a checkpoint."""
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
        if KEY not in header:
            return {}
        values = {key: json.loads(value) for key, value in header.items() if key != KEY}
        weights = {
            name if name.startswith(TO_IMAGES) else AVERAGED + name: file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118
        }
    described = {
        "format": values["format"],
        "version": header[KEY],
        "config": {
            "resolution": values["resolution"],
            "autoencoder": values.get("autoencoder", "none"),
            "model": values["model"],
        },
        "decoder": values.get("decoder"),
        "classes": values["classes"],
        "progress": {"images_seen": values["images_seen"]},
    }
    return {KEY: described, "state_dict": weights}


def _refuse_code(path: Path, content: bytes) -> None:
    """Refuses a pickle that would call anything but what builds tensors and plain values."""
    for opcode, argument, _ in pickletools.genops(content):
        named = opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST")
        if named and not PLAIN.fullmatch(str(argument)):
            raise UserError(
                f"{path}: holds more than tensors and plain values, which could be code. "
                "Nothing in it was run. artgan does not write such files."
            )


def _fault(tensor: object) -> str | None:
    """What is wrong with a weight."""
    if not isinstance(tensor, torch.Tensor) or tensor.dtype not in DTYPES:
        return "is not a tensor of weights"
    # Strides of 0 let a few numbers stand for any count of them.
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        return f"claims {tensor.nbytes:,} bytes but has {tensor.untyped_storage().nbytes():,}"
    return None if tensor.isfinite().all() else "holds numbers that are not finite"


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a run folder (its newest whole one) or a file stands for.

    Raises:
        UserError: there is none, or none that can be used.
    """
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path}: there is no such run folder or checkpoint.")
        return path
    newest = newest_checkpoint(path)
    if newest is None:
        raise UserError(f"{path}: there is no checkpoint here ({LAST} is missing).")
    return newest[0]


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest usable checkpoint of a run, its file and content; None if there is none yet.

    A newer one that is torn is named on the screen and left as it is.

    Raises:
        UserError: there are checkpoints, but none can be used.
    """
    periodic = reversed(by_number(folder.glob("images-*.ckpt")))
    candidates = [path for path in (folder / LAST, *periodic) if path.is_file()]
    mistakes = []
    for path in candidates:
        try:
            checkpoint = load_checkpoint(path)
        except UserError as error:
            mistakes.append(str(error))
            continue
        for mistake in mistakes:
            print(f"{mistake} Using {path} instead.", file=sys.stderr)
        return path, checkpoint
    if mistakes:
        raise UserError("\n".join(mistakes))
    return None
