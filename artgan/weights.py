"""Weights of published networks: their files, found or fetched, and read as tensors only."""

import hashlib
import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from artgan.checkpoint import sha256
from artgan.data.fetch import Download, WrongFile, fetch
from artgan.errors import UserError

LARGEST = 1  # gigabyte that a file of weights has at most


def fetch_weights(url: str, otherwise: str) -> Path:
    """The file of an address in torch's hub folder, which is fetched first if it is not there.

    Args:
        url: of a file whose name ends in the first digits of its SHA-256, as is torch's convention.
        otherwise: what to do where it cannot be had, after "Fetch it elsewhere and".

    Raises:
        UserError: it cannot be fetched or written, or is not the file expected.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    fetch(Download(url, path, _verified, otherwise, LARGEST))
    return path


def find_weights(folder: Path, pattern: str) -> Path:
    """The file of weights that lies in or below a folder under its published name.

    Args:
        folder: that is searched.
        pattern: the name, or several of it, as `squeezenet1_0*.pth`.

    Raises:
        UserError: there is none.
    """
    found = sorted(folder.rglob(pattern))
    if not found:
        raise UserError(
            f"weights_dir: there is no file {pattern} in {folder} or below it. Put it there, or "
            "leave weights_dir away to have it fetched."
        )
    return found[0]


def read_weights(path: Path, otherwise: str) -> tuple[dict[str, Tensor], str]:
    """Reads a state dict; no code in the file is run, whatever it holds.

    Args:
        path: of the file.
        otherwise: what to do where it cannot be used, a sentence without its full stop.

    Returns:
        The tensors by name, and the SHA-256 of the file.

    Raises:
        UserError: it is not there, cannot be read, or is no state dict.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}. {otherwise}.")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: is no state dict, or holds more than tensors, which could be code. "
            f"Nothing of it was run. {otherwise}."
        ) from None
    except Exception as error:
        # Damage shows as any of a dozen exceptions of torch, zipfile and pickle.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason}). Get it anew. {otherwise}.") from None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state.items()
    ):
        raise UserError(f"{path}: holds other things than a state dict. {otherwise}.")
    return dict(state), digest


def _verified(file: Path) -> str:
    (expected,) = re.findall(r"-([0-9a-f]{8,})\.", file.name)[-1:]
    digest = sha256(file)
    if not digest.startswith(expected):
        raise WrongFile(f"its SHA-256 is {digest:.8}…, expected {expected}…")
    return digest
