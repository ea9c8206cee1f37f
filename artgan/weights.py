"""Weights of published networks, read as tensors only."""

import pickle
from pathlib import Path

import torch
from torch import Tensor

from artgan.errors import UserError
from artgan.files import sha256


def read_weights(path: Path, advice: str) -> tuple[dict[str, Tensor], str]:
    """Reads a state dict, and the SHA-256 of its file; no code in it is run, whatever it holds.

    Raises:
        UserError: it is missing, cannot be read, or is not a state dict; it ends in the advice.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}. {advice}.")
    try:
        digest = sha256(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: is not a state dict, or holds more than tensors, which could be code. "
            f"Nothing in it was run. {advice}."
        ) from None
    except Exception as error:
        # Damage shows as any of a dozen exceptions of torch, zipfile and pickle.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason}). Get it again. {advice}.") from None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state.items()
    ):
        raise UserError(f"{path}: holds more than a state dict. {advice}.")
    return dict(state), digest
