"""Work on a GPU, recorded once and replayed, so that Python and launching kernels cost nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from artgan.errors import UserError
from artgan.options import TrainerConfig


def captures(config: TrainerConfig, device: torch.device) -> bool:
    """Whether updates are replayed as a CUDA graph: on one GPU, unless switched off.

    Several devices wait for each other in each update, which is not captured.
    """
    alone = config.processes == 1 and config.strategy != "ddp"
    return config.cuda_graph and device.type == "cuda" and alone


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
        self.stream: torch.cuda.Stream | None = None

    def __call__(self, *inputs: Tensor) -> None:
        """Runs or replays the function.

        Args:
            inputs: of the same shapes, types and layouts at each call.

        Raises:
            UserError: the function cannot be captured.
            ValueError: a shape is another than at the call that was captured.
        """
        self.calls += 1
        if self.calls <= self.WARM_UP:
            self._warm_up(inputs)
            return
        if self.graph is None:
            self.graph = self._captured(inputs)
        for static, given in zip(self.inputs, inputs, strict=True):
            if static.shape != given.shape:
                raise ValueError(f"shape {given.shape} is not {static.shape}, as captured")
            static.copy_(given)
        self.graph.replay()

    def _warm_up(self, inputs: tuple[Tensor, ...]) -> None:
        # On the stream that it will be captured on, where libraries keep their workspaces.
        self.stream = self.stream or torch.cuda.Stream()
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.function(*inputs)
        torch.cuda.current_stream().wait_stream(self.stream)

    def _captured(self, inputs: tuple[Tensor, ...]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        self.inputs = tuple(tensor.clone() for tensor in inputs)
        try:
            with self._capturable(), torch.cuda.graph(graph, stream=self.stream):
                self.function(*self.inputs)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # Ending a capture that has failed raises once more, over the true cause.
            cause = str(error.__context__ or error).splitlines()[0]
            raise UserError(
                f"The update cannot be captured as a CUDA graph ({cause}). "
                "Start again with trainer.cuda_graph=false"
            ) from error
        return graph

    @contextmanager
    def _capturable(self) -> Iterator[None]:
        """Tells the optimisers; only for now, so that no checkpoint says it of a CPU's."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group in groups:
            group["capturable"] = True
        try:
            yield
        finally:
            for group in groups:
                group["capturable"] = False
