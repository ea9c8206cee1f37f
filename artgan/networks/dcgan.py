"""DCGAN, as the PyTorch tutorial builds it.

Source: Radford, Metz, Chintala 2016, "Unsupervised Representation Learning with Deep
Convolutional Generative Adversarial Networks" (arXiv:1511.06434).
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.utils.parametrizations import spectral_norm

from artgan.networks.convolution import Downsampling, FromLatents, ToLogits, Upsampling
from artgan.networks.ranks import is_distributed, mean_over_ranks, var_mean

SIDES = (8, 16, 32, 64, 128, 256)
SLOPE = 0.2  # of LeakyReLU below zero


def _stages(side: int) -> int:
    """How often the side doubles between the 4×4 features and the layer next to the image."""
    if side not in SIDES:
        raise ValueError(f"side {side} is not one of {SIDES}")
    return side.bit_length() - 4


class Generator(nn.Module):
    """Paints from latents: transposed convolutions with BatchNorm and ReLU, then tanh.

    The side is 8, 16, … 256; each doubling adds a layer with twice as many channels next to the
    latents. The width is that of the last hidden layer. A latent vector may end in a one-hot class.
    At 64 px and width 64 there are 3,576,704 parameters. With other than three channels it paints
    the normalised latents of an autoencoder, which have no bounds: there is no tanh.

    Source: Radford et al. 2016, section 3 and figure 1; classes: Mirza and Osindero 2014
    (arXiv:1411.1784), section 3.2.
    """

    def __init__(
        self, side: int = 64, latent_dim: int = 100, width: int = 64, image_channels: int = 3
    ) -> None:
        super().__init__()
        channels = width * 2 ** _stages(side)
        layers: list[nn.Module] = [FromLatents(latent_dim, channels)]
        layers += [BatchNorm(channels), nn.ReLU(inplace=True)]
        while channels > width:
            layers += [Upsampling(channels, channels // 2)]
            channels //= 2
            layers += [BatchNorm(channels), nn.ReLU(inplace=True)]
        layers += [Upsampling(width, image_channels)]
        layers += [nn.Tanh() if image_channels == 3 else Gain()]
        self.layers = nn.Sequential(*layers)
        self.apply(initialize)

    def forward(self, latents: Tensor) -> Tensor:
        """Images [N, 3, (h + 3) · side / 4, (w + 3) · side / 4] in [-1, 1], or latents.

        The latents are [N, latent_dim, h, w] from N(0, 1), 1×1 for square images.
        """
        return self.layers(latents)


class Discriminator(nn.Module):
    """Scores images as real or generated: strided convolutions and LeakyReLU.

    The width is that of the first layer; normalization is batch, spectral or none, and without
    BatchNorm the convolutions have biases. With `minibatch_std` the last layer sees how much the
    images of a batch differ. There are K classes, or 0. At 64 px, width 64 and with BatchNorm there
    are 2,765,568 parameters. It gives logits; the loss contains the sigmoid.

    Source: Radford et al. 2016, section 3; LeakyReLU with slope 0.2, no BatchNorm on the first
    layer. Spectral normalisation: Miyato et al. 2018 (arXiv:1802.05957). Classes: Miyato and
    Koyama 2018 (arXiv:1802.05637), equation 3; the last layer gives ψ(φ(x)), then V φ(x).
    """

    def __init__(
        self,
        side: int = 64,
        width: int = 64,
        normalization: str = "batch",
        minibatch_std: bool = False,
        classes: int = 0,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        self.classes = classes
        bias = normalization != "batch"
        layers: list[nn.Module] = [Downsampling(image_channels, width, bias)]
        layers += [nn.LeakyReLU(SLOPE, inplace=True)]
        channels = width
        for _ in range(_stages(side)):
            layers.append(Downsampling(channels, 2 * channels, bias))
            channels *= 2
            if normalization == "batch":
                layers.append(BatchNorm(channels))
            layers.append(nn.LeakyReLU(SLOPE, inplace=True))
        if minibatch_std:
            layers.append(MinibatchStd())
            channels += 1
        self.layers = nn.Sequential(*layers, ToLogits(channels, 1 + classes))
        self.apply(initialize if normalization == "batch" else initialize_by_fan_in)
        if normalization == "spectral":
            for layer in self.layers:
                if isinstance(layer, nn.Conv2d):
                    spectral_norm(layer)

    def forward(self, images: Tensor, batches: int = 1, classes: Tensor | None = None) -> Tensor:
        """Logits [N] of images [N, image_channels, side, side]; above zero is real.

        The images may be several equal batches, one after another: layers that depend on the whole
        batch treat each separately. With classes, one-hot [N, K], it is real and of its class.
        """
        features = images
        for layer in self.layers:
            if batches > 1 and isinstance(layer, DEPENDS_ON_BATCH):
                features = torch.cat([layer(batch) for batch in features.chunk(batches)])
            else:
                features = layer(features)
        if not self.classes:
            return features.flatten()
        assert classes is not None
        return features[:, 0] + (features[:, 1:] * classes).sum(dim=1)


class Gain(nn.Module):
    """Triples the last layer's output, whose weights begin as small as before a tanh."""

    def forward(self, features: Tensor) -> Tensor:
        return 3 * features


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the batch of all ranks; unlike `nn.SyncBatchNorm`, also on CPUs.

    Source: Ioffe and Szegedy 2015 (arXiv:1502.03167), algorithm 1.
    """

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, H, W] to the same shape; in training, N is this rank's part of the batch."""
        if not (self.training and is_distributed()):
            return super().forward(features)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        with torch.no_grad():
            var, mean = var_mean(features.float(), (0, 2, 3))
            count = features.numel() // len(mean) * dist.get_world_size()
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        return _Normalized.apply(features, self.weight, self.bias, mean, var, self.eps)


class _Normalized(Function):
    """Normalises by the moments of the batch of all ranks.

    The derivative written out is several times as fast on a CPU as autograd's.

    Source: Ioffe and Szegedy 2015, section 3, the derivatives after algorithm 1.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, *parts: Any) -> Tensor:
        weight, bias, mean, var, eps = parts
        ctx.save_for_backward(features, weight, mean, (var + eps).rsqrt())
        return F.batch_norm(features, mean, var, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, mean, inverse = ctx.saved_tensors
        normalized = (features - mean[:, None, None]) * inverse[:, None, None]
        for_bias = gradient.sum((0, 2, 3), dtype=torch.float)
        for_weight = (normalized * gradient).sum((0, 2, 3))
        count = features.numel() // len(mean)
        along = mean_over_ranks(torch.stack([for_bias, for_weight])) / count
        rest = normalized * -along[1][:, None, None] + gradient - along[0][:, None, None]
        for_features = rest * (weight * inverse)[:, None, None]
        return for_features.to(features.dtype), for_weight, for_bias, None, None, None


class MinibatchStd(nn.Module):
    """Adds a channel that is constant: how much the images of a batch differ, over all ranks.

    It gives away a generator that repeats one image.

    Source: Karras et al. 2018 (arXiv:1710.10196), section 3.
    """

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C + 1, H, W]."""
        exact = features.to(torch.promote_types(features.dtype, torch.float))
        rows = exact.permute(0, 2, 3, 1).flatten(1)  # as they lie in memory
        deviations = var_mean(rows, (0,))[0].add(1e-8).sqrt().mean()
        channel = deviations.to(features.dtype).expand(len(features), 1, *features.shape[2:])
        return torch.cat([features, channel], dim=1)


DEPENDS_ON_BATCH = (BatchNorm, MinibatchStd)


def initialize(module: nn.Module) -> None:
    """Draws weights from N(0, 0.02), and BatchNorm's scales from N(1, 0.02).

    Source: Radford et al. 2016, section 4 (convolutions); the PyTorch tutorial (BatchNorm).
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def initialize_by_fan_in(module: nn.Module) -> None:
    """Draws weights so that LeakyReLU layers without normalisation keep the variance; biases 0.

    Source: He et al. 2015 (arXiv:1502.01852), equation 14.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
