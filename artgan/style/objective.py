"""What Gatys' method minimises: the losses of a picture and their gradient, in tiles."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from artgan.options import StylizeConfig
from artgan.style.backbone import SMALLEST, Backbone
from artgan.style.moments import FORMULAS, Moments, content_loss, moments, total_variation

Losses = dict[str, float]


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
