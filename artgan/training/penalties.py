"""Penalties on the discriminator's gradient, which keep it from growing too steep."""

from collections.abc import Callable

import torch
from torch import Tensor


def squared_gradient_norms(logits: Tensor, images: Tensor) -> Tensor:
    """‖∇D(x)‖² of each picture, itself differentiable.

    R1 is γ/2 times its mean over paintings, R2 the same over generated pictures.

    Args:
        logits: [N], what the discriminator gave for `images`; each must depend on its own picture,
            which BatchNorm does not hold to. The little that minibatch standard deviation adds from
            the others is let pass, as it is in StyleGAN2.
        images: [N, 3, H, W] that require a gradient.

    Returns:
        [N], in float32, or float64 for such pictures.

    Source: Mescheder et al. 2018 (arXiv:1801.04406), equations 9 and 10.
    """
    (gradients,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    at_least_float = torch.promote_types(gradients.dtype, torch.float)
    return gradients.to(at_least_float).square().sum(dim=(1, 2, 3))


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, shares: Tensor
) -> Tensor:
    """Mean of (‖∇D(x̂)‖ - 1)² on mixtures x̂ of paintings and generated pictures.

    Args:
        discriminator: gives logits [N].
        real: [N, 3, H, W].
        fake: [N, 3, H, W].
        shares: [N, 1, 1, 1] in [0, 1], of the paintings in the mixtures.

    Returns:
        Scalar, to be multiplied by λ.

    Source: Gulrajani et al. 2017 (arXiv:1704.00028), equation 3 and algorithm 1.
    """
    mixed = torch.lerp(fake, real, shares.to(real.dtype)).requires_grad_()
    norms = squared_gradient_norms(discriminator(mixed), mixed).add(1e-12).sqrt()
    return (norms - 1).square().mean()
