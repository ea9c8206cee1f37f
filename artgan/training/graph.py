"""Work on a GPU, captured once and replayed, without the cost of Python and kernel launches."""

from collections.abc import Callable

import torch
from torch import Tensor

from artgan.errors import UserError
from artgan.options import TrainerConfig


def captures(config: TrainerConfig, device: torch.device) -> bool:
    """Whether updates are replayed as a CUDA graph: on one GPU, unless switched off.

    With several devices, each update communicates, which cannot be captured.
    """
    alone = config.processes == 1 and config.strategy != "ddp"
    return config.cuda_graph and device.type == "cuda" and alone


class CapturedGraph:
    """A function of tensors that is captured as a CUDA graph and then replayed.

    The first calls run the function as it is, because libraries choose and set up their kernels at
    first use. Each call has its effect once, whether run or replayed.

    Args:
        function: changes tensors in place, always the same ones, and returns nothing. It must not
            wait for the device, and must depend only on its inputs and those tensors.
        optimizers: those that step in it.

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
        # Of the capture, and before it, because libraries keep their workspaces by stream.
        self.stream = torch.cuda.Stream()

    def __call__(self, *inputs: Tensor) -> None:
        """Runs or replays the function, with inputs of the same shapes, dtypes and layouts.

        Raises:
            UserError: the function cannot be captured.
            ValueError: a shape differs from that at capture.
        """
        self.calls += 1
        if self.calls <= self.WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.function(*inputs)
            torch.cuda.current_stream().wait_stream(self.stream)
            return
        if self.graph is None:
            self.graph = self._capture(inputs)
        for static, given in zip(self.inputs, inputs, strict=True):
            if static.shape != given.shape:
                raise ValueError(f"shape {given.shape} differs from {static.shape} at capture")
            static.copy_(given)
        self.graph.replay()

    def _capture(self, inputs: tuple[Tensor, ...]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        self.inputs = tuple(tensor.clone() for tensor in inputs)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        try:
            for group in groups:
                group["capturable"] = True
            with torch.cuda.graph(graph, stream=self.stream):
                self.function(*self.inputs)
        except RuntimeError as error:
            # Ending a failed capture raises a second error, whose context is the cause.
            cause = error.__context__ or error
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            raise UserError(
                f"The update cannot be captured as a CUDA graph ({str(cause).splitlines()[0]}). "
                "Start again with trainer.cuda_graph=false"
            ) from error
        finally:
            for group in groups:
                group["capturable"] = False  # or a CPU could not go on from the checkpoint
        return graph
