"""Content and style losses, against NumPy and code copied from their sources."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from artgan.style.moments import (
    FORMULAS,
    Gram,
    Moments,
    content_loss,
    covariance,
    covariance_loss,
    gram_loss,
    moments,
    total_variation,
)


def features(channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(1, channels, height, width, generator=random, dtype=torch.float64)


def drawn(channels: int, seed: int) -> Moments:
    return moments(features(channels, 6, 7, seed), 1 / 42)


def test_moments_equal_numpys() -> None:
    given = features(5, 6, 7)
    rows = given[0].flatten(1).numpy()
    found = moments(given, 1 / 42)
    np.testing.assert_allclose(found.mean, rows.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.second, rows @ rows.T / 42, rtol=1e-12)
    np.testing.assert_allclose(covariance(found), np.cov(rows, bias=True), rtol=1e-9)


def test_masked_moments_equal_numpys() -> None:
    given, share = features(5, 6, 7), features(1, 6, 7, seed=1)[0, 0]
    share /= share.sum()
    rows, weights = given[0].flatten(1).numpy(), share.flatten().numpy()
    found = moments(given, share)
    np.testing.assert_allclose(found.mean, np.average(rows, axis=1, weights=weights), rtol=1e-12)
    np.testing.assert_allclose(found.second, (rows * weights) @ rows.T, rtol=1e-12)
    expected = np.cov(rows, aweights=weights, bias=True)
    np.testing.assert_allclose(covariance(found), expected, rtol=1e-9)


@pytest.mark.parametrize("masked", [False, True])
def test_moments_add_up_over_tiles(masked: bool) -> None:
    given = features(5, 6, 8)
    share = features(1, 6, 8, seed=1)[0, 0] if masked else torch.full((6, 8), 1 / 48)
    cut = [(slice(0, 4), slice(0, 5)), (slice(0, 4), slice(5, 8)), (slice(4, 6), slice(0, 8))]
    parts = [moments(given[..., r, c], share[r, c] if masked else 1 / 48) for r, c in cut]
    whole = moments(given, share if masked else 1 / 48)
    torch.testing.assert_close(sum(part.mean for part in parts), whole.mean)
    torch.testing.assert_close(sum(part.second for part in parts), whole.second)


def test_the_gram_matrix_has_the_gradient_of_autograd() -> None:
    rows = features(1, 6, 4)[0, 0].requires_grad_()
    assert torch.autograd.gradcheck(Gram.apply, rows)
    assert torch.equal(Gram.apply(rows), rows.T @ rows)


@pytest.mark.parametrize("count", [100, 256, 1000])
def test_gram_matrices_of_bfloat16_are_nearly_exact(count: int) -> None:
    rows = features(1, count, 32)[0, 0].bfloat16()
    computed, expected = Gram.apply(rows), rows.double().T @ rows.double()
    assert computed.dtype == torch.float32
    torch.testing.assert_close(computed.double(), expected, rtol=4e-3, atol=0)


def test_gram_loss_equals_numpys() -> None:
    painted, style = drawn(5, 0), drawn(5, 1)
    expected = np.mean((painted.second.numpy() - style.second.numpy()) ** 2)
    assert gram_loss(painted, style).item() == pytest.approx(expected)


def test_covariance_loss_equals_numpys() -> None:
    one, other = (features(5, 6, 7, seed)[0].flatten(1).numpy() for seed in (0, 1))
    norm = np.linalg.norm
    means = norm(one.mean(1) - other.mean(1)) ** 2 / norm(other.mean(1)) ** 2
    wanted = np.cov(other, bias=True)
    covariances = norm(np.cov(one, bias=True) - wanted) ** 2 / norm(wanted) ** 2
    found = covariance_loss(drawn(5, 0), drawn(5, 1)).item()
    assert found == pytest.approx(means + covariances)


def test_covariance_loss_does_not_depend_on_the_scale_of_the_features() -> None:
    one, other = features(5, 6, 7, 0), features(5, 6, 7, 1)
    larger = covariance_loss(moments(1000 * one, 1 / 42), moments(1000 * other, 1 / 42))
    torch.testing.assert_close(larger, covariance_loss(drawn(5, 0), drawn(5, 1)))


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_covariance_loss_of_a_style_of_one_colour_is_finite(value: float) -> None:
    given = features(4, 3, 5).requires_grad_()
    plain = moments(torch.full_like(given, value).detach(), 1 / 15)
    loss = covariance_loss(moments(given, 1 / 15), plain)
    (gradient,) = torch.autograd.grad(loss, given)
    assert loss.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("loss", [gram_loss, covariance_loss])
def test_style_losses_are_zero_only_for_the_style_and_have_its_gradient(loss: Any) -> None:
    style = drawn(4, 1)
    assert loss(style, style).item() == 0
    assert loss(drawn(4, 0), style).item() > 0
    given = features(4, 3, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: loss(moments(f, 1 / 15), style), given)


def test_content_loss_equals_numpys() -> None:
    one, other = features(4, 3, 5, 0).float(), features(4, 3, 5, 1).float()
    expected = np.sum((one.numpy() - other.numpy()) ** 2)
    assert content_loss(one, other).item() == pytest.approx(expected)


@pytest.mark.parametrize("power", [1, 1.25])
def test_total_variation_equals_numpys(power: float) -> None:
    images = features(3, 6, 7)
    values = images.numpy()
    down = values[..., 1:, :-1] - values[..., :-1, :-1]
    right = values[..., :-1, 1:] - values[..., :-1, :-1]
    expected = np.sum((down**2 + right**2) ** power)
    assert total_variation(images, power).item() == pytest.approx(expected)
    assert torch.autograd.gradcheck(lambda p: total_variation(p, power), images.requires_grad_())
    assert total_variation(torch.full((1, 3, 5, 5), 0.3), power).item() == 0


def test_udacitys_style_loss_equals_the_courses() -> None:
    def gram_matrix(tensor: Tensor) -> Tensor:
        _, d, h, w = tensor.size()
        tensor = tensor.view(d, h * w)
        return torch.mm(tensor, tensor.t())

    target, style = features(8, 4, 6, 0), features(8, 4, 6, 1)
    _, d, h, w = target.shape
    expected = torch.mean((gram_matrix(target) - gram_matrix(style)) ** 2) / (d * h * w)
    painted, wanted = (moments(one, 1 / (h * w)) for one in (target, style))
    computed = FORMULAS["udacity"].style(painted, wanted, h * w, 384)
    torch.testing.assert_close(computed, expected)


def test_keras_style_loss_equals_the_examples() -> None:
    def gram_matrix(x: Any) -> Any:
        rows = x.transpose(2, 0, 1).reshape(x.shape[2], -1)
        return rows @ rows.T

    def style_loss(style: Any, combination: Any, height: int, width: int) -> Any:
        size = height * width
        difference = gram_matrix(style) - gram_matrix(combination)
        return np.sum(np.square(difference)) / (4.0 * (3**2) * (size**2))

    style, combination = features(8, 4, 6, 0), features(8, 4, 6, 1)
    last, other = (one[0].permute(1, 2, 0).numpy() for one in (style, combination))
    expected = style_loss(last, other, height=16, width=24)
    painted, wanted = (moments(one, 1 / 24) for one in (combination, style))
    computed = FORMULAS["keras"].style(painted, wanted, 24, 16 * 24)
    assert computed.item() == pytest.approx(expected)


def test_keras_total_variation_equals_the_examples() -> None:
    x = np.moveaxis(features(3, 6, 7).numpy(), 1, -1) * 255
    a = np.square(x[:, :5, :6, :] - x[:, 1:, :6, :])
    b = np.square(x[:, :5, :6, :] - x[:, :5, 1:, :])
    expected = np.sum(np.power(a + b, 1.25))
    formula = FORMULAS["keras"]
    found = formula.variation(0) * total_variation(features(3, 6, 7), formula.power)
    assert found.item() == pytest.approx(expected)


def test_gatys_style_loss_equals_his_codes() -> None:
    def gram_matrix(tensor: Tensor) -> Tensor:
        b, c, h, w = tensor.size()
        flat = tensor.view(b, c, h * w)
        return torch.bmm(flat, flat.transpose(1, 2)).div_(h * w)

    painted, style = features(8, 4, 6, 0), features(8, 5, 7, 1)
    expected = torch.nn.MSELoss()(gram_matrix(painted), gram_matrix(style))
    found = moments(painted, 1 / 24), moments(style, 1 / 35)
    torch.testing.assert_close(FORMULAS["gatys"].style(*found, 24, 384), expected)
