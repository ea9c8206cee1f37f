"""Magenta's style predictor: MobileNetV2, which describes a style by 100 numbers.

Source: Ghiasi et al. 2017 (arXiv:1705.06830); MobileNetV2: Sandler et al. 2018 (arXiv:1801.04381),
table 2.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from artgan.style.transformer import STYLE_DIM

# Factor of the channels between, channels out, blocks, and stride of the first of them.
BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class Same(nn.Conv2d):
    """A convolution padded with zeros as in TensorFlow: an odd one goes to the bottom and right."""

    def forward(self, features: Tensor) -> Tensor:
        """[N, in, H, W] to [N, out, ⌈H / stride⌉, ⌈W / stride⌉]."""
        padding = []
        for size, kernel, stride in zip(
            features.shape[:1:-1], self.kernel_size, self.stride, strict=True
        ):
            lacking = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [lacking // 2, lacking - lacking // 2]
        return super().forward(F.pad(features, padding))


class Bottleneck(nn.Module):
    """MobileNetV2's block: expansion, depthwise convolution, projection."""

    def __init__(self, inputs: int, expansion: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.expand = nn.Conv2d(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = Same(hidden, hidden, 3, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, outputs, 1)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, ⌈H / stride⌉, ⌈W / stride⌉]."""
        hidden = F.relu6(self.expand(features)) if self.expand else features
        projected = self.project(F.relu6(self.depthwise(hidden)))
        return features + projected if self.adds else projected


class Predictor(nn.Module):
    """MobileNetV2 up to its 1280 channels, their mean, and a linear map.

    BatchNorm is folded into the weights of the published file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = Same(3, 32, 3, 2)
        blocks, inputs = [], 32
        for expansion, outputs, count, stride in BLOCKS:
            for number in range(count):
                blocks.append(Bottleneck(inputs, expansion, outputs, 1 if number else stride))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Conv2d(320, 1280, 1)
        self.style = nn.Conv2d(1280, STYLE_DIM, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [0, 1], of about 256 pixels, to styles [N, 100, 1, 1]."""
        features = self.blocks(F.relu6(self.first(images)))
        return self.style(F.relu6(self.last(features)).mean((2, 3), keepdim=True))
