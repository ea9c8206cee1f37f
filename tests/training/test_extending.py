"""The examples of docs/extending.md, copied from the page and trained with."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from artgan.errors import UserError
from artgan.networks import NETWORKS
from artgan.options import TrainConfig
from artgan.sampling import load_painter
from artgan.training.augment import TRANSFORMATIONS
from artgan.training.gan import GAN
from artgan.training.losses import LOSSES
from artgan.training.recipe import check_model
from tests.helpers import ROOT
from tests.training.test_gan import fit, paintings

Configure = Callable[..., TrainConfig]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
LOSS, AUGMENTATION, NETWORK, ENTRY = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    """Entries that an example adds are removed after the test."""
    tables: list[dict[str, Any]] = [LOSSES, TRANSFORMATIONS, NETWORKS]
    names = [set(table) for table in tables]
    yield
    for table, original in zip(tables, names, strict=True):
        for name in set(table) - original:
            del table[name]


def assert_trains(config: TrainConfig) -> GAN:
    """The options are accepted, and a few updates change both networks and stay finite."""
    check_model(config)
    module, untrained = GAN(config, "key"), GAN(config, "key")
    fit(module, paintings(24).view(3, 1, 8, 3, 32, 32), steps=3)
    for network in ("generator", "discriminator"):
        pairs = zip(
            getattr(module, network).parameters(),
            getattr(untrained, network).parameters(),
            strict=True,
        )
        for trained, initial in pairs:
            assert trained.isfinite().all()
            assert not torch.equal(trained, initial)
    return module


def configured(configure: Configure, **options: object) -> TrainConfig:
    """A configuration with values that artgan itself does not have."""
    config = configure()
    for name, value in options.items():
        setattr(config.model, name, value)
    return config


def test_the_loss_of_the_page_trains(configure: Configure) -> None:
    exec(LOSS, {})
    module = assert_trains(configured(configure, loss="exponential"))
    real, fake = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    expected = (1 + torch.e**-1) / 2 + (torch.e + 1) / 2
    torch.testing.assert_close(module.loss.discriminator(real, fake), torch.tensor(expected))


@pytest.mark.slow
def test_the_augmentation_of_the_page_trains_and_leaves_the_draws_of_the_others(
    configure: Configure,
) -> None:
    config = configured(configure, augment=["translation"])
    plain = assert_trains(config)
    exec(AUGMENTATION, {})
    same = assert_trains(config)
    flipped = assert_trains(configured(configure, augment=["translation", "flip"]))
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (plain, same, flipped)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_network_of_the_page_trains_and_paints(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = ModuleType("artgan.networks.smooth")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(NETWORK, module.__dict__)
    exec(ENTRY, {})
    trained = assert_trains(configured(configure, network="smooth"))
    checkpoint: dict[str, Any] = {"state_dict": trained.state_dict()}
    trained.on_save_checkpoint(checkpoint)
    checkpoint["artgan"]["config"]["model"]["network"] = "smooth"
    torch.save(checkpoint, tmp_path / "last.ckpt")
    generator = load_painter(tmp_path / "last.ckpt").generator
    assert any(isinstance(layer, torch.nn.GELU) for layer in generator.modules())


@pytest.mark.parametrize("example", [LOSS, AUGMENTATION, NETWORK])
def test_an_example_is_about_ten_lines_of_code(example: str) -> None:
    lines = [line for line in example.splitlines() if line.strip() and line.strip()[0] not in '#"']
    assert len(lines) <= 10


@pytest.mark.parametrize(
    ("option", "value"), [("loss", "wgan"), ("network", "stylegan"), ("augment", ["cutuot"])]
)
def test_a_name_that_is_in_no_table_is_refused(
    configure: Configure, option: str, value: object
) -> None:
    with pytest.raises(UserError, match=f"^model.{option}: '.*' is none of "):
        check_model(configured(configure, **{option: value}))
