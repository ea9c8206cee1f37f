"""What content and style mean: distances between features, and between their moments.

All that a style needs is a mean over positions. So it adds up: over the tiles of a picture, over
the paintings of a folder, and with a weight for each position where a mask says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

SHORT = 256  # rows of a product in bfloat16
FLATTEST = 1e-6  # square of what differs in a style, relative to what does not


class Moments(NamedTuple):
    """The first two moments of features, or what a part of a picture adds to them.

    Attributes:
        mean: [C], of each channel.
        second: [C, C], mean product of each two channels: the Gram matrix.
    """

    mean: Tensor
    second: Tensor


def moments(features: Tensor, share: float | Tensor) -> Moments:
    """The moments of features, at least in float32.

    Args:
        features: [1, C, h, w].
        share: what each position counts, one number or [h, w]; over the whole picture the sum is 1.

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

    Its gradient takes one product of matrices; autograd would take two, not knowing that both
    factors are the same. Of bfloat16 the CPU's product is rounded to bfloat16, so the sums of many
    short products are taken: their errors cancel.
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

    In a Gram matrix the mean of the features outweighs how they vary together. Apart, each counts
    alike, and relative to the style so do layers and networks of any scale.

    Source: the moments that tell normal distributions apart, as in Li et al. 2017
    (arXiv:1701.01036), Section 4.2, and Mroueh 2019 (arXiv:1905.12828).
    """
    difference = painted.mean - style.mean
    means = difference.square().sum() / style.mean.square().sum().clamp(min=FLATTEST)
    target = covariance(style)
    # A style of one colour has none, and is to remain a number.
    scale = target.square().sum().clamp(min=FLATTEST * (1 + style.second.square().sum()))
    return means + (covariance(painted) - target).square().sum() / scale


def covariance(of: Moments) -> Tensor:
    """The covariance [C, C] of features with these moments."""
    return of.second - of.mean.outer(of.mean)


def content_loss(features: Tensor, content: Tensor) -> Tensor:
    """Sum of squared differences of features, which adds up over tiles."""
    return (features - content).square().sum()


def total_variation(images: Tensor, power: float) -> Tensor:
    """Sum over pixels of (Δx² + Δy²)^power, but for the last row and column.

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
    """What a source multiplies the losses with, so that its weights mean here what they mean there.

    Attributes:
        style: loss of a layer, of moments painted and wanted, positions in the layer, and pixels.
        content: what a sum of squared differences is multiplied with, of the content's features.
        power: of the total variation.
        variation: what the total variation is multiplied with, of the terms that it sums.
    """

    style: Callable[[Moments, Moments, int, int], Tensor]
    content: Callable[[Tensor], float]
    power: float
    variation: Callable[[int], float]


def _udacity_style(painted: Moments, style: Moments, positions: int, pixels: int) -> Tensor:
    # Gram matrices are sums there, and their mean squared difference is divided by C·h·w.
    return gram_loss(painted, style) * positions / len(style.mean)


def _keras_style(painted: Moments, style: Moments, positions: int, pixels: int) -> Tensor:
    # Sums, over 4·3²·pixels²; the 3 stands for the picture's channels, whatever the layer has.
    difference = (painted.second - style.second) * (positions / pixels)
    return difference.square().sum() / 36


def _mean(content: Tensor) -> float:
    return 1 / content.numel()


FORMULAS = {
    # Gatys' PyTorch code: mean squared errors of features and of Gram matrices over positions.
    "gatys": Formula(lambda p, s, *_: gram_loss(p, s), _mean, 1, lambda terms: 1 / terms),
    # Udacity's deep-learning course, "Style Transfer with Deep Neural Networks".
    "udacity": Formula(_udacity_style, _mean, 1, lambda terms: 1 / terms),
    # Keras' example and articles after it: sums, and total variation of pixels in 0…255.
    "keras": Formula(_keras_style, lambda _: 1.0, 1.25, lambda _: 255.0**2.5),
    # Ours: relative to the style, and to the content.
    "covariance": Formula(
        lambda p, s, *_: covariance_loss(p, s),
        lambda content: 1 / float(content.square().sum()),
        1,
        lambda terms: 1 / terms,
    ),
}
