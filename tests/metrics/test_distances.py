import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from artgan.metrics import distances
from artgan.metrics.distances import frechet_distance, kernel_distance, precision_recall


def gaussian(count: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64)


def with_moments(mean: Tensor, covariance: Tensor, seed: int) -> Tensor:
    """Features whose sample mean and unbiased sample covariance are the given ones exactly."""
    sample = gaussian(200, len(mean), seed)
    sample = torch.linalg.qr(sample - sample.mean(dim=0)).Q * math.sqrt(len(sample) - 1)
    return sample @ torch.linalg.cholesky(covariance.double()).T + mean


def random_covariance(width: int, seed: int) -> Tensor:
    factor = gaussian(width, width, seed)
    return factor @ factor.T + 0.1 * torch.eye(width)


# Fréchet distance


def test_frechet_of_large_gaussian_samples_is_that_of_the_gaussians() -> None:
    mean = torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=torch.float64)
    deviation = torch.tensor([1.0, 3.0, 0.5, 2.0], dtype=torch.float64)
    first = gaussian(200_000, 4, seed=0)
    second = gaussian(200_000, 4, seed=1) * deviation + mean
    # With diagonal covariances the distance is |Δμ|² + Σ(Δσ)².
    expected = float(mean.square().sum() + (deviation - 1).square().sum())
    assert frechet_distance(first, second) == pytest.approx(expected, rel=0.01)


def test_frechet_is_exact_for_known_means_and_diagonal_covariances() -> None:
    mean = torch.tensor([3.0, 0.0, -4.0], dtype=torch.float64)
    first = with_moments(torch.zeros_like(mean), torch.diag(torch.tensor([1.0, 4.0, 9.0])), seed=0)
    second = with_moments(mean, torch.diag(torch.tensor([4.0, 4.0, 1.0])), seed=1)
    assert frechet_distance(first, second) == pytest.approx(25 + 1 + 0 + 4, abs=1e-6)


def test_frechet_is_exact_for_covariances_that_do_not_commute() -> None:
    width = 6
    zero = torch.zeros(width, dtype=torch.float64)
    one, other = random_covariance(width, seed=2), random_covariance(width, seed=3)
    # The product has real, positive eigenvalues, though no symmetry.
    roots = torch.linalg.eigvals(one @ other).real.sqrt()
    expected = float(one.trace() + other.trace() - 2 * roots.sum())
    distance = frechet_distance(with_moments(zero, one, 4), with_moments(zero, other, 5))
    assert distance == pytest.approx(expected, abs=1e-6)


def test_frechet_of_one_feature_is_that_of_two_numbers() -> None:
    first, second = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [13.0]])
    expected = (9 - 1) ** 2 + (math.sqrt(32) - math.sqrt(2)) ** 2  # unbiased variances 2 and 32
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [2, 20, 300])
def test_frechet_from_a_set_to_itself_is_zero_also_when_rows_are_few(count: int) -> None:
    scale = torch.logspace(0, -6, 100, dtype=torch.float64)
    features = (gaussian(count, 100, seed=6) * scale + 50).float()
    variance = float(features.double().var(dim=0).sum())
    assert 0 <= frechet_distance(features, features) < 1e-6 * variance
    shuffled = features[torch.randperm(count, generator=torch.Generator().manual_seed(0))]
    assert 0 <= frechet_distance(features, shuffled) < 1e-6 * variance


def test_frechet_of_rank_deficient_sets_in_orthogonal_planes_adds_their_variances() -> None:
    first, second = torch.zeros(30, 100), torch.zeros(40, 100)
    first[:, :5] = gaussian(30, 5, seed=7).float()
    second[:, 5:12] = gaussian(40, 7, seed=8).float()
    shift = first.double().mean(dim=0) - second.double().mean(dim=0)
    variances = first.double().var(dim=0).sum() + second.double().var(dim=0).sum()
    expected = float(shift.square().sum() + variances)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [10, 500])
def test_frechet_is_symmetric_and_blind_to_shifts_and_rotations_of_both(count: int) -> None:
    first, second = gaussian(count, 40, seed=9), gaussian(count, 40, seed=10) * 2 + 1
    distance = frechet_distance(first, second)
    assert frechet_distance(second, first) == pytest.approx(distance, rel=1e-6)
    rotation = torch.linalg.qr(gaussian(40, 40, seed=11)).Q
    moved = frechet_distance(first @ rotation + 7, second @ rotation + 7)
    assert moved == pytest.approx(distance, rel=1e-6)


# Kernel distance


def squared_mmd_by_loops(first: Tensor, second: Tensor) -> float:
    def kernel(one: list[float], other: list[float]) -> float:
        products = [a * b for a, b in zip(one, other, strict=True)]
        return (sum(products) / len(one) + 1) ** 3

    def within(rows: list[list[float]]) -> float:
        total, pairs = 0.0, 0
        for i, one in enumerate(rows):
            for j, other in enumerate(rows):
                if i != j:
                    total += kernel(one, other)
                    pairs += 1
        return total / pairs

    ours, theirs = first.tolist(), second.tolist()
    across = [kernel(one, other) for one in ours for other in theirs]
    return within(ours) + within(theirs) - 2 * sum(across) / len(across)


def test_kernel_distance_of_whole_sets_is_that_of_the_double_loop() -> None:
    first, second = gaussian(23, 7, seed=0), gaussian(23, 7, seed=1) + 0.3
    mean, deviation = kernel_distance(first, second)
    assert mean == pytest.approx(squared_mmd_by_loops(first, second), rel=1e-10)
    assert deviation == 0


def test_kernel_distance_computed_by_hand() -> None:
    first, second = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    # Within: k(0, 1) = 1 and k(1, 2) = 27. Across: 1, 1, 8 and 27.
    assert kernel_distance(first, second)[0] == pytest.approx(1 + 27 - 2 * 37 / 4, rel=1e-12)


def test_kernel_distance_over_all_subsets_is_the_mean_over_the_pairs_of_rows() -> None:
    first, second = gaussian(4, 3, seed=2), gaussian(3, 3, seed=3)
    pairs = [
        squared_mmd_by_loops(first[[i, j]], second[[k, m]])
        for i in range(4)
        for j in range(i)
        for k in range(3)
        for m in range(k)
    ]
    expected = torch.tensor(pairs, dtype=torch.float64)
    mean, deviation = kernel_distance(first, second, subsets=4000, subset_size=2)
    error = float(expected.std()) / math.sqrt(4000)
    assert abs(mean - float(expected.mean())) < 4 * error
    assert deviation == pytest.approx(float(expected.std(correction=0)), rel=0.1)


def test_subsets_are_drawn_without_replacement_and_no_larger_than_the_smaller_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = gaussian(12, 5, seed=4), gaussian(6, 5, seed=5)
    sizes: list[tuple[int, int]] = []
    squared_mmd = distances._squared_mmd

    def recording(one: Tensor, other: Tensor) -> Tensor:
        sizes.append((len(one.unique(dim=0)), len(other.unique(dim=0))))
        return squared_mmd(one, other)

    monkeypatch.setattr(distances, "_squared_mmd", recording)
    _, deviation = kernel_distance(first, second, subsets=9)
    assert sizes == [(6, 6)] * 9
    assert deviation > 0


def test_kernel_distance_of_one_distribution_is_zero_within_its_error_and_takes_both_signs() -> (
    None
):
    values = torch.tensor(
        [
            kernel_distance(gaussian(100, 8, seed=2 * i), gaussian(100, 8, seed=2 * i + 1))[0]
            for i in range(60)
        ]
    )
    assert abs(float(values.mean())) < 3 * float(values.std()) / math.sqrt(len(values))
    assert float(values.min()) < 0 < float(values.max())


def test_kernel_distance_is_repeatable_and_its_seed_chooses_the_subsets() -> None:
    first, second = gaussian(60, 5, seed=6), gaussian(50, 5, seed=7)
    once = kernel_distance(first, second, subsets=5, subset_size=20, seed=1)
    torch.rand(3)  # the global generator is of no account
    assert kernel_distance(first, second, subsets=5, subset_size=20, seed=1) == once
    assert kernel_distance(first, second, subsets=5, subset_size=20, seed=2) != once


def test_kernel_distance_sees_a_shift_and_grows_with_it() -> None:
    first, second = gaussian(300, 8, seed=8), gaussian(300, 8, seed=9)
    near, far = (kernel_distance(first, second + shift)[0] for shift in (0.5, 1.0))
    assert 0.1 < near < far


# Precision and recall


def on_manifold_by_loops(features: Tensor, centres: Tensor, neighbours: int) -> float:
    rows, balls = features.tolist(), centres.tolist()
    radii = [
        sorted(math.dist(centre, other) for j, other in enumerate(balls) if j != i)[neighbours - 1]
        for i, centre in enumerate(balls)
    ]
    hits = [
        any(math.dist(row, centre) <= radius for centre, radius in zip(balls, radii, strict=True))
        for row in rows
    ]
    return sum(hits) / len(hits)


def test_precision_and_recall_on_a_line_computed_by_hand() -> None:
    # With one neighbour the reals cover [-1, 14], the fakes [0.5, 3.5] and [2.5, 37.5].
    real = torch.tensor([[0.0], [1.0], [10.0], [6.0]])
    fake = torch.tensor([[1.5], [2.5], [20.0]])
    precision, recall = precision_recall(real, fake, neighbours=1)
    # Of the fakes 1.5 and 2.5 are covered, 20 is not; of the reals 1, 6 and 10 are, 0 is not.
    assert precision == pytest.approx(2 / 3)
    assert recall == pytest.approx(3 / 4)


def test_the_edge_belongs_to_the_ball() -> None:
    real = torch.tensor([[0.0], [1.0]])
    fake = torch.tensor([[2.0], [2.0 + 1e-3], [100.0], [101.0]])
    assert precision_recall(real, fake, neighbours=1)[0] == 0.25


def test_fakes_of_one_mode_are_precise_and_recall_only_that_mode() -> None:
    # Eight modes of ten paintings each on a circle in the plane, fakes only of the first.
    angle = torch.arange(8) * (math.tau / 8)
    modes = 100 * torch.stack([angle.cos(), angle.sin()], dim=1)
    real = (modes[:, None] + gaussian(10, 2, seed=0).float()).flatten(0, 1)
    assert precision_recall(real, real[:10]) == (1.0, 1 / 8)


def test_recall_of_copies_of_two_paintings_is_those_two_though_their_balls_are_points() -> None:
    for seed in range(20):  # of some sets, rounding would push copies out of their ball
        real = gaussian(200, 64, seed).float() + 30
        fake = torch.cat([real[17].repeat(5, 1), real[5].repeat(5, 1)])
        assert precision_recall(real, fake) == (1.0, 2 / 200)


def test_precision_and_recall_are_blind_to_shifts_of_both() -> None:
    real, fake = gaussian(120, 6, seed=7), gaussian(80, 6, seed=8) + 1
    assert precision_recall(real + 1e5, fake + 1e5) == precision_recall(real, fake)


def test_disjoint_sets_have_neither_and_identical_sets_have_both() -> None:
    real = gaussian(300, 16, seed=2).float()
    assert precision_recall(real, real + 1000) == (0.0, 0.0)
    assert precision_recall(real, real.clone()) == (1.0, 1.0)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_precision_and_recall_are_those_of_the_loops(
    neighbours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distances, "CHUNK", 32)
    real, fake = gaussian(90, 4, seed=3), gaussian(70, 4, seed=4) * 1.3 + 0.8
    precision, recall = precision_recall(real, fake, neighbours)
    assert precision == pytest.approx(on_manifold_by_loops(fake, real, neighbours))
    assert recall == pytest.approx(on_manifold_by_loops(real, fake, neighbours))
    assert 0.1 < precision < 0.95  # or else the comparison says little
    assert 0.1 < recall < 0.95


def test_exchanging_the_sets_exchanges_precision_and_recall() -> None:
    real, fake = gaussian(120, 6, seed=5), gaussian(80, 6, seed=6) * 0.5
    precision, recall = precision_recall(real, fake)
    assert precision > recall
    assert precision_recall(fake, real) == (recall, precision)


# What is refused


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance, precision_recall])
def test_unfit_features_are_refused(measure: Callable[[Tensor, Tensor], object]) -> None:
    good = gaussian(10, 4, seed=0)
    with pytest.raises(ValueError, match="different width: 4 and 3"):
        measure(good, good[:, :3])
    with pytest.raises(ValueError, match="at least"):
        measure(good, good[:1])
    with pytest.raises(ValueError, match="at least"):
        measure(good[:1], good)
    with pytest.raises(ValueError, match="float features"):
        measure(good, good[0])
    with pytest.raises(ValueError, match="float features"):
        measure(good, good.long())
    with pytest.raises(ValueError, match="NaN"):
        measure(good, good.log())


def test_unfit_numbers_are_refused() -> None:
    good = gaussian(10, 4, seed=0)
    with pytest.raises(ValueError, match="0 subsets"):
        kernel_distance(good, good, subsets=0)
    with pytest.raises(ValueError, match="subsets of 1"):
        kernel_distance(good, good, subset_size=1)
    with pytest.raises(ValueError, match="got 0"):
        precision_recall(good, good, neighbours=0)
    with pytest.raises(ValueError, match="at least 11"):
        precision_recall(good, good, neighbours=10)


def test_all_three_are_those_of_torch_fidelity() -> None:
    real, fake = gaussian(150, 12, seed=5), gaussian(150, 12, seed=6) * 1.2 + 0.4
    statistics = [fid_features_to_statistics(features) for features in (real, fake)]
    fid = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(real, fake) == pytest.approx(fid, rel=1e-6)

    whole = {"kid_subsets": 1, "kid_subset_size": 150, "rng_seed": 0, "verbose": False}
    kid = kid_features_to_metric(real, fake, **whole)["kernel_inception_distance_mean"]
    assert kernel_distance(real, fake)[0] == pytest.approx(kid, rel=1e-6)

    balls = {"prc_neighborhood": 3, "prc_batch_size": 50, "save_cpu_ram": False, "verbose": False}
    theirs = prc_features_to_metric(fake, real, **balls)
    assert precision_recall(real, fake) == pytest.approx((theirs["precision"], theirs["recall"]))
