"""Content and style losses: distances between features, and between their moments.

Moments are means over positions. So they add up: over the tiles of an image, over the paintings of
a folder, and with a weight for each position where there is a mask.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

SHORT = 256  # rows of a product in bfloat16
FLATTEST = 1e-6  # least squared norm of a covariance, relative to the Gram matrix's


class Moments(NamedTuple):
    """The first two moments of features, or what a tile adds to them."""

    mean: Tensor  # [C], of each channel
    second: Tensor  # [C, C], mean product of each pair of channels: the Gram matrix


def moments(features: Tensor, share: float | Tensor) -> Moments:
    """The moments of features, at least in float32.

    Args:
        features: [1, C, h, w].
        share: weight of each position, one number or [h, w], with a sum of 1 over the whole image.

    Source: Gatys et al. 2016 (CVPR), Equation 3, for the Gram matrix; Gatys et al. 2017
    (arXiv:1611.07865), Section 4, for that of a region.
    """
    rows = features.squeeze(0).permute(1, 2, 0).flatten(0, 1)
    if isinstance(share, Tensor):
        # The root is multiplied in twice, so that the product stays symmetric.
        weighted = rows * share.reshape(-1, 1).sqrt().to(rows.dtype)
        return Moments(share.flatten() @ rows.to(share.dtype), Gram.apply(weighted))
    mean = rows.sum(0, dtype=torch.promote_types(rows.dtype, torch.float32))
    return Moments(mean * share, Gram.apply(rows) * share)


class Gram(torch.autograd.Function):
    """The product rowsᵀ·rows, [C, C] of [N, C], at least in float32.

    Its gradient takes one matrix product; autograd would take two, not knowing that both factors
    are the same. A CPU rounds products in bfloat16 to bfloat16, so many short products are summed,
    whose errors cancel.
    """

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        context.save_for_backward(rows)
        if rows.dtype != torch.bfloat16:
            return rows.T @ rows
        whole = len(rows) // SHORT * SHORT
        short = rows[:whole].view(-1, SHORT, rows.shape[1])
        sums = (short.mT @ short).sum(0, dtype=torch.float32)
        return sums + rows[whole:].T @ rows[whole:]

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        (rows,), (gradient,) = context.saved_tensors, gradients
        return rows @ (gradient + gradient.T).to(rows.dtype)


def gram_loss(painted: Moments, style: Moments) -> Tensor:
    """Mean squared difference of the Gram matrices."""
    return (painted.second - style.second).square().mean()


def covariance_loss(painted: Moments, style: Moments) -> Tensor:
    """Squared differences of the means and of the covariances, each relative to the style's own.

    In a Gram matrix the mean of the features outweighs their covariance. Taken separately, both
    count equally; taken relative to the style, so do layers and networks of any scale.

    Source: the moments that define a normal distribution, as in Li et al. 2017
    (arXiv:1701.01036), Section 4.2, and Mroueh 2019 (arXiv:1905.12828).
    """
    difference = painted.mean - style.mean
    means = difference.square().sum() / style.mean.square().sum().clamp(min=FLATTEST)
    target = covariance(style)
    # The covariance of a style of one colour is zero.
    scale = target.square().sum().clamp(min=FLATTEST * (1 + style.second.square().sum()))
    return means + (covariance(painted) - target).square().sum() / scale


def covariance(of: Moments) -> Tensor:
    """The covariance [C, C] of features with these moments."""
    return of.second - of.mean.outer(of.mean)


def content_loss(features: Tensor, content: Tensor) -> Tensor:
    """Sum of squared differences of features, which adds up over tiles."""
    return (features - content).square().sum()


def total_variation(images: Tensor, power: float) -> Tensor:
    """Sum of (Δx² + Δy²)^power over all pixels but the last row and column.

    Args:
        images: [N, C, H, W].
        power: 1 is the squared length of the gradient; 0.5 would be its length.

    Source: Mahendran and Vedaldi 2015 (arXiv:1412.0035), Section 3, with β = 2·power.
    """
    corner = images[..., :-1, :-1]
    down, right = images[..., 1:, :-1] - corner, images[..., :-1, 1:] - corner
    squares = down.square() + right.square()
    return (squares if power == 1 else squares.pow(power)).sum()


@dataclass(frozen=True)
class Formula:
    """The factors of a source's losses, so that its weights mean the same here."""

    # Loss of a layer, from the moments painted and wanted, its positions, and the pixels.
    style: Callable[[Moments, Moments, int, int], Tensor]
    # Factor of the loss, from the content's features; a mean.
    content: Callable[[Tensor], float] = lambda content: 1 / content.numel()
    power: float = 1  # of the total variation
    # Factor of the total variation, from its number of terms; a mean.
    variation: Callable[[int], float] = lambda terms: 1 / terms


def _udacity_style(painted: Moments, style: Moments, positions: int, pixels: int) -> Tensor:
    # Its Gram matrices are sums, and their mean squared difference is divided by C·h·w.
    return gram_loss(painted, style) * positions / len(style.mean)


def _keras_style(painted: Moments, style: Moments, positions: int, pixels: int) -> Tensor:
    # Sums, over 4·3²·pixels²; the 3 is the number of the image's channels, not the layer's.
    difference = (painted.second - style.second) * (positions / pixels)
    return difference.square().sum() / 36


FORMULAS = {
    # Gatys' PyTorch code: mean squared errors of features and of Gram matrices over positions.
    "gatys": Formula(lambda p, s, *_: gram_loss(p, s)),
    # Udacity's deep-learning course, "Style Transfer with Deep Neural Networks".
    "udacity": Formula(_udacity_style),
    # Keras' example and articles after it: sums, and total variation of pixels in 0…255.
    "keras": Formula(_keras_style, lambda _: 1.0, 1.25, lambda _: 255.0**2.5),
    # artgan's own: relative to the style, and to the content.
    "covariance": Formula(
        lambda p, s, *_: covariance_loss(p, s),
        lambda content: 1 / float(content.square().sum()),
    ),
}
