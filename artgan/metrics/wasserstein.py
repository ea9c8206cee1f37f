"""Sliced Wasserstein distance: do patches look alike, at each scale of the image?"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

COARSEST = 16
PATCH = 7
BATCH = 64  # images whose pyramids are in memory at once
CHUNK = 16  # directions whose projections are in memory at once

_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # once along each side: a kernel of 5 × 5


def sliced_wasserstein(
    first: Tensor, second: Tensor, *, patches: int = 128, directions: int = 512, seed: int = 0
) -> dict[int, float]:
    """Distance × 1000 between the patches of two sets of images, by the side of each level.

    The images are uint8 [N, 3, S, S] and [M, 3, S, S], S a power of two of at least 32; the levels
    such as {64: 3.1, 32: 4.5, 16: 7.0}. Descriptors are normalised per level, channel and set, as
    in the paper's code: a change of brightness or contrast common to all goes unnoticed. Both
    sets draw their patches at the same places, so a set is at distance 0 from itself. Of the larger
    set, a random choice as large as the smaller one is taken. The distance falls with more images
    or patches even for sets of one kind, so only distances at equal counts are comparable.

    Raises:
        ValueError: shapes or dtypes are different, or a set is empty.

    Source: Karras et al. 2018 (arXiv:1710.10196), section 5.
    """
    _check(first, second)
    generator = torch.Generator().manual_seed(seed)
    count = min(len(first), len(second))
    first, second = (_choose(images, count, generator) for images in (first, second))
    distances = {}
    side = first.shape[-1]
    levels = side.bit_length() - COARSEST.bit_length() + 1
    for level in range(levels):
        size = side >> level
        rows, columns = torch.randint(size - PATCH + 1, (2, count, patches), generator=generator)
        slices = F.normalize(torch.randn(directions, 3 * PATCH**2, generator=generator))
        distance = projected_distance(
            _descriptors(first, levels, level, rows, columns),
            _descriptors(second, levels, level, rows, columns),
            slices.to(first.device),
        )
        distances[size] = 1000 * float(distance)
    return distances


def projected_distance(first: Tensor, second: Tensor, directions: Tensor) -> Tensor:
    """Mean over directions of the 1-Wasserstein distance between the projections on them.

    On a line, the cheapest way to move one set of points onto another keeps their order, so
    sorting solves the transport. Descriptors are [P, K], directions [D, K] unit vectors, float32.

    Source: Rabin et al. 2011 (Wasserstein barycenter and its application to texture mixing),
    section 2.3.
    """
    per_direction = [
        (_sort(chunk @ first.T) - _sort(chunk @ second.T)).abs().mean(dim=1)
        for chunk in directions.split(CHUNK)
    ]
    return torch.cat(per_direction).mean()


def laplacian_pyramid(images: Tensor, levels: int) -> list[Tensor]:
    """Splits images [N, 3, S, S] into bands [N, 3, S/2^i, S/2^i], the finest first.

    S is divisible by 2^(levels - 1). From the last to the first, `upsample` and add the next to get
    the images back.

    Source: Burt and Adelson 1983 (The Laplacian pyramid as a compact image code).
    """
    pyramid = []
    for _ in range(levels - 1):
        smaller = _blur(images)[..., ::2, ::2]
        pyramid.append(images - upsample(smaller))
        images = smaller
    return [*pyramid, images]


def upsample(images: Tensor) -> Tensor:
    """Doubles the side of images [N, 3, S, S] with the kernel of the pyramid."""
    count, channels, height, width = images.shape
    spread = images.new_zeros(count, channels, 2 * height, 2 * width)
    spread[..., ::2, ::2] = images
    return 4 * _blur(spread)  # three pixels of four were zeros


def _blur(images: Tensor) -> Tensor:
    return window_means(F.pad(images, (2, 2, 2, 2), "reflect"), _BINOMIAL)


def window_means(images: Tensor, weights: Sequence[float]) -> Tensor:
    """Means [N, C, H - k + 1, W - k + 1] over all windows of k × k pixels in images [N, C, H, W].

    The k weights are those along each side. Not a convolution, which a GPU may round to 10 bits
    (TF32): too coarse for variances that are differences of large numbers.
    """
    for dim in (2, 3):
        length = images.shape[dim] - len(weights) + 1
        total = torch.zeros_like(images.narrow(dim, 0, length))
        for start, weight in enumerate(weights):
            total.add_(images.narrow(dim, start, length), alpha=weight)
        images = total
    return images


def _descriptors(images: Tensor, levels: int, level: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Patches of one level at the given places [N, patches], normalised: [N · patches, 147]."""
    count, patches = rows.shape
    descriptors = torch.empty(count, patches, 3, PATCH, PATCH, device=images.device)
    # Each level builds the pyramids again: keeping them for all images would take gigabytes.
    for start in range(0, count, BATCH):
        batch = slice(start, start + BATCH)
        band = laplacian_pyramid(images[batch].float(), levels)[level]
        windows = band.unfold(2, PATCH, 1).unfold(3, PATCH, 1)
        each = torch.arange(len(band))[:, None]
        descriptors[batch] = windows[each, :, rows[batch], columns[batch]]
    deviation, mean = torch.std_mean(descriptors, dim=(0, 1, 3, 4), correction=0, keepdim=True)
    # The bound, in steps of grey, keeps a flat channel from 0 / 0 and from magnified rounding.
    descriptors.sub_(mean).div_(deviation.clamp_min(1e-3))
    return descriptors.flatten(0, 1).flatten(1)


def _sort(projections: Tensor) -> Tensor:
    """Sorts each row; on a CPU in place, by numpy, which is several times faster than torch."""
    if projections.device.type == "cpu":
        projections.numpy().sort(axis=1)
        return projections
    return projections.sort(dim=1).values


def _choose(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    if len(images) == count:
        return images
    chosen = torch.randperm(len(images), generator=generator)[:count]
    return images[chosen.to(images.device)]


def _check(first: Tensor, second: Tensor) -> None:
    for images in (first, second):
        side = images.shape[-1] if images.ndim else 0
        fits = images.ndim == 4 and images.shape[1:] == (3, side, side) and len(images) > 0
        if not fits or images.dtype != torch.uint8 or side < 32 or side & (side - 1):
            raise ValueError(
                "Sliced Wasserstein takes uint8 images [N, 3, S, S], S a power of two of at "
                f"least 32, and at least one of them; got {images.dtype} {list(images.shape)}."
            )
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(
            f"The two sets differ in size: {first.shape[-1]} and {second.shape[-1]} pixels."
        )
