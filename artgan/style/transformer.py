"""Magenta's style transformer: a network that repaints an image, as 100 numbers say.

This is the version published for phones, with a quarter of the paper's channels:

    contract   9×9 → 8, 3×3 stride 2 → 16, 3×3 stride 2 → 32; ReLU
    residual   five blocks of two 3×3 → 32
    expand     nearest ×2, 3×3 → 16; nearest ×2, 3×3 → 8; 9×9 → 3; sigmoid

After each convolution but the first three, every channel is normalised over the whole image, then
scaled by γ and shifted by β, which are linear in the 100 numbers.

Source: Ghiasi et al. 2017 (arXiv:1705.06830), and Google's magenta/models/
arbitrary_image_stylization.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STYLE_DIM = 100  # numbers that describe a style
EPSILON = 1e-5
STRIP = 32  # rows that fit a CPU's cache, processed at once where each pixel is independent

# In an image enlarged by two, the three rows that a convolution sees are two rows of the small one.
# For the lower and the upper row of a pair: which of the three fall on each of the two.
FOLDED = (((1, 1, 0), (0, 0, 1)), ((1, 0, 0), (0, 1, 1)))

Pixelwise = Callable[[Tensor], Tensor]
UNCHANGED: Pixelwise = nn.Identity()


class Convolution(nn.Conv2d):
    """A convolution of a tile, which comes with a margin of pixels on each side.

    Args:
        abreast: pixels of a row computed as if they were channels of one pixel, which fills a CPU's
            registers where there are few channels.

    Attributes:
        margin: pixels on each side of the tile.
        mode: padding of the image's border, as for `F.pad`.
        scale: of the result's side to the tile's.
    """

    mode = "reflect"

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        bias: bool = False,
        abreast: int = 1,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, bias=bias)
        self.abreast = abreast
        self.margin = kernel // 2
        self.scale = 1 / stride

    def forward(self, part: Tensor) -> Tensor:
        """[1, inputs, H + 2 margin, W + 2 margin] to [1, outputs, scale · H, scale · W]."""
        if self.abreast == 1:
            return super().forward(part)
        shifted = [F.pad(self.weight, (n, self.abreast - 1 - n)) for n in range(self.abreast)]
        bias = None if self.bias is None else self.bias.repeat(self.abreast)
        width = part.shape[3] - 2 * self.margin
        part = F.pad(part, (0, -width % self.abreast))
        rows = F.conv2d(part, torch.cat(shifted), bias, stride=(1, self.abreast))
        # In memory, these are the pixels in order.
        pixels = rows.permute(0, 2, 3, 1).reshape(1, rows.shape[2], -1, self.out_channels)
        return pixels.permute(0, 3, 1, 2)[..., :width]


class Contraction(Convolution):
    """A convolution and ReLU; BatchNorm is folded into the weights of the published file."""

    def forward(self, part: Tensor) -> Tensor:
        """[1, inputs, H + 2 margin, W + 2 margin] to [1, outputs, scale · H, scale · W]."""
        return F.relu_(super().forward(part))


class Conditioned(Convolution):
    """A convolution followed by conditional instance normalisation and an activation, in place.

    Source: Ghiasi et al. 2017, equation 5.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, activation: Pixelwise, abreast: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, abreast=abreast)
        self.activation = activation
        self.gamma = nn.Conv2d(STYLE_DIM, outputs, 1)
        self.beta = nn.Conv2d(STYLE_DIM, outputs, 1)

    def normalization(self, parts: Iterable[Tensor], style: Tensor) -> Pixelwise:
        """Makes what normalises, scales, shifts and activates the result of the convolution.

        Args:
            parts: of the result, each [1, outputs, h, w], which together cover the image.
            style: [1, 100, 1, 1].
        """
        counts, means, variances = [], [], []
        for part in parts:
            mean = part.mean((0, 2, 3), keepdim=True)
            counts.append(part[0, 0].numel())
            means.append(mean.flatten())
            # torch.var takes thirty times as long on a CPU.
            variances.append((part - mean).square_().mean((0, 2, 3)))
        share = style.new_tensor(counts)[:, None] / sum(counts)
        mean = (share * torch.stack(means)).sum(0)
        within, between = torch.stack(variances), (torch.stack(means) - mean).square()
        var = (share * (within + between)).sum(0)
        gamma, beta = self.gamma(style).flatten(), self.beta(style).flatten()

        def normalize(part: Tensor) -> Tensor:
            return self.activation(F.batch_norm(part, mean, var, gamma, beta, eps=EPSILON))

        return normalize


class Expansion(Conditioned):
    """A conditioned 3×3 convolution of an image enlarged by two, each pixel repeated four times.

    The enlarged image is never made: on the small one, the convolution is one of 2×2 with other
    weights for each of the four pixels.
    """

    mode = "replicate"

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, F.relu_)
        self.scale = 2

    def forward(self, part: Tensor) -> Tensor:
        """[1, inputs, H + 2, W + 2] to [1, outputs, 2 H, 2 W]."""
        folded = self.weight.new_tensor(FOLDED)
        weight = torch.einsum("yak,xbl,oikl->oyxiab", folded, folded, self.weight).flatten(0, 2)
        # Each corner between pixels is surrounded by four pixels of the result.
        return F.pixel_shuffle(F.conv2d(part, weight), 2)[:, :, 1:-1, 1:-1]


class Layered:
    """The result of a layer for a whole image, computed where it is indexed.

    It is indexed like the tensor that it stands for. The values do not depend on the tiles, up to
    the rounding of a convolution.

    Args:
        layer: whose result it is.
        source: [1, C, H, W], which the layer reads with a margin around each tile.
        before: function applied to each pixel of the source first.
    """

    def __init__(
        self, layer: Convolution, source: "Tensor | Layered", before: Pixelwise = UNCHANGED
    ) -> None:
        self.layer, self.source, self.before = layer, source, before
        sides = (round(layer.scale * side) for side in source.shape[2:])
        self.shape: tuple[int, ...] = (1, layer.out_channels, *sides)

    def __getitem__(self, place: tuple[slice, slice, slice, slice]) -> Tensor:
        padding: list[int] = []
        seen: list[slice] = []
        for part, side in zip(place[:1:-1], self.source.shape[:1:-1], strict=True):
            first = round(part.start / self.layer.scale) - self.layer.margin
            last = round(part.stop / self.layer.scale) + self.layer.margin
            padding += [max(-first, 0), max(last - side, 0)]
            seen.append(slice(max(first, 0), min(last, side)))
        columns, rows = seen
        known = F.pad(self.source[:, :, rows, columns], padding, self.layer.mode)
        known = known.contiguous(memory_format=torch.channels_last)
        return self.layer(self.before(known))

    def tiles(self, tile: int) -> Iterator[tuple[slice, slice, slice, slice]]:
        """The tiles of the image, squares of at most `tile` pixels a side."""
        _, _, height, width = self.shape
        for top, left in product(range(0, height, tile), range(0, width, tile)):
            rows = slice(top, min(top + tile, height))
            yield slice(None), slice(None), rows, slice(left, min(left + tile, width))

    def computed(self, tile: int) -> Tensor:
        """All of it, [1, outputs, H, W]."""
        whole = torch.empty(
            self.shape, device=self.layer.weight.device, memory_format=torch.channels_last
        )
        for place in self.tiles(tile):
            whole[place] = self[place]
        return whole


class Residual(nn.Module):
    """A residual block of two conditioned convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conditioned(channels, channels, 3, F.relu_)
        self.conv2 = Conditioned(channels, channels, 3, UNCHANGED)

    def forward(self, features: Tensor, style: Tensor, tile: int) -> Tensor:
        """Changes features [1, channels, H, W] in place, and returns them."""
        change = Layered(self.conv1, features).computed(tile)
        normalize = self.conv1.normalization(change.split(STRIP, 2), style)
        change = Layered(self.conv2, change, normalize).computed(tile)
        normalize = self.conv2.normalization(change.split(STRIP, 2), style)
        for strip, added in zip(features.split(STRIP, 2), change.split(STRIP, 2), strict=True):
            strip += normalize(added)
        return features


class Transformer(nn.Module):
    """Repaints an image in a style.

    Each layer is computed in tiles and normalised with the mean and variance of the whole image, so
    the tiles do not show. To save memory, features of the full size are never kept.
    """

    def __init__(self) -> None:
        super().__init__()
        self.contract1 = Contraction(3, 8, 9, bias=True, abreast=2)
        self.contract2 = Contraction(8, 16, 3, stride=2, bias=True)
        self.contract3 = Contraction(16, 32, 3, stride=2, bias=True)
        self.residual = nn.ModuleDict({str(number): Residual(32) for number in range(1, 6)})
        self.expand1 = Expansion(32, 16)
        self.expand2 = Expansion(16, 8)
        self.expand3 = Conditioned(8, 3, 9, torch.sigmoid_, abreast=4)

    def forward(self, image: Tensor, style: Tensor, tile: int) -> Tensor:
        """Repaints an image.

        Args:
            image: float32 [1, 3, H, W] in [0, 1]; H and W multiples of 4, of at least 8.
            style: [1, 100, 1, 1].
            tile: side of the tiles in pixels, a multiple of 4.

        Returns:
            float32 [1, 3, H, W] in [0, 1].
        """
        features = Layered(self.contract2, Layered(self.contract1, image)).computed(tile)
        features = Layered(self.contract3, features).computed(tile)
        for block in self.residual.values():
            features = block(features, style, tile)
        features = Layered(self.expand1, features).computed(tile)
        normalize = self.expand1.normalization(features.split(STRIP, 2), style)
        full = Layered(self.expand2, features, normalize)
        normalize = self.expand2.normalization((full[place] for place in full.tiles(tile)), style)
        painted = Layered(self.expand3, full, normalize).computed(tile)
        normalize = self.expand3.normalization(painted.split(STRIP, 2), style)
        for strip in painted.split(STRIP, 2):
            strip.copy_(normalize(strip))
        return painted
