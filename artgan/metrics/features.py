"""Features: what a network trained on photographs sees in an image, as a row of numbers.

Scores from different networks, or different weights, are not comparable, so features are labelled
with the network and the first digits of its weights' SHA-256.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms.functional import normalize
from tqdm import tqdm

from artgan.device import on_device
from artgan.download import SQUEEZENET, Published
from artgan.errors import UserError
from artgan.weights import read_weights

BATCH = 32  # images in the network at once
# Makes |features|² / D about 1 for paintings, where all powers of KID's cubic kernel count.
SQUEEZENET_SCALE = 12
CHOICES = "features takes inception, squeezenet, the file of a state dict of one of them, or none"
WITHOUT = "metrics that need no weights run with features=none"
OTHERWISE = f"give the file by features=PATH; {WITHOUT}"
INCEPTION = Published(
    "weights-inception-2015-12-05-6726825d.pth",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d",
)
PUBLISHED = {"inception": INCEPTION, "squeezenet": SQUEEZENET}


@dataclass(frozen=True)
class Features:
    """Turns images into features.

    Attributes:
        name: network and first digits of the SHA-256 of its weights: squeezenet1_0-b66bff10.
        dimension: D, numbers for one image.
        network: in evaluation mode, from uint8 [B, 3, H, W] on the device to float32 [B, D].
        device: of the network.
    """

    name: str
    dimension: int
    network: Callable[[Tensor], Tensor]
    device: str

    @torch.no_grad()
    def __call__(self, images: Tensor, progress: str | None = None) -> Tensor:
        """Features float32 [N, D] on the CPU of images uint8 [N, 3, H, W], each on its own.

        With a label, a progress bar is shown.
        """
        rows = []
        # Below another bar, such as that of a training, it disappears once it is full.
        bar = tqdm(
            total=len(images),
            desc=progress,
            unit="img",
            leave=None,
            disable=None if progress else True,
        )
        # TensorFloat-32 would round to ten bits, and give other scores on a GPU than on a CPU.
        with bar, torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            for batch in images.split(BATCH):
                rows.append(self.network(batch.to(self.device)).cpu())
                bar.update(len(batch))
        return torch.cat(rows)


class SqueezeNet(models.SqueezeNet):
    """The last feature map of a SqueezeNet 1.0, averaged over the image.

    Source: Iandola et al. 2016 (arXiv:1602.07360); torchvision for the network and its input.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Features float32 [N, 512] of images uint8 [N, 3, H, W]."""
        resized = F.interpolate(images.float(), (224, 224), mode="bilinear", antialias=True)
        normalized = normalize(resized / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        return self.features(normalized).mean((2, 3)) / SQUEEZENET_SCALE


def _squeezenet(state: dict[str, Tensor]) -> nn.Module:
    network = SqueezeNet()
    network.load_state_dict(state)
    return network


def _inception(state: dict[str, Tensor]) -> nn.Module:
    extractor = _inception_module().FeatureExtractorInceptionV3
    # It reads its weights itself and would run code in them, so it is given tensors only.
    content = io.BytesIO()
    torch.save(state, content)
    content.seek(0)
    network = extractor("inception", ["2048"], feature_extractor_weights_path=content)
    # It gives a tuple of the layers asked for, here one.
    network.register_forward_hook(lambda module, images, layers: layers[0])
    return network


def _inception_module() -> Any:
    try:
        from torch_fidelity import feature_extractor_inceptionv3
    except ImportError as error:
        raise UserError(
            f"features: inception needs torch-fidelity ({error}). To install it, type: "
            f'pip install "artgan[metrics]". Or take features=squeezenet; {WITHOUT}.'
        ) from error
    return feature_extractor_inceptionv3


# How each network is built, D, and a tensor that identifies its state dict, with its shape.
NETWORKS = {
    "squeezenet1_0": (_squeezenet, 512, "features.0.weight", (96, 3, 7, 7)),
    "inception": (_inception, 2048, "Conv2d_1a_3x3.conv.weight", (32, 3, 3, 3)),
}


def load_features(features: str, device: str = "cpu") -> Features:
    """Loads a feature network.

    That is `inception` or `squeezenet`, whose weights are downloaded on first use, or the file of a
    state dict of torch-fidelity's Inception or of torchvision's SqueezeNet 1.0.

    Raises:
        UserError: the weights cannot be downloaded or used, torch-fidelity is missing, or the
            device is not available.

    Source: Szegedy et al. 2016 (arXiv:1512.00567), with the weights that Heusel et al. 2017
    (arXiv:1706.08500) measure with, as torch-fidelity ports them, layer "2048"; `SqueezeNet`.

    Example:
        >>> load_features("squeezenet")(images).shape
        torch.Size([16, 512])
    """
    if features == "inception":
        _inception_module()  # before the download
    published = PUBLISHED.get(features)
    path = published.download(OTHERWISE) if published else Path(features)
    state, digest = read_weights(path, CHOICES)
    shapes = {key: tensor.shape for key, tensor in state.items()}
    fitting = [name for name, (*_, key, shape) in NETWORKS.items() if shapes.get(key) == shape]
    if not fitting:
        raise UserError(
            f"{path}: is a state dict of neither torchvision's squeezenet1_0 nor torch-fidelity's "
            f"Inception. {CHOICES}."
        )
    architecture = fitting[0]
    build, dimension, *_ = NETWORKS[architecture]
    try:
        network = build(state).eval().requires_grad_(False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: its tensors do not fit {architecture} ({reason:.200}). {CHOICES}."
        ) from error
    name = f"{architecture}-{digest[:8]}"
    return Features(name, dimension, on_device(network, device), device)
