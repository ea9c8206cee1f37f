import pytest
import torch
from torch import nn

from artgan.device import on_device, pick_device
from artgan.errors import UserError


def test_auto_is_the_fastest_device_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, expected in (
        (True, True, "cuda"),
        (False, True, "mps"),
        (False, False, "cpu"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert pick_device("auto") == expected
        assert pick_device("cpu") == "cpu"


def test_a_network_is_moved() -> None:
    network = nn.Linear(2, 2)
    assert on_device(network, "meta") is network
    assert network.weight.is_meta


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_device_is_named() -> None:
    with pytest.raises(UserError, match="device: there is no cuda on this machine"):
        on_device(nn.Linear(2, 2), "cuda")


def test_a_full_device_is_not_taken_for_a_missing_one() -> None:
    class Large(nn.Linear):
        def _apply(self, *_: object) -> nn.Module:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(UserError, match="device: cuda is out of memory"):
        on_device(Large(2, 2), "cuda")
