"""Painting by optimisation: an image is changed until a network sees the content of one image and
the style of another in it (Gatys et al. 2016, CVPR, "Image Style Transfer Using Convolutional
Neural Networks").

content, styles → resized to a scale → features → targets → image ⇄ losses and gradient
                → the next scale, from the image so far → … → image
"""

import hashlib
import itertools
import math
import sys
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from artgan.device import is_fast_at_bf16, on_device
from artgan.errors import UserError
from artgan.options import StylizeConfig
from artgan.style.backbone import Backbone
from artgan.style.inputs import Region, mean_statistics, partition
from artgan.style.live import Watch
from artgan.style.moments import Moments
from artgan.style.objective import Losses, Objective, Target, TiledBackbone
from artgan.style.optimizers import Canvas, Report, adam, lbfgs, resize
from artgan.style.photo import to_tensor
from artgan.style.tiles import TileSize

TILE, SMALLEST_TILE = 1024, 128  # sides in pixels
RESTARTS = 3  # with safer settings, when the optimiser diverges
FARTHEST = 0.05  # mean change of a pixel by which a loss that has risen shows that it diverged


class Interrupted(Exception):
    """Ctrl-C while painting; `image` is what was painted so far, as `Gatys.paint` returns it."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = image


class Diverged(Exception):
    """A loss or its gradient is not finite, or the loss has risen and the image is far off."""


class Gatys:
    """Paints by optimisation, with a network that is loaded once.

    Raises:
        UserError: a layer does not exist, the weights or the device are not available.

    Source: Gatys et al. 2016 (CVPR); from small to large with Adam's moments carried over and an
    average of the iterates as in K. Crowson's style-transfer-pytorch.

    Example:
        >>> Gatys(config, "cpu").paint(content, [Region(style, 1.0, None)]).shape
        torch.Size([1, 3, 384, 512])
    """

    def __init__(self, config: StylizeConfig, device: str) -> None:
        for key in ("content_layers", "style_layers"):
            if not getattr(config, key):
                raise UserError(f"{key}: name at least one. A weight of 0 leaves its loss out.")
        if len(config.style_layers) != len(config.style_layer_weights):
            raise UserError(
                f"style_layer_weights: has {len(config.style_layer_weights)} weights for "
                f"{len(config.style_layers)} style_layers. Give one for each."
            )
        self.config = config
        backbone = Backbone(
            config.backbone,
            [*dict.fromkeys([*config.content_layers, *config.style_layers])],
            config.pooling,
            config.seed,
            config.weights_dir,
            config.border,
        )
        self.backbone = on_device(backbone, device)
        self.device = device
        self.bf16 = config.precision == "bf16"
        if config.precision == "auto":
            # The line search of L-BFGS would take rounding errors for the shape of the loss.
            self.bf16 = config.optimizer == "adam" and is_fast_at_bf16(device)
        self.tile = TileSize(config.tile or TILE, SMALLEST_TILE)

    def paint(
        self,
        content: Tensor,
        regions: Sequence[Region],
        watch: Watch = lambda *_: None,
        init: Tensor | None = None,
    ) -> Tensor:
        """Repaints an image.

        Args:
            content: float32 [1, 3, H, W] in [0, 1], of the result's size.
            regions: styles, and where each is painted.
            watch: called after each evaluation of loss and gradient.
            init: float32 [1, 3, H, W] in [0, 1] to begin from; None for noise drawn from the seed.

        Returns:
            float32 [1, 3, H, W] in [0, 1] on the CPU.

        Raises:
            Interrupted: by Ctrl-C, with the image so far.
            UserError: the losses are not finite or rise, even with safer settings.
        """
        full = content.shape[-2:]
        sizes = scales(full[0], full[1], self.config.first_size, self.config.scale_step)
        if init is None:
            random = torch.Generator().manual_seed(self.config.seed)
            init = torch.rand(1, 3, *sizes[0], generator=random)
        canvas = Canvas(lambda: init)
        each = self.config.iterations
        try:
            for number, size in enumerate(sizes):
                start = resize(canvas.result().to(self.device), size).clamp(0, 1).contiguous()

                def report(step: int, losses: Losses, done: int = number * each) -> None:
                    watch(done + step, len(sizes) * each, losses, lambda: canvas.result().cpu())

                self._paint_scale(canvas, start, content, regions, report)
        except KeyboardInterrupt:
            raise Interrupted(resize(canvas.result().cpu(), full).clamp(0, 1)) from None
        return canvas.result().cpu()

    def _paint_scale(
        self,
        canvas: Canvas,
        start: Tensor,
        content: Tensor,
        regions: Sequence[Region],
        report: Report,
    ) -> None:
        """Optimises at the size of `start`, again with safer settings if it diverges."""
        bf16, optimizer, rate = self.bf16, self.config.optimizer, self.config.learning_rate
        iterations, averaging = self.config.iterations, self.config.averaging
        height, width = start.shape[-2:]
        restarts = 0
        while True:
            try:
                objective = self.objective(content, regions, (height, width), bf16)

                def evaluate(image: Tensor, given: Objective = objective) -> tuple[Losses, Tensor]:
                    losses, gradient = self.tile.compute(lambda side: given(image, side))
                    if not math.isfinite(losses["loss"] + float(gradient.sum())):
                        raise Diverged
                    return losses, gradient

                if optimizer != "adam":
                    searched = optimizer == "lbfgs"
                    return lbfgs(evaluate, canvas, start.clone(), iterations, report, searched)
                image = start.clone()
                first, last = adam(evaluate, canvas, image, iterations, rate, averaging, report)
                if last > first and (image - start).abs().mean() > FARTHEST:
                    raise Diverged
                return None
            except Diverged:
                if restarts == RESTARTS:
                    raise UserError(
                        f"The loss is not finite or rises, even with learning_rate={rate:g}. Use "
                        f"smaller loss weights, or another backbone than {self.config.backbone}."
                    ) from None
            restarts += 1
            bf16, optimizer, rate, canvas.adam = False, "adam", rate / 10, None
            print(
                f"The loss is not finite or rises at {width}×{height} px. Painting this size again "
                f"in float32, with Adam and a learning rate of {rate:g}.",
                file=sys.stderr,
            )

    def objective(
        self, content: Tensor, regions: Sequence[Region], size: tuple[int, int], bf16: bool
    ) -> Objective:
        """What is minimised at a size (height, width); content and regions as for `paint`."""
        features = TiledBackbone(self.backbone, bf16)
        small = resize(content, size).clamp(0, 1).to(self.device)
        layers = self.config.content_layers
        wanted = self.tile.compute(lambda side: features.content(small, layers, side))
        long = max(content.shape[-2:])
        style_side = round((self.config.style_size or long) * (max(size) / long))
        masks = [
            None if region.mask is None else F.interpolate(region.mask, size, mode="area")[0, 0]
            for region in regions
        ]
        targets = []
        for blend, mask, weight in partition(masks, [region.weight for region in regions]):
            shape = size if self.config.style_shape == "content" else None
            style = self._style(features, [regions[index] for index in blend], style_side, shape)
            shares = {}
            if mask is not None:
                for layer in self.config.style_layers:
                    share = F.adaptive_avg_pool2d(mask[None], self.backbone.size(layer, *size))[0]
                    shares[layer] = (share / share.sum()).to(self.device)
            targets.append(Target(style, shares, weight))
        if not targets:
            raise UserError("mask: nothing in it is white, so there is nothing to paint.")
        return Objective(self.config, features, wanted, targets)

    def _style(
        self,
        features: TiledBackbone,
        blend: Sequence[Region],
        side: int,
        shape: tuple[int, int] | None,
    ) -> dict[str, Moments]:
        """The moments of several styles, stretched to a shape if given, averaged by weights."""
        layers = self.config.style_layers
        names = [f"{layer}.{name}" for layer in layers for name in Moments._fields]
        enlarge = self.config.style_size is not None  # as Magenta's network does

        def statistics(image: Image.Image) -> dict[str, Tensor]:
            if shape:
                image = image.resize(shape[::-1], Image.Resampling.BILINEAR)
            pixels = (to_tensor(image) if shape else from_pil(image, side, enlarge)).to(self.device)
            found = self.tile.compute(lambda tile: features.moments(pixels, layers, tile))
            return dict(zip(names, itertools.chain(*found), strict=True))

        used = (self.backbone.name, self.config.pooling, self.config.border)
        parts = (*used, layers, features.bf16, enlarge, shape)
        key = f"moments-{side}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"
        total = sum(region.weight for region in blend)
        wanted: dict[str, Tensor] = {}
        for region in blend:
            for name, part in mean_statistics(region.style, statistics, key).items():
                wanted[name] = wanted.get(name, 0) + part * (region.weight / total)
        return {
            layer: Moments(*(wanted[f"{layer}.{name}"].to(self.device) for name in Moments._fields))
            for layer in layers
        }


def scales(height: int, width: int, first: int | None, step: float) -> list[tuple[int, int]]:
    """The sizes that an image is painted at, from small to its own, in equal steps.

    Args:
        height, width: of the result, in pixels.
        first: pixels of the long side of the first scale; None for the full size alone.
        step: largest ratio of one scale to the one before.

    Example:
        >>> scales(384, 512, 128, 2)
        [(96, 128), (192, 256), (384, 512)]
    """
    long = max(height, width)
    if first is None or first >= long:
        return [(height, width)]
    count = math.ceil(math.log(long / first, step) - 1e-9)
    factors = [(first / long) ** (left / count) for left in range(count, -1, -1)]
    return [(max(round(height * f), 1), max(round(width * f), 1)) for f in factors]


def from_pil(image: Image.Image, side: int, enlarge: bool = False) -> Tensor:
    """float32 [1, 3, H, W] in [0, 1], its long side reduced to `side` pixels, or enlarged."""
    factor = side / max(image.size)
    if factor < 1 or enlarge:
        width, height = (max(round(length * factor), 1) for length in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return to_tensor(image)
