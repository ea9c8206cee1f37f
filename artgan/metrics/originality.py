"""Does the network copy? Samples and the training paintings that are nearest to them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Of paintings that were not trained on, one in twenty lies as near to one that was.
NEAR = 0.05
THUMBNAIL = 16


@dataclass(frozen=True)
class Copies:
    """The nearest training painting of each sample.

    Attributes:
        neighbours: int64 [N], number of that painting.
        order: int64 [N], samples from the one nearest to a painting to the farthest.
        figures: `distance`, the samples' median; `distance of paintings`, that of paintings which
            are not in the training set, or of each training painting to the others; `ratio` of the
            two, well below 1 where the network copies; `near`, the share of samples that lie nearer
            to a training painting than 95 % of those paintings do, 0.05 for paintings.
    """

    neighbours: Tensor
    order: Tensor
    figures: dict[str, float]


def nearest(samples: Tensor, training: Tensor, held_out: Tensor | None = None) -> Copies:
    """Finds each sample's nearest training painting, and how near paintings lie by themselves.

    Args:
        samples: features [N, D], or pictures uint8 [N, 3, H, W], compared as thumbnails of 16×16.
        training: the same of the training paintings, at least two.
        held_out: the same of paintings that were not trained on, if there are any.

    Source: the comparison with distances between paintings is that of data-copying tests, as
    Meehan, Chaudhuri, Dasgupta 2020 (arXiv:2004.05675), without their division into cells.
    """
    samples, training = _descriptors(samples), _descriptors(training)
    distances, neighbours = _to_nearest(samples, training)
    if held_out is not None:
        usual, _ = _to_nearest(_descriptors(held_out), training)
    else:
        usual, _ = _to_nearest(training, training, among_themselves=True)
    tiny = torch.finfo(torch.float32).tiny
    figures = {
        "distance": distances.median().item(),
        "distance of paintings": usual.median().item(),
        "ratio": (distances.median() / usual.median().clamp_min(tiny)).item(),
        "near": (distances < usual.quantile(NEAR)).float().mean().item(),
    }
    return Copies(neighbours, distances.argsort(), figures)


def _descriptors(items: Tensor) -> Tensor:
    if items.dim() == 2:
        return items.float()
    return F.adaptive_avg_pool2d(items.float() / 255, THUMBNAIL).flatten(1)


def _to_nearest(
    items: Tensor, others: Tensor, among_themselves: bool = False
) -> tuple[Tensor, Tensor]:
    """L2 distances [N] to the nearest of the others, and its numbers [N]."""
    distances, numbers = [], []
    for start in range(0, len(items), 1000):
        table = torch.cdist(items[start : start + 1000], others)
        if among_themselves:
            own = torch.arange(len(table))
            table[own, own + start] = torch.inf
        least = table.min(dim=1)
        distances.append(least.values)
        numbers.append(least.indices)
    return torch.cat(distances), torch.cat(numbers)
