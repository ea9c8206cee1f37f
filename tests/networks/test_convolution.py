from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from artgan.networks import convolution
from artgan.networks.convolution import Downsampling, FromLatents, ToLogits, Upsampling
from artgan.networks.dcgan import Discriminator, Generator


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def layout(request: pytest.FixtureRequest) -> torch.memory_format:
    return request.param


@pytest.fixture
def always_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in float32, where rounding cannot hide an error."""
    monkeypatch.setattr(convolution, "as_matrices", lambda features, channels: True)


def gradients(layer: Callable[[Tensor], Tensor], features: Tensor, weight: Tensor) -> list[Tensor]:
    """The layer's output, and the gradients of a weighted sum of it."""
    output = layer(features)
    sums = torch.linspace(-1, 1, output.numel()).view(output.shape)
    given = torch.autograd.grad((output.float() * sums).sum(), [features, weight])
    return [output.detach(), *given]


@pytest.mark.parametrize(
    ("layer", "reference"),
    [
        (Downsampling(6, 10), lambda x, w: torch.conv2d(x, w, None, 2, 1)),
        (Upsampling(6, 10), lambda x, w: torch.conv_transpose2d(x, w, None, 2, 1)),
    ],
    ids=["down", "up"],
)
def test_as_matrices_a_convolution_is_what_torch_computes(
    layer: nn.Conv2d | nn.ConvTranspose2d,
    reference: Callable[[Tensor, Tensor], Tensor],
    layout: torch.memory_format,
    always_matrices: None,
) -> None:
    layer = layer.to(memory_format=layout)
    features = torch.randn(3, 6, 8, 12, generator=torch.Generator().manual_seed(0))
    features = features.to(memory_format=layout).requires_grad_()
    ours = gradients(layer, features, layer.weight)
    theirs = gradients(lambda x: reference(x, layer.weight), features, layer.weight)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("layer", [Downsampling(2, 3), Upsampling(2, 3)], ids=["down", "up"])
def test_as_matrices_a_convolution_can_be_differentiated_twice(
    layer: nn.Module, always_matrices: None
) -> None:
    layer = layer.double()
    features = torch.randn(1, 2, 4, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(layer, features)
    assert torch.autograd.gradgradcheck(layer, features)


@pytest.mark.parametrize(
    ("intel", "device", "dtype", "channels", "expected"),
    [
        (False, "cpu", torch.bfloat16, 256, True),
        (True, "cpu", torch.bfloat16, 128, False),
        (False, "cpu", torch.float32, 256, False),
        (True, "cpu", torch.float32, 256, True),
        (True, "meta", torch.bfloat16, 256, False),
    ],
)
def test_only_deep_convolutions_on_a_cpu_are_matrices(
    intel: bool,
    device: str,
    dtype: torch.dtype,
    channels: int,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("artgan.networks.convolution.is_intel", lambda: intel)
    # The channels that count are those of the larger images, which patches are taken from.
    for layer in (Downsampling(channels, 4), Upsampling(4, channels)):
        features = torch.zeros(1, layer.in_channels, 4, 4, dtype=dtype, device=device)
        output = layer.to(device, dtype)(features)
        assert output.grad_fn is not None
        assert (output.grad_fn.name() != "ConvolutionBackward0") is expected


@pytest.mark.parametrize("size", [1, 3])
def test_the_first_layer_of_a_generator_is_a_transposed_convolution(size: int) -> None:
    layer = FromLatents(7, 5)
    latents = torch.randn(2, 7, 1, size)
    torch.testing.assert_close(layer(latents), torch.conv_transpose2d(latents, layer.weight))


def test_the_last_layer_of_a_discriminator_is_a_convolution() -> None:
    layer = ToLogits(5, 3)
    features = torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(layer(features), torch.conv2d(features, layer.weight).flatten(1))


def test_in_bfloat16_matrices_are_as_accurate_as_convolutions() -> None:
    """Each error, relative to the result's size, is within three roundings to bfloat16."""
    bound = 3 * torch.finfo(torch.bfloat16).eps
    for layer in (Downsampling(256, 32), Upsampling(32, 256)):
        nn.init.normal_(layer.weight, 0, 0.02)
        features = torch.randn(2, layer.in_channels, 8, 8, requires_grad=True)
        exact = gradients(layer, features, layer.weight)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = gradients(layer, features.bfloat16(), layer.weight)
        for one, other in zip(exact, rounded, strict=True):
            error = (one - other.float()).norm() / one.norm()
            assert 0 < error < bound, (layer, error)


def test_batches_passed_together_are_normalised_separately() -> None:
    together = Discriminator(32, width=4)
    separate = Discriminator(32, width=4)
    separate.load_state_dict(together.state_dict())
    first, second = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32) * 3 + 1
    logits = together(torch.cat([first, second]), batches=2)
    torch.testing.assert_close(logits, torch.cat([separate(first), separate(second)]))
    states = (together.state_dict().values(), separate.state_dict().values())
    for one, other in zip(*states, strict=True):
        torch.testing.assert_close(one, other)


def test_a_network_of_matrices_has_the_gradients_of_convolutions(
    always_matrices: None,
) -> None:
    """Whole networks in float32, forwards and backwards."""
    generator, discriminator = Generator(32, 16, 4), Discriminator(32, 4)
    latents = torch.randn(4, 16, 1, 1)

    def run() -> list[Tensor]:
        loss = discriminator(generator(latents)).square().mean()
        parameters = [*generator.parameters(), *discriminator.parameters()]
        return [loss, *torch.autograd.grad(loss, parameters)]

    ours = run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "as_matrices", lambda features, channels: False)
        theirs = run()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
