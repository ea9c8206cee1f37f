import pytest
import torch
from torch import nn

from artgan.networks.dcgan import Discriminator, Generator, MinibatchStd
from benchmarks.plain import discriminator_of, generator_of


def parameters(network: nn.Module) -> int:
    return sum(tensor.numel() for tensor in network.parameters())


def test_64_px_has_the_parameters_of_the_tutorial() -> None:
    assert parameters(Generator(64)) == 3_576_704
    assert parameters(Discriminator(64)) == 2_765_568


@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_the_networks_are_those_written_out_plainly(resolution: int) -> None:
    """The reference of the benchmarks: the tutorial's layers, without artgan's code."""
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
def test_each_doubling_adds_a_layer_to_both_networks(resolution: int, layers: int) -> None:
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


def test_a_wide_latent_map_gives_a_wide_image() -> None:
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


@pytest.mark.parametrize("normalization", ["spectral", "none"])
def test_without_batchnorm_an_image_is_scored_alone(normalization: str) -> None:
    network = Discriminator(32, 4, normalization)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    images = torch.randn(4, 3, 32, 32)
    network.eval()  # stops the power iteration
    torch.testing.assert_close(network(images)[:1], network(images[:1]))
    with torch.no_grad():
        last = next(layer for layer in network.layers if isinstance(layer, nn.Conv2d))
        assert last.bias is not None
        last.bias += 1
    assert not torch.allclose(network(images), network(images - images))


def test_spectral_normalization_makes_each_largest_singular_value_1() -> None:
    network = Discriminator(32, 4, "spectral")
    for _ in range(50):  # of the power iteration
        network(torch.randn(2, 3, 32, 32))
    layers = [layer for layer in network.layers if isinstance(layer, nn.Conv2d)]
    assert len(layers) == 4
    for layer in layers:
        largest = torch.linalg.svdvals(layer.weight.flatten(1))[0].item()
        assert largest == pytest.approx(1, abs=0.01)


def test_without_normalization_the_layers_keep_the_variance() -> None:
    torch.manual_seed(0)
    network = Discriminator(64, 32, "none")
    features = torch.randn(64, 3, 64, 64)
    for layer in network.layers[:-1]:
        features = layer(features)
        if isinstance(layer, nn.Conv2d):
            # At most half of it is lost at the padded edges.
            assert 0.5 < features.var().item() < 2.2
            assert layer.bias is not None and not layer.bias.any()


def test_minibatch_std_adds_the_mean_deviation_of_a_batch() -> None:
    features = torch.randn(6, 5, 4, 4)
    seen = MinibatchStd()(features)
    assert seen.shape == (6, 6, 4, 4)
    assert torch.equal(seen[:, :5], features)
    expected = features.numpy().std(axis=0).mean()
    torch.testing.assert_close(seen[:, 5], torch.full((6, 4, 4), expected.item()))


def test_batches_passed_together_are_scored_as_in_separate_calls() -> None:
    network = Discriminator(32, 4, "none", minibatch_std=True)
    images = (
        torch.randn(8, 3, 32, 32)
        * torch.tensor([1.0, 3.0]).repeat_interleave(4)[:, None, None, None]
    )
    separate = torch.cat([network(images[:4]), network(images[4:])])
    torch.testing.assert_close(network(images, batches=2), separate)
    assert not torch.allclose(network(images), separate)


@pytest.mark.parametrize("normalization", ["batch", "spectral", "none"])
def test_the_logit_is_the_projection_onto_the_class(normalization: str) -> None:
    """yᵀ V φ(x) + ψ(φ(x)), also for a mixture of classes."""
    network = Discriminator(32, 4, normalization, minibatch_std=True, classes=3).eval()
    images, classes = (
        torch.randn(4, 3, 32, 32),
        torch.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0], [0.5, 0, 0.5]]),
    )
    *layers, last = network.layers
    features = nn.Sequential(*layers)(images).flatten(1)
    assert isinstance(last, nn.Conv2d)
    psi, *embedding = last.weight.flatten(1)
    logits = network(images, classes=classes)
    for feature, shares, logit in zip(features, classes, logits, strict=True):
        projected = sum(share * v @ feature for share, v in zip(shares, embedding, strict=True))
        torch.testing.assert_close(logit, feature @ psi + projected)


def test_classes_add_weights_to_the_last_layer_only() -> None:
    plain, conditional = Discriminator(32, 4), Discriminator(32, 4, classes=3)
    assert {
        name: (one.shape, other.shape)
        for (name, one), other in zip(
            plain.state_dict().items(), conditional.state_dict().values(), strict=True
        )
        if one.shape != other.shape
    } == {"layers.8.weight": ((1, 16, 4, 4), (4, 16, 4, 4))}
