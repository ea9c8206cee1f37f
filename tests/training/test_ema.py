import pytest
import torch
from torch import nn

from artgan.networks.dcgan import Generator
from artgan.training.ema import update_ema


def constant(value: float) -> nn.Linear:
    layer = nn.Linear(2, 2)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, value)
    return layer


def test_after_one_half_life_half_of_the_old_is_left() -> None:
    average, current = constant(1.0), constant(0.0)
    for _ in range(10):
        update_ema(average, current, 100, half_life=1000)
    torch.testing.assert_close(average.weight.data, torch.full((2, 2), 0.5))


def test_half_life_0_follows_exactly() -> None:
    average, current = constant(1.0), constant(0.25)
    update_ema(average, current, 100, half_life=0)
    assert torch.equal(average.weight, current.weight)


def test_running_statistics_are_averaged_and_counters_are_not() -> None:
    average, current = Generator(32, width=2), Generator(32, width=2)
    norm, other = average.layers[1], current.layers[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(other, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.num_batches_tracked is not None
    other.load_state_dict(
        other.state_dict()
        | {"running_mean": torch.full((8,), 2.0), "num_batches_tracked": torch.tensor(7)}
    )
    update_ema(average, current, 100, half_life=100)
    assert norm.running_mean[0].item() == pytest.approx(1.0)
    assert norm.num_batches_tracked.item() == 0
