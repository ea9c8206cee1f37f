"""The optimisers of Gatys' method: Adam, whose iterates are averaged, and L-BFGS."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from artgan.style.objective import Losses

Evaluate = Callable[[Tensor], tuple[Losses, Tensor]]  # the losses of an image and their gradient
Report = Callable[[int, Losses], None]  # called with each evaluation's number and losses


@dataclass
class Canvas:
    """An image in the making, from scale to scale."""

    result: Callable[[], Tensor]  # the image so far, float32 [1, 3, h, w] in [0, 1]
    adam: dict[str, Tensor] | None = None  # state of Adam after the last scale, if any


class Average:
    """An exponential average of images, without bias towards the first ones.

    Source: Kingma and Ba 2015 (arXiv:1412.6980), Section 3, for the correction.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.total: Tensor | None = None
        self.mass = 0.0

    def update(self, image: Tensor) -> None:
        if self.total is None:
            self.total = torch.zeros_like(image)
        self.total.lerp_(image, 1 - self.decay)
        self.mass += (1 - self.decay) * (1 - self.mass)

    def __call__(self) -> Tensor:
        assert self.total is not None
        return (self.total / self.mass).clamp(0, 1)


@torch.no_grad()
def adam(
    evaluate: Evaluate,
    canvas: Canvas,
    image: Tensor,
    iterations: int,
    rate: float,
    averaging: float,
    report: Report,
) -> tuple[float, float]:
    """Optimises an image [1, 3, H, W] in [0, 1], in place, with Adam.

    Args:
        canvas: its `adam` is continued, resized, and replaced; its `result` is set to the average.
        rate: learning rate.
        averaging: decay of the average of the iterates.
        report: called after each step.

    Returns:
        The first loss and the last.
    """
    optimizer = torch.optim.Adam([image], lr=rate)
    if canvas.adam:
        size = image.shape[-2:]
        optimizer.state[image] = {
            "step": canvas.adam["step"],
            "exp_avg": resize(canvas.adam["exp_avg"], size),
            # Linear, so that nothing becomes negative.
            "exp_avg_sq": F.interpolate(canvas.adam["exp_avg_sq"], size, mode="bilinear"),
        }
    average = Average(averaging)
    average.update(image)
    canvas.result = average
    first = last = math.nan
    for step in range(1, iterations + 1):
        losses, image.grad = evaluate(image)
        first, last = losses["loss"] if step == 1 else first, losses["loss"]
        optimizer.step()
        image.clamp_(0, 1)
        average.update(image)
        report(step, losses)
    canvas.adam = dict(optimizer.state[image])
    return first, last


@torch.no_grad()
def lbfgs(
    evaluate: Evaluate,
    canvas: Canvas,
    image: Tensor,
    iterations: int,
    report: Report,
    searched: bool = True,
) -> None:
    """Optimises an image [1, 3, H, W] in [0, 1], in place, with L-BFGS.

    Args:
        canvas: its `result` is set to the iterate of the least loss.
        iterations: number of evaluations.
        report: called after each evaluation.
        searched: search each line as SciPy does; otherwise torch's defaults, with fixed steps.
    """
    best, least, step = image.clone(), math.inf, 0
    canvas.result = lambda: best.clamp(0, 1)

    def closure() -> float:
        nonlocal least, step
        if step == iterations:
            raise StopIteration
        losses, image.grad = evaluate(image)
        step += 1
        if losses["loss"] < least:
            least = losses["loss"]
            best.copy_(image)
        report(step, losses)
        return losses["loss"]

    scipys: dict[str, Any] = {
        "max_iter": iterations,
        "tolerance_grad": 0,
        "tolerance_change": 0,
        "history_size": 10,
        "line_search_fn": "strong_wolfe",
    }
    optimizer = torch.optim.LBFGS([image], **(scipys if searched else {}))
    with suppress(StopIteration):
        while step < iterations:
            before = step
            optimizer.step(closure)
            if searched or step - before <= 1:
                break  # nothing left to change


def resize(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resizes images [N, 3, H, W]; values may overshoot at edges."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True)
