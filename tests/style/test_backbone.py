"""Backbones, against torchvision's networks with random weights; nothing is downloaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from artgan.errors import UserError
from artgan.files import sha256
from artgan.options import BACKBONES
from artgan.style.backbone import NETWORKS, STAND_INS, Backbone, layer_names
from tests.helpers import ROOT

REAL = ROOT.parent / "shared" / "weights" / "squeezenet"


def names(text: str) -> list[str]:
    return text.split()


# Each in the order of torchvision's modules.
VGG16 = names(
    "conv1_1 relu1_1 conv1_2 relu1_2 pool1 conv2_1 relu2_1 conv2_2 relu2_2 pool2 "
    "conv3_1 relu3_1 conv3_2 relu3_2 conv3_3 relu3_3 pool3 "
    "conv4_1 relu4_1 conv4_2 relu4_2 conv4_3 relu4_3 pool4 "
    "conv5_1 relu5_1 conv5_2 relu5_2 conv5_3 relu5_3 pool5"
)
VGG19 = names(
    "conv1_1 relu1_1 conv1_2 relu1_2 pool1 conv2_1 relu2_1 conv2_2 relu2_2 pool2 "
    "conv3_1 relu3_1 conv3_2 relu3_2 conv3_3 relu3_3 conv3_4 relu3_4 pool3 "
    "conv4_1 relu4_1 conv4_2 relu4_2 conv4_3 relu4_3 conv4_4 relu4_4 pool4 "
    "conv5_1 relu5_1 conv5_2 relu5_2 conv5_3 relu5_3 conv5_4 relu5_4 pool5"
)
SQUEEZENET = names(
    "conv1 relu1 maxpool1 fire2 fire3 fire4 maxpool4 fire5 fire6 fire7 fire8 maxpool8 fire9"
)
NAMES = {
    **dict.fromkeys(["vgg16", "vgg16_caffe"], VGG16),
    **dict.fromkeys(["vgg19", "vgg19_caffe", "random"], VGG19),
    "squeezenet": SQUEEZENET,
}
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def reference(name: str) -> nn.Sequential:
    """The features of torchvision's network, with random weights."""
    torch.manual_seed(0)
    if name == "squeezenet":
        return torchvision.models.squeezenet1_0().features.requires_grad_(False)
    return make_layers(cfgs["D" if "16" in name else "E"]).requires_grad_(False)


def publish(name: str, network: nn.Sequential, depth: int, folder: Path) -> Path:
    """Saves the first modules of a network in a folder, as they are published."""
    state = {f"features.{key}": tensor for key, tensor in network[:depth].state_dict().items()}
    weights = NETWORKS[name].weights
    assert weights
    torch.save(state, folder / weights.name)
    return folder


def noise(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def bordered(network: nn.Sequential, images: Tensor, padding: int) -> Tensor:
    """The first convolution, with the border repeated."""
    first: Any = network[0]
    images = F.pad(images, (padding,) * 4, mode="replicate")
    return F.conv2d(images, first.weight, first.bias, first.stride)


@pytest.mark.parametrize("name", BACKBONES)
def test_names_are_those_of_torchvisions_modules(name: str) -> None:
    kinds = {"conv": nn.Conv2d, "relu": nn.ReLU, "pool": nn.MaxPool2d, "maxpool": nn.MaxPool2d}
    fire = torchvision.models.squeezenet.Fire
    with torch.device("meta"):
        modules = reference(name)
    assert layer_names(name) == NAMES[name]
    for layer, module in zip(NAMES[name], modules, strict=True):
        assert isinstance(module, kinds.get(layer.rstrip("_0123456789"), fire)), layer


def test_layers_are_named_as_in_the_papers() -> None:
    # As listed in many well-known programs.
    known = {0: "conv1_1", 5: "conv2_1", 10: "conv3_1", 19: "conv4_1", 21: "conv4_2", 28: "conv5_1"}
    assert {index: layer_names("vgg19")[index] for index in known} == known
    johnson = {3: "relu1_2", 8: "relu2_2", 15: "relu3_3", 22: "relu4_3"}
    assert {index: layer_names("vgg16")[index] for index in johnson} == johnson


def test_weights_are_downloaded_from_torchvisions_addresses() -> None:
    models = torchvision.models
    expected = {
        "vgg19": models.VGG19_Weights.DEFAULT.url,
        "vgg16": models.VGG16_Weights.IMAGENET1K_V1.url,
        "squeezenet": models.SqueezeNet1_0_Weights.DEFAULT.url,
    }
    found = {name: one.weights.url for name, one in NETWORKS.items() if one.weights}
    assert found.items() >= expected.items()


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
@pytest.mark.parametrize("caffe", [False, True])
def test_vgg_equals_torchvisions(name: str, caffe: bool, tmp_path: Path) -> None:
    network, layers = reference(name), ["conv1_1", "relu1_2", "pool2", "conv3_1"]
    given = name + "_caffe" * caffe
    found = Backbone(given, layers, weights_dir=str(publish(given, network, 11, tmp_path)))
    images = noise(50, 61)
    if caffe:
        means = torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)
        features = bordered(network, images[:, [2, 1, 0]] * 255 - means, 1)
    else:
        features = bordered(network, (images - MEAN) / DEVIATION, 1)
    expected = {"conv1_1": features}
    for layer, module in zip(NAMES[name][1:11], network[1:11], strict=True):
        expected[layer] = features = module(features.clone())
    computed = found(images)
    assert list(computed) == layers
    for layer in layers:
        torch.testing.assert_close(computed[layer], expected[layer], rtol=1e-4, atol=1e-4)


def test_squeezenet_equals_torchvisions(tmp_path: Path) -> None:
    network = reference("squeezenet")
    layers = ["conv1", "relu1", "fire2", "maxpool4", "fire9"]
    folder = publish("squeezenet", network, 13, tmp_path)
    images = noise(70, 81)
    features = bordered(network, (images - MEAN) / DEVIATION, 3)
    expected = {"conv1": features}
    for layer, module in zip(SQUEEZENET[1:], network[1:], strict=True):
        expected[layer] = features = module(features.clone())
    computed = Backbone("squeezenet", layers, weights_dir=str(folder))(images)
    for layer in layers:
        torch.testing.assert_close(computed[layer], expected[layer], rtol=1e-4, atol=1e-4)


def test_every_name_of_vgg_stands_for_a_layer_of_squeezenet(tmp_path: Path) -> None:
    folder = publish("squeezenet", reference("squeezenet"), 13, tmp_path)
    found = Backbone("squeezenet", VGG19, weights_dir=str(folder))
    vgg = Backbone("random", VGG19)
    for layer in VGG19:
        assert found.stride_of(layer) / vgg.stride_of(layer) in (0.5, 1, 2), layer
    stand_ins = [SQUEEZENET[found.index[layer]] for layer in VGG19 if layer[:4] == "relu"]
    assert stand_ins == sorted(stand_ins, key=SQUEEZENET.index)  # none overtakes another
    assert list(STAND_INS) == ["1", "2", "3", "4", "5"]


def test_random_weights_are_a_function_of_the_seed_and_keep_the_scale() -> None:
    images = noise(48, 48)
    before = torch.get_rng_state()
    one, same, other = (Backbone("random", ["relu5_1"], seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one(images)["relu5_1"], same(images)["relu5_1"])
    assert not torch.equal(one(images)["relu5_1"], other(images)["relu5_1"])
    assert one.name == same.name != other.name
    assert 0.1 < one(images)["relu5_1"].square().mean().sqrt() < 10


def test_only_the_modules_that_lead_to_the_layers_are_kept() -> None:
    assert len(Backbone("random", ["relu2_1", "conv1_1"]).sequence) == 7


def test_pooling_by_average() -> None:
    layers = ["relu1_2", "pool1"]
    found = Backbone("random", layers, pooling="average")(noise(32, 33))
    torch.testing.assert_close(found["pool1"], F.avg_pool2d(found["relu1_2"], 2))


@pytest.mark.parametrize("size", [(1, 1), (5, 70), (31, 32), (33, 47), (64, 130)])
@pytest.mark.parametrize("pooling", ["max", "average"])
def test_the_sizes_of_layers_are_known_for_any_image(
    size: tuple[int, int], pooling: str, tmp_path: Path
) -> None:
    folder = publish("squeezenet", reference("squeezenet"), 13, tmp_path)
    for name, layers in (("squeezenet", SQUEEZENET), ("random", VGG19[:21])):
        backbone = Backbone(name, layers, pooling, weights_dir=str(folder))
        for layer, features in backbone(noise(*size)).items():
            assert backbone.size(layer, *size) == features.shape[-2:], (name, layer)


def test_a_position_depends_on_nothing_outside_the_halo(tmp_path: Path) -> None:
    folder = publish("squeezenet", reference("squeezenet"), 13, tmp_path)
    for name, layer in (("squeezenet", "fire5"), ("random", "relu3_1")):
        backbone = Backbone(name, [layer], weights_dir=str(folder))
        assert backbone.halo % backbone.stride == 0
        images = noise(160, 160).requires_grad_()
        place = 80 // backbone.stride
        backbone(images)[layer][..., place, place].sum().backward()
        assert images.grad is not None
        rows = images.grad.abs().sum((0, 1, 3)).nonzero().flatten()
        assert 80 - backbone.halo <= rows.min() and rows.max() <= 80 + backbone.halo
        assert max(80 - rows.min(), rows.max() - 80) > backbone.halo - 2 * backbone.stride


@pytest.mark.parametrize(
    ("name", "layer", "near"),
    [
        ("random", "conv4_5", "conv4_4"),
        ("squeezenet", "fire1", "fire9"),
        ("squeezenet", "relu4_5", "relu4_4"),
        ("vgg16", "relu34", "rel"),
    ],
)
def test_an_unknown_layer_is_named_with_the_nearest(name: str, layer: str, near: str) -> None:
    message = f"backbone={name}.*'{layer}' is none of conv1.*Did you mean '{near}"
    with pytest.raises(UserError, match=message):
        Backbone(name, [layer])


@pytest.mark.parametrize("name", ["random", "vgg16", "squeezenet"])
@pytest.mark.parametrize(
    ("layer", "right"),
    [("conv_1", "conv1_1"), ("conv_4", "conv2_2"), ("relu5", "relu3_1"), ("conv_13", "conv")],
)
def test_layers_counted_in_sequence_are_answered_by_their_names(
    name: str, layer: str, right: str
) -> None:
    with pytest.raises(UserError, match=f"'{layer}' is none of .*did you mean '{right}"):
        Backbone(name, [layer])


def test_gatys_own_file_is_read_by_its_name_or_path(tmp_path: Path) -> None:
    known = reference("vgg19")
    (tmp_path / "johnson").mkdir()
    publish("vgg19_caffe", known, 6, tmp_path / "johnson")
    (johnson,) = (tmp_path / "johnson").rglob("*.pth")
    state = torch.load(johnson, weights_only=True)
    names = layer_names("vgg19")
    own = {}
    for key, tensor in state.items():
        index, kind = key.removeprefix("features.").split(".")
        own[f"{names[int(index)]}.{kind}"] = tensor
    (tmp_path / "own").mkdir()
    torch.save(own, tmp_path / "own/vgg_conv.pth")
    layers, images = ["relu1_1", "conv2_1"], noise(40, 48)
    expected = Backbone("vgg19_caffe", layers, weights_dir=str(johnson))(images)
    for place in ("own", "own/vgg_conv.pth"):
        found = Backbone("vgg19_caffe", layers, weights_dir=str(tmp_path / place))(images)
        assert all(torch.equal(found[layer], expected[layer]) for layer in layers)


def test_missing_or_unfitting_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weights_dir: there is no file vgg19-dcbb9e9d\.pth"):
        Backbone("vgg19", ["relu1_1"], weights_dir=str(tmp_path))
    publish("vgg19", reference("vgg19"), 1, tmp_path)
    assert Backbone("vgg19", ["conv1_1"], weights_dir=str(tmp_path)).name.startswith("vgg19-")
    with pytest.raises(UserError, match=r"dcbb9e9d\.pth: its tensors do not fit.*backbone=random"):
        Backbone("vgg19", ["conv1_2"], weights_dir=str(tmp_path))


@pytest.mark.skipif(not REAL.is_dir(), reason="SqueezeNet's weights are not on this machine")
def test_squeezenets_weights_are_read() -> None:
    backbone = Backbone("squeezenet", ["fire9"], weights_dir=str(REAL.parent))
    (file,) = REAL.glob("squeezenet1_0*.pth")
    assert backbone.name == f"squeezenet-{sha256(file)[:8]}"
    assert backbone(noise(64, 64))["fire9"].shape == (1, 512, 4, 4)
