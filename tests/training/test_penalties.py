import pytest
import torch
from torch import Tensor

from artgan.networks.dcgan import Discriminator
from artgan.training.penalties import gradient_penalty, squared_gradient_norms

WEIGHTS = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))


def linear(images: Tensor) -> Tensor:
    """Its gradient is the weights everywhere."""
    return (images * WEIGHTS).sum(dim=(1, 2, 3))


def quadratic(images: Tensor) -> Tensor:
    """Its gradient is the image itself."""
    return images.square().sum(dim=(1, 2, 3)) / 2


def random_images(count: int, seed: int, side: int = 4) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_the_gradient_of_a_known_function_has_the_known_norm() -> None:
    images = random_images(5, 1).requires_grad_()
    norms = squared_gradient_norms(linear(images), images)
    torch.testing.assert_close(norms, WEIGHTS.square().sum().expand(5))
    norms = squared_gradient_norms(quadratic(images), images)
    torch.testing.assert_close(norms, images.square().sum(dim=(1, 2, 3)))


def test_the_gradient_penalty_is_that_of_the_mixtures() -> None:
    real, fake = random_images(5, 1), random_images(5, 2)
    shares = torch.linspace(0, 1, 5).view(5, 1, 1, 1)
    mixed = shares * real + (1 - shares) * fake
    expected = (mixed.flatten(1).norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(gradient_penalty(quadratic, real, fake, shares), expected)
    assert gradient_penalty(linear, real, fake, shares).item() == pytest.approx(
        (WEIGHTS.norm().item() - 1) ** 2
    )


@pytest.mark.parametrize("normalization", ["none", "spectral"])
def test_a_penalty_has_the_gradients_of_finite_differences(
    normalization: str,
) -> None:
    """The second derivative, through the layers used in training."""
    torch.manual_seed(0)
    network = Discriminator(32, 2, normalization, minibatch_std=True).double().eval()
    images = random_images(4, 3, side=32).double().requires_grad_()
    name = "parametrizations.weight.original" if normalization == "spectral" else "weight"
    weight = network.get_parameter(f"layers.2.{name}")

    def penalty() -> Tensor:
        return squared_gradient_norms(network(images), images).mean()

    (gradient,) = torch.autograd.grad(penalty(), weight)
    direction, step = torch.randn_like(weight), 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step * direction)
        values.append(penalty().item())
        with torch.no_grad():
            weight.sub_(sign * step * direction)
    expected = (values[0] - values[1]) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-4)
