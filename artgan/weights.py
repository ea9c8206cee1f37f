"""Weights of published networks: found in a folder or downloaded, and read as tensors only."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from artgan.errors import UserError
from artgan.files import sha256

LARGEST = 1  # gigabytes in a file of weights, at most


@dataclass(frozen=True)
class Published:
    """A file of weights as its authors published it."""

    name: str
    url: str
    sha256: str  # 64 hexadecimal digits, or as many of the first as are published
    patterns: tuple[str, ...] = ()  # other names in a folder, such as `squeezenet1_0*.pth`

    def download(self, advice: str) -> Path:
        """The file in torch's hub folder, downloaded first if it is not there.

        Args:
            advice: what to do if it is not available, after "Download it elsewhere and".

        Raises:
            UserError: it cannot be downloaded or written, or is not the published file.
        """
        # Imported only here: it is slow, and the file is mostly there.
        from artgan.download import Download, fetch

        path = Path(torch.hub.get_dir()) / "checkpoints" / self.name
        fetch(Download(self.url, path, self._verify, advice, LARGEST))
        return path

    def find(self, folder: Path) -> Path:
        """The file in a folder or below it, by its published name or another it is known by.

        Raises:
            UserError: there is no such folder, or no such file in it.
        """
        if not folder.is_dir():
            raise UserError(f"weights_dir: there is no folder {folder}.")
        for pattern in (self.name, *self.patterns):
            for path in sorted(folder.rglob(pattern)):
                if path.is_file():
                    return path
        raise UserError(
            f"weights_dir: there is no file {' or '.join((self.name, *self.patterns))} in {folder} "
            "or below it. Put it there, or leave weights_dir out to download it."
        )

    def _verify(self, path: Path) -> str:
        from artgan.download import WrongFile

        digest = sha256(path)
        if not digest.startswith(self.sha256):
            raise WrongFile(f"its SHA-256 is {digest:.8}…, expected {self.sha256:.8}…")
        return digest


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


# Used for features and for style.
SQUEEZENET = Published(
    "squeezenet1_0-b66bff10.pth",
    "https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth",
    "b66bff10",
    ("squeezenet1_0*.pth",),
)
