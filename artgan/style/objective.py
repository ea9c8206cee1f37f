"""What Gatys' method minimises: the losses of an image and their gradient, computed in tiles."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from artgan.options import StylizeConfig
from artgan.style.backbone import SMALLEST, Backbone
from artgan.style.moments import FORMULAS, Moments, content_loss, moments, total_variation
from artgan.style.tiles import Span, spans

Losses = dict[str, float]
Tile = tuple[Span, Span]  # rows and columns
# Weight of each position of a layer, [h, w] with a sum of 1; no entry if all are equal.
Shares = dict[str, Tensor]


@dataclass(frozen=True)
class Target:
    """The style that an image, or a region of it, is to have."""

    moments: dict[str, Moments]  # of each layer
    shares: Shares
    weight: float  # of the loss


class TiledBackbone:
    """The features of images of any size, computed in float32 or bfloat16."""

    def __init__(self, backbone: Backbone, bf16: bool) -> None:
        self.backbone = backbone
        self.bf16 = bf16

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """The features of each layer, [1, C, h, w], of an image [1, 3, H, W] in [0, 1]."""
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self.bf16):
            return self.backbone(image)

    def tiles(self, image: Tensor, tile: int) -> list[Tile]:
        rows, columns = (
            spans(length, tile, self.backbone.stride, self.backbone.halo, SMALLEST)
            for length in image.shape[-2:]
        )
        return [(row, column) for row in rows for column in columns]

    @torch.no_grad()
    def content(self, image: Tensor, layers: Sequence[str], tile: int) -> dict[str, Tensor]:
        """The features of an image [1, 3, H, W] in [0, 1], at least in float32."""
        content: dict[str, Tensor] = {}
        for row, column in self.tiles(image, tile):
            features = self(image[..., row.outer, column.outer])
            for layer in layers:
                found, stride = features[layer], self.backbone.stride_of(layer)
                if layer not in content:
                    size = self.backbone.size(layer, *image.shape[-2:])
                    dtype = torch.promote_types(found.dtype, torch.float32)
                    content[layer] = found.new_empty(*found.shape[:2], *size, dtype=dtype)
                inner = found[..., row.within(stride), column.within(stride)]
                content[layer][..., row.of(stride), column.of(stride)] = inner
        return content

    @torch.no_grad()
    def moments(
        self, image: Tensor, layers: Sequence[str], tile: int, shares: Sequence[Shares] = ({},)
    ) -> list[Moments]:
        """The moments of an image [1, 3, H, W] in [0, 1]: of each layer, for each of the shares."""
        whole: list[Moments] = []
        for row, column in self.tiles(image, tile):
            features = self(image[..., row.outer, column.outer])
            parts = self.tile_moments(features, image, layers, (row, column), shares)
            for total, part in zip(whole, parts, strict=False):
                total.mean.add_(part.mean)
                total.second.add_(part.second)
            whole = whole or parts
        return whole

    def tile_moments(
        self,
        features: dict[str, Tensor],
        image: Tensor,
        layers: Sequence[str],
        tile: Tile,
        shares: Sequence[Shares],
    ) -> list[Moments]:
        """What the features of one tile add to the moments of the image."""
        row, column = tile
        found = []
        for of_target in shares:
            for layer in layers:
                stride = self.backbone.stride_of(layer)
                inner = features[layer][..., row.within(stride), column.within(stride)]
                share: float | Tensor = 1 / math.prod(self.backbone.size(layer, *image.shape[-2:]))
                if layer in of_target:
                    share = of_target[layer][row.of(stride), column.of(stride)]
                found.append(moments(inner, share))
        return found


class Objective:
    """The loss of an image and its gradient.

    The style depends on the whole image. With several tiles the moments are therefore summed first,
    without a gradient; then the gradient of the style loss by the moments is carried back through
    each tile. This gives the gradient of the whole with the memory of one tile.

    Args:
        content: features that the image is to have, by layer.
        targets: styles that it is to have.
    """

    def __init__(
        self,
        config: StylizeConfig,
        features: TiledBackbone,
        content: dict[str, Tensor],
        targets: Sequence[Target],
    ) -> None:
        self.config = config
        self.formula = FORMULAS[config.losses]
        self.features, self.backbone = features, features.backbone
        self.content = content
        self.content_scales = {layer: self.formula.content(one) for layer, one in content.items()}
        self.targets = targets
        self.shares = [target.shares for target in targets]

    @torch.no_grad()
    def __call__(self, image: Tensor, tile: int) -> tuple[Losses, Tensor]:
        """The weighted losses of an image [1, 3, H, W], and the gradient of their sum."""
        tiles = self.features.tiles(image, tile)
        gradient = torch.zeros_like(image)
        sums = image.new_zeros(3)
        pull: tuple[Tensor, ...] = ()
        if len(tiles) > 1:
            sums[1], pull = self._style_gradient(image, tile)
        for row, column in tiles:
            part = image[..., row.outer, column.outer].detach().requires_grad_()
            with torch.enable_grad():
                features = self.features(part)
                found = self.features.tile_moments(
                    features, image, self.config.style_layers, (row, column), self.shares
                )
                content = self._content_loss(features, row, column)
                variation = self._variation(part, image, row, column)
                if pull:
                    flat = [one for parts in found for one in parts]
                    each = [(g * one).sum() for g, one in zip(pull, flat, strict=True)]
                    style = torch.stack(each).sum()
                else:
                    style = self._style_loss(found, image)
                    sums[1] = style.detach()
                loss = content + style + variation
            gradient[..., row.outer, column.outer] += torch.autograd.grad(loss, part)[0]
            sums[0] += content.detach()
            sums[2] += variation.detach()
        content, style, variation = sums.tolist()
        losses = {"content": content, "style": style, "variation": variation}
        return {"loss": sum(losses.values()), **losses}, gradient

    def _style_gradient(self, image: Tensor, tile: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The style loss of the whole image, and its gradient by each of the moments."""
        whole = self.features.moments(image, self.config.style_layers, tile, self.shares)
        leaves = [Moments(*(part.requires_grad_() for part in parts)) for parts in whole]
        with torch.enable_grad():
            style = self._style_loss(leaves, image)
        flat = [part for parts in leaves for part in parts]
        return style.detach(), torch.autograd.grad(style, flat, materialize_grads=True)

    def _style_loss(self, found: Sequence[Moments], image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
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

    def _content_loss(self, features: dict[str, Tensor], row: Span, column: Span) -> Tensor:
        losses = []
        for layer in self.config.content_layers:
            stride = self.backbone.stride_of(layer)
            inner = features[layer][..., row.within(stride), column.within(stride)]
            wanted = self.content[layer][..., row.of(stride), column.of(stride)]
            losses.append(self.content_scales[layer] * content_loss(inner, wanted))
        return self.config.content_weight * torch.stack(losses).sum()

    def _variation(self, part: Tensor, image: Tensor, row: Span, column: Span) -> Tensor:
        height, width = image.shape[-2:]
        # One pixel more, to compare the last one with.
        inner = part[
            ...,
            row.start - row.low : row.end + 1 - row.low,
            column.start - column.low : column.end + 1 - column.low,
        ]
        terms = max(3 * (height - 1) * (width - 1), 1)
        scale = self.config.total_variation * self.formula.variation(terms)
        return scale * total_variation(inner, self.formula.power)
