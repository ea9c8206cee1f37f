import pytest
import torch

from artgan.training.callbacks.curves import discriminator_has_won
from artgan.training.callbacks.grids import diversity, diversity_has_collapsed


def test_balance_gives_no_warning() -> None:
    assert discriminator_has_won(0.8, 0.2, gradient_norm=0.5) is None


@pytest.mark.parametrize(
    ("real", "fake", "norm"), [(0.995, 0.004, 0.5), (0.6, 0.4, 1e-7)], ids=["logits", "gradient"]
)
def test_saturated_logits_or_a_vanished_gradient_give_a_warning(
    real: float, fake: float, norm: float
) -> None:
    warning = discriminator_has_won(real, fake, norm)
    assert warning is not None
    assert f"{real:.3f}" in warning
    assert "model.learning_rate" in warning


def test_diversity_compares_the_spread_of_samples_with_that_of_paintings() -> None:
    paintings = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8)
    assert diversity(paintings, paintings) == pytest.approx(1)
    assert diversity(paintings // 2, paintings) == pytest.approx(0.5, rel=0.05)
    assert diversity(paintings[:1].expand(64, -1, -1, -1), paintings) == 0


def test_similar_samples_give_a_warning() -> None:
    assert diversity_has_collapsed(0.6) is None
    warning = diversity_has_collapsed(0.04)
    assert warning is not None
    assert "4%" in warning
