"""Penalties on the discriminator's gradient, which keep it from growing too steep."""

from collections.abc import Callable

import torch
from torch import Tensor


def squared_gradient_norms(logits: Tensor, images: Tensor) -> Tensor:
    """‖∇D(x)‖² of each image, itself differentiable.

    R1 is γ/2 times its mean over real images, R2 the same over generated ones. The logits [N] are
    each of one image [N, 3, H, W] alone, so not with BatchNorm; the little that minibatch standard
    deviation mixes in is ignored, as in StyleGAN2. The result is [N] in float32 or float64.

    Source: Mescheder et al. 2018 (arXiv:1801.04406), equations 9 and 10.
    """
    (gradients,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    at_least_float = torch.promote_types(gradients.dtype, torch.float)
    return gradients.to(at_least_float).square().sum(dim=(1, 2, 3))


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, shares: Tensor
) -> Tensor:
    """Mean of (‖∇D(x̂)‖ - 1)² over mixtures x̂ of real and generated images [N, 3, H, W].

    The shares of the real images are [N, 1, 1, 1] in [0, 1].

    Source: Gulrajani et al. 2017 (arXiv:1704.00028), equation 3 and algorithm 1.
    """
    mixed = torch.lerp(fake, real, shares.to(real.dtype)).requires_grad_()
    norms = squared_gradient_norms(discriminator(mixed), mixed).add(1e-12).sqrt()
    return (norms - 1).square().mean()
