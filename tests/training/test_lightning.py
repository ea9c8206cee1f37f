from collections.abc import Callable

import numpy as np
import pytest
import torch

from artgan.options import TrainConfig
from artgan.training.lightning import Paintings, holds
from artgan.training.state import RunState
from tests.helpers import pack_of

PACK = pack_of(np.zeros((16, 2, 2, 3), np.uint8))


@pytest.mark.parametrize("begin", [0, 40, 1000])
def test_updates_come_together_up_to_each_event_and_no_further(
    configure: Callable[..., TrainConfig], begin: int
) -> None:
    config = configure(log_every=100, sample_every=300, evaluate_every=330, checkpoint__every=1000)
    paintings = Paintings(PACK, [], config, RunState(max_images=1700))
    ends, images = [begin], begin
    while images < 1700:
        images += 8 * paintings.updates_together(images)
        ends.append(images)
    events = {event for every in (100, 300, 330, 1000) for event in range(every, 1700, every)}
    for event in events | {250, 500, 1000}:  # the grids at the beginning, too
        if event > begin:
            assert event + -event % 8 in ends, event  # the first batch that ends at or after it
    assert ends[-1] == 1704
    assert len(ends) < 30


def test_paintings_stay_in_their_file_on_a_cpu_unless_asked_for() -> None:
    cpu = torch.device("cpu")
    assert not holds(cpu, PACK, "auto")
    assert not holds(cpu, PACK, "file")
    assert holds(cpu, PACK, "device")


def test_a_gpu_holds_what_fits_a_quarter_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 4 * PACK.rows.nbytes

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    gpu = torch.device("cuda", 0)
    assert holds(gpu, PACK, "auto")
    Properties.total_memory -= 1
    assert not holds(gpu, PACK, "auto")
    assert holds(gpu, PACK, "device")
