"""Sums over the processes of a training, each of which holds a part of every batch."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function


def is_distributed() -> bool:
    """Whether processes train together, be it only one of them."""
    return dist.is_available() and dist.is_initialized()


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean of a tensor that each rank has another of; gradients flow back to all of them.

    Every rank must call it at the same place, with the same shape.
    """
    return _Sum.apply(tensor) / dist.get_world_size() if is_distributed() else tensor


def average_over_ranks(gradients: list[Tensor]) -> None:
    """Replaces gradients by their means over the ranks, which all have the same shapes."""
    if not is_distributed():
        return
    # As one tensor: sending many small ones takes longer. Each in its order in memory, which is
    # that of its weights.
    flat = [gradient.as_strided((gradient.numel(),), (1,)) for gradient in gradients]
    means = torch.cat(flat)
    dist.all_reduce(means)
    means /= dist.get_world_size()
    for gradient, mean in zip(flat, means.split([len(one) for one in flat]), strict=True):
        gradient.copy_(mean)


def var_mean(features: Tensor, dim: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """`torch.var_mean`, without correction, of a batch of which each rank holds an equal part.

    Args:
        features: this rank's part.
        dim: dimensions to reduce; that of the batch is among them.
    """
    if not is_distributed():
        return torch.var_mean(features, dim, correction=0)
    # Not by torch.var_mean, which takes ten times as long on a CPU, nor by a square, whose
    # derivative does.
    mean = features.mean(dim, keepdim=True)
    deviations = features - mean
    var = (deviations * deviations).mean(dim)
    # In float64, in which the difference below loses nothing.
    exact = mean.view_as(var).double()
    mean, square = mean_over_ranks(torch.stack([exact, var + exact * exact]))
    return (square - mean * mean).to(var.dtype), mean.to(var.dtype)


class _Sum(Function):
    """The sum over ranks. Each rank's part is in the sum of all, so its gradient is their sum."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Sum.apply(*gradients)
