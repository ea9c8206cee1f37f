from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from artgan.errors import UserError
from artgan.options import TrainConfig
from artgan.training.graph import CapturedGraph, captures
from tests.helpers import EVERYTHING, assert_same_state

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")


class FakeStream:
    def wait_stream(self, other: object) -> None:
        pass


class FakeGPU:
    """What `CapturedGraph` relies on: a capture has no effect, a replay repeats it."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, refuses: RuntimeError | None = None
    ) -> None:
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
        def capture(graph: Graph, stream: FakeStream) -> Iterator[None]:
            self.captured = torch.empty(2)
            try:
                yield
            finally:
                if self.refuses:
                    # As torch does at the end of a capture, hiding the cause.
                    raise RuntimeError("operation failed due to a previous error during capture")

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
            raise self.refuses
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


def test_a_failed_capture_names_its_cause_and_the_option_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusal = RuntimeError("operation not permitted when stream is capturing\nmore")
    graph = CapturedGraph(FakeGPU(monkeypatch, refusal).add, [])
    for _ in range(3):
        graph(torch.zeros(2))
    with pytest.raises(UserError, match=r"stream is capturing\).*trainer.cuda_graph=false"):
        graph(torch.zeros(2))


def test_too_little_memory_for_a_capture_is_said_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = CapturedGraph(FakeGPU(monkeypatch, torch.OutOfMemoryError("out of memory")).add, [])
    for _ in range(3):
        graph(torch.zeros(2))
    with pytest.raises(torch.OutOfMemoryError):
        graph(torch.zeros(2))


def test_a_batch_of_another_shape_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = CapturedGraph(FakeGPU(monkeypatch).add, [])
    for _ in range(4):
        graph(torch.zeros(2))
    with pytest.raises(ValueError, match=r"\[1\].*\[2\]"):
        graph(torch.zeros(1))


@pytest.mark.parametrize(
    ("options", "device", "expected"),
    [
        ({}, "cuda", True),
        ({}, "cpu", False),
        ({"trainer__cuda_graph": "false"}, "cuda", False),
        ({"trainer__devices": 2}, "cuda", False),
        ({"trainer__strategy": "ddp"}, "cuda", False),
    ],
)
def test_only_a_single_gpu_replays(
    configure: Callable[..., TrainConfig], options: dict[str, object], device: str, expected: bool
) -> None:
    assert captures(configure(**options).trainer, torch.device(device)) is expected


@NO_GPU
@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("model", [{}, EVERYTHING], ids=["plain", "every option"])
def test_on_a_gpu_replayed_updates_give_the_bits_of_eager_ones(
    run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    model: dict[str, object],
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    options = {"trainer__accelerator": "gpu", "trainer__precision": precision, **model}
    replayed = run(name="replayed", max_images=80, **options)
    run_through = run(name="run", max_images=80, trainer__cuda_graph="false", **options)
    assert_same_state(replayed / "last.ckpt", run_through / "last.ckpt")


@NO_GPU
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_on_a_gpu_a_resumed_run_gives_the_bits_of_an_uninterrupted_one(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    options = {"trainer__accelerator": "gpu", "trainer__precision": precision}
    whole = run(name="whole", max_images=128, **options)
    parts = run(name="parts", max_images=64, **options)
    run(resume=parts, max_images=128)
    assert_same_state(whole / "last.ckpt", parts / "last.ckpt")
