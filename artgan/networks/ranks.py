"""Means over the processes that train together, each with its part of every batch."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function


def is_distributed() -> bool:
    """Whether this process is one of a group that trains together, even if alone in it."""
    return dist.is_available() and dist.is_initialized()


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean of the tensors of all ranks, through which gradients flow back to each.

    Every rank must call it at the same point, with the same shape.
    """
    return _Sum.apply(tensor) / dist.get_world_size() if is_distributed() else tensor


def average_over_ranks(parameters: Iterable[Tensor]) -> None:
    """Replaces the gradients of parameters by their means over the ranks."""
    if not is_distributed():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    # As one tensor: sending many small ones takes longer. Each in its order in memory, which is
    # that of its weights.
    flat = [gradient.as_strided((gradient.numel(),), (1,)) for gradient in gradients]
    means = torch.cat(flat)
    dist.all_reduce(means)
    means /= dist.get_world_size()
    for gradient, mean in zip(flat, means.split([len(one) for one in flat]), strict=True):
        gradient.copy_(mean)


def var_mean(features: Tensor, dim: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """`torch.var_mean` without correction over the batch of all ranks, in equal parts."""
    # torch.var_mean is ten times slower on a CPU, and so is the derivative of a square.
    mean = features.mean(dim, keepdim=True)
    deviations = features - mean
    var = (deviations * deviations).mean(dim)
    if not is_distributed():
        return var, mean.view_as(var)
    # In float64, so that the difference below loses nothing.
    exact = mean.view_as(var).double()
    mean, square = mean_over_ranks(torch.stack([exact, var + exact * exact]))
    return (square - mean * mean).to(var.dtype), mean.to(var.dtype)


class _Sum(Function):
    """The sum over ranks. Each rank's tensor is in every sum, so its gradient is a sum, too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Sum.apply(*gradients)
