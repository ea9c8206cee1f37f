"""The optimisers of Gatys' method, against SciPy and exact properties."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import fmin_l_bfgs_b
from torch import Tensor

from artgan.style.optimizers import Average, Canvas, adam, lbfgs

Losses = dict[str, float]


def rosenbrock(x: Tensor) -> tuple[Losses, Tensor]:
    """Has its minimum, at ones, in a curved valley."""
    flat = x.detach().flatten().requires_grad_()
    with torch.enable_grad():
        loss = (100 * (flat[1:] - flat[:-1] ** 2) ** 2 + (1 - flat[:-1]) ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, flat)
    return {"loss": loss.item()}, gradient.view_as(x)


def for_scipy(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    losses, gradient = rosenbrock(torch.from_numpy(x))
    return losses["loss"], gradient.numpy()


def start(value: float = 0.2) -> Tensor:
    return torch.full((1, 1, 2, 4), value, dtype=torch.float64)


def blank() -> Canvas:
    return Canvas(start)


@pytest.mark.parametrize("iterations", [20, 200])
def test_lbfgs_goes_as_far_as_scipy(iterations: int) -> None:
    canvas, losses = blank(), []
    lbfgs(rosenbrock, canvas, start(), iterations, lambda _, found: losses.append(found["loss"]))
    expected, least, _ = fmin_l_bfgs_b(
        for_scipy, np.full(8, 0.2), m=10, pgtol=0, factr=1, maxfun=iterations
    )
    assert len(losses) <= iterations
    assert min(losses) < 1.1 * least + 1e-8
    if iterations == 200:
        np.testing.assert_allclose(canvas.result().flatten(), expected, atol=1e-5)


def test_lbfgs_gives_the_best_iterate_and_stops_at_its_number_of_evaluations() -> None:
    canvas, losses = blank(), []
    lbfgs(rosenbrock, canvas, start(), 7, lambda step, found: losses.append((step, found["loss"])))
    assert [step for step, _ in losses] == list(range(1, 8))
    assert rosenbrock(canvas.result())[0]["loss"] == min(loss for _, loss in losses)


@pytest.mark.parametrize("searched", [True, False])
def test_lbfgs_gives_the_best_iterate_though_later_ones_are_worse(searched: bool) -> None:
    canvas = blank()
    seen: list[tuple[float, Tensor]] = []

    def rising(x: Tensor) -> tuple[Losses, Tensor]:
        """From the fourth evaluation on, everything is worse."""
        found, gradient = rosenbrock(x)
        found["loss"] += 1e4 if len(seen) >= 3 else 0
        seen.append((found["loss"], x.clone()))
        return found, gradient

    lbfgs(rising, canvas, start(), 6, lambda *_: None, searched)
    assert len(seen) == 6
    _, best = min(seen, key=lambda one: one[0])
    assert not torch.equal(best.clamp(0, 1), seen[-1][1].clamp(0, 1))
    assert torch.equal(canvas.result(), best.clamp(0, 1))


@pytest.mark.parametrize("evaluations", [7, 60])
def test_lbfgs_without_a_search_takes_the_steps_of_torchs_defaults(evaluations: int) -> None:
    canvas, losses, expected = blank(), [], []
    lbfgs(
        rosenbrock,
        canvas,
        start(),
        evaluations,
        lambda _, found: losses.append(found["loss"]),
        False,
    )
    image = start().requires_grad_()
    optimizer = torch.optim.LBFGS([image])

    def closure() -> float:
        found, image.grad = rosenbrock(image.detach())
        expected.append(found["loss"])
        return found["loss"]

    while len(expected) < evaluations:
        optimizer.step(closure)
    assert losses == expected[:evaluations]


def run_adam(canvas: Canvas, image: Tensor, iterations: int, averaging: float = 0) -> Tensor:
    adam(rosenbrock, canvas, image, iterations, 0.02, averaging, lambda *_: None)
    return canvas.result()


def test_adam_continues_from_the_state_in_the_canvas() -> None:
    once, twice = blank(), blank()
    run_adam(once, start(), 8)
    run_adam(twice, start(), 4)
    run_adam(twice, twice.result(), 4)
    assert torch.equal(twice.result(), once.result())


def test_adam_continues_at_another_size() -> None:
    canvas = Canvas(lambda: torch.full((1, 3, 8, 8), 0.2))
    run_adam(canvas, canvas.result(), 4)
    larger = run_adam(canvas, torch.full((1, 3, 12, 10), 0.2), 4)
    assert larger.shape == (1, 3, 12, 10)
    assert larger.isfinite().all()


def test_adam_keeps_the_image_within_its_range_and_reports_each_step() -> None:
    steps: list[Any] = []
    canvas = blank()
    adam(rosenbrock, canvas, start(0.99), 50, 0.5, 0.9, lambda step, _: steps.append(step))
    assert steps == list(range(1, 51))
    assert canvas.result().min() >= 0 and canvas.result().max() <= 1


def test_the_average_weights_iterates_by_age() -> None:
    random = torch.Generator().manual_seed(0)
    iterates = [torch.rand(1, 3, 2, 2, generator=random, dtype=torch.float64) for _ in range(5)]
    average = Average(0.9)
    for iterate in iterates:
        average.update(iterate)
    weights = [0.9**age for age in range(4, -1, -1)]
    expected = sum(w * i for w, i in zip(weights, iterates, strict=True)) / sum(weights)
    torch.testing.assert_close(average(), expected)
