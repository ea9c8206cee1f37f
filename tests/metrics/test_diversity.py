from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torchmetrics.functional.image import structural_similarity_index_measure

from artgan.metrics.diversity import SIGMA, WEIGHTS, WINDOW, _pair, mean_similarity, ms_ssim


def pictures(count: int, side: int = 64, seed: int = 0) -> Tensor:
    """Soft blots with some grain: structure at each scale."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.zeros(count, 3, side, side)
    for step in (side // 4, side // 8, 1):
        blots = torch.rand(count, 3, side // step, side // step, generator=generator)
        picture += blots.repeat_interleave(step, 2).repeat_interleave(step, 3)
    return (picture * 85).byte()


def reference(first: Tensor, second: Tensor, scales: int) -> Tensor:
    """MS-SSIM from the SSIM of torchmetrics, of which only whole windows count.

    Its own MS-SSIM takes the coarsest scale from windows that reach over the border.
    """
    first, second = first.double(), second.double()
    border = slice(WINDOW // 2, -(WINDOW // 2))
    value = torch.ones(len(first), dtype=torch.double)
    for scale, weight in enumerate(WEIGHTS[:scales]):
        for index, pair in enumerate(zip(first.split(1), second.split(1), strict=True)):
            ssim = partial(
                structural_similarity_index_measure,
                sigma=SIGMA,
                kernel_size=WINDOW,
                data_range=255.0,
            )
            _, whole = ssim(*pair, return_full_image=True)
            _, contrast = ssim(*pair, return_contrast_sensitivity=True)
            last = scale == scales - 1
            term = whole[..., border, border].mean() if last else contrast.mean()
            value[index] *= term.clamp_min(0) ** (weight / sum(WEIGHTS[:scales]))
        first, second = avg_pool2d(first, 2), avg_pool2d(second, 2)
    return value.float()


@pytest.mark.parametrize(("side", "scales"), [(32, 3), (48, 3), (64, 4), (128, 5)])
def test_similarity_is_that_of_torchmetrics(side: int, scales: int) -> None:
    first, other = pictures(6, side), pictures(6, side, seed=1)
    shares = torch.linspace(0, 0.9, 6)[:, None, None, None]
    second = (shares * first + (1 - shares) * other).byte()
    expected = reference(first, second, scales)
    assert expected.max() - expected.min() > 0.3
    torch.testing.assert_close(ms_ssim(first, second), expected, atol=1e-4, rtol=0)


def test_equal_pictures_are_wholly_similar() -> None:
    images = pictures(5)
    assert torch.equal(ms_ssim(images, images), torch.ones(5))
    assert mean_similarity(images[:1].expand(20, -1, -1, -1)) == 1.0


def test_a_picture_and_its_negative_have_nothing_in_common() -> None:
    images = pictures(5)
    assert torch.equal(ms_ssim(images, 255 - images), torch.zeros(5))


def test_black_and_white_differ_in_luminance_alone() -> None:
    """Flat pictures have equal contrast and structure: only the coarsest scale tells them apart."""
    black = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    luminance = 0.01**2 / (1 + 0.01**2)
    expected = luminance ** (WEIGHTS[3] / sum(WEIGHTS[:4]))
    assert ms_ssim(black, ~black).item() == pytest.approx(expected, rel=1e-3)
    assert expected < 0.1


def test_similarity_is_symmetric() -> None:
    first, second = pictures(5), pictures(5, seed=1)
    torch.testing.assert_close(ms_ssim(first, second), ms_ssim(second, first))


def test_mean_similarity_grows_as_pictures_become_alike() -> None:
    images = pictures(20).float()
    values = [
        mean_similarity(torch.lerp(images, images[:1], share).byte())
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert values == sorted(values)
    assert values[0] < 0.4
    assert values[-1] == 1.0


def test_mean_is_over_all_pairs_where_there_are_few() -> None:
    images = pictures(12)
    each = [ms_ssim(images[i, None], images[j, None]) for j in range(12) for i in range(j)]
    expected = torch.cat(each).mean().item()
    assert mean_similarity(images) == pytest.approx(expected, abs=1e-6)
    assert mean_similarity(images, pairs=66, seed=3) == pytest.approx(expected, abs=1e-6)


def test_a_random_choice_of_pairs_comes_near_the_mean_of_all_and_repeats() -> None:
    images = pictures(40, side=32)
    some = mean_similarity(images, pairs=300, seed=1)
    assert some == mean_similarity(images, pairs=300, seed=1)
    assert some != mean_similarity(images, pairs=300, seed=2)
    assert some == pytest.approx(mean_similarity(images), abs=0.01)


def test_pairs_are_numbered_without_a_gap() -> None:
    assert [_pair(n) for n in range(45)] == [(i, j) for j in range(10) for i in range(j)]
    last = 50_000 * 49_999 // 2 - 1
    assert _pair(last) == (49_998, 49_999)


def test_what_has_no_similarity_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 images"):
        mean_similarity(pictures(1))
    with pytest.raises(ValueError, match="1 pair"):
        mean_similarity(pictures(2), pairs=0)
    with pytest.raises(ValueError, match="at least 32"):
        mean_similarity(pictures(2, side=16))
    with pytest.raises(ValueError, match="uint8"):
        mean_similarity(pictures(2).float())
    with pytest.raises(ValueError, match="equally large"):
        ms_ssim(pictures(2), pictures(3))
    with pytest.raises(ValueError, match="S, S"):
        ms_ssim(pictures(2)[..., :32], pictures(2)[..., :32])
