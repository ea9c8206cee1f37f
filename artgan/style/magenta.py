"""Google Magenta's arbitrary style transfer: a network repaints a photo at once.

One part of it, the predictor, tells a style by 100 numbers; the other one, the transformer, paints
as they say. Here are the network that is published for telephones, whose transformer has a quarter
of the paper's channels, and how it is used for pictures of any size.

    contract   9×9 → 8, 3×3 stride 2 → 16, 3×3 stride 2 → 32; ReLU
    residual   five blocks of two 3×3 → 32
    expand     nearest ×2, 3×3 → 16; nearest ×2, 3×3 → 8; 9×9 → 3; sigmoid

After each convolution but the first three, every channel is normalised over the whole picture, then
scaled by γ and shifted by β, which are linear in the 100 numbers.

Source: Ghiasi et al. 2017 (arXiv:1705.06830), and Google's magenta/models/
arbitrary_image_stylization. MobileNetV2: Sandler et al. 2018 (arXiv:1801.04381), table 2.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from artgan.device import on_device
from artgan.memory import in_parts
from artgan.options import StylizeConfig
from artgan.style.inputs import Region, averaged
from artgan.style.tflite import load_weights

NUMBERS = 100  # that tell a style
STYLE_SIZE = 256  # pixels of the short side of a style
LONGEST_STYLE = 1024  # pixels of its long side, at most
EPSILON = 1e-5
TILE = 256  # pixels of the side of the parts that a picture is painted in
STRIP = 32  # rows that are looked at at once where each pixel is by itself
LEAST_TILE = 32
LEAST_SIDE = 8  # below, a side is too short to be mirrored at its ends

# Where a picture is twice as high, the three rows that a convolution sees are two of the picture
# itself. For the lower and the upper row of a pair: which of the three fall on each of the two.
FOLDED = (((1, 1, 0), (0, 0, 1)), ((1, 0, 0), (0, 1, 1)))

Pixelwise = Callable[[Tensor], Tensor]
UNCHANGED: Pixelwise = nn.Identity()


class Same(nn.Conv2d):
    """A convolution padded with zeros as TensorFlow does: what is odd, at the bottom and right."""

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
    """MobileNetV2's block: widen, look at each channel by itself, narrow.

    Args:
        inputs: channels it reads.
        widening: of the channels, between.
        outputs: channels it gives.
        stride: of the convolution between.
    """

    def __init__(self, inputs: int, widening: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = widening * inputs
        self.expand = nn.Conv2d(inputs, hidden, 1) if widening > 1 else None
        self.depthwise = Same(hidden, hidden, 3, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, outputs, 1)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, ⌈H / stride⌉, ⌈W / stride⌉]."""
        hidden = F.relu6(self.expand(features)) if self.expand else features
        projected = self.project(F.relu6(self.depthwise(hidden)))
        return features + projected if self.adds else projected


class Predictor(nn.Module):
    """Tells a style: MobileNetV2 to its 1280 channels, their mean, and a linear map.

    BatchNorm is in the weights of the published file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = Same(3, 32, 3, 2)
        blocks, inputs = [], 32
        for widening, outputs, count, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            for number in range(count):
                blocks.append(Bottleneck(inputs, widening, outputs, 1 if number else stride))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Conv2d(320, 1280, 1)
        self.style = nn.Conv2d(1280, NUMBERS, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures [N, 3, H, W] in [0, 1], of some 256 pixels, to styles [N, 100, 1, 1]."""
        features = self.blocks(F.relu6(self.first(pictures)))
        return self.style(F.relu6(self.last(features)).mean((2, 3), keepdim=True))


class Convolution(nn.Conv2d):
    """A convolution of a part of a picture, which comes with some more pixels on each side.

    Args:
        inputs: channels it reads.
        outputs: channels it gives.
        kernel: pixels of its side, odd.
        stride: pixels from one place to the next.
        bias: whether a number is added to each channel.
        abreast: pixels of a row that are computed as if they were channels of one. It fills the
            registers of a CPU where there are few channels.

    Attributes:
        margin: pixels on each side that it sees beyond the part.
        mode: how the picture goes on beyond its border.
        scale: from the part's side to the result's.
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
        # In memory, these are the pixels one after another.
        pixels = rows.permute(0, 2, 3, 1).reshape(1, rows.shape[2], -1, self.out_channels)
        return pixels.permute(0, 3, 1, 2)[..., :width]


class Contraction(Convolution):
    """A convolution and ReLU; BatchNorm is in the weights and biases of the published file.

    Args:
        inputs: channels it reads.
        outputs: channels it gives.
        kernel: pixels of its side, odd.
        stride: pixels from one place to the next.
        abreast: see `Convolution`.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, abreast: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, bias=True, abreast=abreast)

    def forward(self, part: Tensor) -> Tensor:
        """[1, inputs, H + 2 margin, W + 2 margin] to [1, outputs, scale · H, scale · W]."""
        return F.relu_(super().forward(part))


class Conditioned(Convolution):
    """A convolution that a normalisation follows, whose scale and shift a style says.

    Args:
        inputs: channels it reads.
        outputs: channels it gives.
        kernel: pixels of its side, odd.
        activation: that follows the normalisation; it may work in place.
        abreast: see `Convolution`.

    Source: Ghiasi et al. 2017, equation 5.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        activation: Pixelwise,
        abreast: int = 1,
    ) -> None:
        super().__init__(inputs, outputs, kernel, abreast=abreast)
        self.activation = activation
        self.gamma = nn.Conv2d(NUMBERS, outputs, 1)
        self.beta = nn.Conv2d(NUMBERS, outputs, 1)

    def normalization(self, parts: Iterable[Tensor], style: Tensor) -> Pixelwise:
        """What is left to do with what the convolution gave.

        Args:
            parts: each [1, outputs, h, w], of which the picture consists.
            style: [1, 100, 1, 1].

        Returns:
            Normalises, scales, shifts and activates a part.
        """
        counts, means, variances = [], [], []
        for part in parts:
            mean = part.mean((0, 2, 3), keepdim=True)
            counts.append(part[0, 0].numel())
            means.append(mean.flatten())
            # Not by torch.var, which takes thirty times as long on a CPU.
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
    """A 3×3 convolution, conditioned, of a picture twice as high and wide, each pixel four times.

    That picture is never made: on the small one the convolution is one of 2×2, of other weights
    for each of the four pixels.
    """

    mode = "replicate"

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, F.relu_)
        self.scale = 2

    def forward(self, part: Tensor) -> Tensor:
        """[1, inputs, H + 2, W + 2] to [1, outputs, 2 H, 2 W]."""
        folded = self.weight.new_tensor(FOLDED)
        weight = torch.einsum("yak,xbl,oikl->oyxiab", folded, folded, self.weight).flatten(0, 2)
        # Around every corner of pixels lie four pixels of the result.
        return F.pixel_shuffle(F.conv2d(part, weight), 2)[:, :, 1:-1, 1:-1]


class Layered:
    """What a layer gives for a whole picture, computed part by part where it is looked at.

    It is cut like the tensor that it stands for: the parts are the same in whatever parts they are
    computed, to the rounding of a convolution.

    Args:
        layer: whose result it is.
        source: [1, C, H, W], of which the layer sees some more pixels around each part.
        before: what is done to each pixel of the source first.
    """

    def __init__(
        self,
        layer: Convolution,
        source: "Tensor | Layered",
        before: Pixelwise = UNCHANGED,
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
        """Squares of so many pixels, of which the picture consists."""
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


def strips(features: Tensor) -> tuple[Tensor, ...]:
    """Features [1, C, H, W] in parts that fit a CPU's cache."""
    return features.split(STRIP, dim=2)


class Residual(nn.Module):
    """Adds to features what two conditioned convolutions make of them.

    Args:
        channels: of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = Conditioned(channels, channels, 3, F.relu_)
        self.conv2 = Conditioned(channels, channels, 3, UNCHANGED)

    def forward(self, features: Tensor, style: Tensor, tile: int) -> Tensor:
        """Changes features [1, channels, H, W] in place, and gives them."""
        change = Layered(self.conv1, features).computed(tile)
        normalize = self.conv1.normalization(strips(change), style)
        change = Layered(self.conv2, change, normalize).computed(tile)
        normalize = self.conv2.normalization(strips(change), style)
        for strip, added in zip(strips(features), strips(change), strict=True):
            strip += normalize(added)
        return features


class Transformer(nn.Module):
    """Paints a picture as a style says.

    Each layer is computed in parts, and normalised with the mean and variance of the whole picture:
    the parts together are what one would have been. Of a large picture, memory goes to few
    features only: those of the full size are never kept.
    """

    def __init__(self) -> None:
        super().__init__()
        self.contract1 = Contraction(3, 8, 9, abreast=2)
        self.contract2 = Contraction(8, 16, 3, stride=2)
        self.contract3 = Contraction(16, 32, 3, stride=2)
        self.residual = nn.ModuleDict({str(number): Residual(32) for number in range(1, 6)})
        self.expand1 = Expansion(32, 16)
        self.expand2 = Expansion(16, 8)
        self.expand3 = Conditioned(8, 3, 9, torch.sigmoid_, abreast=4)

    def forward(self, picture: Tensor, style: Tensor, tile: int) -> Tensor:
        """Paints a picture.

        Args:
            picture: float32 [1, 3, H, W] in [0, 1]; H and W multiples of 4, of at least 8.
            style: [1, 100, 1, 1].
            tile: pixels of the side of the parts, a multiple of 4.

        Returns:
            float32 [1, 3, H, W] in [0, 1].
        """
        features = Layered(self.contract2, Layered(self.contract1, picture)).computed(tile)
        features = Layered(self.contract3, features).computed(tile)
        for block in self.residual.values():
            features = block(features, style, tile)
        features = Layered(self.expand1, features).computed(tile)
        normalize = self.expand1.normalization(strips(features), style)
        full = Layered(self.expand2, features, normalize)
        normalize = self.expand2.normalization((full[place] for place in full.tiles(tile)), style)
        painted = Layered(self.expand3, full, normalize).computed(tile)
        normalize = self.expand3.normalization(strips(painted), style)
        for strip in strips(painted):
            strip.copy_(normalize(strip))
        return painted


class Network(nn.Module):
    """Both parts, under whose names the weights are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.predictor = Predictor()
        self.transformer = Transformer()


class Magenta:
    """Paints pictures with the published network.

    Args:
        config: `weights_dir`, `strength`, `style_size` and `tile` are read.
        device: where to compute.

    Raises:
        UserError: the weights cannot be had or used, or the device is not there.

    Example:
        >>> Magenta(config, "cpu").paint(content, [Region(style, 1.0, None)])
    """

    def __init__(self, config: StylizeConfig, device: str) -> None:
        with torch.device("meta"):
            network = Network()
        shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
        weights, self.key = load_weights(config.weights_dir, shapes)
        network.load_state_dict(weights, assign=True)
        self.network = on_device(network.requires_grad_(False), device)
        self.device = device
        self.strength = config.strength
        self.style_size = config.style_size
        self.tile = (config.tile or TILE) // 4 * 4

    @torch.no_grad()
    def paint(self, content: Tensor, regions: Sequence[Region]) -> Tensor:
        """Repaints a picture.

        Styles without masks are one: the weighted mean of the numbers that tell them. Each style
        with a mask is painted by itself, and the pictures are blended.

        Args:
            content: float32 [1, 3, H, W] in [0, 1], on the CPU.
            regions: the styles, and where they are painted; one at least.

        Returns:
            float32 [1, 3, H, W] in [0, 1], on the CPU; black where no mask is.

        """
        everywhere = [region for region in regions if region.mask is None]
        layers = [[region] for region in regions if region.mask is not None]
        layers += [everywhere] if everywhere else []
        if len(layers) == 1:
            painted = self._painted(content, layers[0])
        else:
            painted, cover = torch.zeros_like(content), torch.zeros_like(content[:, :1])
            for layer in layers:
                weight = sum(region.weight for region in layer)
                share = torch.tensor(weight) if layer[0].mask is None else weight * layer[0].mask
                painted += share * self._painted(content, layer)
                cover += share
            painted /= cover.clamp_(min=torch.finfo(cover.dtype).tiny)
            painted.clamp_(0, 1)
        return painted

    def _painted(self, content: Tensor, regions: Sequence[Region]) -> Tensor:
        """The whole content in the blend of some styles."""
        key = f"magenta-{self.key}-{self.style_size}"
        total = sum(region.weight for region in regions)
        style = torch.zeros(1, NUMBERS, 1, 1)
        for region in regions:
            own = averaged(region.style, self._statistics, key)["style"]
            style += region.weight / total * own
        style = self.strength * style.to(self.device)
        if self.strength < 1:
            style += (1 - self.strength) * self._style(content)
        height, width = content.shape[2:]
        missing = [max(LEAST_SIDE, -(-side // 4) * 4) - side for side in (width, height)]
        picture = content.to(self.device)
        if any(missing):
            picture = F.pad(picture, (0, missing[0], 0, missing[1]), "replicate")
        painted, self.tile = in_parts(
            lambda tile: self.network.transformer(picture, style, tile), self.tile, LEAST_TILE
        )
        return painted[:, :, :height, :width].cpu()

    def _statistics(self, picture: Image.Image) -> dict[str, Tensor]:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        return {"style": self._style(pixels).cpu()}

    def _style(self, picture: Tensor) -> Tensor:
        """What tells the style [1, 100, 1, 1] of a picture [1, 3, H, W], uint8 or in [0, 1]."""
        sides = picture.shape[2:]
        scale = min(STYLE_SIZE / min(sides), LONGEST_STYLE / max(sides))
        if self.style_size:
            scale = self.style_size / max(sides)
        size = [max(1, round(scale * side)) for side in sides]
        small = F.interpolate(picture, size, mode="bilinear", antialias=True)
        if small.dtype == torch.uint8:
            small = small / 255
        return self.network.predictor(
            small.to(self.device).contiguous(memory_format=torch.channels_last)
        )
