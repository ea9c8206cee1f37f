"""The autoencoder against a transcription of its description, and on real weights."""

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artgan.networks.dcgan import Discriminator, Generator
from artgan.networks.taef2 import REACH, SCALE, SPAN, Decoder, Encoder, ToImages
from tests.helpers import ROOT

WEIGHTS = ROOT.parent / "shared" / "weights" / "taef2"
State = dict[str, Tensor]


def block(state: State, name: str, x: Tensor) -> Tensor:
    if f"{name}.pool.0.weight" in state:
        pooled = F.conv2d(x, state[f"{name}.pool.0.weight"])
        pooled = F.group_norm(
            pooled, 4, state[f"{name}.pool.1.weight"], state[f"{name}.pool.1.bias"]
        )
        x = x + F.conv2d(F.relu(pooled), state[f"{name}.pool.3.weight"])
    y = x
    for index in (0, 2, 4):
        weight, bias = (state[f"{name}.conv.{index}.{part}"] for part in ("weight", "bias"))
        y = F.conv2d(y, weight, bias, padding=1)
        y = F.relu(y if index < 4 else y + x)
    return y


def convolved(state: State, index: int, x: Tensor, stride: int = 1) -> Tensor:
    bias = state.get(f"{index}.bias")
    return F.conv2d(x, state[f"{index}.weight"], bias, stride, padding=1)


def encoded(state: State, x: Tensor) -> Tensor:
    x = block(state, "1", convolved(state, 0, x))
    for first in (2, 6, 10):
        x = convolved(state, first, x, stride=2)
        for index in (1, 2, 3):
            x = block(state, str(first + index), x)
    return convolved(state, 14, x)


def decoded(state: State, z: Tensor) -> Tensor:
    x = F.relu(convolved(state, 1, 3 * torch.tanh(z / 3)))
    index = 3
    for _ in range(3):
        for _ in range(3):
            x, index = block(state, str(index), x), index + 1
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x, index = convolved(state, index + 1, x), index + 2
    return convolved(state, index + 1, block(state, str(index), x)).clamp(0, 1)


@pytest.mark.parametrize(("network", "reference", "shape"), [
    (Encoder, encoded, (2, 3, 64, 40)),
    (Decoder, decoded, (2, 32, 8, 5)),
])  # fmt: skip
def test_it_computes_what_its_description_says(
    network: type[nn.Module], reference: Callable[[State, Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    ours = network().double()
    x = torch.rand(shape).double()
    assert torch.allclose(ours(x), reference(ours.state_dict(), x), atol=1e-12)


@pytest.mark.parametrize(("network", "parameters"), [(Encoder, 1_338_528), (Decoder, 1_338_499)])
def test_it_has_the_published_number_of_parameters(
    network: type[nn.Module], parameters: int
) -> None:
    assert sum(weight.numel() for weight in network().parameters()) == parameters


def test_networks_on_latents_are_as_small_as_the_recipe_says() -> None:
    networks = Generator(32, 100, 64, 32), Discriminator(32, 64, "none", True, 0, 32)
    counts = [f"{sum(w.numel() for w in network.parameters()):,}" for network in networks]
    recipe = (ROOT / "configs" / "model" / "latent.yaml").read_text(encoding="utf-8")
    assert f"{counts[0]} and {counts[1]} parameters at 256 px" in recipe


def test_latents_are_normalised_and_images_in_the_range_of_a_generator() -> None:
    torch.manual_seed(0)
    images = ToImages()
    images.mean.copy_(torch.rand(32, 1, 1))
    images.std.copy_(torch.rand(32, 1, 1))
    latents = torch.randn(2, 32, 4, 4)
    expected = images.decoder(latents * images.std + images.mean) * 2 - 1
    assert torch.allclose(images(latents), expected, atol=0.02)  # bfloat16 on some machines
    assert not any(module.training for module in images.train().modules())


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the published weights are not available")
def test_the_published_weights_give_a_painting_back() -> None:
    import numpy as np
    from PIL import Image

    networks = {"encoder": Encoder(), "decoder": Decoder()}
    for name, network in networks.items():
        network.load_state_dict(torch.load(WEIGHTS / f"taef2_{name}.pth", weights_only=True))
        assert all(re.fullmatch(r"[\w.]+", key) for key in network.state_dict())
    folder = ROOT.parent / "shared" / "data" / "chinese_paintings"
    painting = Image.open(min(folder.rglob("*.jpg"))).convert("RGB").resize((192, 256))
    image = torch.tensor(np.array(painting)).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        again = networks["decoder"](networks["encoder"](image))
    noise = (again - image).square().mean()
    assert -10 * noise.log10() > 24  # decibels


def test_a_long_image_is_decoded_in_parts_without_seams() -> None:
    torch.manual_seed(0)
    to_images = ToImages().double()
    to_images.decoder[-1] = nn.Identity()  # the clamp, which hides differences
    latents = torch.randn(1, 32, 2, 2 * SPAN + 5).double()
    whole = to_images.decoder(latents).float() * 2 - 1
    differences = (to_images(latents) - whole).abs()
    assert differences.max() < 1e-6 * whole.std()


def test_a_pixel_depends_on_no_latent_beyond_the_reach() -> None:
    _, near = Decoder().split()
    features = torch.zeros(1, 64, 1, 2 * REACH + 5)
    column = REACH + 2
    features[..., column] = torch.nan  # spreads to all that depends on it
    affected = near(features)[0, 0, 0].isnan().nonzero() // SCALE
    assert affected.min() == column - REACH
    assert affected.max() == column + REACH
