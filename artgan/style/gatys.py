"""Painting by optimisation: a picture is changed until a network sees in it the content of one
picture and the style of another (Gatys et al. 2016, CVPR, "Image Style Transfer Using Convolutional
Neural Networks").

content, styles → resized to a scale → features → targets → picture ⇄ losses and gradient
                → the next scale, from the picture so far → … → picture
"""

import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from artgan.config import StylizeConfig
from artgan.device import on_device
from artgan.errors import UserError
from artgan.memory import Computed, in_parts
from artgan.style.backbone import SMALLEST, Backbone
from artgan.style.losses import FORMULAS, Moments, content_loss, moments, total_variation
from artgan.style.pictures import to_tensor
from artgan.style.sources import Region, Watch, averaged

TILE, SMALLEST_TILE = 1024, 128  # pixels of the side of the parts that a picture is computed in
HISTORY = 10  # steps that L-BFGS looks back at, as SciPy's does
RESTARTS = 3  # with safer settings, where a loss is no number

Losses = dict[str, float]


class Interrupted(Exception):
    """Ctrl-C while painting.

    Attributes:
        picture: as it stood, float32 [1, 3, H, W] in [0, 1] of the result's size.
    """

    def __init__(self, picture: Tensor) -> None:
        super().__init__()
        self.picture = picture


class Diverged(Exception):
    """A loss, or its gradient, is no number."""


class Cut(NamedTuple):
    """A part of a picture's height or width, in pixels: start to end, with what it needs around."""

    start: int
    end: int
    low: int
    high: int

    @property
    def outer(self) -> slice:
        return slice(self.low, self.high)

    @property
    def last(self) -> bool:
        return self.end == self.high

    def of(self, stride: int) -> slice:
        """Its positions in a layer of the whole picture; the last part has the rest."""
        return slice(self.start // stride, None if self.last else self.end // stride)

    def within(self, stride: int) -> slice:
        """The same in the layer of the part with its surroundings."""
        shift = self.low // stride
        end = None if self.last else self.end // stride - shift
        return slice(self.start // stride - shift, end)


def cut(length: int, tile: int, stride: int, halo: int) -> list[Cut]:
    """Divides a length into tiles that begin at multiples of a network's stride.

    Args:
        length: pixels.
        tile: pixels of a part at most, and at least one stride.
        stride: pixels from one position of the coarsest layer to the next.
        halo: pixels before and after a part that its positions depend on, a multiple of `stride`.
    """
    step = max(tile // stride, 1) * stride
    # The network would enlarge a part that is smaller than it takes.
    lowest = max(length - SMALLEST, 0) // stride * stride
    return [
        Cut(
            start,
            min(start + step, length),
            max(min(start - halo, lowest), 0),
            min(start + step + halo, length),
        )
        for start in range(0, length, step)
    ]


@dataclass(frozen=True)
class Target:
    """What the style of a picture, or of a part of it, is to become.

    Attributes:
        moments: of each layer.
        shares: what each position of a layer counts, [h, w] with a sum of 1; none for all alike.
        weight: of the loss.
    """

    moments: dict[str, Moments]
    shares: dict[str, Tensor]
    weight: float


class Objective:
    """The loss of a picture and its gradient, computed in tiles where it is large.

    The style depends on the whole picture. So in several tiles the moments are added up first,
    without a gradient; then the gradient of the style's loss by the moments is carried back through
    each tile. That is the gradient of the whole, for the memory of a tile.

    Args:
        config: layers, weights and formula of the losses.
        backbone: that gives the features.
        bf16: whether it computes in bfloat16.
    """

    def __init__(self, config: StylizeConfig, backbone: Backbone, bf16: bool) -> None:
        self.config = config
        self.formula = FORMULAS[config.losses]
        self.backbone = backbone
        self.bf16 = bf16
        self.content: dict[str, Tensor] = {}
        self.targets: list[Target] = []

    def features(self, picture: Tensor) -> dict[str, Tensor]:
        """The features of each layer, [1, C, h, w], of a picture [1, 3, H, W] in [0, 1]."""
        with torch.autocast(picture.device.type, torch.bfloat16, enabled=self.bf16):
            return self.backbone(picture)

    def tiles(self, picture: Tensor, tile: int) -> list[tuple[Cut, Cut]]:
        """The parts of a picture, rows and columns of each."""
        rows, columns = (
            cut(length, tile, self.backbone.stride, self.backbone.halo)
            for length in picture.shape[-2:]
        )
        return [(row, column) for row in rows for column in columns]

    @torch.no_grad()
    def style_of(self, picture: Tensor, tile: int) -> dict[str, Moments]:
        """The moments of each layer of a style, [1, 3, H, W] in [0, 1]."""
        everywhere = [Target({}, {}, 1.0)]
        parts = self._whole_moments(picture, tile, everywhere)
        return dict(zip(self.config.style_layers, parts, strict=True))

    @torch.no_grad()
    def look_at(self, content: Tensor, tile: int) -> None:
        """Takes a picture [1, 3, H, W] in [0, 1] for the content."""
        self.content = {}
        for row, column in self.tiles(content, tile):
            features = self.features(content[..., row.outer, column.outer])
            for layer in self.config.content_layers:
                found, stride = features[layer], self.backbone.stride_of(layer)
                if layer not in self.content:
                    size = self.backbone.size(layer, *content.shape[-2:])
                    dtype = torch.promote_types(found.dtype, torch.float32)
                    self.content[layer] = found.new_empty(*found.shape[:2], *size, dtype=dtype)
                inner = found[..., row.within(stride), column.within(stride)]
                self.content[layer][..., row.of(stride), column.of(stride)] = inner
        self.content_scales = {
            layer: self.formula.content(content) for layer, content in self.content.items()
        }

    @torch.no_grad()
    def __call__(self, picture: Tensor, tile: int) -> tuple[Losses, Tensor]:
        """The losses of a picture [1, 3, H, W], weighted, and the gradient of their sum."""
        tiles = self.tiles(picture, tile)
        gradient = torch.zeros_like(picture)
        sums = picture.new_zeros(3)
        pull: tuple[Tensor, ...] = ()
        if len(tiles) > 1:
            whole = self._whole_moments(picture, tile, self.targets)
            leaves = [Moments(*(part.requires_grad_() for part in parts)) for parts in whole]
            with torch.enable_grad():
                style = self._style_loss(leaves, picture)
            flat = [part for parts in leaves for part in parts]
            pull = torch.autograd.grad(style, flat, materialize_grads=True)
            sums[1] = style.detach()
        for row, column in tiles:
            part = picture[..., row.outer, column.outer].detach().requires_grad_()
            with torch.enable_grad():
                features = self.features(part)
                found = self._moments(features, picture, (row, column), self.targets)
                content = self._content_loss(features, row, column)
                variation = self._variation(part, picture, row, column)
                if pull:
                    flat = [one for parts in found for one in parts]
                    each = [(g * one).sum() for g, one in zip(pull, flat, strict=True)]
                    style = torch.stack(each).sum()
                else:
                    style = self._style_loss(found, picture)
                    sums[1] = style.detach()
                loss = content + style + variation
            gradient[..., row.outer, column.outer] += torch.autograd.grad(loss, part)[0]
            sums[0] += content.detach()
            sums[2] += variation.detach()
        content, style, variation = sums.tolist()
        losses = {"content": content, "style": style, "variation": variation}
        return {"loss": sum(losses.values()), **losses}, gradient

    def _whole_moments(self, picture: Tensor, tile: int, targets: list[Target]) -> list[Moments]:
        whole: list[Moments] = []
        for row, column in self.tiles(picture, tile):
            features = self.features(picture[..., row.outer, column.outer])
            parts = self._moments(features, picture, (row, column), targets)
            if not whole:
                whole = parts
            else:
                for total, part in zip(whole, parts, strict=True):
                    total.mean.add_(part.mean)
                    total.second.add_(part.second)
        return whole

    def _moments(
        self,
        features: dict[str, Tensor],
        picture: Tensor,
        tile: tuple[Cut, Cut],
        targets: list[Target],
    ) -> list[Moments]:
        """What a tile adds to the moments: those of each target's layers, one after the other."""
        row, column = tile
        found = []
        for target in targets:
            for layer in self.config.style_layers:
                stride = self.backbone.stride_of(layer)
                inner = features[layer][..., row.within(stride), column.within(stride)]
                share: float | Tensor
                if layer in target.shares:
                    share = target.shares[layer][row.of(stride), column.of(stride)]
                else:
                    share = 1 / math.prod(self.backbone.size(layer, *picture.shape[-2:]))
                found.append(moments(inner, share))
        return found

    def _style_loss(self, found: Sequence[Moments], picture: Tensor) -> Tensor:
        height, width = picture.shape[-2:]
        losses = []
        parts = iter(found)
        layers = self.config.style_layers
        for target in self.targets:
            for layer, weight in zip(layers, self.config.style_layer_weights, strict=True):
                positions = math.prod(self.backbone.size(layer, height, width))
                distance = self.formula.style(
                    next(parts), target.moments[layer], positions, height * width
                )
                losses.append(target.weight * weight * distance)
        return self.config.style_weight * torch.stack(losses).sum()

    def _content_loss(self, features: dict[str, Tensor], row: Cut, column: Cut) -> Tensor:
        losses = []
        for layer in self.config.content_layers:
            stride = self.backbone.stride_of(layer)
            inner = features[layer][..., row.within(stride), column.within(stride)]
            wanted = self.content[layer][..., row.of(stride), column.of(stride)]
            losses.append(self.content_scales[layer] * content_loss(inner, wanted))
        return self.config.content_weight * torch.stack(losses).sum()

    def _variation(self, part: Tensor, picture: Tensor, row: Cut, column: Cut) -> Tensor:
        height, width = picture.shape[-2:]
        # One pixel more, with which the last is compared.
        inner = part[
            ...,
            row.start - row.low : row.end + 1 - row.low,
            column.start - column.low : column.end + 1 - column.low,
        ]
        terms = max(3 * (height - 1) * (width - 1), 1)
        scale = self.config.total_variation * self.formula.variation(terms)
        return scale * total_variation(inner, self.formula.power)


class Average:
    """An exponential average of pictures, that does not lean towards the first ones.

    Source: Kingma and Ba 2015 (arXiv:1412.6980), Section 3, for the correction.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.total: Tensor | None = None
        self.mass = 0.0

    def update(self, picture: Tensor) -> None:
        if self.total is None:
            self.total = torch.zeros_like(picture)
        self.total.lerp_(picture, 1 - self.decay)
        self.mass += (1 - self.decay) * (1 - self.mass)

    def __call__(self) -> Tensor:
        assert self.total is not None
        return (self.total / self.mass).clamp(0, 1)


class Gatys:
    """Paints by optimisation, with a network that is loaded once.

    Args:
        config: how; `backbone`, `weights_dir`, `seed` and `precision` say with which network.
        device: where to compute.

    Raises:
        UserError: a layer does not exist, the weights cannot be had, or the device is not there.

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
        )
        self.backbone = on_device(backbone, device)
        self.device = device
        self.bf16 = _computes_in_bf16(config, device)
        self.tile = config.tile or TILE

    def paint(
        self,
        content: Tensor,
        regions: Sequence[Region],
        watch: Watch | None = None,
        init: Tensor | None = None,
    ) -> Tensor:
        """Repaints a picture.

        Args:
            content: float32 [1, 3, H, W] in [0, 1], of the result's size.
            regions: styles, and where each is painted.
            watch: called after each evaluation of loss and gradient with its number, their count,
                the weighted losses, and what gives the picture so far at the present scale.
            init: float32 [1, 3, H, W] in [0, 1] to begin from; None for noise drawn from the seed.

        Returns:
            float32 [1, 3, H, W] in [0, 1] on the CPU.

        Raises:
            Interrupted: by Ctrl-C, with the picture so far.
            UserError: the losses are no numbers, also with safer settings.
        """
        full = content.shape[-2:]
        sizes = scales(full[0], full[1], self.config.first_size, self.config.scale_step)
        if init is None:
            random = torch.Generator().manual_seed(self.config.seed)
            init = torch.rand(1, 3, *sizes[0], generator=random)
        self._so_far: Callable[[], Tensor] = lambda: init
        adam: dict[str, Tensor] | None = None
        try:
            for number, size in enumerate(sizes):
                start = resized(self._so_far().to(self.device), size).clamp(0, 1).contiguous()

                def tell(step: int, losses: Losses, done: int = number) -> None:
                    if watch is not None:
                        each = self.config.iterations
                        picture = lambda: self._so_far().cpu()  # noqa: E731
                        watch(done * each + step, len(sizes) * each, losses, picture)

                adam = self._paint_scale(content, regions, start, adam, tell)
        except KeyboardInterrupt:
            raise Interrupted(resized(self._so_far().cpu(), full).clamp(0, 1)) from None
        return self._so_far().cpu()

    def _paint_scale(
        self,
        content: Tensor,
        regions: Sequence[Region],
        start: Tensor,
        adam: dict[str, Tensor] | None,
        tell: Callable[[int, Losses], None],
    ) -> dict[str, Tensor] | None:
        """Optimises at one size, and gives the state of Adam."""
        bf16, optimizer, rate = self.bf16, self.config.optimizer, self.config.learning_rate
        restarts = 0
        while True:
            try:
                objective = self._objective(content, regions, start.shape[-2:], bf16)
                if optimizer == "lbfgs":
                    return self._lbfgs(objective, start.clone(), tell)
                return self._adam(objective, start.clone(), adam, rate, tell)
            except Diverged:
                if restarts == RESTARTS:
                    raise UserError(
                        f"The losses are no numbers, not even with learning_rate={rate:g}. Give "
                        "smaller weights of the losses, or another backbone than "
                        f"{self.config.backbone}."
                    ) from None
            restarts += 1
            bf16, optimizer, rate, adam = False, "adam", rate / 10, None
            height, width = start.shape[-2:]
            print(
                f"A loss is no number at {width}×{height} px; painting this size again in float32, "
                f"by Adam with a learning rate of {rate:g}.",
                file=sys.stderr,
            )

    def _objective(
        self, content: Tensor, regions: Sequence[Region], size: torch.Size, bf16: bool
    ) -> Objective:
        objective = Objective(self.config, self.backbone, bf16)
        small = resized(content, size).clamp(0, 1).to(self.device)
        self._in_memory(lambda tile: objective.look_at(small, tile))
        masks = [
            None if region.mask is None else F.interpolate(region.mask, size, mode="area")[0, 0]
            for region in regions
        ]
        for together, shares, weight in meet(masks, [region.weight for region in regions]):
            blend = [regions[index] for index in together]
            objective.targets.append(
                Target(
                    self._style(objective, blend, max(size) / max(content.shape[-2:]), content),
                    {} if shares is None else self._shares(shares, size),
                    weight,
                )
            )
        if not objective.targets:
            raise UserError("mask: nothing of it is white, so there is nothing to paint.")
        return objective

    def _shares(self, mask: Tensor, size: torch.Size) -> dict[str, Tensor]:
        shares = {}
        for layer in self.config.style_layers:
            share = F.adaptive_avg_pool2d(mask[None], self.backbone.size(layer, *size))[0]
            shares[layer] = (share / share.sum()).to(self.device)
        return shares

    def _style(
        self, objective: Objective, blend: Sequence[Region], scale: float, content: Tensor
    ) -> dict[str, Moments]:
        """The moments of several styles, averaged by their weights."""
        side = round((self.config.style_size or max(content.shape[-2:])) * scale)

        def statistics(picture: Image.Image) -> dict[str, Tensor]:
            pixels = from_pil(picture, side).to(self.device)
            found = self._in_memory(lambda tile: objective.style_of(pixels, tile))
            return {
                f"{layer}.{name}": part.cpu()
                for layer, both in found.items()
                for name, part in both._asdict().items()
            }

        parts = (self.backbone.name, self.config.pooling, self.config.style_layers, objective.bf16)
        key = f"moments-{side}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"
        total = sum(region.weight for region in blend)
        wanted: dict[str, Tensor] = {}
        for region in blend:
            for name, part in averaged(region.style, statistics, key).items():
                wanted[name] = wanted.get(name, 0) + part * (region.weight / total)
        return {
            layer: Moments(*(wanted[f"{layer}.{name}"].to(self.device) for name in Moments._fields))
            for layer in self.config.style_layers
        }

    def _evaluate(self, objective: Objective, picture: Tensor) -> tuple[Losses, Tensor]:
        losses, gradient = self._in_memory(lambda tile: objective(picture, tile))
        if not math.isfinite(losses["loss"] + float(gradient.sum())):
            raise Diverged
        return losses, gradient

    @torch.no_grad()
    def _adam(
        self,
        objective: Objective,
        picture: Tensor,
        carried: dict[str, Tensor] | None,
        rate: float,
        tell: Callable[[int, Losses], None],
    ) -> dict[str, Tensor]:
        optimizer = torch.optim.Adam([picture], lr=rate)
        if carried:
            size = picture.shape[-2:]
            optimizer.state[picture] = {
                "step": carried["step"],
                "exp_avg": resized(carried["exp_avg"], size),
                # Linear, which makes nothing negative.
                "exp_avg_sq": F.interpolate(carried["exp_avg_sq"], size, mode="bilinear"),
            }
        average = Average(self.config.averaging)
        average.update(picture)
        self._so_far = average
        for step in range(1, self.config.iterations + 1):
            losses, picture.grad = self._evaluate(objective, picture)
            optimizer.step()
            picture.clamp_(0, 1)
            average.update(picture)
            tell(step, losses)
        return dict(optimizer.state[picture])

    @torch.no_grad()
    def _lbfgs(
        self, objective: Objective, picture: Tensor, tell: Callable[[int, Losses], None]
    ) -> None:
        best, least, step = picture.clone(), math.inf, 0
        self._so_far = lambda: best.clamp(0, 1)

        def evaluate() -> float:
            nonlocal least, step
            if step == self.config.iterations:
                raise StopIteration
            losses, picture.grad = self._evaluate(objective, picture)
            step += 1
            if losses["loss"] < least:
                least = losses["loss"]
                best.copy_(picture)
            tell(step, losses)
            return losses["loss"]

        optimizer = torch.optim.LBFGS(
            [picture],
            max_iter=self.config.iterations,
            tolerance_grad=0,
            tolerance_change=0,
            history_size=HISTORY,
            line_search_fn="strong_wolfe",
        )
        with suppress(StopIteration):
            optimizer.step(evaluate)

    def _in_memory(self, compute: Callable[[int], Computed]) -> Computed:
        computed, self.tile = in_parts(compute, self.tile, SMALLEST_TILE)
        return computed


def scales(height: int, width: int, first: int | None, step: float) -> list[tuple[int, int]]:
    """The sizes that a picture is painted at, from small to its own, in equal steps.

    Args:
        height, width: of the result, in pixels.
        first: pixels of the long side of the first one; None for the own size alone.
        step: from one to the next, at most.

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


def meet(
    masks: Sequence[Tensor | None], weights: Sequence[float]
) -> Iterator[tuple[list[int], Tensor | None, float]]:
    """Decides where each style counts, and how much.

    Styles with the same mask are blended into one. Where different masks overlap, each style has
    the share of its weight.

    Args:
        masks: [H, W] in [0, 1] of each style; None for everywhere.
        weights: of each style.

    Yields:
        The styles that are blended, where they count, [H, W] (None for everywhere alike), and the
        weight of their loss: the share of the picture that they have.
    """
    groups: list[list[int]] = []
    for index, mask in enumerate(masks):
        alike = (group for group in groups if _same(mask, masks[group[0]]))
        group = next(alike, None)
        if group is None:
            groups.append([index])
        else:
            group.append(index)
    if len(groups) == 1 and masks[0] is None:
        yield groups[0], None, 1.0
        return
    (size,) = {mask.shape for mask in masks if mask is not None}
    each = torch.stack(
        [torch.ones(size) if m is None else m for m in (masks[g[0]] for g in groups)]
    )
    weighted = (
        each * torch.tensor([sum(weights[i] for i in group) for group in groups])[:, None, None]
    )
    shares = weighted / weighted.sum(0).clamp(min=1e-12) * each.amax(0)
    for group, share in zip(groups, shares, strict=True):
        if share.any():
            yield group, share, float(share.mean())


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def resized(pictures: Tensor, size: Sequence[int]) -> Tensor:
    """Pictures [N, 3, H, W] in another height and width; edges may swing over their range."""
    if pictures.shape[-2:] == torch.Size(size):
        return pictures
    return F.interpolate(pictures, tuple(size), mode="bicubic", antialias=True)


def from_pil(picture: Image.Image, side: int) -> Tensor:
    """float32 [1, 3, H, W] in [0, 1], with a long side of `side` pixels, or less if it has less."""
    factor = side / max(picture.size)
    if factor < 1:
        width, height = (max(round(length * factor), 1) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return to_tensor(picture)


def _computes_in_bf16(config: StylizeConfig, device: str) -> bool:
    if config.precision != "auto":
        return config.precision == "bf16"
    if config.optimizer == "lbfgs":
        return False  # its line search takes the rounding for the shape of the loss
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return device == "cpu" and bool(fast)
