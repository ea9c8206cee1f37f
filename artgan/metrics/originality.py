"""Does the network copy? Samples and the training paintings that are nearest to them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Of paintings that were not trained on, one in twenty is as near to one that was.
NEAR = 0.05
THUMBNAIL = 16
MOST = 2000  # training paintings whose distances to the others are computed
CHUNK = 250  # rows of the distance table in memory at once


@dataclass(frozen=True)
class Copies:
    """The nearest training painting of each sample.

    Attributes:
        neighbours: int64 [N], number of that painting; M more, the count of them, where its mirror
            image is nearest.
        order: int64 [N], samples from the one nearest to a painting to the farthest.
        scores: `distance`, the samples' median; `distance of paintings`, that of each training
            painting to the others; `distance of held-out paintings`, if there are any; `ratio` of
            the samples' to the last of the two, well below 1 where the network copies or has
            collapsed; `near`, the share of samples that are nearer to a training painting than 95 %
            of those paintings are, 0.05 for paintings.
    """

    neighbours: Tensor
    order: Tensor
    scores: dict[str, float]


def nearest(
    samples: Tensor,
    training: Tensor,
    mirrored: Tensor | None = None,
    held_out: Tensor | None = None,
    paintings: Tensor | None = None,
) -> Copies:
    """Finds each sample's nearest training painting, and how near paintings are to each other.

    Args:
        samples: [N, D] features, or `thumbnails`.
        training: [M, D], the same of all training paintings, at least two.
        mirrored: [M, D], the same of their mirror images, if those are trained on too.
        held_out: [H, D], the same of paintings that were not trained on, if there are any.
        paintings: int64 [M], number of the painting that each row of `training` is cut from, since
            overlapping squares say nothing about distances; by default each is one of its own.

    Source: the comparison with distances between paintings is that of data-copying tests, as
    Meehan, Chaudhuri, Dasgupta 2020 (arXiv:2004.05675), without their division into cells.
    """
    seen = [training] if mirrored is None else [training, mirrored]
    if paintings is None or (paintings == paintings[0]).all():
        paintings = torch.arange(len(training))
    distances, neighbours = _to_nearest(samples, seen)
    count = min(len(training), MOST)
    spread = torch.arange(count) * len(training) // count
    usual, _ = _to_nearest(training[spread], seen, (paintings[spread], paintings))
    scores = {
        "distance": distances.median().item(),
        "distance of paintings": usual.median().item(),
    }
    if held_out is not None:
        usual, _ = _to_nearest(held_out, seen)
        scores["distance of held-out paintings"] = usual.median().item()
    tiny = torch.finfo(torch.float32).tiny
    scores["ratio"] = (distances.median() / usual.median().clamp_min(tiny)).item()
    scores["near"] = (distances < usual.quantile(NEAR)).float().mean().item()
    return Copies(neighbours, distances.argsort(), scores)


def thumbnails(images: Tensor) -> Tensor:
    """Images uint8 [N, 3, H, W] as rows float32 [N, 768] of 16×16 pixels."""
    return F.adaptive_avg_pool2d(images.float() / 255, THUMBNAIL).flatten(1)


def _to_nearest(
    items: Tensor,
    others: list[Tensor],
    paintings: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """L2 distances [N] to the nearest of the others, and its numbers [N], one set after another.

    If `paintings` says which ones items and others belong to, an item's own is left out.
    """
    distances, numbers = [], []
    for start in range(0, len(items), CHUNK):
        chunk = items[start : start + CHUNK]
        tables = [torch.cdist(chunk, other) for other in others]
        if paintings is not None:
            own, of_others = paintings
            for table in tables:
                table[own[start : start + CHUNK, None] == of_others] = torch.inf
        least = torch.cat(tables, dim=1).min(dim=1)
        distances.append(least.values)
        numbers.append(least.indices)
    return torch.cat(distances), torch.cat(numbers)
