"""Exponential moving average of the generator."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def update_ema(average: nn.Module, current: nn.Module, images: int, half_life: float) -> None:
    """Moves the averaged generator towards the current one.

    BatchNorm's running statistics are averaged with the weights: averaged weights have other
    activations than the current ones. The half-life is in images, of which the update had
    `images`; 0 follows the current generator exactly.

    Source: Karras et al. 2020 (arXiv:2006.06676), StyleGAN2-ADA.
    """
    keep = 0.5 ** (images / half_life) if half_life > 0 else 0.0
    torch._foreach_lerp_(_floating_state(average), _floating_state(current), 1 - keep)


def _floating_state(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, without BatchNorm's integer count of batches."""
    tensors = (*module.parameters(), *module.buffers())
    return [tensor for tensor in tensors if tensor.is_floating_point()]
