"""Style transfer: how close each preset and Magenta come to content and style, and how fast.

    python benchmarks/style.py BACKBONE WEIGHTS_DIR SHEET.png SIZE CONTENT:STYLE [CONTENT:STYLE ...]
    python benchmarks/style.py BACKBONE WEIGHTS_DIR speed SIZE CONTENT:STYLE [ROUNDS]

The first command paints each pair with every preset, all with one backbone, and with Magenta. It
saves a sheet of the results and prints a Markdown table of means over the pairs, all measured in
float32. The content score is the squared distance between the relu4_2 features of result and
content, relative to the squared norm of the latter. The style score is the mean of the same for the
Gram matrices of relu1_1 … relu5_1. 0 is the content or the style itself.

The second command compares an iteration of preset=best with the loop of a typical tutorial
(float32, the same network, losses and optimiser), in turns, and prints the ratio of the medians.
"""

import copy
import itertools
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from artgan.config import compose
from artgan.images import to_pil
from artgan.style.backbone import Backbone
from artgan.style.gatys import Gatys, from_pil
from artgan.style.inputs import Region, Style
from artgan.style.magenta import Magenta
from artgan.style.moments import moments

PRESETS = ("best", "adam", "keras", "gatys2016")
MAGENTA = "magenta"
PAIR = {"content": "x", "style": "x"}  # images are given as tensors
STYLE = [f"relu{block}_1" for block in range(1, 6)]
CONTENT = "relu4_2"
ITERATIONS = 8  # of each turn; the first two are not counted


def shown(path: str, size: int) -> tuple[Tensor, Image.Image]:
    """An image as a tensor with a long side of `size` pixels, and the original."""
    whole = Image.open(path).convert("RGB")
    factor = size / max(whole.size)
    small = whole.resize((round(whole.width * factor), round(whole.height * factor)))
    return from_pil(small, size), whole


class Measure:
    """Distances of an image to a content and a style."""

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
    """Each preset, and Magenta."""
    for preset in PRESETS:
        chosen = {"method": "gatys", "preset": preset, "size": size, "backbone": backbone}
        yield preset, Gatys(compose("stylize", PAIR | chosen | {"weights_dir": weights_dir}), "cpu")
    yield MAGENTA, Magenta(compose("stylize", PAIR | {"weights_dir": weights_dir}), "cpu")


def compare(backbone: str, weights_dir: str, sheet: str, size: int, pairs: list[str]) -> None:
    measure = Measure(backbone, weights_dir)
    rows: dict[str, list[Image.Image]] = {pair: [] for pair in pairs}
    print("| | style | content | seconds |\n|---|---|---|---|")
    for name, painter in painters(backbone, weights_dir, size):
        scores = []
        for pair in pairs:
            content, _ = shown(pair.partition(":")[0], size)
            style, painting = shown(pair.partition(":")[2], size)
            one = Style("style", "style", 1, partial(one_painting, painting))
            began = time.perf_counter()
            if name == MAGENTA:
                painted = painter.paint(content, [Region(one, 1.0, None)])
            else:
                init = content if painter.config.init == "content" else None
                painted = painter.paint(content, [Region(one, 1.0, None)], init=init)
            seconds = time.perf_counter() - began
            scores.append((*measure(painted, content, style), seconds))
            rows[pair] = rows[pair] or [visible(content), visible(style)]
            rows[pair].append(visible(painted))
        means = [statistics.mean(column) for column in zip(*scores, strict=True)]
        print(f"| {name} | {means[0]:.3f} | {means[1]:.3f} | {means[2]:.1f} |", flush=True)
    lay_out(list(rows.values()), ["content", "style", *PRESETS, MAGENTA], size).save(sheet)


def visible(image: Tensor) -> Image.Image:
    return to_pil((image[0] * 255).round().byte())


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
    """The loop of a typical tutorial, with the losses of preset=best."""
    config, backbone = painter.config, copy.deepcopy(painter.backbone)
    network = backbone.sequence.to(memory_format=torch.contiguous_format)

    def features(image: Tensor) -> dict[str, Tensor]:
        x = (image - backbone.mean) / backbone.deviation
        outputs = []
        for module in network:
            x = module(x)
            outputs.append(x)
        return {layer: outputs[backbone.index[layer]] for layer in backbone.layers}

    def statistics_of(x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.flatten(2)[0]
        mean = flat.mean(1)
        return mean, flat @ flat.T / flat.shape[1] - mean[:, None] * mean

    def relative(one: Tensor, other: Tensor) -> Tensor:
        return ((one - other) ** 2).sum() / (other**2).sum()

    with torch.no_grad():
        wanted, like = features(content), features(style)
        targets = {layer: statistics_of(like[layer]) for layer in config.style_layers}
    image = content.clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=config.learning_rate)
    for _ in range(ITERATIONS):
        began = time.perf_counter()
        optimizer.zero_grad()
        found = features(image)
        loss: Any = 0
        for layer in config.content_layers:
            loss = loss + config.content_weight * relative(found[layer], wanted[layer])
        for layer, weight in zip(config.style_layers, config.style_layer_weights, strict=True):
            pairs = zip(statistics_of(found[layer]), targets[layer], strict=True)
            loss = loss + config.style_weight * weight * sum(relative(a, b) for a, b in pairs)
        down = image[..., 1:, :-1] - image[..., :-1, :-1]
        right = image[..., :-1, 1:] - image[..., :-1, :-1]
        loss = loss + config.total_variation * (down**2 + right**2).mean()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            image.clamp_(0, 1)
        loss.item()  # shown by a progress bar
        durations.append(time.perf_counter() - began)


def artgan_loop(
    painter: Gatys, content: Tensor, style: Image.Image, durations: list[float]
) -> None:
    region = Region(Style("style", "style", 1, lambda: iter([style])), 1.0, None)
    times: list[float] = []
    painter.paint(content, [region], lambda *_: times.append(time.perf_counter()), content)
    durations += [later - earlier for earlier, later in itertools.pairwise(times)]


def one_painting(painting: Image.Image) -> Iterator[Image.Image]:
    yield painting


def speed(backbone: str, weights_dir: str, size: int, pair: str, rounds: int) -> None:
    content, _ = shown(pair.partition(":")[0], size)
    style, painting = shown(pair.partition(":")[2], size)
    chosen: dict[str, Any] = PAIR | {
        "method": "gatys",
        "backbone": backbone,
        "weights_dir": weights_dir,
    }
    chosen |= {"first_size": None, "iterations": ITERATIONS}
    painters = {
        precision: Gatys(compose("stylize", chosen | {"precision": precision}), "cpu")
        for precision in ("32", "auto")
    }
    durations: dict[str, list[float]] = {"plain": [], "32": [], "auto": []}
    for _ in range(rounds):
        turn: dict[str, list[float]] = {name: [] for name in durations}
        plain_loop(painters["32"], content, style, turn["plain"])
        for precision, painter in painters.items():
            artgan_loop(painter, content, painting, turn[precision])
        for name, each in turn.items():
            durations[name] += each[2:]
    medians = {name: statistics.median(each) for name, each in durations.items()}
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {time.strftime('%Y-%m-%d')}; {backbone}, {size} px, "
        f"{rounds} rounds\n\n"
        "| an iteration | ms | relative to the plain loop |\n|---|---|---|\n"
        f"| plain loop, float32 | {medians['plain'] * 1000:.0f} | 1 |"
    )
    for precision in painters:
        share = medians[precision] / medians["plain"]
        print(f"| precision={precision} | {medians[precision] * 1000:.0f} | {share:.2f} |")


if __name__ == "__main__":
    if sys.argv[3] == "speed":
        rounds = int(sys.argv[6]) if len(sys.argv) > 6 else 5
        speed(sys.argv[1], sys.argv[2], int(sys.argv[4]), sys.argv[5], rounds)
    else:
        compare(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5:])
