"""Adversarial losses, one entry of `LOSSES` each, and penalties on the discriminator's gradient.

Losses take logits, unbounded scores: -log σ(x) = softplus(-x) needs no sigmoid and cannot overflow.

torch is imported only where it is used: options are checked against `LOSSES` before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """An adversarial loss and what it can be combined with.

    Attributes:
        discriminator: what the discriminator minimises, a scalar mean over the batch, as a
            function of real_logits [N], fake_logits [N] and, if it has labels, `smoothing`.
        generator: what the generator minimises, as a function of fake_logits [N] and, if it is
            relativistic, real_logits [N].
        labels: whether the label of real images can be smoothed (`model.label_smoothing`).
        relativistic: whether only the difference between a real and a fake logit has a meaning.
        probabilistic: whether σ(logit) is a probability.
        signed: whether a logit above zero means "real", so that augmentation can adapt to it.
        needs_penalty: whether the loss is unbounded without `model.gradient_penalty`.
    """

    discriminator: Callable[..., Tensor]
    generator: Callable[..., Tensor]
    labels: bool = False
    relativistic: bool = False
    probabilistic: bool = False
    signed: bool = True
    needs_penalty: bool = False

    def margins(self, real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
        """How real the real and the generated images seem, each [N]; in pairs, how much more."""
        if self.relativistic:
            return real_logits - fake_logits, fake_logits - real_logits
        return real_logits, fake_logits


def softplus(logits: Tensor) -> Tensor:
    """log(1 + eˣ)."""
    from torch.nn.functional import softplus

    return softplus(logits)


LOSSES = {
    # Goodfellow et al. 2014 (arXiv:1406.2661): equation 1, negated, and the non-saturating
    # generator of section 3. Smoothing: Salimans et al. 2016 (arXiv:1606.03498), section 3.4.
    "bce": Loss(
        lambda real, fake, smoothing=0.0: (
            (softplus(-real) + smoothing * real).mean() + softplus(fake).mean()
        ),
        lambda fake: softplus(-fake).mean(),
        labels=True,
        probabilistic=True,
    ),
    # Lim and Ye 2017 (arXiv:1705.02894), equation 10.
    "hinge": Loss(
        lambda real, fake: (1 - real).relu().mean() + (1 + fake).relu().mean(),
        lambda fake: -fake.mean(),
    ),
    # Mao et al. 2017 (arXiv:1611.04076), equation 9.
    "lsgan": Loss(
        lambda real, fake, smoothing=0.0: (
            (real - (1 - smoothing)).square().mean() / 2 + fake.square().mean() / 2
        ),
        lambda fake: (fake - 1).square().mean() / 2,
        labels=True,
        signed=False,
    ),
    # Gulrajani et al. 2017 (arXiv:1704.00028), equation 3; its last term is `gradient_penalty`.
    "wgan_gp": Loss(
        lambda real, fake: fake.mean() - real.mean(),
        lambda fake: -fake.mean(),
        signed=False,
        needs_penalty=True,
    ),
    # Jolicoeur-Martineau 2018 (arXiv:1807.00734), section 4.1; Huang et al. 2024
    # (arXiv:2501.05441), equation 2, negated.
    "rpgan": Loss(
        lambda real, fake: softplus(fake - real).mean(),
        lambda fake, real: softplus(real - fake).mean(),
        relativistic=True,
        probabilistic=True,
    ),
}


def squared_gradient_norms(logits: Tensor, images: Tensor) -> Tensor:
    """‖∇D(x)‖² of each image, itself differentiable.

    R1 is γ/2 times its mean over real images, R2 the same over generated ones. The logits [N] are
    each of one image [N, 3, H, W] alone, so not with BatchNorm; the little that minibatch standard
    deviation mixes in is ignored, as in StyleGAN2. The result is [N] in float32 or float64.

    Source: Mescheder et al. 2018 (arXiv:1801.04406), equations 9 and 10.
    """
    import torch

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
    mixed = fake.lerp(real, shares.to(real.dtype)).requires_grad_()
    norms = squared_gradient_norms(discriminator(mixed), mixed).add(1e-12).sqrt()
    return (norms - 1).square().mean()
