"""How alike the images of one set are: mean MS-SSIM over pairs."""

import math
import random

import torch
import torch.nn.functional as F
from torch import Tensor

from artgan.metrics.wasserstein import window_means

WINDOW = 7
SIGMA = 1.5 * WINDOW / 11  # as in the paper, where the window has 11 pixels
LEAST_SIDE = 8  # of a scale: the window fits in
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
BATCH = 64  # pairs

_GAUSSIAN = [math.exp(-((x - WINDOW // 2) ** 2) / (2 * SIGMA**2)) for x in range(WINDOW)]
_WINDOW_WEIGHTS = [weight / sum(_GAUSSIAN) for weight in _GAUSSIAN]
_LUMINANCE = (0.01 * 255) ** 2
_CONTRAST = (0.03 * 255) ** 2


def mean_similarity(images: Tensor, pairs: int = 1000, seed: int = 0) -> float:
    """Mean MS-SSIM over random pairs of images, in [0, 1]: 1 if all images are the same.

    The images are uint8 [N, 3, S, S], N at least 2, S at least 32. No pair is drawn twice; if there
    are fewer, all are taken. Values of different resolutions are not comparable where the number of
    scales differs, nor are values of the paper's window with these: see `ms_ssim`.

    Raises:
        ValueError: the shape or dtype is different, or `pairs` is below 1.

    Source: Odena et al. 2017 (arXiv:1610.09585), section 4.2.
    """
    if len(images) < 2 or pairs < 1:
        raise ValueError(
            f"Similarity takes at least 2 images and 1 pair; got {len(images)} and {pairs}."
        )
    total = math.comb(len(images), 2)
    numbers = random.Random(seed).sample(range(total), min(pairs, total))
    left, right = torch.tensor([_pair(number) for number in numbers], device=images.device).T
    similarities = [
        ms_ssim(images[i], images[j])
        for i, j in zip(left.split(BATCH), right.split(BATCH), strict=True)
    ]
    return float(torch.cat(similarities).mean())


def ms_ssim(first: Tensor, second: Tensor) -> Tensor:
    """Multi-scale structural similarity of images uint8 [N, 3, S, S], pair by pair.

    The result is float32 [N] in [0, 1]; 1 for equal images. The paper's windows of 11 pixels at 5
    scales need 176 pixels. To give small images a value, the window is a Gaussian of 7 pixels, and
    of the 5 scales, each half the one before, those of 8 pixels or more are used: 3 at 32 pixels, 4
    at 64, 5 from 128. The paper's weights, divided by their sum, are the exponents. A mean below 0
    counts as 0.

    Raises:
        ValueError: shapes or dtypes are different, or S is below 32.

    Source: Wang, Simoncelli and Bovik 2003 (Multi-scale structural similarity for image quality
    assessment), equation 7 and section 3.2 for the weights.
    """
    side = first.shape[-1] if first.ndim else 0
    fits = first.ndim == 4 and first.shape[1:] == (3, side, side) and first.shape == second.shape
    if not fits or side < 32 or first.dtype != torch.uint8 or second.dtype != torch.uint8:
        raise ValueError(
            "MS-SSIM takes two equally large batches of uint8 images [N, 3, S, S], S at least "
            f"32; got {first.dtype} {list(first.shape)} and {second.dtype} {list(second.shape)}."
        )
    scales = min(len(WEIGHTS), (side // LEAST_SIDE).bit_length())
    weights = torch.tensor(WEIGHTS[:scales], device=first.device)
    first, second = first.float(), second.float()
    terms = []
    for scale in range(scales):
        luminance, contrast = _ssim(first, second)
        coarsest = scale == scales - 1
        term = luminance * contrast if coarsest else contrast
        terms.append(term.mean(dim=(1, 2, 3)).clamp_min(0))
        if not coarsest:
            first, second = F.avg_pool2d(first, 2), F.avg_pool2d(second, 2)
    return (torch.stack(terms, dim=1) ** (weights / weights.sum())).prod(dim=1)


def _ssim(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of the luminance term and of the product of the contrast and structure terms."""
    moments = torch.cat([first, second, first * first, second * second, first * second])
    mean1, mean2, square1, square2, product = window_means(moments, _WINDOW_WEIGHTS).chunk(5)
    variance1, variance2 = square1 - mean1 * mean1, square2 - mean2 * mean2
    covariance = product - mean1 * mean2
    luminance = (2 * mean1 * mean2 + _LUMINANCE) / (mean1 * mean1 + mean2 * mean2 + _LUMINANCE)
    contrast = (2 * covariance + _CONTRAST) / (variance1 + variance2 + _CONTRAST)
    return luminance, contrast


def _pair(number: int) -> tuple[int, int]:
    """The pair of that number in the order (0, 1), (0, 2), (1, 2), (0, 3), …"""
    larger = (1 + math.isqrt(8 * number + 1)) // 2
    return number - math.comb(larger, 2), larger
