import hashlib
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from artgan.options import StylizeConfig
from artgan.style import magenta, transformer
from artgan.style.inputs import Region, Style
from artgan.style.magenta import Magenta
from artgan.style.predictor import Same
from tests.helpers import ROOT, environment

SHARED = ROOT.parent / "shared"
WEIGHTS = SHARED / "weights" / "magenta"
PICTURES = SHARED / "data" / "style_transfer"
needs_shared = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the weights are not available")

Make = Callable[..., Magenta]


def seeded(weights_dir: str | None, shapes: dict[str, torch.Size]) -> tuple[dict[str, Tensor], str]:
    """Untrained weights that keep the features within bounds."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        fan_in = shape[1:].numel() if len(shape) > 1 else 16
        weights[name] = drawn * (1.5 / fan_in) ** 0.5
    return weights, "0"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    """A painter with random weights, and the default settings but for those given."""
    monkeypatch.setattr(magenta, "load_weights", seeded)

    def make(**chosen: object) -> Magenta:
        config = StylizeConfig(content="x", style="x")
        for name, value in (default | chosen).items():
            setattr(config, name, value)
        return Magenta(config, "cpu")

    default = {"weights_dir": None, "strength": 1.0, "style_size": None, "tile": None}
    return make


def image(height: int, width: int, seed: int = 0) -> Tensor:
    """Soft spots of colour, [1, 3, H, W] in [0, 1]."""
    spots = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(spots, (height, width), mode="bicubic").clamp(0, 1)


def style_of(*tensors: Tensor) -> Style:
    images = [
        Image.fromarray((255 * one[0]).round().byte().permute(1, 2, 0).numpy()) for one in tensors
    ]
    key = hashlib.sha256(b"".join(one.tobytes() for one in images)).hexdigest()
    return Style("spots", key, len(images), lambda: iter(images))


def region(seed: int, weight: float = 1.0, mask: Tensor | None = None) -> Region:
    return Region(style_of(image(60, 80, seed)), weight, mask)


# Of an image painted with seeded weights: mean, deviation, and two of its values.
GOLDEN = [0.5383, 0.4079, 0.0082, 0.3536]


def transcribed_style(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """The predictor, operation by operation, as in the published file."""

    def convolve(name: str, features: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight, bias = (weights[f"predictor.{name}.{kind}"] for kind in ("weight", "bias"))
        kernel = weight.shape[2]
        for _ in range(2):  # rows, then columns
            side = features.shape[2]
            lacking = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            before = torch.zeros_like(features[:, :, :1]).repeat(1, 1, lacking // 2, 1)
            after = torch.zeros_like(features[:, :, :1]).repeat(1, 1, lacking - lacking // 2, 1)
            features = torch.cat([before, features, after], 2).transpose(2, 3)
        return F.conv2d(features, weight, bias, stride=stride, groups=groups)

    features = convolve("first", images, 2).clamp(0, 6)
    for number in range(17):
        block = f"blocks.{number}"
        hidden = features
        if number:
            hidden = convolve(f"{block}.expand", features).clamp(0, 6)
        stride = 2 if number in (1, 3, 6, 13) else 1
        hidden = convolve(f"{block}.depthwise", hidden, stride, hidden.shape[1]).clamp(0, 6)
        hidden = convolve(f"{block}.project", hidden)
        features = hidden + features if hidden.shape == features.shape else hidden
    features = convolve("last", features).clamp(0, 6)
    return convolve("style", features.mean((2, 3), keepdim=True))


def transcribed_image(weights: dict[str, Tensor], content: Tensor, style: Tensor) -> Tensor:
    """The transformer as in the table of the paper, without tiles."""

    def convolve(name: str, features: Tensor, stride: int = 1) -> Tensor:
        weight = weights[f"transformer.{name}.weight"]
        padded = F.pad(features, [weight.shape[2] // 2] * 4, mode="reflect")
        return F.conv2d(padded, weight, weights.get(f"transformer.{name}.bias"), stride)

    def conditioned(name: str, features: Tensor) -> Tensor:
        features = convolve(name, features)
        beta, gamma = (
            F.conv2d(
                style,
                weights[f"transformer.{name}.{kind}.weight"],
                weights[f"transformer.{name}.{kind}.bias"],
            )
            for kind in ("beta", "gamma")
        )
        var, mean = torch.var_mean(features, (2, 3), correction=0, keepdim=True)
        return (features - mean) / (var + 1e-5).sqrt() * gamma + beta

    features = content
    for number, stride in ((1, 1), (2, 2), (3, 2)):
        features = convolve(f"contract{number}", features, stride).relu()
    for number in range(1, 6):
        hidden = conditioned(f"residual.{number}.conv1", features).relu()
        features = features + conditioned(f"residual.{number}.conv2", hidden)
    for number in (1, 2):
        features = F.interpolate(features, scale_factor=2, mode="nearest")
        features = conditioned(f"expand{number}", features).relu()
    return conditioned("expand3", features).sigmoid()


@pytest.mark.parametrize("size", [(256, 256), (255, 129), (33, 70), (1, 5)])
def test_the_predictor_equals_the_published_one(make: Make, size: tuple[int, int]) -> None:
    network = make().network
    seen = image(*size)
    with torch.no_grad():
        style = network.predictor(seen)
        torch.testing.assert_close(style, transcribed_style(network.state_dict(), seen))
    assert style.shape == (1, 100, 1, 1)


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (36, 100)])
@pytest.mark.parametrize("tile", [16, 1024])
def test_the_transformer_equals_the_published_one(
    make: Make, size: tuple[int, int], tile: int
) -> None:
    network = make().network
    style = torch.randn(1, 100, 1, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        painted = network.transformer(image(*size), style, tile)
        expected = transcribed_image(network.state_dict(), image(*size), style)
    # In a layer of only four pixels, normalisation amplifies rounding errors.
    torch.testing.assert_close(painted, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("side", "before"), [(8, 0), (9, 1), (7, 1), (1, 1)])
def test_an_odd_padding_goes_to_the_bottom_and_right(side: int, before: int) -> None:
    """TensorFlow's SAME: 3×3 with stride 2 pads an even side by one pixel, an odd one by two."""
    layer = Same(1, 1, 3, 2, bias=False)
    # Gives the upper left pixel of its window: zero where that is padding.
    layer.weight.data = torch.zeros(1, 1, 3, 3)
    layer.weight.data[0, 0, 0, 0] = 1
    seen = layer(torch.ones(1, 1, side, side))
    assert seen.shape[2:] == (-(-side // 2), -(-side // 2))
    assert seen[0, 0, 0, 0] == 1 - before


def test_seeded_weights_paint_the_golden_image(make: Make) -> None:
    painted = make().paint(image(64, 64), [region(1)])
    found = [painted.mean(), painted.std(), painted[0, 0, 5, 9], painted[0, 2, 50, 31]]
    assert [round(one.item(), 4) for one in found] == pytest.approx(GOLDEN, abs=5e-4)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (15, 9), (66, 127)])
def test_any_size_is_painted(make: Make, size: tuple[int, int]) -> None:
    content = image(*size)
    kept = content.clone()
    painted = make().paint(content, [region(1)])
    assert painted.shape == content.shape
    assert painted.dtype == torch.float32
    assert painted.min() >= 0 and painted.max() <= 1
    assert torch.equal(content, kept)
    painted.add_(0)  # allowed in place, unlike a tensor of inference mode


def test_a_side_that_is_not_a_multiple_of_four_is_padded_by_its_border(make: Make) -> None:
    content = image(64, 64)
    content[..., 61:] = content[..., 60:61]
    whole, part = (make().paint(one, [region(1)]) for one in (content, content[..., :61]))
    assert torch.equal(part, whole[..., :61])


@pytest.mark.parametrize("size", [(256, 192), (157, 201)])
def test_tiles_give_the_same_image(make: Make, size: tuple[int, int]) -> None:
    whole = make(tile=4096).paint(image(*size), [region(1)])
    for tile in (32, 50, 128):
        painted = make(tile=tile).paint(image(*size), [region(1)])
        torch.testing.assert_close(painted, whole, atol=1e-4, rtol=0)


def test_no_step_shows_at_the_border_of_tiles(make: Make) -> None:
    painted = make(tile=64).paint(image(256, 320), [region(1)])
    for dim in (2, 3):
        steps = painted.diff(dim=dim).abs().transpose(2, dim).mean((0, 1, 3))
        borders = torch.arange(64, painted.shape[dim], 64)
        # Each border against the steps on both sides of it.
        ratio = 2 * steps[borders - 1] / (steps[borders - 2] + steps[borders])
        assert 0.8 < ratio.mean() < 1.2


def test_strength_blends_from_the_contents_own_style_to_the_paintings(make: Make) -> None:
    content = image(48, 64)
    own = style_of(content)
    # A style has 8 bits, so the content must have them, too.
    content = torch.from_numpy(np.array(next(own.images()))).permute(2, 0, 1)[None] / 255
    none, half, full = (make(strength=s).paint(content, [region(1)]) for s in (0.0, 0.5, 1.0))
    as_itself = make().paint(content, [Region(own, 1.0, None)])
    torch.testing.assert_close(none, as_itself, atol=1e-2, rtol=0)
    painter = make()
    with torch.no_grad():
        mean = (painter.describe(content) + painter.blend([region(1)])) / 2
        middle = painter.network.transformer(content, mean, 256)
    torch.testing.assert_close(half, middle, atol=1e-5, rtol=0)
    assert (full - none).abs().mean() > 0.01


def test_styles_without_masks_are_blended_in_their_descriptions(make: Make) -> None:
    painter, content = make(), image(32, 32)
    blended = painter.paint(content, [region(1, 0.75), region(2, 0.25)])
    with torch.no_grad():
        one, other = (painter.blend([region(n)]) for n in (1, 2))
        expected = painter.network.transformer(content, 0.75 * one + 0.25 * other, 256)
    torch.testing.assert_close(blended, expected, atol=1e-5, rtol=0)
    # A folder is the mean of its images.
    folder = style_of(image(60, 80, 1), image(60, 80, 2))
    evenly = painter.paint(content, [region(1, 0.5), region(2, 0.5)])
    torch.testing.assert_close(painter.paint(content, [Region(folder, 1.0, None)]), evenly)


def test_each_style_is_painted_where_its_mask_is(make: Make) -> None:
    painter, content = make(), image(32, 32)
    left = torch.zeros(1, 1, 32, 32)
    left[..., :20] = 1
    right = torch.zeros(1, 1, 32, 32)
    right[..., 12:30] = 0.5
    painted = painter.paint(content, [region(1, 0.5, left), region(2, 0.5, right)])
    one, other = (painter.paint(content, [region(n)]) for n in (1, 2))
    assert_close = partial(torch.testing.assert_close, atol=1e-6, rtol=0)
    assert_close(painted[..., :12], one[..., :12])
    assert_close(painted[..., 20:30], other[..., 20:30])
    overlap = (one + 0.5 * other)[..., 12:20] / 1.5
    assert_close(painted[..., 12:20], overlap)
    assert (painted[..., 30:] == 0).all()


def test_a_style_is_resized_to_256_pixels_or_its_style_size(make: Make) -> None:
    seen: list[tuple[int, ...]] = []
    for size, style_size in (((512, 1024), None), ((100, 50), None), ((10, 900), None)):
        painter = make(style_size=style_size)
        painter.network.predictor.register_forward_pre_hook(
            lambda _, arguments: seen.append(tuple(arguments[0].shape[2:]))
        )
        painter.paint(image(16, 16), [Region(style_of(image(*size)), 1.0, None)])
    assert seen == [(256, 512), (512, 256), (11, 1024)]
    painter = make(style_size=128)
    painter.network.predictor.register_forward_pre_hook(
        lambda _, arguments: seen.append(tuple(arguments[0].shape[2:]))
    )
    painter.paint(image(16, 16), [Region(style_of(image(512, 1024)), 1.0, None)])
    assert seen[-1] == (64, 128)


def test_statistics_of_a_style_are_kept_for_each_style_size(make: Make) -> None:
    """By default the short side has 256 pixels; style_size=256 is the long side."""
    kept = region(1)
    for style_size in (None, 256, 128, None):
        painter = make(style_size=style_size)
        with torch.no_grad():
            assert torch.equal(painter.blend([kept]), painter.blend([region(1)]))


def test_with_too_little_memory_painting_continues_in_smaller_tiles(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = make().paint(image(96, 96), [region(1)])
    painter = make(tile=256)
    enough = 80
    compute = transformer.Layered.__getitem__

    def scarce(layered: transformer.Layered, place: Any) -> Tensor:
        if place[3].stop - place[3].start > enough:
            torch.empty(1 << 60, dtype=torch.uint8)  # torch's own error
        return compute(layered, place)

    monkeypatch.setattr(transformer.Layered, "__getitem__", scarce)
    painted = painter.paint(image(96, 96), [region(1)])
    torch.testing.assert_close(painted, expected, atol=1e-4, rtol=0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "32 px" in lines[-1]
    enough = 0
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        painter.paint(image(96, 96), [region(1)])


def test_other_errors_are_raised(make: Make) -> None:
    with pytest.raises(RuntimeError, match="expected input"):
        make().paint(torch.zeros(1, 4, 16, 16), [region(1)])


@pytest.mark.slow
def test_slow_imports_are_left_out_at_the_start() -> None:
    code = "import sys, artgan.style.magenta; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    slow = {"torchvision", "pytorch_lightning", "tensorboard", "requests", "tflite", "scipy"}
    assert "torch" in loaded
    assert not loaded & slow


def interpreter(name: str) -> Callable[..., NDArray[np.float32]]:
    """TFLite's own interpreter, on images [1, H, W, 3] or styles [1, 1, 1, 100]."""
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(str(WEIGHTS / name))
    network.allocate_tensors()

    def run(*inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        for one in inputs:
            (entry,) = (d for d in network.get_input_details() if d["shape"][3] == one.shape[3])
            network.set_tensor(entry["index"], one)
        network.invoke()
        return network.get_tensor(network.get_output_details()[0]["index"])

    return run


def correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@needs_shared
@pytest.mark.slow
def test_real_images_are_painted_as_by_the_interpreter() -> None:
    """28 pairs; also against the half-precision file, as int8 arithmetic itself is 3 % off."""
    config = StylizeConfig(content="x", style="x")
    config.weights_dir, config.strength = str(WEIGHTS), 1.0
    config.style_size = config.tile = None
    network = Magenta(config, "cpu").network
    predict, transfer = (
        interpreter(f"style_{part}_int8.tflite") for part in ("predict", "transfer")
    )
    precise = interpreter("style_transfer_f16_384.tflite")

    def read(path: Path, size: int) -> NDArray[np.float32]:
        with Image.open(path) as image:
            small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(small, np.float32)[None] / np.float32(255)

    def channels_first(image: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(image).permute(0, 3, 1, 2).contiguous()

    contents = [read(path, 384) for path in sorted((PICTURES / "content").iterdir())]
    found = []
    for path in sorted((PICTURES / "style").iterdir()):
        seen = read(path, 256)
        theirs = predict(seen)
        with torch.no_grad():
            ours = network.predictor(channels_first(seen))
            cosine = F.cosine_similarity(ours.flatten(), torch.from_numpy(theirs).flatten(), dim=0)
            for content in contents:
                painted = network.transformer(channels_first(content), ours, 256)
                painted_last = painted.permute(0, 2, 3, 1).numpy()
                exact = precise(content, ours.permute(0, 2, 3, 1).numpy())
                found.append(
                    (
                        cosine.item(),
                        correlation(painted_last, transfer(content, theirs)),
                        correlation(painted_last, exact),
                    )
                )
    least = np.array(found).min(0)
    print(f"{len(found)} pairs, at least: cosine {least[0]:.5f}, correlation {least[1]:.4f}, with")
    print(f"half precision {least[2]:.4f}")
    assert len(found) == 28
    assert least[0] >= 0.999
    assert least[1] >= 0.97
    assert least[2] >= 0.998


PAINT_LARGE = """
import resource, sys, torch
sys.path.insert(0, {root!r})
from tests.style import test_magenta
from artgan.style import magenta
magenta.load_weights = test_magenta.seeded
config = magenta.StylizeConfig(content="x", style="x")
config.weights_dir = config.style_size = config.tile = None
config.strength = 1.0
painter = magenta.Magenta(config, "cpu")
content = torch.rand(1, 3, 1, 4096).repeat(1, 1, 4096, 1)
painted = painter.paint(content, [test_magenta.region(1)])
assert painted.shape == content.shape
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_print_size_needs_less_than_two_gibibytes() -> None:
    """One image of 4096×4096, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PAINT_LARGE.format(root=str(ROOT))],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout) / 2**20
    print(f"peak {peak:.2f} GiB")
    assert peak < 2
