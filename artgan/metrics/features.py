"""Features: what a network trained on photographs sees in a picture, as a row of numbers.

Figures of two networks, or of one network with other weights, never compare. So features bear the
name of the network and the first digits of its weights' SHA-256.
"""

import hashlib
import io
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import SqueezeNet1_0_Weights, squeezenet1_0
from tqdm import tqdm

from artgan.data.fetch import Download, WrongFile, fetch
from artgan.errors import UserError

BATCH = 32  # pictures in the network at once
# Makes |features|² / D about 1 for paintings, where KID's cubic kernel weighs all its powers.
SQUEEZENET_SCALE = 12
LARGEST = 1  # gigabyte that a file of weights has at most
SQUEEZENET_URL = SqueezeNet1_0_Weights.DEFAULT.url
CHOICES = "features takes inception, squeezenet, the file of a state dict of one of them, or none"
WITHOUT = "metrics that need no weights run with features=none"

# A tensor that tells the state dict of each network, and its shape.
MARKS = {
    "squeezenet1_0": ("features.0.weight", (96, 3, 7, 7)),
    "inception": ("Conv2d_1a_3x3.conv.weight", (32, 3, 3, 3)),
}


@dataclass(frozen=True)
class Features:
    """Turns pictures into features.

    Attributes:
        name: network and first digits of the SHA-256 of its weights: squeezenet1_0-b66bff10.
        dimension: D, numbers for one picture.
        network: in evaluation mode, from uint8 [B, 3, H, W] on the device to float32 [B, D].
        device: where the network lies.
    """

    name: str
    dimension: int
    network: Callable[[Tensor], Tensor]
    device: str

    @torch.no_grad()
    def __call__(self, images: Tensor, progress: str | None = None) -> Tensor:
        """Computes the features of pictures, each on its own.

        Args:
            images: uint8 [N, 3, H, W], N of at least 1.
            progress: label of a progress bar; None shows none.

        Returns:
            float32 [N, D] on the CPU.
        """
        rows = []
        # Below another bar, such as that of a training, it vanishes once it is full.
        bar = tqdm(
            total=len(images),
            desc=progress,
            unit="img",
            leave=None,
            disable=None if progress else True,
        )
        # TensorFloat-32 would round to ten bits, and give other figures on a GPU than on a CPU.
        with bar, torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            for batch in images.split(BATCH):
                rows.append(self.network(batch.to(self.device)).cpu())
                bar.update(len(batch))
        return torch.cat(rows)


class SqueezeNet(nn.Module):
    """The last feature map of a SqueezeNet 1.0, averaged over the picture.

    Source: Iandola et al. 2016 (arXiv:1602.07360); torchvision for the network and its input.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.squeezenet = squeezenet1_0()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Features float32 [N, 512] of pictures uint8 [N, 3, H, W]."""
        resized = F.interpolate(images.float(), (224, 224), mode="bilinear", antialias=True)
        features = self.squeezenet.features((resized / 255 - self.mean) / self.deviation)
        return features.mean((2, 3)) / SQUEEZENET_SCALE


def load_features(features: str, device: str = "cpu") -> Features:
    """Loads a network that gives features; by name, its weights are fetched on first use.

    Args:
        features: `inception`, `squeezenet`, or the file of a state dict of torch-fidelity's
            Inception or of torchvision's SqueezeNet 1.0.
        device: where to compute.

    Raises:
        UserError: the weights cannot be fetched or used, torch-fidelity is missing, or the device
            is not there.

    Source: Szegedy et al. 2016 (arXiv:1512.00567), with the weights that Heusel et al. 2017
    (arXiv:1706.08500) measure with, as torch-fidelity ports them, layer "2048"; `SqueezeNet`.

    Example:
        >>> load_features("squeezenet")(images).shape
        torch.Size([16, 512])
    """
    if features == "inception":
        path = _fetched(_inception_module().URL_INCEPTION_V3)
    elif features == "squeezenet":
        path = _fetched(SQUEEZENET_URL)
    else:
        path = Path(features)
    state, digest = _read(path)
    architecture = _architecture(path, state)
    build, dimension = {
        "squeezenet1_0": (_squeezenet, 512),
        "inception": (_inception, 2048),
    }[architecture]
    try:
        network = build(state).eval().requires_grad_(False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: its tensors do not fit {architecture} ({reason:.200}). {CHOICES}."
        ) from error
    try:
        network.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: there is no {device} on this machine.") from error
    return Features(f"{architecture}-{digest[:8]}", dimension, network, device)


def _squeezenet(state: dict[str, Tensor]) -> nn.Module:
    network = SqueezeNet()
    network.squeezenet.load_state_dict(state)
    return network


def _inception(state: dict[str, Tensor]) -> nn.Module:
    extractor = _inception_module().FeatureExtractorInceptionV3
    # It reads its weights itself, and would run code in them: it is given tensors only.
    content = io.BytesIO()
    torch.save(state, content)
    content.seek(0)
    inception = extractor("inception", ["2048"], feature_extractor_weights_path=content)
    return _Only(inception)


class _Only(nn.Module):
    """Takes the one layer asked for out of the tuple that torch-fidelity gives."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> Tensor:
        (features,) = self.extractor(images)
        return features


def _inception_module() -> Any:
    try:
        from torch_fidelity import feature_extractor_inceptionv3
    except ImportError as error:
        raise UserError(
            f"features: inception needs torch-fidelity ({error}). To install it, type: "
            f'pip install -e ".[metrics]". Or take features=squeezenet; {WITHOUT}.'
        ) from error
    return feature_extractor_inceptionv3


def _architecture(path: Path, state: dict[str, Tensor]) -> str:
    for architecture, (key, shape) in MARKS.items():
        if key in state and state[key].shape == shape:
            return architecture
    raise UserError(
        f"{path}: is a state dict of neither torchvision's squeezenet1_0 nor torch-fidelity's "
        f"Inception. {CHOICES}."
    )


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file and its SHA-256; no code in it is run, whatever it holds."""
    if not path.is_file():
        raise UserError(f"features: there is no file {path}. {CHOICES}.")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: is no state dict, or holds more than tensors, which could be code. "
            f"Nothing of it was run. {CHOICES}."
        ) from None
    except Exception as error:
        # Damage shows as any of a dozen exceptions of torch, zipfile and pickle.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason}). Get it anew. {CHOICES}.") from None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state.items()
    ):
        raise UserError(f"{path}: holds other things than a state dict. {CHOICES}.")
    return dict(state), digest


def _fetched(url: str) -> Path:
    """The file of an address in torch's hub folder, which is fetched first if it is not there."""
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    otherwise = f"give the file by features=PATH; {WITHOUT}"
    fetch(Download(url, path, _verified, otherwise, LARGEST))
    return path


def _verified(file: Path) -> str:
    """The SHA-256 of a file whose name ends in its first digits, as is torch's convention."""
    (expected,) = re.findall(r"-([0-9a-f]{8,})\.", file.name)[-1:]
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if not digest.startswith(expected):
        raise WrongFile(f"its SHA-256 is {digest:.8}…, expected {expected}…")
    return digest
