import pytest
import torch
from torch import nn

from artgan.networks.dcgan import Discriminator, Generator
from benchmarks.plain import discriminator_of, generator_of


def parameters(network: nn.Module) -> int:
    return sum(tensor.numel() for tensor in network.parameters())


def test_64_px_has_the_parameters_of_the_tutorial() -> None:
    assert parameters(Generator(64)) == 3_576_704
    assert parameters(Discriminator(64)) == 2_765_568


@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_the_networks_are_those_written_out_plainly(resolution: int) -> None:
    """The yardstick of the benchmarks: the tutorial's layers, and no line of ours."""
    latents, images = torch.randn(3, 100, 1, 1), torch.randn(3, 3, resolution, resolution)
    for ours, plain, inputs in (
        (Generator(resolution, width=4), generator_of(resolution, 4), latents),
        (Discriminator(resolution, width=4), discriminator_of(resolution, 4), images),
    ):
        plain.load_state_dict(
            {name.removeprefix("layers."): value for name, value in ours.state_dict().items()}
        )
        torch.testing.assert_close(ours(inputs), plain(inputs))


@pytest.mark.parametrize(("resolution", "layers"), [(32, 4), (64, 5), (128, 6), (256, 7)])
def test_each_doubling_adds_one_layer_to_each(resolution: int, layers: int) -> None:
    generator, discriminator = Generator(resolution, width=2), Discriminator(resolution, width=2)
    assert sum(isinstance(m, nn.ConvTranspose2d) for m in generator.modules()) == layers
    assert sum(isinstance(m, nn.Conv2d) for m in discriminator.modules()) == layers

    images = generator(torch.randn(2, 100, 1, 1))
    assert images.shape == (2, 3, resolution, resolution)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (2,)


def test_another_resolution_is_refused() -> None:
    with pytest.raises(ValueError, match="100"):
        Generator(100)


def test_a_wide_latent_map_gives_a_wide_picture() -> None:
    assert Generator(64, width=2)(torch.randn(1, 100, 1, 5)).shape == (1, 3, 64, 128)


def test_weights_are_drawn_from_n_0_002() -> None:
    torch.manual_seed(0)
    network = Generator(64)
    weights = torch.cat(
        [m.weight.flatten() for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
    )
    scales = torch.cat([m.weight for m in network.modules() if isinstance(m, nn.BatchNorm2d)])
    assert weights.mean().item() == pytest.approx(0, abs=1e-4)
    assert weights.std().item() == pytest.approx(0.02, rel=1e-2)
    assert scales.mean().item() == pytest.approx(1, abs=5e-3)
    assert scales.std().item() == pytest.approx(0.02, rel=0.1)
