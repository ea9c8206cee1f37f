"""The convolutions of a DCGAN, computed as matrix products where that is faster.

Weights have the names and layout of `nn.Conv2d` and `nn.ConvTranspose2d`.

On a CPU, oneDNN takes up to five times as long for the weight gradient of a convolution with many
channels on few pixels as for a matrix product of the same size (`benchmarks/NOTES.md`).
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

KERNEL = 4
# With fewer, copying the patches takes longer than the matrix product saves.
FEWEST_CHANNELS = 256


class Downsampling(nn.Conv2d):
    """Halves the side: a convolution with kernel 4, stride 2, padding 1."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, KERNEL, stride=2, padding=1, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """[N, in_channels, H, W], H and W even, to [N, out_channels, H/2, W/2]."""
        if not as_matrices(features, self.in_channels):
            return super().forward(features)
        weights = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(_Patches.apply(features), weights, self.bias).permute(0, 3, 1, 2)


class Upsampling(nn.ConvTranspose2d):
    """Doubles the side: a transposed convolution with kernel 4, stride 2, padding 1, no bias."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, KERNEL, stride=2, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:  # type: ignore[override]
        """[N, in_channels, H, W] to [N, out_channels, 2H, 2W]."""
        if not as_matrices(features, self.out_channels):
            return super().forward(features)
        weights = self.weight.permute(2, 3, 1, 0).flatten(0, 2)
        return _Fold.apply(F.linear(features.permute(0, 2, 3, 1), weights))


class FromLatents(nn.ConvTranspose2d):
    """The first layer of a generator: each latent vector becomes 4×4 features."""

    def __init__(self, latent_dim: int, out_channels: int) -> None:
        super().__init__(latent_dim, out_channels, KERNEL, bias=False)

    def forward(self, latents: Tensor) -> Tensor:  # type: ignore[override]
        """[N, latent_dim, h, w] to [N, out_channels, h + 3, w + 3]."""
        if latents.shape[2:] != (1, 1):
            return super().forward(latents)
        features = F.linear(latents.flatten(1), self.weight.permute(2, 3, 1, 0).flatten(0, 2))
        return features.view(-1, KERNEL, KERNEL, self.out_channels).permute(0, 3, 1, 2)


class ToLogits(nn.Conv2d):
    """The last layer of a discriminator: 4×4 features become `count` numbers."""

    def __init__(self, in_channels: int, count: int = 1) -> None:
        super().__init__(in_channels, count, KERNEL, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """[N, in_channels, 4, 4] to [N, count]."""
        weights = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(features.permute(0, 2, 3, 1).flatten(1), weights)


def as_matrices(features: Tensor, channels: int) -> bool:
    """Whether a convolution of so many channels is faster as a matrix product."""
    if features.device.type != "cpu" or channels < FEWEST_CHANNELS:
        return False
    return features.dtype == torch.bfloat16 or is_intel()


@cache
def is_intel() -> bool:
    """Whether the processor is Intel's: on others MKL multiplies float32 matrices slowly."""
    return "Intel" in str(torch.cpu.get_capabilities().get("cpu_name"))


class _Patches(Function):
    """The patches that a `Downsampling` multiplies: [N, C, H, W] to [N, H/2, W/2, 4·4·C]."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        count, channels, height, width = features.shape
        padded = features.new_zeros(count, height + 2, width + 2, channels)
        padded[:, 1:-1, 1:-1] = features.permute(0, 2, 3, 1)
        image, row, pixel, _ = padded.stride()
        # The four pixels of a patch's row are contiguous in memory.
        patches = padded.as_strided(
            (count, height // 2, width // 2, KERNEL, KERNEL * channels),
            (image, 2 * row, 2 * pixel, row, 1),
        )
        return patches.flatten(3)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Fold.apply(*gradients)


class _Fold(Function):
    """Sums overlapping patches: [N, h, w, 4·4·C] to [N, C, 2h, 2w]."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor) -> Tensor:
        count, height, width, size = patches.shape
        channels = size // KERNEL**2
        # A patch has 2×2 blocks of 2×2 pixels; blocks at the same place in it do not overlap.
        blocks = patches.view(count, height, width, 2, 2, 2, 2 * channels)
        padded = patches.new_zeros(count, height + 1, 2, width + 1, 2 * channels)
        for down in (0, 1):
            for right in (0, 1):
                part = padded[:, down : down + height, :, right : right + width]
                part += blocks[:, :, :, down, :, right].transpose(2, 3)
        pixels = padded.view(count, 2 * height + 2, 2 * width + 2, channels)[:, 1:-1, 1:-1]
        return pixels.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Patches.apply(*gradients)
