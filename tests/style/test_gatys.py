"""Painting by optimisation, with weights that are drawn from a seed; no network is fetched."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from scipy.optimize import fmin_l_bfgs_b
from torch import Tensor

from artgan import inkwash
from artgan.config import CONFIGS, check, register
from artgan.errors import UserError
from artgan.options import BACKBONES, StylizeConfig
from artgan.style import gatys
from artgan.style.backbone import STAND_INS, layer_names
from artgan.style.gatys import Average, Gatys, Interrupted, meet, scales
from artgan.style.inputs import Region, Style
from artgan.style.objective import Objective

PRESETS = sorted(path.stem for path in (CONFIGS / "preset").glob("[!_]*.yaml"))
SHALLOW: dict[str, Any] = {
    "style_layers": "[relu1_1,relu2_1]",
    "style_layer_weights": "[1,1]",
    "content_layers": "[relu2_1]",
    "first_size": None,
}


@pytest.fixture(autouse=True)
def plainly_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics of a style are those of its pictures, averaged, and not kept."""

    def averaged(style: Style, statistics: Callable[..., Any], key: str) -> dict[str, Tensor]:
        found = [statistics(picture) for picture in style.pictures()]
        return {name: sum(one[name] for one in found) / len(found) for name in found[0]}

    monkeypatch.setattr(gatys, "averaged", averaged)


def configured(preset: str = "best", /, **overrides: Any) -> StylizeConfig:
    """A configuration as `stylize.py` composes it, with drawn weights."""
    register(StylizeConfig)
    chosen: dict[str, Any] = {"content": "x", "style": "x", "method": "gatys", "preset": preset}
    chosen |= {"backbone": "random", "precision": "32", "iterations": 4} | overrides
    arguments = [f"{key}={'null' if value is None else value}" for key, value in chosen.items()]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = OmegaConf.to_object(compose("stylize", arguments))
    assert isinstance(config, StylizeConfig)
    check(config)
    return config


def picture(index: int, height: int, width: int) -> Image.Image:
    return Image.fromarray(inkwash.paint(0, index)).resize((width, height))


def content(height: int = 64, width: int = 64) -> Tensor:
    return gatys.from_pil(picture(0, height, width), max(height, width))


def style(*indices: int, size: tuple[int, int] = (60, 70)) -> Style:
    name = "-".join(map(str, indices))
    return Style(name, name, len(indices), lambda: (picture(i, *size) for i in indices))


def region(*indices: int, weight: float = 1.0, mask: Tensor | None = None) -> Region:
    return Region(style(*indices), weight, mask)


def objective(config: StylizeConfig, regions: list[Region], shown: Tensor) -> Objective:
    return Gatys(config, "cpu")._objective(shown, regions, shown.shape[-2:], False)


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
    assert (adam.content_layers, adam.optimizer, adam.init) == (["conv4_2"], "adam", "content")
    assert adam.style_layer_weights == [1, 0.8, 0.5, 0.3, 0.1]
    assert (adam.content_weight, adam.style_weight) == (1, 1e6)
    assert adam.learning_rate == pytest.approx(0.003 * 0.226, rel=0.01)
    assert keras.style_layers == ["relu1_2", "relu2_2", "relu3_3", "relu4_3"]
    assert (keras.content_layers, keras.optimizer, keras.init) == (["relu2_2"], "lbfgs", "noise")
    assert (keras.content_weight, keras.style_weight, keras.total_variation) == (0.02, 4.5, 0.995)
    assert own.style_layer_weights == [1e3 / n**2 for n in (64, 128, 256, 512, 512)]
    assert (own.content_layers, own.optimizer, own.content_weight) == (["relu4_2"], "lbfgs", 1)
    assert scales(768, 1024, own.first_size, own.scale_step) == [(384, 512), (768, 1024)]


@pytest.mark.parametrize("preset", ["adam", "keras", "gatys2016"])
def test_the_loss_of_a_preset_is_that_of_its_source(preset: str) -> None:
    config = configured(preset)
    shown, other = content(32, 48), gatys.from_pil(picture(2, 32, 48), 48)
    painted = (0.5 * shown + 0.5 * other).clamp(0, 1)
    target = Style("one", "one", 1, lambda: iter([picture(2, 32, 48)]))
    found = objective(config, [Region(target, 1.0, None)], shown)
    features = {
        name: found.features(one)
        for name, one in (("content", shown), ("style", other), ("painted", painted))
    }
    computed, _ = found(painted, 1024)
    expected = SOURCES[preset](features, painted)
    assert computed["loss"] == pytest.approx(expected.item(), rel=1e-4)


def udacity(features: dict[str, dict[str, Tensor]], picture: Tensor) -> Tensor:
    style_weights = {"conv1_1": 1.0, "conv2_1": 0.8, "conv3_1": 0.5, "conv4_1": 0.3, "conv5_1": 0.1}
    painted = features["painted"]
    content_loss = torch.mean((painted["conv4_2"] - features["content"]["conv4_2"]) ** 2)
    style_loss = torch.tensor(0.0)
    for layer, weight in style_weights.items():
        _, d, h, w = painted[layer].shape
        target_gram, style_gram = (
            torch.mm(one[layer].reshape(d, h * w), one[layer].reshape(d, h * w).t())
            for one in (painted, features["style"])
        )
        style_loss = style_loss + weight * torch.mean((target_gram - style_gram) ** 2) / (d * h * w)
    return 1 * content_loss + 1e6 * style_loss


def keras(features: dict[str, dict[str, Tensor]], painted: Tensor) -> Tensor:
    x, size = painted * 255, painted.shape[-2] * painted.shape[-1]
    one, other = features["painted"], features["content"]
    loss = 0.02 * ((one["relu2_2"] - other["relu2_2"]) ** 2).sum()
    layers = ["relu1_2", "relu2_2", "relu3_3", "relu4_3"]
    for layer in layers:
        grams = [f[layer].flatten(2)[0] @ f[layer].flatten(2)[0].T for f in features.values()]
        difference = ((grams[1] - grams[2]) ** 2).sum()
        loss = loss + 4.5 / len(layers) * difference / (4.0 * 3**2 * size**2)
    a = (x[..., :-1, :-1] - x[..., 1:, :-1]) ** 2
    b = (x[..., :-1, :-1] - x[..., :-1, 1:]) ** 2
    return loss + 0.995 * ((a + b) ** 1.25).sum()


def gatys_own(features: dict[str, dict[str, Tensor]], _: Tensor) -> Tensor:
    layers = ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]
    painted = features["painted"]
    loss = F.mse_loss(painted["relu4_2"], features["content"]["relu4_2"])
    for layer, n in zip(layers, [64, 128, 256, 512, 512], strict=True):
        rows = [one[layer].flatten(2) for one in (painted, features["style"])]
        gram, wanted = (torch.bmm(one, one.transpose(1, 2)) / one.shape[2] for one in rows)
        loss = loss + 1e3 / n**2 * F.mse_loss(gram, wanted)
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
        shown, [region(1)], lambda *told: history.append(told[2]), begun
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
def test_pictures_of_any_size(size: tuple[int, int]) -> None:
    shown = content(*size)
    config = configured(**(SHALLOW | {"first_size": 16}))
    painted = Gatys(config, "cpu").paint(shown, [region(1)], init=shown)
    assert painted.shape == shown.shape
    assert painted.isfinite().all()


def test_what_watches_is_told_of_every_evaluation_with_the_picture_so_far() -> None:
    config = configured(**(SHALLOW | {"first_size": 32, "scale_step": 2}))
    told: list[tuple[int, int, torch.Size]] = []
    Gatys(config, "cpu").paint(
        content(),
        [region(1)],
        lambda step, steps, losses, so_far: told.append((step, steps, so_far().shape[-2:])),
    )
    small, large = torch.Size((32, 32)), torch.Size((64, 64))
    assert told == [(n, 8, small if n <= 4 else large) for n in range(1, 9)]


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_an_interruption_hands_out_the_picture_so_far(optimizer: str) -> None:
    config = configured(**(SHALLOW | {"first_size": 32, "scale_step": 2, "optimizer": optimizer}))

    def watch(step: int, *_: object) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as interrupted:
        Gatys(config, "cpu").paint(content(40, 64), [region(1)], watch, content(40, 64))
    picture = interrupted.value.picture
    assert picture.shape == (1, 3, 40, 64)
    assert picture.min() >= 0 and picture.max() <= 1 and picture.std() > 0.01


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


def test_the_style_of_a_folder_is_the_mean_of_its_pictures() -> None:
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
    with pytest.raises(UserError, match="mask: nothing of it is white"):
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


def test_masks_that_overlap_share_a_place_by_weight() -> None:
    left, right = torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.5, 0.0]])
    (one, first, area), (two, second, _) = meet([left, right], [0.75, 0.25])
    assert (one, two) == ([0], [1])
    assert first is not None and second is not None
    torch.testing.assert_close(first, torch.tensor([[1.0, 0.75, 0.0, 0.0]]))
    torch.testing.assert_close(second, torch.tensor([[0.0, 0.25, 0.5, 0.0]]))
    assert area == pytest.approx(1.75 / 4)


def test_styles_with_the_same_mask_are_one() -> None:
    mask, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    found = [group for group, _, _ in meet([mask, other, mask.clone()], [0.25, 0.5, 0.25])]
    assert found == [[0, 2], [1]]
    assert list(meet([None, None], [0.5, 0.5])) == [([0, 1], None, 1.0)]
    assert [group for group, _, _ in meet([torch.zeros(1, 2), other], [0.5, 0.5])] == [[1]]


def test_a_style_is_shown_at_the_scale_of_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = gatys.from_pil

    def noted(picture: Image.Image, side: int) -> Tensor:
        seen.append(side)
        return real(picture, side)

    monkeypatch.setattr(gatys, "from_pil", noted)
    for style_size, expected in ((None, [32, 64]), (50, [25, 50])):
        shown = content()
        seen.clear()
        overrides = {"first_size": 32, "scale_step": 2, "iterations": 1, "style_size": style_size}
        Gatys(configured(**(SHALLOW | overrides)), "cpu").paint(shown, [region(1)])
        assert seen == expected
    assert real(picture(0, 30, 60), 40).shape == (1, 3, 20, 40)
    assert real(picture(0, 30, 60), 90).shape == (1, 3, 30, 60)  # none is enlarged


# Tiles.


@pytest.mark.parametrize("losses", ["covariance", "keras"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_in_tiles_is_that_of_the_whole(losses: str, masked: bool) -> None:
    config = configured(**(SHALLOW | {"content_layers": "[pool2]"}), losses=losses)
    shown = content(70, 101)
    mask = torch.linspace(0, 1, 101).expand(1, 1, 70, 101) if masked else None
    painter = Gatys(config, "cpu")
    painter.backbone.double()
    masks = [] if mask is None else [mask.double()]
    regions = [region(1, mask=one) for one in masks] or [region(1)]
    found = painter._objective(shown.double(), regions, shown.shape[-2:], False)
    noise = torch.rand(shown.shape, generator=torch.Generator().manual_seed(0))
    painted = (0.8 * shown + 0.2 * noise).double()
    whole, gradient = found(painted, 1024)
    assert len(found.tiles(painted, 32)) == 12
    tiled, tiled_gradient = found(painted, 32)
    assert tiled == pytest.approx(whole, rel=1e-9)
    difference = (tiled_gradient - gradient).norm() / gradient.norm()
    assert difference < 1e-9


def test_targets_in_tiles_are_those_of_the_whole() -> None:
    config = configured(**(SHALLOW | {"content_layers": "[pool2]"}))
    painter, shown = Gatys(config, "cpu"), content(70, 101)
    whole, tiled = (Objective(config, painter.backbone, False) for _ in range(2))
    whole.look_at(shown, 1024)
    tiled.look_at(shown, 32)
    torch.testing.assert_close(tiled.content["pool2"], whole.content["pool2"])
    one, other = whole.style_of(shown, 1024), tiled.style_of(shown, 32)
    for layer, found in one.items():
        torch.testing.assert_close(other[layer].second, found.second)
        torch.testing.assert_close(other[layer].mean, found.mean)


def test_no_step_shows_at_the_border_of_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gatys, "SMALLEST_TILE", 64)
    shown = content(130, 130)
    whole = Gatys(configured(**SHALLOW), "cpu").paint(shown, [region(1)], init=shown)
    painter = Gatys(configured(**SHALLOW), "cpu")
    painter.tile = 64
    tiled = painter.paint(shown, [region(1)], init=shown)
    assert (tiled - whole).abs().mean() < 1e-4
    steps = (tiled[..., 1:] - tiled[..., :-1]).abs().mean((0, 1, 2))
    untouched = (whole[..., 1:] - whole[..., :-1]).abs().mean((0, 1, 2))
    borders = [63, 127]
    assert (steps[borders] - untouched[borders]).abs().max() < 1e-4


def test_out_of_memory_halves_the_tiles(capsys: pytest.CaptureFixture[str]) -> None:
    painter = Gatys(configured(**SHALLOW), "cpu")

    def compute(tile: int) -> int:
        if tile > 256:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return tile

    assert painter._in_memory(compute) == painter.tile == 256
    told = capsys.readouterr().err.splitlines()
    assert told == [f"Too little memory: going on with tiles of {side} px." for side in (512, 256)]

    def never(tile: int) -> int:
        raise MemoryError

    with pytest.raises(MemoryError):
        painter._in_memory(never)
    with pytest.raises(RuntimeError, match="another"):
        painter._in_memory(lambda tile: (_ for _ in ()).throw(RuntimeError("another")))


# Optimisers.


def rosenbrock(flat: Any) -> tuple[float, Any]:
    """Its minimum, at ones, lies in a curved valley."""
    x = torch.as_tensor(flat, dtype=torch.float64).requires_grad_()
    loss = (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, x)
    return loss.item(), gradient


def test_lbfgs_finds_the_minimum_that_scipy_finds() -> None:
    painter = Gatys(configured(**(SHALLOW | {"optimizer": "lbfgs", "iterations": 200})), "cpu")

    def valley(x: Tensor, tile: int) -> tuple[dict[str, float], Tensor]:
        loss, gradient = rosenbrock(x.flatten())
        return {"loss": loss}, gradient.view_as(x)

    start: Any = torch.full((1, 1, 2, 4), 0.2, dtype=torch.float64)
    painter._lbfgs(valley, start, lambda step, losses: None)  # type: ignore[arg-type]
    expected, *_ = fmin_l_bfgs_b(
        lambda x: tuple(map(np.asarray, rosenbrock(x))), np.full(8, 0.2), m=10, pgtol=0, factr=1
    )
    np.testing.assert_allclose(painter._so_far().flatten(), expected, atol=1e-5)


@pytest.mark.slow
def test_lbfgs_goes_as_far_as_scipy_on_the_same_picture() -> None:
    config = configured("keras", **SHALLOW, iterations=60)
    shown = content(32, 32)
    found = objective(config, [region(1)], shown)
    start = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def evaluate(x: Any) -> tuple[float, Any]:
        losses, gradient = found(torch.tensor(x).float().view_as(start), 1024)
        return losses["loss"], gradient.double().flatten().numpy()

    first, _ = evaluate(start.flatten().numpy())
    _, theirs, _ = fmin_l_bfgs_b(evaluate, start.double().flatten().numpy(), m=10, maxfun=60)
    history: list[float] = []
    painter = Gatys(config, "cpu")
    painter._lbfgs(found, start.clone(), lambda step, losses: history.append(losses["loss"]))
    assert len(history) == 60
    assert history[0] == pytest.approx(first)
    assert min(history) < 1.1 * theirs < 0.2 * first


def test_adam_goes_on_from_the_moments_it_is_given() -> None:
    config = configured(**SHALLOW, averaging=0)
    shown = content(40, 48)
    found = objective(config, [region(1)], shown)
    tell = lambda step, losses: None  # noqa: E731
    once, parts = Gatys(replace(config, iterations=8), "cpu"), Gatys(config, "cpu")
    once._adam(found, shown.clone(), None, 0.02, tell)
    state = parts._adam(found, shown.clone(), None, 0.02, tell)
    parts._adam(found, parts._so_far().clone(), state, 0.02, tell)
    assert torch.equal(parts._so_far(), once._so_far())


def test_the_average_is_that_of_the_iterates_weighted_by_age() -> None:
    random = torch.Generator().manual_seed(0)
    iterates = [torch.rand(1, 3, 2, 2, generator=random, dtype=torch.float64) for _ in range(5)]
    average = Average(0.9)
    for iterate in iterates:
        average.update(iterate)
    weights = [0.9**age for age in range(4, -1, -1)]
    expected = sum(w * i for w, i in zip(weights, iterates, strict=True)) / sum(weights)
    torch.testing.assert_close(average(), expected)


# Safety.


@pytest.mark.parametrize("times", [1, 3])
def test_a_loss_that_is_no_number_begins_the_scale_again_with_safer_settings(
    times: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failures = iter([True] * times)
    real = Objective.__call__

    def failing(self: Objective, picture: Tensor, tile: int) -> Any:
        losses, gradient = real(self, picture, tile)
        return ({"loss": math.nan} if next(failures, False) else losses), gradient

    monkeypatch.setattr(Objective, "__call__", failing)
    config = configured("keras", **SHALLOW)
    painted = Gatys(config, "cpu").paint(content(), [region(1)], init=content())
    assert painted.isfinite().all()
    told = capsys.readouterr().err.splitlines()
    rates = ["0.002", "0.0002", "2e-05"][:times]
    assert [line.rpartition(" ")[2] for line in told] == [f"{rate}." for rate in rates]
    assert all("no number at 64×64 px; painting this size again in float32" in t for t in told)


def test_losses_that_stay_no_numbers_are_a_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    config = configured(**SHALLOW, style_weight=1e45)
    with pytest.raises(UserError, match=r"no numbers, not even with learning_rate=2e-05\. Give"):
        Gatys(config, "cpu").paint(content(), [region(1)], init=content())
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_weight_for_each_layer_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"style_layer_weights: has 1 weights for 2 style_layers"):
        Gatys(configured(**(SHALLOW | {"style_layer_weights": "[1]"})), "cpu")


@pytest.mark.parametrize("key", ["content_layers", "style_layers"])
def test_a_layer_is_asked_for(key: str) -> None:
    with pytest.raises(UserError, match=f"{key}: name at least one"):
        Gatys(configured(**(SHALLOW | {key: "[]"})), "cpu")


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
