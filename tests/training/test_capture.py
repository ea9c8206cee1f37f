from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from artgan.checkpoint import load_checkpoint
from artgan.errors import UserError
from artgan.training.capture import CapturedGraph

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")


class FakeStream:
    def wait_stream(self, other: object) -> None:
        pass


class FakeGPU:
    """What `CapturedGraph` relies on: while capturing nothing happens, replaying repeats."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuses: bool = False) -> None:
        self.total = torch.zeros(2)
        self.runs: list[str] = []
        self.refuses = refuses
        self.captured: Tensor | None = None
        gpu = self

        class Graph:
            def replay(self) -> None:
                assert gpu.captured is not None
                gpu.runs.append("replayed")
                gpu.total += gpu.captured

        @contextmanager
        def capture(graph: Graph) -> Iterator[None]:
            self.captured = torch.empty(2)
            yield

        monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
        monkeypatch.setattr(torch.cuda, "current_stream", FakeStream)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", capture)

    def add(self, numbers: Tensor) -> None:
        if self.captured is None:
            self.runs.append("run")
            self.total += numbers
        elif self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        else:
            self.captured = numbers


def test_each_call_has_its_effect_once_whether_run_or_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = FakeGPU(monkeypatch)
    graph = CapturedGraph(gpu.add, [])
    for number in range(6):
        graph(torch.tensor([1.0, number]))
        assert gpu.total.tolist() == [number + 1, number * (number + 1) / 2]
    assert gpu.runs == ["run"] * 3 + ["replayed"] * 3


def test_the_optimizers_are_capturable_only_while_capturing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = FakeGPU(monkeypatch)
    optimizer = torch.optim.Adam([torch.zeros(2, requires_grad=True)])
    seen: list[bool] = []

    def step(numbers: Tensor) -> None:
        seen.append(optimizer.param_groups[0]["capturable"])
        gpu.add(numbers)

    graph = CapturedGraph(step, [optimizer])
    for _ in range(5):
        graph(torch.zeros(2))
    assert seen == [False, False, False, True]
    assert optimizer.param_groups[0]["capturable"] is False


def test_what_cannot_be_captured_is_said_with_the_way_on(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGPU(monkeypatch, refuses=True)
    graph = CapturedGraph(gpu.add, [])
    for _ in range(3):
        graph(torch.zeros(2))
    with pytest.raises(UserError, match=r"stream is capturing\).*trainer.cuda_graph=false"):
        graph(torch.zeros(2))


@NO_GPU
def test_on_a_gpu_replayed_updates_are_those_run_step_by_step(run: Callable[..., Path]) -> None:
    options = {"max_images": 80, "trainer__accelerator": "gpu"}
    captured = run(name="captured", **options)
    stepwise = run(name="stepwise", trainer__cuda_graph="false", **options)
    first, second = (load_checkpoint(folder / "last.ckpt") for folder in (captured, stepwise))
    for name, tensor in first["state_dict"].items():
        torch.testing.assert_close(tensor, second["state_dict"][name], msg=name)


@NO_GPU
@pytest.mark.parametrize("graph", ["true", "false"])
def test_on_a_gpu_a_resumed_run_goes_on_where_it_was(run: Callable[..., Path], graph: str) -> None:
    options = {"trainer__accelerator": "gpu", "trainer__cuda_graph": graph}
    whole = run(name="whole", max_images=128, **options)
    parts = run(name="parts", max_images=64, **options)
    run(resume=parts, max_images=128)
    first, second = (load_checkpoint(folder / "last.ckpt") for folder in (whole, parts))
    for name, tensor in first["state_dict"].items():
        torch.testing.assert_close(tensor, second["state_dict"][name], msg=name)
