"""Warnings of a training that goes wrong."""

import torch
from torch import Tensor

SATURATION = 0.98
VANISHED_GRADIENT = 1e-5
LEAST_DIVERSITY = 0.25


def discriminator_has_won(
    real_probability: float, fake_probability: float, gradient_norm: float
) -> str | None:
    """A warning if the discriminator errs too rarely for the generator to learn from, or None.

    It goes by the means of D(x) and D(G(z)) over recent images, and by the L2 norm of the
    generator's gradient.

    Source: Arjovsky and Bottou 2017 (arXiv:1701.04862), sections 2.2 and 2.3, on what a perfect
    discriminator does to the generator's gradient.
    """
    separated = real_probability - fake_probability > SATURATION
    if not (separated or gradient_norm < VANISHED_GRADIENT):
        return None
    return (
        f"The discriminator has won: it rates paintings {real_probability:.3f} and generated "
        f"images {fake_probability:.3f} (0 is fake, 1 is real; the generator's gradient is "
        f"{gradient_norm:.2g}). Longer training will change little unless the generator catches "
        "up. A smaller model.learning_rate or model.width, or more paintings, keep the balance "
        "longer."
    )


def diversity(images: Tensor, reference: Tensor) -> float:
    """Mean standard deviation of samples [N, 3, H, W], relative to paintings [M, 3, H, W]."""

    def spread(batch: Tensor) -> Tensor:
        return batch.float().std(dim=0).mean()

    return float(spread(images) / spread(reference).clamp_min(torch.finfo(torch.float).tiny))


def diversity_has_collapsed(ratio: float) -> str | None:
    """A warning if samples hardly differ, by their `diversity`, or None."""
    if ratio >= LEAST_DIVERSITY:
        return None
    return (
        f"Diversity has collapsed: samples differ from each other only {ratio:.0%} as much as the "
        "paintings do. If it lasts, go back to an earlier checkpoint, or start again with another "
        "seed, a smaller model.learning_rate or more paintings."
    )
