"""Work on a GPU, recorded once and replayed, so that Python and launching kernels cost nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from artgan.errors import UserError


class CapturedGraph:
    """A function of tensors that is captured as a CUDA graph and replayed from then on.

    The first calls run the function as it is, since libraries choose and set up their kernels at
    first use. Each call has its effect once, whether run or replayed.

    Args:
        function: changes tensors in place, always the same ones, and gives nothing back. It must
            not wait for the device, and all it does must follow from its inputs and those tensors.
        optimizers: that step in it.

    Source: the PyTorch manual, "CUDA semantics", section "CUDA Graphs", whole-network capture.
    """

    WARM_UP = 3

    def __init__(
        self, function: Callable[..., None], optimizers: list[torch.optim.Optimizer]
    ) -> None:
        self.function = function
        self.optimizers = optimizers
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor) -> None:
        """Runs or replays the function.

        Args:
            inputs: of the same shapes, types and layouts at each call.

        Raises:
            UserError: the function cannot be captured.
        """
        self.calls += 1
        if self.calls <= self.WARM_UP:
            self._warm_up(inputs)
            return
        if self.graph is None:
            self.graph = self._captured(inputs)
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given)
        self.graph.replay()

    def _warm_up(self, inputs: tuple[Tensor, ...]) -> None:
        # On a stream of its own, as capturing will be.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.function(*inputs)
        torch.cuda.current_stream().wait_stream(stream)

    def _captured(self, inputs: tuple[Tensor, ...]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        self.inputs = tuple(tensor.clone() for tensor in inputs)
        try:
            with self._capturable(), torch.cuda.graph(graph):
                self.function(*self.inputs)
        except RuntimeError as error:
            raise UserError(
                f"The update cannot be captured as a CUDA graph ({str(error).splitlines()[0]}). "
                "Resume the run with trainer.cuda_graph=false"
            ) from error
        return graph

    @contextmanager
    def _capturable(self) -> Iterator[None]:
        """Tells the optimisers; only now, since they warn at every step outside of a graph."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group in groups:
            group["capturable"] = True
        try:
            yield
        finally:
            for group in groups:
                group["capturable"] = False
