"""Style transfer: how near each preset and Magenta come to content and style, and at what speed.

    python benchmarks/style.py BACKBONE WEIGHTS_DIR SHEET.png SIZE CONTENT:STYLE [CONTENT:STYLE ...]
    python benchmarks/style.py BACKBONE WEIGHTS_DIR speed SIZE CONTENT:STYLE [ROUNDS]

The first paints each pair by every preset, all with one backbone, and by Magenta, lays the pictures
out on a sheet and prints a Markdown table of means over the pairs. All are measured alike, in
float32: content is the squared distance of relu4_2 to that of the content, relative to the latter's
square; style the mean of the same for the Gram matrices of relu1_1 … relu5_1. So 0 is the content,
or the style.

The second compares an iteration of preset=best with the loop that a tutorial would write (float32,
the same network, losses and optimiser), in turns, and prints the ratio of the medians.
"""

import copy
import itertools
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image, ImageDraw
from torch import Tensor

from artgan.config import CONFIGS, register
from artgan.images import to_pil
from artgan.options import StylizeConfig
from artgan.style.backbone import Backbone
from artgan.style.gatys import Gatys, from_pil
from artgan.style.inputs import Region, Style
from artgan.style.moments import moments

PRESETS = ("best", "adam", "keras", "gatys2016")
MAGENTA = "magenta"
STYLE = [f"relu{block}_1" for block in range(1, 6)]
CONTENT = "relu4_2"
ITERATIONS = 8  # of each turn, of which the first two do not count


def configured(**chosen: Any) -> StylizeConfig:
    register(StylizeConfig)
    given = {"content": "x", "style": "x", **chosen}
    arguments = [f"{key}={'null' if value is None else value}" for key, value in given.items()]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = OmegaConf.to_object(compose("stylize", arguments))
    assert isinstance(config, StylizeConfig)
    return config


def shown(path: str, size: int) -> tuple[Tensor, Image.Image]:
    """A picture with a long side of `size` pixels, as painters take it, and as it is."""
    whole = Image.open(path).convert("RGB")
    factor = size / max(whole.size)
    small = whole.resize((round(whole.width * factor), round(whole.height * factor)))
    return from_pil(small, size), whole


class Measure:
    """Distances of a picture to a content and a style."""

    def __init__(self, backbone: str, weights_dir: str) -> None:
        self.backbone = Backbone(backbone, [*STYLE, CONTENT], weights_dir=weights_dir)

    @torch.no_grad()
    def __call__(self, painted: Tensor, content: Tensor, style: Tensor) -> tuple[float, float]:
        found, wanted, like = (self.backbone(one) for one in (painted, content, style))

        def relative(one: Tensor, other: Tensor) -> float:
            return float((one - other).square().sum() / other.square().sum())

        def gram(features: Tensor) -> Tensor:
            return moments(features, 1 / features[0, 0].numel()).second

        distances = [relative(gram(found[layer]), gram(like[layer])) for layer in STYLE]
        return statistics.mean(distances), relative(found[CONTENT], wanted[CONTENT])


def painters(backbone: str, weights_dir: str, size: int) -> Iterator[tuple[str, Any]]:
    """Each preset, and Magenta, ready to paint."""
    for preset in PRESETS:
        network = {"backbone": backbone, "weights_dir": weights_dir}
        config = configured(method="gatys", preset=preset, size=size, **network)
        yield preset, Gatys(config, "cpu")
    # Imported only here: the figures of the presets need nothing of it.
    from artgan.style.magenta import Magenta

    yield MAGENTA, Magenta(configured(method="magenta", weights_dir=weights_dir), "cpu")


def compare(backbone: str, weights_dir: str, sheet: str, size: int, pairs: list[str]) -> None:
    measure = Measure(backbone, weights_dir)
    rows: dict[str, list[Image.Image]] = {pair: [] for pair in pairs}
    print("| | style | content | seconds |\n|---|---|---|---|")
    for name, painter in painters(backbone, weights_dir, size):
        figures = []
        for pair in pairs:
            content, _ = shown(pair.partition(":")[0], size)
            style, painting = shown(pair.partition(":")[2], size)
            one = Style("style", "style", 1, lambda painting=painting: iter([painting]))
            began = time.perf_counter()
            if name == MAGENTA:
                painted = painter.paint(content, [Region(one, 1.0, None)])
            else:
                init = content if painter.config.init == "content" else None
                painted = painter.paint(content, [Region(one, 1.0, None)], init=init)
            seconds = time.perf_counter() - began
            figures.append((*measure(painted, content, style), seconds))
            rows[pair] = rows[pair] or [visible(content), visible(style)]
            rows[pair].append(visible(painted))
        means = [statistics.mean(column) for column in zip(*figures, strict=True)]
        print(f"| {name} | {means[0]:.3f} | {means[1]:.3f} | {means[2]:.1f} |", flush=True)
    lay_out(list(rows.values()), ["content", "style", *PRESETS, MAGENTA], size).save(sheet)


def visible(picture: Tensor) -> Image.Image:
    return to_pil((picture[0] * 255).round().byte())


def lay_out(rows: list[list[Image.Image]], titles: list[str], size: int) -> Image.Image:
    sheet = Image.new("RGB", (size * len(titles), 20 + size * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((column * size + 4, 4), title, fill="black")
        for number, row in enumerate(rows):
            if column < len(row):
                sheet.paste(row[column], (column * size, 20 + number * size))
    return sheet


def plain_loop(painter: Gatys, content: Tensor, style: Tensor, durations: list[float]) -> None:
    """What a tutorial would write for the losses of preset=best."""
    config, backbone = painter.config, copy.deepcopy(painter.backbone)
    network = backbone.sequence.to(memory_format=torch.contiguous_format)

    def features(picture: Tensor) -> dict[str, Tensor]:
        x = (picture - backbone.mean) / backbone.deviation
        outputs = []
        for module in network:
            x = module(x)
            outputs.append(x)
        return {layer: outputs[backbone.place[layer]] for layer in backbone.layers}

    def statistics_of(x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.flatten(2)[0]
        mean = flat.mean(1)
        return mean, flat @ flat.T / flat.shape[1] - mean[:, None] * mean

    def relative(one: Tensor, other: Tensor) -> Tensor:
        return ((one - other) ** 2).sum() / (other**2).sum()

    with torch.no_grad():
        wanted, like = features(content), features(style)
        targets = {layer: statistics_of(like[layer]) for layer in config.style_layers}
    picture = content.clone().requires_grad_()
    optimizer = torch.optim.Adam([picture], lr=config.learning_rate)
    for _ in range(ITERATIONS):
        began = time.perf_counter()
        optimizer.zero_grad()
        found = features(picture)
        loss: Any = 0
        for layer in config.content_layers:
            loss = loss + config.content_weight * relative(found[layer], wanted[layer])
        for layer, weight in zip(config.style_layers, config.style_layer_weights, strict=True):
            pairs = zip(statistics_of(found[layer]), targets[layer], strict=True)
            loss = loss + config.style_weight * weight * sum(relative(a, b) for a, b in pairs)
        down = picture[..., 1:, :-1] - picture[..., :-1, :-1]
        right = picture[..., :-1, 1:] - picture[..., :-1, :-1]
        loss = loss + config.total_variation * (down**2 + right**2).mean()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            picture.clamp_(0, 1)
        loss.item()  # a progress bar shows it
        durations.append(time.perf_counter() - began)


def our_loop(painter: Gatys, content: Tensor, style: Image.Image, durations: list[float]) -> None:
    region = Region(Style("style", "style", 1, lambda: iter([style])), 1.0, None)
    times: list[float] = []
    painter.paint(content, [region], lambda *_: times.append(time.perf_counter()), content)
    durations += [later - earlier for earlier, later in itertools.pairwise(times)]


def speed(backbone: str, weights_dir: str, size: int, pair: str, rounds: int) -> None:
    content, _ = shown(pair.partition(":")[0], size)
    style, painting = shown(pair.partition(":")[2], size)
    network = {"backbone": backbone, "weights_dir": weights_dir, "iterations": ITERATIONS}
    ours = {
        precision: Gatys(
            configured(
                method="gatys", preset="best", first_size=None, precision=precision, **network
            ),
            "cpu",
        )
        for precision in ("32", "auto")
    }
    durations: dict[str, list[float]] = {"plain": [], "32": [], "auto": []}
    for _ in range(rounds):
        turn: dict[str, list[float]] = {name: [] for name in durations}
        plain_loop(ours["32"], content, style, turn["plain"])
        for precision, painter in ours.items():
            our_loop(painter, content, painting, turn[precision])
        for name, each in turn.items():
            durations[name] += each[2:]
    medians = {name: statistics.median(each) for name, each in durations.items()}
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {time.strftime('%Y-%m-%d')}; {backbone}, {size} px, "
        f"{rounds} rounds\n\n"
        "| an iteration | ms | of the plain loop |\n|---|---|---|\n"
        f"| plain loop, float32 | {medians['plain'] * 1000:.0f} | 1 |"
    )
    for precision in ours:
        share = medians[precision] / medians["plain"]
        print(f"| precision={precision} | {medians[precision] * 1000:.0f} | {share:.2f} |")


if __name__ == "__main__":
    if sys.argv[3] == "speed":
        rounds = int(sys.argv[6]) if len(sys.argv) > 6 else 5
        speed(sys.argv[1], sys.argv[2], int(sys.argv[4]), sys.argv[5], rounds)
    else:
        compare(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5:])
