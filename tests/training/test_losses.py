import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from artgan.networks.dcgan import Discriminator
from artgan.training.losses import LOSSES, Loss, gradient_penalty, squared_gradient_norms

REAL = torch.tensor([3.0, -1.0, 0.0, 40.0])
FAKE = torch.tensor([-2.0, 5.0, 0.5, -90.0])
BCE = F.binary_cross_entropy_with_logits


def log_sigmoid(logit: float) -> float:
    return -math.log1p(math.exp(-logit)) if logit > -30 else logit


def mean(values: list[float]) -> Tensor:
    return torch.tensor(sum(values) / len(values))


PAIRS = list(zip(REAL.tolist(), FAKE.tolist(), strict=True))
# Written out from the papers, number by number.
DISCRIMINATOR = {
    "bce": [-log_sigmoid(real) - log_sigmoid(-fake) for real, fake in PAIRS],
    "hinge": [max(0, 1 - real) + max(0, 1 + fake) for real, fake in PAIRS],
    "lsgan": [(real - 1) ** 2 / 2 + fake**2 / 2 for real, fake in PAIRS],
    "wgan_gp": [fake - real for real, fake in PAIRS],
    "rpgan": [-log_sigmoid(real - fake) for real, fake in PAIRS],
}
GENERATOR = {
    "bce": [-log_sigmoid(fake) for _, fake in PAIRS],
    "hinge": [-fake for _, fake in PAIRS],
    "lsgan": [(fake - 1) ** 2 / 2 for _, fake in PAIRS],
    "wgan_gp": [-fake for _, fake in PAIRS],
    "rpgan": [-log_sigmoid(fake - real) for real, fake in PAIRS],
}


def generator_loss(loss: Loss, fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    return loss.generator(fake_logits, *([real_logits] if loss.relativistic else []))


@pytest.mark.parametrize("name", DISCRIMINATOR)
def test_each_loss_is_that_of_its_paper(name: str) -> None:
    loss = LOSSES[name]
    torch.testing.assert_close(loss.discriminator(REAL, FAKE), mean(DISCRIMINATOR[name]))
    torch.testing.assert_close(generator_loss(loss, FAKE, REAL), mean(GENERATOR[name]))


def test_bce_is_binary_cross_entropy_with_labels_1_and_0() -> None:
    ones, zeros = torch.ones(4), torch.zeros(4)
    expected = BCE(REAL, ones) + BCE(FAKE, zeros)
    torch.testing.assert_close(LOSSES["bce"].discriminator(REAL, FAKE), expected)
    torch.testing.assert_close(LOSSES["bce"].generator(FAKE), BCE(FAKE, ones))


def test_smoothed_labels_are_0_9_for_real_images_alone() -> None:
    smoothed, zeros = torch.full((4,), 0.9), torch.zeros(4)
    expected = BCE(REAL, smoothed) + BCE(FAKE, zeros)
    torch.testing.assert_close(LOSSES["bce"].discriminator(REAL, FAKE, smoothing=0.1), expected)
    expected = (F.mse_loss(REAL, smoothed) + F.mse_loss(FAKE, zeros)) / 2
    torch.testing.assert_close(LOSSES["lsgan"].discriminator(REAL, FAKE, smoothing=0.1), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradients_are_those_of_finite_differences(name: str) -> None:
    # Away from the corners of the hinge.
    real = torch.tensor([0.3, -1.7, 2.1], dtype=torch.float64, requires_grad=True)
    fake = torch.tensor([-0.2, 1.4, -2.5], dtype=torch.float64, requires_grad=True)
    loss = LOSSES[name]
    torch.autograd.gradcheck(loss.discriminator, (real, fake))
    torch.autograd.gradcheck(lambda f: generator_loss(loss, f, real.detach()), (fake,))


@pytest.mark.parametrize("name", ["bce", "rpgan"])
def test_a_hopeless_generator_still_has_a_gradient(name: str) -> None:
    logits = torch.full((4,), -200.0, requires_grad=True)
    generator_loss(LOSSES[name], logits, torch.zeros(4)).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.full((4,), -0.25))


def test_in_the_relativistic_loss_only_differences_count() -> None:
    for shift in (-7.0, 30.0):
        torch.testing.assert_close(
            LOSSES["rpgan"].discriminator(REAL + shift, FAKE + shift),
            LOSSES["rpgan"].discriminator(REAL, FAKE),
        )


def test_margins_are_logits_or_in_pairs_their_differences() -> None:
    real, fake = LOSSES["bce"].margins(REAL, FAKE)
    assert torch.equal(real, REAL) and torch.equal(fake, FAKE)
    real, fake = LOSSES["rpgan"].margins(torch.tensor([7.0]), torch.tensor([5.0]))
    assert (real.item(), fake.item()) == (2, -2)


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
