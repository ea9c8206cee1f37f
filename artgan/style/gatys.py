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

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from artgan.device import on_device
from artgan.errors import UserError
from artgan.memory import Computed, in_parts
from artgan.options import StylizeConfig
from artgan.style.backbone import Backbone
from artgan.style.inputs import Region, Watch, averaged
from artgan.style.moments import Moments
from artgan.style.objective import Losses, Objective, Target
from artgan.style.photo import to_tensor

TILE, SMALLEST_TILE = 1024, 128  # pixels of the side of the parts that a picture is computed in
HISTORY = 10  # steps that L-BFGS looks back at, as SciPy's does
RESTARTS = 3  # with safer settings, where a loss is no number


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
