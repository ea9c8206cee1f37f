"""Distances between two sets of features: Fréchet, kernel, and precision with recall."""

import torch
from torch import Tensor

CHUNK = 1000  # rows of the distance table in memory at once
RESOLUTION = 1e-6  # of float32 features, relative to their length


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Fréchet distance (FID) between Gaussians fitted to features [N, D] and [M, D].

    It is 0 for equal sets, up to rounding, and in the square of the features' unit. It falls with
    more features even for sets of one kind, so only distances at equal counts are comparable.

    Raises:
        ValueError: shapes do not fit, a set has fewer than 2 rows, or a feature is not finite.

    Source: Heusel et al. 2017 (arXiv:1706.08500), equation 6.
    """
    first, second = _checked(first, second)
    shift = first.mean(dim=0) - second.mean(dim=0)
    first_covariance, second_covariance = _covariance(first), _covariance(second)
    # (S₁S₂)^½ and (S₁^½ S₂ S₁^½)^½ have the same trace, but only the latter is symmetric, so that
    # its eigenvalues are real, and nonnegative up to rounding.
    eigenvalues, eigenvectors = torch.linalg.eigh(first_covariance)
    root = eigenvectors * eigenvalues.clamp_min(0).sqrt() @ eigenvectors.T
    eigenvalues = torch.linalg.eigvalsh(root @ second_covariance @ root)
    overlap = eigenvalues.clamp_min(0).sqrt().sum()
    distance = shift.square().sum() + (first_covariance + second_covariance).trace() - 2 * overlap
    return max(float(distance), 0.0)


def kernel_distance(
    first: Tensor, second: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Unbiased squared MMD under a cubic kernel (KID), its mean and deviation over subsets.

    Unlike the Fréchet distance it has the same expectation at any count of features [N, D] and
    [M, D]. Sets of one kind give about 0, of either sign. Subsets are drawn without replacement, at
    most as large as the smaller set; if no set is larger than a subset, there is one subset, and
    the deviation is 0.

    Raises:
        ValueError: shapes do not fit, a set or subset has fewer than 2 rows, there is no subset, or
            a feature is not finite.

    Source: Bińkowski et al. 2018 (arXiv:1801.01401), section 4; the estimator is equation 4.
    """
    first, second = _checked(first, second)
    if subsets < 1 or subset_size < 2:
        raise ValueError(
            "KID needs at least 1 subset of at least 2 features; "
            f"got {subsets} subsets of {subset_size}."
        )
    size = min(subset_size, len(first), len(second))
    if size == len(first) == len(second):
        subsets = 1
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for _ in range(subsets):
        one, other = (
            features[torch.randperm(len(features), generator=generator)[:size]]
            for features in (first, second)
        )
        distances.append(_squared_mmd(one, other))
    deviation, mean = torch.std_mean(torch.stack(distances), correction=0)
    return float(mean), float(deviation)


def precision_recall(real: Tensor, fake: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Shares of fakes that could be real (precision) and of reals that could be fake (recall).

    The manifold of a set [N, D] is the union of balls around its features that reach to their k-th
    nearest neighbour in the set. Precision is the share of fakes on the manifold of the reals,
    recall the share of reals on that of the fakes.

    Raises:
        ValueError: shapes do not fit, a set has no more rows than `neighbours`, that is less than
            1, or a feature is not finite.

    Source: Kynkäänniemi et al. 2019 (arXiv:1904.06991), section 2, equations 1–3.
    """
    if neighbours < 1:
        raise ValueError(f"A ball reaches to neighbour 1 or a later one; got {neighbours}.")
    real, fake = _checked(real, fake, least=neighbours + 1)
    # Distances by matrix products lose digits far from the origin.
    centre = real.mean(dim=0)
    real, fake = real - centre, fake - centre
    return _share_on_manifold(fake, real, neighbours), _share_on_manifold(real, fake, neighbours)


def _checked(first: Tensor, second: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    """Both sets in float64, so that differences of large sums keep their digits."""
    for features in (first, second):
        if features.ndim != 2 or len(features) < least or not features.is_floating_point():
            raise ValueError(
                f"Expected float features [N, D] with N of at least {least}; "
                f"got {features.dtype} {list(features.shape)}."
            )
        if not features.isfinite().all():
            raise ValueError("The features contain NaN or infinity.")
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"The two sets have features of different width: {first.shape[1]} and "
            f"{second.shape[1]}."
        )
    return first.double(), second.double()


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(dim=0)
    return centred.T @ centred / (len(features) - 1)


def _squared_mmd(first: Tensor, second: Tensor) -> Tensor:
    """Unbiased estimate from two sets of equal size; a feature is not compared with itself."""
    size = len(first)
    within = sum(
        (table.sum() - table.trace()) / (size * (size - 1))
        for table in (_kernel(first, first), _kernel(second, second))
    )
    return within - 2 * _kernel(first, second).mean()


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.T / first.shape[1] + 1) ** 3


def _share_on_manifold(features: Tensor, centres: Tensor, neighbours: int) -> float:
    """Share of features [N, D] in the ball of at least one of the centres [M, D]."""
    # The nearest centre is the centre itself. Of more than k equal centres the radius is 0, and
    # rounding must not push a copy out of the ball.
    radii = torch.cat(
        [
            torch.cdist(chunk, centres).kthvalue(neighbours + 1, dim=1).values
            for chunk in centres.split(CHUNK)
        ]
    )
    radii += RESOLUTION * centres.norm(dim=1)
    inside = [(torch.cdist(chunk, centres) <= radii).any(dim=1) for chunk in features.split(CHUNK)]
    return float(torch.cat(inside).double().mean())
