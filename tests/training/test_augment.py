from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from artgan.training.augment import TRANSFORMATIONS, adapted, augment, columns

ALL = ("color", "translation", "cutout")
LAST = 1 - 2**-24  # the largest float32 below 1
SIDE = 32
# The columns of each transformation's amounts among the draws; the column before them decides.
BRIGHTNESS, SATURATION, CONTRAST, DOWN, RIGHT, ROW, COLUMN = 1, 2, 3, 5, 6, 8, 9


def random_images(count: int, side: int = SIDE, dtype: torch.dtype = torch.float32) -> Tensor:
    random = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, side, side, generator=random, dtype=torch.float64) * 2 - 1
    return images.to(dtype).to(memory_format=torch.channels_last)


def uniform(count: int) -> Tensor:
    return torch.rand(count, columns(), generator=torch.Generator().manual_seed(2))


def drawn(count: int, **amounts: Tensor | float) -> Tensor:
    """Draws of 0.5 except some, by the names above in lower case."""
    draws = torch.full((count, columns()), 0.5)
    for name, amount in amounts.items():
        draws[:, globals()[name.upper()]] = torch.as_tensor(amount)
    return draws


def steps(count: int) -> Tensor:
    """The middles of `count` equal parts of [0, 1)."""
    return (torch.arange(count) + 0.5) / count


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """[3, H, W] moved pixel by pixel."""
    moved = torch.zeros_like(image)
    _, height, width = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                moved[:, row, column] = image[:, row - down, column - right]
    return moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("probability", [0.0, torch.tensor(0.0)])
def test_at_probability_0_images_are_unchanged(
    dtype: torch.dtype, probability: Tensor | float
) -> None:
    images = random_images(8, dtype=dtype)
    draws = uniform(8)
    draws[0] = 0
    assert torch.equal(augment(images, draws, ALL, probability), images)


@pytest.mark.parametrize("name", ALL)
def test_a_transformation_is_applied_where_its_own_draw_is_below_the_probability(name: str) -> None:
    images, draws = random_images(5), uniform(5)
    others = augment(images, draws, [name])
    draws[:, TRANSFORMATIONS[name].slots.start] = torch.tensor([0.0, 0.29, 0.3, 0.31, LAST])
    some = augment(images, draws, [name], torch.tensor(0.3))
    for index, applied in enumerate([True, True, False, False, False]):
        assert torch.equal(some[index], (others if applied else images)[index])
        assert not torch.equal(others[index], images[index])


def test_a_policy_is_its_transformations_one_after_another() -> None:
    images, draws = random_images(8), uniform(8)
    expected = images
    for name in ALL:
        expected = augment(expected, draws, [name], 0.7)
    assert torch.equal(augment(images, draws, ALL, 0.7), expected)
    assert torch.equal(augment(images, draws, []), images)


def test_an_unknown_transformation_is_refused() -> None:
    with pytest.raises(KeyError, match="colour"):
        augment(random_images(1), uniform(1), ["colour"])


def test_a_translation_is_a_shift_that_leaves_zeros() -> None:
    images = random_images(9)
    down, right = torch.arange(9), torch.arange(9).flip(0)
    draws = drawn(9, down=(down + 0.3) / 9, right=(right + 0.9) / 9)
    moved = augment(images, draws, ["translation"])
    for index in range(9):
        assert torch.equal(moved[index], shifted(images[index], index - 4, 4 - index))


@pytest.mark.parametrize("side", [8, 64, 128])
def test_the_extreme_draws_shift_by_exactly_an_eighth_of_the_side(side: int) -> None:
    images = random_images(2, side)
    extremes = torch.tensor([0.0, LAST])
    moved = augment(images, drawn(2, down=extremes, right=extremes.flip(0)), ["translation"])
    reach = side // 8
    assert torch.equal(moved[0], shifted(images[0], -reach, reach))
    assert torch.equal(moved[1], shifted(images[1], reach, -reach))


@pytest.mark.parametrize(("name", "axis"), [("down", 0), ("right", 1)])
def test_all_shifts_are_equally_likely(name: str, axis: int) -> None:
    dots = torch.zeros(9 * 20, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    dots[:, 0, 10, 10] = 1
    moved = augment(dots, drawn(len(dots), **{name: steps(len(dots))}), ["translation"])
    places = moved[:, 0].nonzero()[:, 1:] - 10
    assert Counter(places[:, axis].tolist()) == dict.fromkeys(range(-4, 5), 20)
    assert not places[:, 1 - axis].any()


@pytest.mark.parametrize(
    ("row", "column", "rows", "columns"),
    [
        (0.5, 0.5, (8, 24), (8, 24)),
        (0.0, 0.5, (0, 8), (8, 24)),
        (LAST, 0.0, (24, 32), (0, 8)),
        (5.5 / 33, 30.5 / 33, (0, 13), (22, 32)),
    ],
)
def test_a_cutout_is_a_square_of_half_the_side_clipped_at_the_edges(
    row: float, column: float, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    images = random_images(1)
    expected = images.clone()
    expected[:, :, slice(*rows), slice(*columns)] = 0
    assert torch.equal(augment(images, drawn(1, row=row, column=column), ["cutout"]), expected)


def test_the_centre_of_a_cutout_is_everywhere_equally_likely() -> None:
    draws = drawn(33 * 4, row=steps(33 * 4))
    cut = augment(torch.ones(len(draws), 3, SIDE, SIDE), draws, ["cutout"])[:, 0, :, 16] == 0
    places = Counter((int(rows.nonzero()[0]), int(rows.nonzero()[-1]) + 1) for rows in cut)
    assert places == {(max(c - 8, 0), min(c + 8, 32)): 4 for c in range(33)}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_colors_follow_the_formulas(dtype: torch.dtype, tolerance: float) -> None:
    images, draws = random_images(16, dtype=dtype), uniform(16)
    colored = augment(images, draws, ["color"])
    amounts = draws.double().numpy()
    for index in range(16):
        expected = images[index].double().numpy() + amounts[index, BRIGHTNESS] - 0.5
        grey = expected.mean(0)
        expected = grey + 2 * amounts[index, SATURATION] * (expected - grey)
        mean = expected.mean()
        expected = mean + (0.5 + amounts[index, CONTRAST]) * (expected - mean)
        np.testing.assert_allclose(colored[index].double(), expected, atol=tolerance)


def test_an_image_does_not_depend_on_the_others() -> None:
    images, draws = random_images(6), uniform(6)
    first = augment(images, draws, ALL, 0.8)
    images[3:], draws[3:] = images[3:] * 0.5 + 0.1, draws[3:].flip(1)
    second = augment(images, draws, ALL, 0.8)
    assert torch.equal(first[:3], second[:3])
    assert not any(torch.equal(first[index], second[index]) for index in range(3, 6))


@pytest.mark.parametrize("policy", [["color"], ["translation"], ["cutout"], ALL])
def test_first_and_second_derivatives_are_right(policy: list[str]) -> None:
    images = random_images(3, side=8, dtype=torch.float64).requires_grad_()
    draws = drawn(3, down=torch.tensor([0.0, 0.5, LAST]), right=torch.tensor([0.0, 0.1, 0.4]))
    draws[:, 1:4] = uniform(3)[:, 1:4]

    # The cube, so that the second derivative is not zero.
    def function(given: Tensor) -> Tensor:
        return augment(given, draws, policy).pow(3)[:, :, ::2, ::3]

    assert torch.autograd.gradcheck(function, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, images, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_and_layout_are_kept_also_in_the_gradient(dtype: torch.dtype) -> None:
    images = random_images(4, dtype=dtype).requires_grad_()
    for name in ALL:
        augmented = augment(images, uniform(4), [name])
        (gradient,) = torch.autograd.grad(augmented.float().square().sum(), images)
        for tensor in (augmented, gradient):
            assert tensor.dtype == dtype
            assert tensor.shape == images.shape
            assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_no_value_is_read() -> None:
    """A tensor on the meta device has no values, and reading one raises."""
    images = random_images(4).to("meta").requires_grad_()
    draws, probability = uniform(4).to("meta"), torch.tensor(0.5, device="meta")
    augmented = augment(images, draws, ALL, probability)
    assert augmented.shape == images.shape
    (gradient,) = torch.autograd.grad(augmented.sum(), images)
    assert gradient.shape == images.shape
    assert adapted(probability, probability, 64, target=0.6).shape == ()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")
def test_a_captured_augmentation_follows_its_draws_and_probability() -> None:
    images = random_images(8).cuda().requires_grad_()
    draws, probability = torch.zeros(8, columns()).cuda(), torch.zeros(()).cuda()

    def both() -> tuple[Tensor, Tensor]:
        augmented = augment(images, draws, ALL, probability)
        return augmented, torch.autograd.grad(augmented.square().sum(), images)[0]

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        both()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = both()
    draws.copy_(uniform(8))
    probability.fill_(0.7)
    graph.replay()
    for replayed, run in zip(captured, both(), strict=True):
        torch.testing.assert_close(replayed, run)


@pytest.mark.parametrize(
    ("probability", "sign_mean", "expected"),
    [
        (0.25, 0.61, 0.25 + 0.01),
        (0.25, 0.6, 0.25),
        (0.25, 0.59, 0.25 - 0.01),
        (0.25, -1.0, 0.25 - 0.01),
        (0.995, 1.0, 1.0),
        (1.0, 1.0, 1.0),
        (0.005, 0.0, 0.0),
        (0.0, 0.0, 0.0),
    ],
)
def test_the_probability_steps_towards_the_target_within_0_and_1(
    probability: float, sign_mean: float, expected: float
) -> None:
    before = torch.tensor(probability)
    after = adapted(before, torch.tensor(sign_mean), images=5000, target=0.6)
    torch.testing.assert_close(after, torch.tensor(expected))
    assert before == probability


def test_the_probability_goes_from_0_to_1_in_500_000_images() -> None:
    probability = torch.tensor(0.0)
    reached = []
    for _ in range(100):
        probability = adapted(probability, torch.tensor(1.0), 5000, target=0.6)
        reached.append(float(probability))
    torch.testing.assert_close(torch.tensor(reached), torch.arange(1, 101) / 100)
