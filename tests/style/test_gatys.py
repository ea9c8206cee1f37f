"""Painting by optimisation, with random weights; nothing is downloaded."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from artgan import inkwash
from artgan.config import CONFIGS, compose
from artgan.errors import UserError
from artgan.options import BACKBONES, StylizeConfig
from artgan.style import gatys
from artgan.style.backbone import STAND_INS, layer_names
from artgan.style.gatys import Gatys, Interrupted, scales
from artgan.style.inputs import Region, Style
from artgan.style.objective import Objective, TiledBackbone

PRESETS = sorted(path.stem for path in (CONFIGS / "preset").glob("[!_]*.yaml"))
SHALLOW: dict[str, Any] = {
    "style_layers": ["relu1_1", "relu2_1"],
    "style_layer_weights": [1, 1],
    "content_layers": ["relu2_1"],
    "first_size": None,
}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def configured(preset: str = "best", /, **overrides: Any) -> StylizeConfig:
    """A configuration of the command, with random weights."""
    chosen: dict[str, Any] = {"content": "x", "style": "x", "method": "gatys", "preset": preset}
    chosen |= {"backbone": "random", "precision": "32", "iterations": 4} | overrides
    return compose("stylize", chosen)


def image(index: int, height: int, width: int) -> Image.Image:
    return Image.fromarray(inkwash.paint(0, index)).resize((width, height))


def content(height: int = 64, width: int = 64) -> Tensor:
    return gatys.from_pil(image(0, height, width), max(height, width))


def style(*indices: int, size: tuple[int, int] = (60, 70)) -> Style:
    name = "-".join(map(str, indices))
    return Style(name, name, len(indices), lambda: (image(i, *size) for i in indices))


def region(*indices: int, weight: float = 1.0, mask: Tensor | None = None) -> Region:
    return Region(style(*indices), weight, mask)


def objective(config: StylizeConfig, regions: list[Region], shown: Tensor) -> Objective:
    return Gatys(config, "cpu").objective(shown, regions, (shown.shape[-2], shown.shape[-1]), False)


# Presets.


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_runs_with_every_backbone(preset: str) -> None:
    config = configured(preset)
    assert len(config.style_layers) == len(config.style_layer_weights)
    for backbone in BACKBONES:
        for layer in [*config.style_layers, *config.content_layers]:
            if backbone == "squeezenet":
                assert layer[4] in STAND_INS
            else:
                # VGG16 ends three of its blocks a convolution earlier.
                assert layer in layer_names(backbone), (backbone, layer)


def test_presets_have_the_settings_of_their_sources() -> None:
    adam, keras, own = (configured(name, size=1024) for name in ("adam", "keras", "gatys2016"))
    assert (adam.content_layers, adam.optimizer, adam.init) == (["relu4_2"], "adam", "content")
    assert adam.style_layer_weights == [1, 0.8, 0.5, 0.3, 0.1]
    assert (adam.content_weight, adam.style_weight) == (1, 1e6)
    assert adam.learning_rate == pytest.approx(0.003 * 0.226, rel=0.01)
    assert keras.style_layers == ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"]
    assert (keras.content_layers, keras.optimizer, keras.init) == (["relu2_2"], "lbfgs", "noise")
    assert (keras.content_weight, keras.style_weight, keras.total_variation) == (0.025, 5, 1)
    assert own.style_layer_weights == [1e3 / n**2 for n in (64, 128, 256, 512, 512)]
    assert (own.content_layers, own.optimizer, own.content_weight) == (
        ["relu4_2"],
        "torch_lbfgs",
        1,
    )
    assert scales(768, 1024, own.first_size, own.scale_step) == [(384, 512), (768, 1024)]


@pytest.mark.parametrize("preset", ["adam", "keras", "gatys2016"])
def test_loss_and_gradient_of_a_preset_equal_its_sources(preset: str) -> None:
    """The sources' networks, image preparation and losses, written out in plain torch."""
    config = configured(preset)
    shown, other = content(32, 48), image(2, 40, 36)
    painter = Gatys(config, "cpu")
    painter.backbone.double()
    target = Style("one", "one", 1, lambda: iter([other]))
    found = painter.objective(shown.double(), [Region(target, 1.0, None)], (32, 48), False)
    noise = torch.rand(shown.shape, generator=torch.Generator().manual_seed(0))
    painted = (0.7 * shown + 0.3 * noise).double().requires_grad_()
    losses, gradient = found(painted.detach(), 1024)
    # Udacity's course and Keras' example stretch the style to the content's shape.
    if preset != "gatys2016":
        other = other.resize((48, 32), Image.Resampling.BILINEAR)
    expected = SOURCES[preset](
        *(plain_vgg(painter, one) for one in (shown, gatys.from_pil(other, 48), painted)), painted
    )
    (wanted,) = torch.autograd.grad(expected, painted)
    assert losses["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert (gradient - wanted).norm() / wanted.norm() < 1e-5


def plain_vgg(painter: Gatys, image: Tensor) -> dict[str, Tensor]:
    """What follows each convolution's ReLU in VGG19, with zeros as padding everywhere."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x = (image.double() - mean) / deviation
    state = iter(painter.backbone.sequence.state_dict().values())
    features: dict[str, Tensor] = {}
    for block, count in enumerate((2, 2, 4, 4, 4), 1):
        for number in range(1, count + 1):
            weight, bias = next(state, None), next(state, None)
            if weight is None:
                return features
            x = F.conv2d(x, weight, bias, padding=1).relu()
            features[f"relu{block}_{number}"] = x
        x = F.max_pool2d(x, 2)
    return features


Features = dict[str, Tensor]


def udacity(content: Features, style: Features, painted: Features, _: Tensor) -> Tensor:
    def gram_matrix(tensor: Tensor) -> Tensor:
        _, d, h, w = tensor.size()
        tensor = tensor.view(d, h * w)
        return torch.mm(tensor, tensor.t())

    # The ReLU in place: what the course calls conv4_2 has passed it when it is compared.
    loss = torch.mean((painted["relu4_2"] - content["relu4_2"]) ** 2)
    for block, weight in enumerate([1.0, 0.8, 0.5, 0.3, 0.1], 1):
        target = painted[f"relu{block}_1"]
        d, h, w = target.shape[1:]
        gram, style_gram = gram_matrix(target), gram_matrix(style[f"relu{block}_1"])
        loss = loss + 1e6 * weight * torch.mean((gram - style_gram) ** 2) / (d * h * w)
    return loss


def keras(content: Features, style: Features, painted: Features, image: Tensor) -> Tensor:
    size, x = image.shape[-2] * image.shape[-1], image * 255
    loss = 0.025 * ((painted["relu2_2"] - content["relu2_2"]) ** 2).sum()
    layers = ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"]
    for layer in layers:
        one, other = (of[layer].flatten(2)[0] for of in (style, painted))
        difference = ((one @ one.T - other @ other.T) ** 2).sum()
        loss = loss + 5.0 / len(layers) * difference / (4.0 * 3**2 * size**2)
    a = (x[..., :-1, :-1] - x[..., 1:, :-1]) ** 2
    b = (x[..., :-1, :-1] - x[..., :-1, 1:]) ** 2
    return loss + 1.0 * ((a + b) ** 1.25).sum()


def gatys_own(content: Features, style: Features, painted: Features, _: Tensor) -> Tensor:
    loss = F.mse_loss(painted["relu4_2"], content["relu4_2"])
    for block, channels in enumerate([64, 128, 256, 512, 512], 1):
        rows = [one[f"relu{block}_1"].flatten(2) for one in (painted, style)]
        gram, wanted = (torch.bmm(one, one.transpose(1, 2)) / one.shape[2] for one in rows)
        loss = loss + 1e3 / channels**2 * F.mse_loss(gram, wanted)
    return loss


SOURCES: dict[str, Callable[..., Tensor]] = {
    "adam": udacity,
    "keras": keras,
    "gatys2016": gatys_own,
}


# Painting.

# Mean of each channel, and of three places, as each preset paints them.
GOLDEN = {
    "adam": [0.8713, 0.8306, 0.7641, 0.8562, 0.8941, 0.8846],
    "best": [0.8595, 0.8124, 0.7334, 0.8654, 0.8821, 0.8573],
    "gatys2016": [0.8783, 0.8342, 0.7542, 0.8495, 0.8841, 0.8799],
    "keras": [0.4953, 0.5028, 0.5066, 0.4548, 0.4396, 0.5763],
}


def summary(painted: Tensor) -> list[float]:
    places = [painted[0, :, y, x].mean() for y, x in ((8, 8), (31, 40), (60, 20))]
    return [round(float(one), 4) for one in (*painted.mean((0, 2, 3)), *places)]


@pytest.mark.parametrize("preset", PRESETS)
def test_losses_fall_and_the_result_is_the_golden_one(preset: str) -> None:
    config = configured(preset, learning_rate=0.02, iterations=8)
    config = replace(config, first_size=config.first_size and 32)
    shown = content()
    begun = shown if config.init == "content" else None
    history: list[dict[str, float]] = []
    painted = Gatys(config, "cpu").paint(
        shown, [region(1)], lambda *progress: history.append(progress[2]), begun
    )
    assert painted.shape == shown.shape
    assert painted.dtype == torch.float32
    assert painted.min() >= 0 and painted.max() <= 1
    assert history[-1]["loss"] < history[0]["loss"]
    for losses in history:
        parts = losses["content"] + losses["style"] + losses["variation"]
        assert losses["loss"] == pytest.approx(parts)
    assert summary(painted) == pytest.approx(GOLDEN[preset], abs=0.01)


def test_the_same_seed_gives_the_same_bits() -> None:
    results = []
    for seed in (1, 1, 2):
        config = configured("keras", seed=seed, **SHALLOW)
        results.append(Gatys(config, "cpu").paint(content(), [region(1)]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("size", [(45, 70), (9, 13), (64, 33)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    shown = content(*size)
    config = configured(**(SHALLOW | {"first_size": 16}))
    painted = Gatys(config, "cpu").paint(shown, [region(1)], init=shown)
    assert painted.shape == shown.shape
    assert painted.isfinite().all()


def test_every_evaluation_is_reported_with_the_image_so_far() -> None:
    config = configured(**(SHALLOW | {"first_size": 32, "scale_step": 2}))
    reports: list[tuple[int, int, torch.Size]] = []
    Gatys(config, "cpu").paint(
        content(),
        [region(1)],
        lambda step, steps, losses, so_far: reports.append((step, steps, so_far().shape[-2:])),
    )
    small, large = torch.Size((32, 32)), torch.Size((64, 64))
    assert reports == [(n, 8, small if n <= 4 else large) for n in range(1, 9)]


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_an_interruption_gives_the_image_so_far(optimizer: str) -> None:
    config = configured(**(SHALLOW | {"first_size": 32, "scale_step": 2, "optimizer": optimizer}))

    def watch(step: int, *_: object) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as interrupted:
        Gatys(config, "cpu").paint(content(40, 64), [region(1)], watch, content(40, 64))
    painted = interrupted.value.image
    assert painted.shape == (1, 3, 40, 64)
    assert painted.min() >= 0 and painted.max() <= 1 and painted.std() > 0.01


# Styles.


def test_styles_are_blended_by_weight() -> None:
    config, shown = configured(**SHALLOW), content()
    one, other, both, alone = (
        objective(config, regions, shown).targets
        for regions in (
            [region(1)],
            [region(2)],
            [region(1, weight=0.7), region(2, weight=0.3)],
            [region(1, weight=1.0), region(2, weight=0.0)],
        )
    )
    assert len(both) == 1
    for layer, blended in both[0].moments.items():
        for part in range(2):
            wanted = 0.7 * one[0].moments[layer][part] + 0.3 * other[0].moments[layer][part]
            torch.testing.assert_close(blended[part], wanted)
            assert torch.equal(alone[0].moments[layer][part], one[0].moments[layer][part])


def test_the_style_of_a_folder_is_the_mean_of_its_images() -> None:
    config, shown = configured(**SHALLOW), content()
    folder, blend = (
        objective(config, regions, shown).targets[0].moments
        for regions in ([region(1, 2)], [region(1, weight=0.5), region(2, weight=0.5)])
    )
    for layer, found in folder.items():
        torch.testing.assert_close(found.second, blend[layer].second)


def test_a_mask_keeps_the_style_where_it_is_white() -> None:
    mask = torch.zeros(1, 1, 64, 96)
    mask[..., :32] = 1
    config = configured(**SHALLOW, content_weight=0, total_variation=0)
    painter, shown = Gatys(config, "cpu"), content(64, 96)
    painted = painter.paint(shown, [region(1, mask=mask)], init=shown)
    changed = (painted - shown).abs().amax((0, 1, 2))
    assert changed[:32].min() > 0.01
    assert changed[32 + painter.backbone.halo :].max() < 1e-6


def test_a_mask_without_white_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="mask: nothing in it is white"):
        objective(configured(**SHALLOW), [region(1, mask=torch.zeros(1, 1, 64, 64))], content())


def test_two_masks_paint_two_styles() -> None:
    left = torch.zeros(1, 1, 64, 96)
    left[..., :48] = 1
    config = configured(**SHALLOW, content_weight=0, total_variation=0)
    shown = content(64, 96)
    both = [region(1, weight=0.5, mask=left), region(2, weight=0.5, mask=1 - left)]
    found = objective(config, both, shown)
    _, gradient = found(shown, 1024)
    far = 48 - found.backbone.halo
    for place, index, mask in ((slice(0, far), 1, left), (slice(-far, None), 2, 1 - left)):
        _, alone = objective(config, [region(index, mask=mask)], shown)(shown, 1024)
        difference = (gradient - alone)[..., place].norm() / alone[..., place].norm()
        assert difference < 1e-4


def test_the_style_loss_of_a_region_is_weighted_by_its_area() -> None:
    config = configured(**SHALLOW, content_weight=0, total_variation=0)
    shown = content(64, 96)
    quarter = torch.zeros(1, 1, 64, 96)
    quarter[..., :24] = 1
    only, both = (
        objective(config, regions, shown).targets
        for regions in (
            [region(1, mask=quarter)],
            [region(1, weight=0.5, mask=quarter), region(2, weight=0.5, mask=1 - quarter)],
        )
    )
    assert [target.weight for target in only] == pytest.approx([0.25])
    assert [target.weight for target in both] == pytest.approx([0.25, 0.75])
    found = objective(config, [region(1, mask=quarter)], shown)
    whole = replace(found.targets[0], weight=1.0)
    loss = found(shown, 1024)[0]["style"]
    found.targets = [whole]
    assert loss == pytest.approx(found(shown, 1024)[0]["style"] / 4, rel=1e-5)


def test_a_style_is_shown_at_the_scale_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = gatys.from_pil

    def noted(given: Image.Image, side: int, enlarge: bool = False) -> Tensor:
        seen.append(side if enlarge is bool(style_size) else -side)
        return real(given, side, enlarge)

    monkeypatch.setattr(gatys, "from_pil", noted)
    for style_size, expected in ((None, [32, 64]), (50, [25, 50])):
        shown = content()
        seen.clear()
        overrides = {"first_size": 32, "scale_step": 2, "iterations": 1, "style_size": style_size}
        Gatys(configured(**(SHALLOW | overrides)), "cpu").paint(shown, [region(1)])
        assert seen == expected
    assert real(image(0, 30, 60), 40).shape == (1, 3, 20, 40)
    assert real(image(0, 30, 60), 90).shape == (1, 3, 30, 60)
    assert real(image(0, 30, 60), 90, True).shape == (1, 3, 45, 90)


# Tiles.


@pytest.mark.parametrize("losses", ["covariance", "keras"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_in_tiles_is_that_of_the_whole(losses: str, masked: bool) -> None:
    config = configured(**(SHALLOW | {"content_layers": ["pool2"]}), losses=losses)
    shown = content(70, 101)
    mask = torch.linspace(0, 1, 101).expand(1, 1, 70, 101) if masked else None
    painter = Gatys(config, "cpu")
    painter.backbone.double()
    masks = [] if mask is None else [mask.double()]
    regions = [region(1, mask=one) for one in masks] or [region(1)]
    found = painter.objective(shown.double(), regions, (shown.shape[-2], shown.shape[-1]), False)
    noise = torch.rand(shown.shape, generator=torch.Generator().manual_seed(0))
    painted = (0.8 * shown + 0.2 * noise).double()
    whole, gradient = found(painted, 1024)
    assert len(found.features.tiles(painted, 32)) == 12
    tiled, tiled_gradient = found(painted, 32)
    assert tiled == pytest.approx(whole, rel=1e-9)
    difference = (tiled_gradient - gradient).norm() / gradient.norm()
    assert difference < 1e-9


def test_targets_in_tiles_are_those_of_the_whole() -> None:
    config = configured(**(SHALLOW | {"content_layers": ["pool2"]}))
    painter, shown = Gatys(config, "cpu"), content(70, 101)
    features = TiledBackbone(painter.backbone, bf16=False)
    whole, tiled = (features.content(shown, ["pool2"], tile) for tile in (1024, 32))
    torch.testing.assert_close(tiled["pool2"], whole["pool2"])
    one, parts = (features.moments(shown, config.style_layers, tile) for tile in (1024, 32))
    torch.testing.assert_close(parts, one)


def test_no_step_shows_at_the_border_of_tiles() -> None:
    shown = content(130, 130)
    whole = Gatys(configured(**SHALLOW), "cpu").paint(shown, [region(1)], init=shown)
    painter = Gatys(configured(**SHALLOW), "cpu")
    painter.tile.side = 64
    tiled = painter.paint(shown, [region(1)], init=shown)
    assert (tiled - whole).abs().mean() < 1e-4
    steps = (tiled[..., 1:] - tiled[..., :-1]).abs().mean((0, 1, 2))
    untouched = (whole[..., 1:] - whole[..., :-1]).abs().mean((0, 1, 2))
    borders = [63, 127]
    assert (steps[borders] - untouched[borders]).abs().max() < 1e-4


# Safety.


@pytest.mark.parametrize("times", [1, 3])
def test_after_a_loss_that_is_not_finite_the_scale_starts_again_with_safer_settings(
    times: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failures = iter([True] * times)
    real = Objective.__call__

    def failing(self: Objective, image: Tensor, tile: int) -> Any:
        losses, gradient = real(self, image, tile)
        return ({"loss": math.nan} if next(failures, False) else losses), gradient

    monkeypatch.setattr(Objective, "__call__", failing)
    config = configured("keras", **SHALLOW)
    painted = Gatys(config, "cpu").paint(content(), [region(1)], init=content())
    assert painted.isfinite().all()
    lines = capsys.readouterr().err.splitlines()
    rates = ["0.002", "0.0002", "2e-05"][:times]
    assert [line.rpartition(" ")[2] for line in lines] == [f"{rate}." for rate in rates]
    assert all(
        "not finite or rises at 64×64 px. Painting this size again in float32" in t for t in lines
    )


def test_losses_that_are_never_finite_are_a_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    config = configured(**SHALLOW, style_weight=1e45)
    with pytest.raises(
        UserError, match=r"not finite or rises, even with learning_rate=2e-05\. Use smaller"
    ):
        Gatys(config, "cpu").paint(content(), [region(1)], init=content())
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_learning_rate_that_is_too_high_is_lowered(capsys: pytest.CaptureFixture[str]) -> None:
    config = configured(**SHALLOW, learning_rate=1, iterations=30)
    Gatys(config, "cpu").paint(content(), [region(1)], init=content())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("with Adam and a learning rate of 0.1.")
    with pytest.raises(UserError, match=r"learning_rate: 1000000.0 must be .* at most 1\."):
        configured(learning_rate=1e6)


def test_each_style_layer_needs_a_weight() -> None:
    with pytest.raises(UserError, match=r"style_layer_weights: has 1 weights for 2 style_layers"):
        Gatys(configured(**(SHALLOW | {"style_layer_weights": [1]})), "cpu")


@pytest.mark.parametrize("key", ["content_layers", "style_layers"])
def test_a_layer_is_needed(key: str) -> None:
    with pytest.raises(UserError, match=f"{key}: name at least one"):
        Gatys(configured(**(SHALLOW | {key: []})), "cpu")


def test_a_missing_device_is_a_clear_error() -> None:
    missing = "cuda:9" if torch.cuda.is_available() else "cuda"
    with pytest.raises(UserError, match=f"device: there is no {missing}"):
        Gatys(configured(**SHALLOW), missing)


@pytest.mark.slow
def test_bfloat16_paints_nearly_the_same() -> None:
    shown, losses, painted = content(), [], []
    for precision in ("32", "bf16"):
        painter = Gatys(configured(**SHALLOW, precision=precision, iterations=30), "cpu")
        painted.append(painter.paint(shown, [region(1)], init=shown))
        in_float32 = objective(configured(**SHALLOW), [region(1)], shown)
        losses.append(in_float32(painted[-1], 1024)[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert (painted[0] - painted[1]).abs().mean() < 0.02


def test_scales_grow_by_the_step_up_to_the_size() -> None:
    assert scales(384, 512, 128, 2) == [(96, 128), (192, 256), (384, 512)]
    assert scales(600, 800, 512, 16) == [(384, 512), (600, 800)]
    assert [max(size) for size in scales(64, 600, 128, 2)] == [128, 214, 359, 600]
    assert scales(512, 300, None, 2) == [(512, 300)]
    assert scales(100, 60, 128, 2) == [(100, 60)]
    assert [max(size) for size in scales(512, 512, 128, 2**0.5)] == [128, 181, 256, 362, 512]
