from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from artgan import inkwash
from artgan.metrics.wasserstein import (
    laplacian_pyramid,
    projected_distance,
    sliced_wasserstein,
    upsample,
)


def paintings(count: int, start: int = 0, side: int = 64) -> Tensor:
    numbers = range(start, start + count)
    painted = torch.stack([torch.from_numpy(inkwash.paint(0, n)) for n in numbers])
    return F.interpolate(painted.permute(0, 3, 1, 2).float(), side, mode="area").byte()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return paintings(48)


def blurred(images: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(images.float(), (1, 1, 1, 1), "reflect"), 3, 1).byte()


def noisy(images: Tensor) -> Tensor:
    noise = 12 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + noise).clamp(0, 255).byte()


def blocks(images: Tensor) -> Tensor:
    """Every quarter of a picture turned half round: all as it was, but for the composition."""
    quarters = images.unflatten(3, (2, -1)).unflatten(2, (2, -1))
    return quarters.flip(2, 4).flatten(2, 3).flatten(3, 4)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_set_is_at_no_distance_from_itself(images: Tensor, seed: int) -> None:
    distances = sliced_wasserstein(images, images, directions=32, seed=seed)
    assert distances == {64: 0.0, 32: 0.0, 16: 0.0}


def test_another_order_of_the_pictures_costs_what_few_patches_cost(images: Tensor) -> None:
    few = sliced_wasserstein(images, images.flip(0), patches=8, directions=64)
    many = sliced_wasserstein(images, images.flip(0), directions=64)
    for side, distance in many.items():
        assert 0 < 2 * distance < few[side] < 200


def test_distance_is_symmetric_and_repeats_with_its_seed(images: Tensor) -> None:
    distances = sliced_wasserstein(images, noisy(images), directions=32)
    assert distances == sliced_wasserstein(images, noisy(images), directions=32)
    assert distances == sliced_wasserstein(noisy(images), images, directions=32)
    assert distances != sliced_wasserstein(images, noisy(images), directions=32, seed=1)


def test_one_direction_gives_the_cheapest_of_all_transports() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 6, 147, generator=generator)
    direction = F.normalize(torch.randn(1, 147, generator=generator))
    cheapest = min(
        ((first @ direction[0])[list(order)] - second @ direction[0]).abs().mean()
        for order in permutations(range(6))
    )
    torch.testing.assert_close(projected_distance(first, second, direction), cheapest)


def test_the_mean_is_over_all_directions_whatever_their_number() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 50, 147, generator=generator)
    directions = F.normalize(torch.randn(37, 147, generator=generator))
    each = [projected_distance(first, second, direction[None]) for direction in directions]
    torch.testing.assert_close(
        projected_distance(first, second, directions), torch.stack(each).mean()
    )


def test_moved_descriptors_are_as_far_as_the_move_projects() -> None:
    generator = torch.Generator().manual_seed(0)
    descriptors, move = torch.randn(200, 147, generator=generator), torch.zeros(147)
    move[5] = 3.0
    directions = F.normalize(torch.randn(40, 147, generator=generator))
    torch.testing.assert_close(
        projected_distance(descriptors, descriptors + move, directions),
        3 * directions[:, 5].abs().mean(),
    )


def test_normal_descriptors_are_as_far_as_their_deviations_differ() -> None:
    """White noise projects to deviation 1, flat grey patches to the sum of the direction; of two
    normal distributions, the distance is √(2/π) times the difference of the deviations.
    """
    generator = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(64, 147, generator=generator))
    noise = torch.randn(20_000, 147, generator=generator)
    flat = torch.randn(20_000, 1, generator=generator).expand(-1, 147)
    expected = (2 / torch.pi) ** 0.5 * (1 - directions.sum(dim=1).abs()).abs().mean()
    torch.testing.assert_close(
        projected_distance(noise, flat, directions), expected, atol=0.01, rtol=0
    )


def test_blur_and_noise_change_the_finest_level_most(images: Tensor) -> None:
    same = sliced_wasserstein(images, images.flip(0), directions=64)
    for damaged in (blurred(blurred(images)), noisy(images)):
        fine, middle, coarse = sliced_wasserstein(images, damaged, directions=64).values()
        assert fine > middle > coarse
        assert fine > 2 * same[64]


def test_another_composition_changes_the_coarsest_level_most(images: Tensor) -> None:
    fine, _, coarse = sliced_wasserstein(images, blocks(images), directions=64).values()
    assert coarse > 1.5 * fine


def test_more_damage_is_farther(images: Tensor) -> None:
    once, twice = blurred(images), blurred(blurred(images))
    near = sliced_wasserstein(images, once, directions=64)
    far = sliced_wasserstein(images, twice, directions=64)
    assert near[64] < far[64]
    assert near[32] < far[32]


def test_a_common_change_of_brightness_or_contrast_goes_unseen(images: Tensor) -> None:
    dark = images // 4
    for changed in (dark + 60, dark * torch.tensor([1, 2, 3])[:, None, None].byte()):
        distances = sliced_wasserstein(dark, changed, directions=32)
        assert max(distances.values()) < 1e-2


def test_the_same_change_of_some_pictures_alone_is_seen(images: Tensor) -> None:
    dark = images // 4
    changed = torch.cat([dark[:24], dark[24:] + 180])
    assert sliced_wasserstein(dark, changed, directions=32)[16] > 100


def test_flat_pictures_have_no_detail_to_differ_in() -> None:
    black, grey = torch.zeros(2, 8, 3, 32, 32, dtype=torch.uint8)
    distances = sliced_wasserstein(black, grey + 77, directions=32)
    assert distances == pytest.approx({32: 0.0, 16: 0.0}, abs=0.1)


def test_of_the_larger_set_as_many_pictures_are_taken(images: Tensor) -> None:
    copies = images[:1].expand(30, -1, -1, -1)
    assert sliced_wasserstein(copies, copies[:20], directions=32)[64] == 0.0
    fewer = sliced_wasserstein(images, images[:20], directions=32)
    assert all(distance > 0 for distance in fewer.values())
    # The choice is from all of the larger set, not of its first pictures.
    mixed = torch.cat([images[:20], noisy(images)])
    assert sliced_wasserstein(mixed, images[:20], directions=32)[64] > 2 * fewer[64]


def test_levels_reach_down_to_16_pixels() -> None:
    images = paintings(4, side=128)
    assert list(sliced_wasserstein(images, images, directions=4)) == [128, 64, 32, 16]
    images = paintings(4, side=32)
    assert list(sliced_wasserstein(images, images, directions=4)) == [32, 16]


def test_pyramid_adds_up_to_the_picture(images: Tensor) -> None:
    pyramid = laplacian_pyramid(images.float(), 3)
    assert [level.shape[-1] for level in pyramid] == [64, 32, 16]
    picture = pyramid[-1]
    for detail in reversed(pyramid[:-1]):
        picture = upsample(picture) + detail
    torch.testing.assert_close(picture, images.float(), atol=1e-3, rtol=0)


def test_pyramid_of_a_flat_picture_has_no_detail() -> None:
    fine, middle, coarse = laplacian_pyramid(torch.full((1, 3, 64, 64), 77.0), 3)
    assert torch.equal(fine, torch.zeros_like(fine))
    assert torch.equal(middle, torch.zeros_like(middle))
    assert torch.equal(coarse, torch.full_like(coarse, 77.0))


def test_a_point_spreads_as_the_binomial_kernel() -> None:
    point = torch.zeros(1, 3, 32, 32)
    point[0, 1, 16, 16] = 256.0
    fine, coarse = laplacian_pyramid(point, 2)
    expected = torch.zeros(1, 3, 16, 16)
    # Of the weights 1 4 6 4 1, halving the side keeps every other: 1 6 1.
    expected[0, 1, 7:10, 7:10] = torch.tensor([[1.0, 6, 1], [6, 36, 6], [1, 6, 1]])
    torch.testing.assert_close(coarse, expected)
    # Back at the point: (1·1 + 6·6 + 1·1)² / 64 = 38² / 64 of it.
    assert fine[0, 1, 16, 16].item() == 256 - 38**2 / 64


@pytest.mark.parametrize(
    "shape", [(4, 3, 48, 48), (4, 3, 16, 16), (4, 1, 64, 64), (4, 3, 64, 32), (3, 64, 64), (0,), ()]
)
def test_pictures_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    wrong = torch.zeros(shape, dtype=torch.uint8)
    with pytest.raises(ValueError, match="power of two"):
        sliced_wasserstein(wrong, wrong)


def test_empty_or_float_or_differing_sets_are_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="at least one"):
        sliced_wasserstein(images, images[:0])
    with pytest.raises(ValueError, match="uint8"):
        sliced_wasserstein(images, images.float())
    with pytest.raises(ValueError, match="64 and 32 pixels"):
        sliced_wasserstein(images, images[..., ::2, ::2])
