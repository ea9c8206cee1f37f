"""Adversarial losses, as functions of logits.

They are written on logits, unbounded scores: -log σ(x) = softplus(-x) neither overflows nor needs a
sigmoid.
"""

import torch.nn.functional as F
from torch import Tensor

# Whose generator learns from how paintings are scored, too.
RELATIVISTIC = ("rpgan",)
# Which make probabilities of logits.
PROBABILISTIC = ("bce", "rpgan")


def discriminator_loss(
    name: str, real_logits: Tensor, fake_logits: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """What the discriminator minimises.

    Args:
        name: of the loss:
            bce: -log σ(real) - log(1 - σ(fake)); Goodfellow et al. 2014 (arXiv:1406.2661),
                equation 1, negated.
            hinge: max(0, 1 - real) + max(0, 1 + fake); Lim and Ye 2017 (arXiv:1705.02894),
                equation 10.
            lsgan: ½ (real - 1)² + ½ fake²; Mao et al. 2017 (arXiv:1611.04076), equation 9.
            wgan_gp: fake - real; Gulrajani et al. 2017 (arXiv:1704.00028), equation 3, of which
                the last term is `gradient_penalty`.
            rpgan: -log σ(real - fake), each painting against one generated picture;
                Jolicoeur-Martineau 2018 (arXiv:1807.00734), section 4.1; Huang et al. 2024
                (arXiv:2501.05441), equation 2, negated.
        real_logits: [N].
        fake_logits: [N].
        label_smoothing: paintings are to be given 1 less this instead of 1, in bce and lsgan;
            Salimans et al. 2016 (arXiv:1606.03498), section 3.4.

    Returns:
        Scalar: the means over the batch, summed.
    """
    match name:
        case "bce":
            smoothed = F.softplus(-real_logits) + label_smoothing * real_logits
            return smoothed.mean() + F.softplus(fake_logits).mean()
        case "hinge":
            return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
        case "lsgan":
            target = 1 - label_smoothing
            return (real_logits - target).square().mean() / 2 + fake_logits.square().mean() / 2
        case "wgan_gp":
            return fake_logits.mean() - real_logits.mean()
        case "rpgan":
            return F.softplus(fake_logits - real_logits).mean()
    raise ValueError(f"there is no loss {name}")


def generator_loss(name: str, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
    """What the generator minimises.

    Args:
        name: of the loss, with its source in the same place as the discriminator's:
            bce: -log σ(fake), the non-saturating one of Goodfellow et al. 2014, section 3.
            hinge, wgan_gp: -fake.
            lsgan: ½ (fake - 1)².
            rpgan: -log σ(fake - real).
        fake_logits: [N].
        real_logits: [N], for the losses in `RELATIVISTIC`.

    Returns:
        Scalar mean.
    """
    match name:
        case "bce":
            return F.softplus(-fake_logits).mean()
        case "hinge" | "wgan_gp":
            return -fake_logits.mean()
        case "lsgan":
            return (fake_logits - 1).square().mean() / 2
        case "rpgan":
            assert real_logits is not None
            return F.softplus(real_logits - fake_logits).mean()
    raise ValueError(f"there is no loss {name}")


def confidences(name: str, real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    """How sure the discriminator is, as its loss makes probabilities of logits.

    Args:
        name: of the loss; for those that do not, sigmoids are taken all the same, to look at.
        real_logits: [N].
        fake_logits: [N].

    Returns:
        Two of [N] in [0, 1]: that the paintings are paintings, and that the generated pictures are.
        For `rpgan`, that each is rather one than the other of its pair.
    """
    if name in RELATIVISTIC:
        ahead = real_logits - fake_logits
        return ahead.sigmoid(), (-ahead).sigmoid()
    return real_logits.sigmoid(), fake_logits.sigmoid()
