"""Networks trained on photographs, whose features define content and style.

Layers are named as in the papers: `conv4_2` is the second convolution of the fourth block before
its ReLU, `relu4_2` after it, `pool4` the pooling after the block.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artgan.download import SQUEEZENET, Published
from artgan.errors import UserError, not_among
from artgan.weights import read_weights

# Of RGB in [0, 1].
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN, CAFFE_DEVIATION = (123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3

CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}  # of each block
WIDTHS = (64, 128, 256, 512, 512)  # channels of each block
SQUEEZENET_LAYERS = [
    *("conv1", "relu1", "maxpool1", "fire2", "fire3", "fire4", "maxpool4"),
    *("fire5", "fire6", "fire7", "fire8", "maxpool8", "fire9"),
]
# For each layer of VGG, the layer of SqueezeNet with a similar stride.
STAND_INS = {
    "1": {"conv": "conv1", "relu": "relu1", "pool": "relu1"},  # 2 for 1 (pool: 2)
    "2": {"1": "fire2", "2": "fire3", "pool": "maxpool1"},  # 4 for 2 (pool: 4)
    "3": {"1": "fire4", "2": "fire4", "3": "fire4", "4": "fire4", "pool": "maxpool4"},  # 4 (8)
    "4": {"1": "fire5", "2": "fire6", "3": "fire7", "4": "fire8", "pool": "maxpool8"},  # 8 (16)
    "5": {"1": "fire9", "2": "fire9", "3": "fire9", "4": "fire9", "pool": "fire9"},  # 16
}
SMALLEST = 32  # pixels that each network needs in height and width
CHOICES = "Give another folder as weights_dir=PATH; backbone=random needs no weights"
ADVICE = (
    "give its folder as weights_dir=PATH; backbone=random needs no weights, but paints less well"
)


@dataclass(frozen=True)
class Architecture:
    """A network for features."""

    shape: str  # vgg16, vgg19 or squeezenet
    weights: Published | None  # None for random ones
    caffe: bool = False  # whether it takes BGR in 0…255 minus the mean, not normalised RGB


def _vgg_weights(site: str, name: str, *patterns: str) -> Published:
    return Published(name, f"{site}/{name}", name[6:14], patterns)


TORCHVISION = "https://download.pytorch.org/models"
JOHNSON = "https://web.eecs.umich.edu/~justincj/models"
GATYS = _vgg_weights(JOHNSON, "vgg19-d01eb7cb.pth", "vgg_conv.pth")  # and Gatys' own file
NETWORKS = {
    "random": Architecture("vgg19", None),
    "vgg19": Architecture("vgg19", _vgg_weights(TORCHVISION, "vgg19-dcbb9e9d.pth")),
    "vgg16": Architecture("vgg16", _vgg_weights(TORCHVISION, "vgg16-397923af.pth")),
    "vgg19_caffe": Architecture("vgg19", GATYS, True),
    "vgg16_caffe": Architecture("vgg16", _vgg_weights(JOHNSON, "vgg16-00b39a1b.pth"), True),
    "squeezenet": Architecture("squeezenet", SQUEEZENET),
}


class Backbone(nn.Module):
    """A network up to the last of the layers asked for.

    Its first convolution replicates the border of the image unless `border` is zeros: these, the
    mean of photographs, show in the result. SqueezeNet has no padding there; it gets three pixels,
    so that the outermost ones take part, too.

    Attributes:
        name: of the network, with the first digits of its weights' SHA-256.
        index: module that gives each layer, in the order asked for.
        stride: pixels from one position to the next in its coarsest layer.
        halo: most pixels around a position that it depends on, a multiple of `stride`.

    Args:
        name: vgg19, vgg16, vgg19_caffe, vgg16_caffe, squeezenet or random.
        layers: names as in the papers, or SqueezeNet's own.
        pooling: max or average.
        seed: of random weights.
        weights_dir: file of the weights, or folder with it under its published name, at any
            depth; None downloads it.
        border: replicate, or zeros, which VGG was trained with.

    Raises:
        UserError: there is no such layer, or the weights are not available or do not fit.

    Source: Simonyan and Zisserman 2015 (arXiv:1409.1556) for VGG; Iandola et al. 2016
    (arXiv:1602.07360) for SqueezeNet; He et al. 2015 (arXiv:1502.01852) for random weights.

    Example:
        >>> Backbone("random", ["relu1_1", "conv4_2"])(torch.rand(1, 3, 64, 96))["conv4_2"].shape
        torch.Size([1, 512, 8, 12])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        name: str,
        layers: Sequence[str],
        pooling: str = "max",
        seed: int = 0,
        weights_dir: str | None = None,
        border: str = "replicate",
    ) -> None:
        super().__init__()
        network = NETWORKS[name]
        self.index = {layer: _index(name, layer) for layer in layers}
        with torch.device("meta"):
            modules = _squeezenet() if network.shape == "squeezenet" else _vgg(network.shape)
        self.sequence = nn.Sequential(*modules[: max(self.index.values()) + 1])
        if network.weights:
            path = _find(network.weights, weights_dir)
            state, digest = read_weights(path, CHOICES)
        else:
            path, digest = Path(name), f"{seed:08d}"
            state = _draw(self.sequence, seed)
        self.name = f"{name}-{digest[:8]}"
        self._load(path, state, network.caffe)
        if pooling == "average":
            for index, module in enumerate(self.sequence):
                if isinstance(module, nn.MaxPool2d):
                    window = module.kernel_size, module.stride, 0, module.ceil_mode
                    self.sequence[index] = nn.AvgPool2d(*window)
        mean = CAFFE_MEAN if network.caffe else IMAGENET_MEAN
        deviation = CAFFE_DEVIATION if network.caffe else IMAGENET_DEVIATION
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1))
        if border == "zeros" and isinstance(self.sequence[0], nn.Conv2d):
            self.sequence[0].padding_mode = "zeros"
        self.stride, self.halo = self._reach()
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The features of each layer, [N, C, h, w], of RGB images [N, 3, H, W] in [0, 1]."""
        height, width = images.shape[-2:]
        if min(height, width) < SMALLEST:
            missing = (0, max(0, SMALLEST - width), 0, max(0, SMALLEST - height))
            images = F.pad(images, missing, mode="replicate")
        features = (images - self.mean) / self.deviation
        features = features.contiguous(memory_format=torch.channels_last)
        outputs = {}
        for index, module in enumerate(self.sequence):
            features = module(features)
            if index in self.index.values():
                outputs[index] = features
        return {layer: outputs[index] for layer, index in self.index.items()}

    def size(self, layer: str, height: int, width: int) -> tuple[int, int]:
        """Positions (h, w) of a layer for an image of a height and width in pixels."""
        sizes = [max(height, SMALLEST), max(width, SMALLEST)]
        for module in self.sequence[: self.index[layer] + 1]:
            kernel, stride, padding = _window(module)
            divide = math.ceil if getattr(module, "ceil_mode", False) else math.floor
            sizes = [divide((size + 2 * padding - kernel) / stride) + 1 for size in sizes]
        return sizes[0], sizes[1]

    def stride_of(self, layer: str) -> int:
        """Pixels from one position of a layer to the next."""
        return math.prod(_window(module)[1] for module in self.sequence[: self.index[layer] + 1])

    def _reach(self) -> tuple[int, int]:
        """Stride of the coarsest layer, and the halo of its positions."""
        stride, before, after = 1, 0, 0
        for module in self.sequence:
            kernel, step, padding = _window(module)
            before += padding * stride
            after += (kernel - 1 - padding) * stride
            stride *= step
        return stride, math.ceil(max(before, after) / stride) * stride

    def _load(self, path: Path, state: dict[str, Tensor], caffe: bool) -> None:
        needed = self.sequence.state_dict().keys()
        state = {_torchvisions(key): tensor for key, tensor in state.items()}
        state = {key: tensor.float() for key, tensor in state.items() if key in needed}
        if caffe and "0.weight" in state:
            state["0.weight"] = state["0.weight"].flip(1)  # trained on BGR, given RGB
        try:
            self.sequence.load_state_dict(state, assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{path}: its tensors do not fit the network ({reason:.200}). {CHOICES}."
            ) from error


def _find(weights: Published, place: str | None) -> Path:
    if place is None:
        return weights.download(ADVICE)
    path = Path(place)
    return path if path.is_file() else weights.find(path)


def _torchvisions(key: str) -> str:
    """The key of a tensor within torchvision's features; Gatys' file names it by its layer."""
    layer, _, kind = key.rpartition(".")
    if layer in layer_names("vgg19"):
        return f"{layer_names('vgg19').index(layer)}.{kind}"
    return key.removeprefix("features.")


def layer_names(name: str) -> list[str]:
    """The layers of a network, each at its index among torchvision's modules."""
    shape = NETWORKS[name].shape
    if shape == "squeezenet":
        return SQUEEZENET_LAYERS
    names = []
    for block, count in enumerate(CONVOLUTIONS[shape], 1):
        for number in range(1, count + 1):
            names += [f"conv{block}_{number}", f"relu{block}_{number}"]
        names.append(f"pool{block}")
    return names


def _index(name: str, layer: str) -> int:
    names = layer_names(name)
    if layer in names:
        return names.index(layer)
    if name == "squeezenet" and layer in layer_names("vgg19"):
        kind, block, number = layer[:4], layer[4], layer[6:]
        stand_ins = STAND_INS[block]
        return names.index(stand_ins.get(kind) or stand_ins[number])
    # Many tutorials count all convolutions in one sequence.
    counted = re.fullmatch(r"(conv|relu)_?(\d+)", layer)
    vgg = names if name != "squeezenet" else layer_names("vgg19")
    same = [one for one in vgg if counted and one.startswith(counted[1])]
    if counted and 0 < int(counted[2]) <= len(same):
        right = same[int(counted[2]) - 1]
        raise UserError(
            f"backbone={name}, its layers: '{layer}' is none of {', '.join(names)}. The "
            f"{counted[1]} layers counted in sequence are named by block and place: did you mean "
            f"'{right}'?"
        )
    known = names if vgg == names else [*names, *vgg]
    raise UserError(f"backbone={name}, its layers: {not_among(layer, known)}")


def _vgg(shape: str) -> list[nn.Module]:
    modules: list[nn.Module] = []
    channels = 3
    for count, width in zip(CONVOLUTIONS[shape], WIDTHS, strict=True):
        for _ in range(count):
            border: Literal["zeros", "replicate"] = "zeros" if modules else "replicate"
            convolution = nn.Conv2d(channels, width, 3, padding=1, padding_mode=border)
            modules += [convolution, nn.ReLU()]
            channels = width
        modules.append(nn.MaxPool2d(2))
    return modules


def _squeezenet() -> list[nn.Module]:
    # Imported only here: it takes seconds, and VGG does not need it.
    from torchvision.models import squeezenet1_0

    _, _, *modules = squeezenet1_0().features
    first = nn.Conv2d(3, 96, 7, stride=2, padding=3, padding_mode="replicate")
    return [first, nn.ReLU(), *modules]


def _window(module: nn.Module) -> tuple[int, int, int]:
    """Kernel, stride and padding of a module, the same in height and width."""
    if isinstance(module, nn.Conv2d):
        return module.kernel_size[0], module.stride[0], int(module.padding[0])
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        return int(module.kernel_size), int(module.stride), 0  # type: ignore[arg-type]
    # Of a Fire module, its widest branch.
    return (1, 1, 0) if isinstance(module, nn.ReLU) else (3, 1, 1)


def _draw(sequence: nn.Module, seed: int) -> dict[str, Tensor]:
    """He's initial weights, which keep the scale of features through the layers; zero biases."""
    random = torch.Generator().manual_seed(seed)
    state = {}
    for key, tensor in sequence.state_dict().items():
        drawn = torch.zeros(tensor.shape)
        if key.endswith("weight"):
            drawn.normal_(0, math.sqrt(2 / math.prod(tensor.shape[1:])), generator=random)
        state[key] = drawn
    return state
