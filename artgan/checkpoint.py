"""What a checkpoint holds, and reading one that may come from anywhere.

A checkpoint is a Lightning checkpoint of tensors and plain values, with one entry of ours:
`artgan`, which makes it describe itself (format, version, configuration, images seen, dataset,
classes).
"""

import hashlib
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

from artgan.errors import UserError

# Raise when an older artgan could not use a newer checkpoint, or the other way round.
FORMAT = 1
KEY = "artgan"
LAST = "last.ckpt"
BEST = "best.ckpt"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Loads a checkpoint onto the CPU; no code in it is run, whatever it holds.

    Args:
        path: a `.ckpt` file.

    Returns:
        The checkpoint; `checkpoint["artgan"]` describes it.

    Raises:
        UserError: the file is missing, torn, not ours, of another format, or holds code.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such checkpoint.")
    # Only the zip format is read: the old bare pickle format has no list of contents to check.
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: is torn, or no checkpoint.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: holds more than tensors and plain values, which could be code. "
            "Nothing of it was run. artgan does not write such files."
        ) from None
    except Exception as error:
        # Damage shows as any of a dozen exceptions of torch, zipfile and pickle.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: is damaged ({reason}).") from None
    described = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(described, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path}: was not written by artgan.")
    if described.get("format") != FORMAT:
        raise UserError(
            f"{path}: was written by artgan {described.get('version')} in format "
            f"{described.get('format')}; this version reads format {FORMAT}. "
            "Use the version that wrote it."
        )
    return checkpoint


def find_checkpoint(path: Path) -> Path:
    """The checkpoint meant by a run folder (its newest whole one) or by a file.

    Raises:
        UserError: there is none, or none that can be used.
    """
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path}: there is no such run folder or checkpoint.")
        return path
    newest = newest_checkpoint(path)
    if newest is None:
        raise UserError(f"{path}: no checkpoint lies here ({LAST} is missing).")
    return newest[0]


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of a run that can be used, as its file and what `load_checkpoint`
    gives for it, or None where there is none yet.

    A newer one that is torn is named on the screen, and left as it is.

    Raises:
        UserError: there are checkpoints, but none can be used.
    """
    periodic = sorted(folder.glob("images-*.ckpt"), reverse=True)
    candidates = [path for path in (folder / LAST, *periodic) if path.is_file()]
    mistakes = []
    for path in candidates:
        try:
            checkpoint = load_checkpoint(path)
        except UserError as error:
            mistakes.append(str(error))
            continue
        for mistake in mistakes:
            print(f"{mistake} Going on with {path}.", file=sys.stderr)
        return path, checkpoint
    if mistakes:
        raise UserError("\n".join(mistakes))
    return None


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
