"""TAEF2, a tiny autoencoder: images to latents of an eighth of their side, and back.

It was distilled from the autoencoder of FLUX.2, and published under the MIT licence. What is
smaller than about eight pixels in a decoded image comes from it, not from the paintings.

Source: O. Boer Bohan, github.com/madebyollin/taesd, December 2025. Modules have the names in the
published state dicts.
"""

import torch
from torch import Tensor, nn

from artgan.device import is_fast_at_bf16

CHANNELS = 32  # of the latents
SCALE = 8  # pixels of an image along a side of one latent
WIDTH = 64
LOOKING_FAR = 6  # layers of the decoder up to the last that sees the whole image
SPAN = 128  # latents along the width that the layers after these decode at once
REACH = 9  # latents to each side of its own that a pixel depends on in those layers
# Kept in every checkpoint and export, which hold the decoder.
ORIGIN = {
    "name": "TAEF2",
    "source": "https://github.com/madebyollin/taesd (5cccb12d)",
    "license": "MIT, Copyright (c) 2023 Ollin Boer Bohan",
}


def painted_size(resolution: int, autoencoder: str) -> tuple[int, int]:
    """Side and channels of what a generator paints: pixels, or latents of an autoencoder."""
    return (resolution, 3) if autoencoder == "none" else (resolution // SCALE, CHANNELS)


class Encoder(nn.Sequential):
    """Images [N, 3, H, W] in [0, 1], sides multiples of 8, to latents [N, 32, H/8, W/8].

    The latents are near N(0, 1) but not normalised. 1,338,528 parameters.
    """

    def __init__(self) -> None:
        layers: list[nn.Module] = [_conv(3, WIDTH), Block()]
        for pooling in (False, False, True):
            layers += [_conv(WIDTH, WIDTH, stride=2, bias=False)]
            layers += [Block(pooling) for _ in range(3)]
        super().__init__(*layers, _conv(WIDTH, CHANNELS))


class Decoder(nn.Sequential):
    """Latents [N, 32, h, w] to images [N, 3, 8h, 8w] in [0, 1]; 1,338,499 parameters."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [SoftClamp(), _conv(CHANNELS, WIDTH), nn.ReLU(inplace=True)]
        for blocks, pooling in ((3, True), (3, False), (3, False)):
            layers += [Block(pooling) for _ in range(blocks)]
            layers += [nn.Upsample(scale_factor=2), _conv(WIDTH, WIDTH, bias=False)]
        super().__init__(*layers, Block(), _conv(WIDTH, 3), nn.Hardtanh(0, 1, inplace=True))

    def split(self) -> tuple[nn.Sequential, nn.Sequential]:
        """The layers that see the whole image, and those after them, which see `REACH` latents."""
        layers = list(self)
        return nn.Sequential(*layers[:LOOKING_FAR]), nn.Sequential(*layers[LOOKING_FAR:])


class LatentPainter(nn.Module):
    """A generator of normalised latents, and what makes images of them."""

    def __init__(self, generator: nn.Module, to_images: "ToImages") -> None:
        super().__init__()
        self.generator = generator
        self.to_images = to_images

    def forward(self, latents: Tensor) -> Tensor:
        return self.to_images(self.generator(latents).float())


class ToImages(nn.Module):
    """Decodes what a generator makes of latents: [N, 32, h, w], normalised, to [N, 3, 8h, 8w].

    Latents are normalised by the mean and standard deviation of each channel over the paintings.
    The images are in [-1, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.decoder = Decoder()
        self.register_buffer("mean", torch.zeros(CHANNELS, 1, 1))
        self.register_buffer("std", torch.ones(CHANNELS, 1, 1))
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def normalize(self, latents: Tensor) -> Tensor:
        """Latents as a generator paints them: each channel with mean 0 and standard deviation 1."""
        return (latents - self.mean) / self.std

    def train(self, mode: bool = True) -> "ToImages":
        return super().train(False)

    def forward(self, latents: Tensor) -> Tensor:
        """A long image is decoded in parts along its width, without seams, which takes less memory.

        The layers that see the whole image come first and take little memory, so they are not
        split; the parts of the others overlap by as much as their convolutions reach.
        """
        latents = (latents * self.std + self.mean).contiguous(memory_format=torch.channels_last)
        with fast(latents.device):
            far, near = self.decoder.split()
            features, images = far(latents), []
            for start in range(0, features.shape[3], SPAN):
                before = min(start, REACH)
                part = features[..., start - before : start + SPAN + REACH]
                image = near(part.contiguous(memory_format=torch.channels_last))
                images.append(image[..., SCALE * before : SCALE * (before + SPAN)])
            return torch.cat(images, dim=3).float() * 2 - 1


def fast(device: torch.device) -> torch.autocast:
    """The precision in which a device computes the autoencoder fastest."""
    return torch.autocast(device.type, torch.bfloat16, enabled=is_fast_at_bf16(device.type))


class Block(nn.Module):
    """A residual block: [N, 64, H, W] to the same shape.

    With pooling, every place first sees means over the whole image, in the group norm.
    """

    def __init__(self, pooling: bool = False) -> None:
        super().__init__()
        relu = nn.ReLU(inplace=True)
        convs = [_conv(WIDTH, WIDTH) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], relu, convs[1], relu, convs[2])
        self.pool: nn.Sequential | None = None
        if pooling:
            self.pool = nn.Sequential(
                nn.Conv2d(WIDTH, 4 * WIDTH, 1, bias=False),
                nn.GroupNorm(4, 4 * WIDTH),
                nn.ReLU(inplace=True),
                nn.Conv2d(4 * WIDTH, WIDTH, 1, bias=False),
            )

    def forward(self, features: Tensor) -> Tensor:
        if self.pool is not None:
            features = features + self.pool(features)
        return self.conv(features).add_(features).relu_()


class SoftClamp(nn.Module):
    """Keeps values in (-3, 3), and leaves those near zero as they are."""

    def forward(self, latents: Tensor) -> Tensor:
        return torch.tanh(latents / 3) * 3


def _conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)
