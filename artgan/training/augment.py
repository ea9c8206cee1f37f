"""Augmentation of what the discriminator sees, paintings and generated pictures alike.

Few paintings are soon learned by heart. Augmented ones are harder to, and as the gradient passes
through the augmentation, the generator still learns to paint pictures that are not augmented.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS = 10  # numbers that each picture needs, whatever the policy


def augment(
    images: Tensor, draws: Tensor, policy: Sequence[str], probability: Tensor | float = 1.0
) -> Tensor:
    """Pictures after some transformations, each of which a picture may be spared.

    A function of its tensors alone, which neither waits for the device nor decides by a value, so
    that it can be captured as a CUDA graph. It can be differentiated any number of times.

    Args:
        images: [N, 3, H, W] in [-1, 1], of any floating type, channels_last.
        draws: float32 [N, DRAWS], uniform in [0, 1). A transformation uses the same ones of them
            in every policy.
        policy: names of `TRANSFORMATIONS`, in the order in which they are applied.
        probability: that a transformation is applied to a picture, in [0, 1]; each picture and
            each transformation decides for itself. A tensor [] can change in a captured graph.

    Returns:
        [N, 3, H, W], type and layout as given. Colours may leave [-1, 1]; what is blank is 0.

    Raises:
        KeyError: a name is none of `TRANSFORMATIONS`.

    Source: Zhao et al. 2020 (arXiv:2006.10738), section 3; the probability is that of Karras et
    al. 2020 (arXiv:2006.06676), section 2.3, who decide on brightness, saturation and contrast
    one by one, not together as here.
    """
    pictures = images.permute(0, 2, 3, 1)  # as they lie in memory
    for name in policy:
        transform, slots, neutral = TRANSFORMATIONS[name]
        decision, amounts = draws[:, slots].tensor_split([1], dim=1)
        amounts = torch.where(decision < probability, amounts, neutral)
        pictures = transform(pictures, *amounts.unbind(1))
    return pictures.permute(0, 3, 1, 2)


def adapted(
    probability: Tensor, sign_mean: Tensor, images: int, target: float, speed: float = 500_000
) -> Tensor:
    """The augmentation's probability after a look at how far the discriminator overfits.

    One that knows the paintings by heart is sure of them: of ever more of them its logit is
    positive. So the probability rises while their share is too large, and falls while it is not.

    Args:
        probability: [] float32 in [0, 1].
        sign_mean: [] in [-1, 1], mean sign of the logits of the latest paintings.
        images: paintings seen since the last adjustment, over all devices.
        target: the sign_mean to hold, in (-1, 1); the paper's is 0.6.
        speed: images in which the probability can go from 0 to 1.

    Returns:
        [] float32 in [0, 1], a new tensor, made without waiting for the device.

    Source: Karras et al. 2020 (arXiv:2006.06676), section 3.1, r_t of equation 1. Theirs is
    clamped at 0 only.
    """
    step = images / speed
    return (probability + step * (sign_mean - target).sign()).clamp(0, 1)


def _color(pictures: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Brightness plus up to ±0.5, then saturation times 0 to 2, then contrast times 0.5 to 1.5.

    In full, with the grey of a pixel (mean of its channels) and the mean of a picture:

        x ← x + b;    x ← grey + s·(x - grey);    x ← mean + c·(x - mean)

    Saturation leaves grey and mean as they are, so that all three are one sum, which at b = 0 and
    s = c = 1 is x itself, to the bit.

    Args:
        pictures: [N, H, W, 3].
        brightness: [N] in [0, 1), as are all amounts.
        saturation: [N].
        contrast: [N].
    """
    b, s, c = (
        amount.view(-1, 1, 1, 1) for amount in (brightness - 0.5, 2 * saturation, contrast + 0.5)
    )
    grey = pictures.mean(-1, keepdim=True)
    mean = grey.mean((1, 2), keepdim=True)
    transformed = c * s * pictures + (c * (1 - s) * grey + ((1 - c) * mean + b))
    return transformed.to(pictures.dtype)


def _translate(pictures: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """A shift by whole pixels, up to 1/8 of the side in each direction; blank where none was.

    Args:
        pictures: [N, H, W, 3].
        down: [N] in [0, 1), over the shifts from H/8 up to H/8 down.
        right: [N] in [0, 1), over the shifts from W/8 to the left to W/8 to the right.
    """
    reaches = (side // 8 for side in pictures.shape[1:3])
    shifts = (
        (amount * (2 * reach + 1)).long() - reach
        for amount, reach in zip((down, right), reaches, strict=True)
    )
    return _Shift.apply(pictures, *shifts)


class _Shift(torch.autograd.Function):
    """A shift of each picture by at most 1/8 of its side.

    The transpose of a shift is the opposite shift. Autograd does not know this: it would fill the
    gradient of all windows with zeros to add one of them, which takes 500 times as long
    on a CPU at 64 pixels.
    """

    @staticmethod
    def forward(pictures: Tensor, down: Tensor, right: Tensor) -> Tensor:
        height, width = pictures.shape[1:3]
        y, x = height // 8, width // 8
        padded = F.pad(pictures, (0, 0, x, x, y, y))
        # A view of every place that the picture can be cut from [N, 2y+1, 2x+1, H, W, 3].
        windows = padded.unfold(1, height, 1).unfold(2, width, 1).movedim(3, -1)
        every = torch.arange(len(pictures), device=pictures.device)
        return windows[every, y - down, x - right]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        down, right = ctx.saved_tensors
        return _Shift.apply(gradient, -down, -right), None, None


def _cut_out(pictures: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Blank in a square of half the side, of which the borders cut off what lies outside.

    Args:
        pictures: [N, H, W, 3].
        row: [N] in [0, 1), over the H + 1 edges between rows that the centre can lie on.
        column: [N] in [0, 1), over the W + 1 edges between columns.
    """

    def covered(amount: Tensor, side: int) -> Tensor:  # bool [N, side]
        first = (amount * (side + 1)).long() - side // 4
        place = torch.arange(side, device=amount.device) - first[:, None]
        return (place >= 0) & (place < side // 2)

    rows = covered(row, pictures.shape[1])[:, :, None, None]
    columns = covered(column, pictures.shape[2])[:, None, :, None]
    return pictures.masked_fill(rows & columns, 0)


class Transformation(NamedTuple):
    """A transformation of pictures [N, H, W, 3] by amounts [N].

    Attributes:
        function: of the pictures and the amounts.
        slots: its draws: the one that decides whether it is applied, then the amounts.
        neutral: the amount at which it leaves a picture as it is, to the bit.
    """

    function: Callable[..., Tensor]
    slots: slice
    neutral: float


TRANSFORMATIONS = {
    "color": Transformation(_color, slice(0, 4), neutral=0.5),
    "translation": Transformation(_translate, slice(4, 7), neutral=0.5),
    "cutout": Transformation(_cut_out, slice(7, 10), neutral=2.0),  # beyond the borders
}
