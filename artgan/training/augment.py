"""Augmentation of all images that the discriminator sees, real and generated alike.

A discriminator soon memorises few paintings; augmented ones are harder to memorise. The gradient
passes through the augmentation, so the generator still learns to paint images without it.

torch is imported only where it is used: options are checked against `TRANSFORMATIONS` before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

IMAGES_TO_CERTAIN = 500_000  # in which an adapted probability can go from 0 to 1


class Transformation(NamedTuple):
    """One entry of `TRANSFORMATIONS`.

    Attributes:
        function: of images [N, H, W, 3] and one [N] for each amount; keeps shape and dtype.
        slots: columns of the draws: the first decides whether it is applied, the others are the
            amounts in [0, 1).
        neutral: the amount that leaves an image unchanged, to the bit.
    """

    function: Callable[..., Tensor]
    slots: slice
    neutral: float


def augment(
    images: Tensor, draws: Tensor, policy: Sequence[str], probability: Tensor | float = 1.0
) -> Tensor:
    """Applies each transformation of a policy, in its order, to some of the images.

    The images are [N, 3, H, W] in [-1, 1], of any floating dtype, channels_last, and stay so, but
    colours may leave [-1, 1]; blank is 0. The draws are float32 [N, `columns()`], uniform in
    [0, 1). Each transformation is applied to each image with a probability, of which a tensor []
    can change in a captured CUDA graph. It can be differentiated any number of times.

    Source: Zhao et al. 2020 (arXiv:2006.10738), section 3; the probability: Karras et al. 2020
    (arXiv:2006.06676), section 2.3, who decide on brightness, saturation and contrast separately.
    """
    images = images.permute(0, 2, 3, 1)  # the order in memory
    for name in policy:
        transformation = TRANSFORMATIONS[name]
        decision, amounts = draws[:, transformation.slots].tensor_split([1], dim=1)
        amounts = amounts.where(decision < probability, transformation.neutral)
        images = transformation.function(images, *amounts.unbind(1))
    return images.permute(0, 3, 1, 2)


def adapted(probability: Tensor, sign_mean: Tensor, images: int, target: float) -> Tensor:
    """The augmentation's probability, adapted to how far the discriminator overfits.

    A discriminator that has memorised the paintings gives nearly all of them a positive logit, so
    the probability rises while the mean sign is above the target, and falls otherwise.

    Args:
        probability: [] float32 in [0, 1], as is the result.
        sign_mean: [] in [-1, 1], mean sign of the logits of the latest real images.
        images: real images since the last adjustment, over all devices.
        target: the sign_mean to hold, in (-1, 1); 0.6 in the paper.

    Source: Karras et al. 2020 (arXiv:2006.06676), section 3.1, r_t, clamped at 0 only.
    """
    step = images / IMAGES_TO_CERTAIN
    return (probability + step * (sign_mean - target).sign()).clamp(0, 1)


def color(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Adds up to ±0.5, then scales saturation by 0 to 2, then contrast by 0.5 to 1.5.

    With grey the mean of a pixel's channels, and mean that of the image:

        x ← x + b;    x ← grey + s·(x - grey);    x ← mean + c·(x - mean)

    Saturation changes neither grey nor mean, so all three are one sum, which at b = 0 and
    s = c = 1 is x itself, to the bit.
    """
    b, s, c = (
        amount.view(-1, 1, 1, 1) for amount in (brightness - 0.5, 2 * saturation, contrast + 0.5)
    )
    grey = images.mean(-1, keepdim=True)
    mean = grey.mean((1, 2), keepdim=True)
    transformed = c * s * images + (c * (1 - s) * grey + ((1 - c) * mean + b))
    return transformed.to(images.dtype)


def translate(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Shifts by whole pixels, up to 1/8 of the side in each direction; what comes in is blank."""
    from artgan.training.shift import Shift

    shifts = (
        (amount * (2 * (side // 8) + 1)).long() - side // 8
        for amount, side in zip((down, right), images.shape[1:3], strict=True)
    )
    return Shift.apply(images, *shifts)


def cut_out(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Blanks a square of half the side, centred anywhere in the image and clipped at its edges."""
    import torch

    def covered(amount: Tensor, side: int) -> Tensor:  # bool [N, side]
        # The centre is on one of the side + 1 edges between pixels.
        first = (amount * (side + 1)).long() - side // 4
        place = torch.arange(side, device=amount.device) - first[:, None]
        return (place >= 0) & (place < side // 2)

    rows = covered(row, images.shape[1])[:, :, None, None]
    columns = covered(column, images.shape[2])[:, None, :, None]
    # Four times as fast on a CPU as masked_fill.
    return images * ~(rows & columns)


FIRST_COLUMNS = 10  # that every run has drawn: more columns must not change what these are
TRANSFORMATIONS = {
    "color": Transformation(color, slice(0, 4), neutral=0.5),
    "translation": Transformation(translate, slice(4, 7), neutral=0.5),
    "cutout": Transformation(cut_out, slice(7, 10), neutral=2.0),  # outside the image
}


def columns() -> int:
    """How many draws an image needs, whatever the policy."""
    return max(transformation.slots.stop for transformation in TRANSFORMATIONS.values())
