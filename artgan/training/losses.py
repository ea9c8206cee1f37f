"""Adversarial losses, as functions of logits."""

import torch.nn.functional as F
from torch import Tensor


def bce_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Binary cross-entropy of the discriminator: paintings are 1, generated pictures 0.

    Written on logits, -log σ(x) = softplus(-x), which neither overflows nor needs a sigmoid.

    Args:
        real_logits: [N] unbounded scores of paintings.
        fake_logits: [N] unbounded scores of generated pictures.

    Returns:
        Scalar: the sum of the two means.

    Source: Goodfellow et al. 2014 (arXiv:1406.2661), equation 1, negated.
    """
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def bce_generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating loss of the generator, -log D(G(z)).

    Args:
        fake_logits: [N] unbounded scores of generated pictures.

    Returns:
        Scalar mean.

    Source: Goodfellow et al. 2014 (arXiv:1406.2661), section 3, last paragraph.
    """
    return F.softplus(-fake_logits).mean()
