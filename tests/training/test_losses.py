import torch
import torch.nn.functional as F

from artgan.training.losses import bce_discriminator_loss, bce_generator_loss

REAL = torch.tensor([3.0, -1.0, 0.0, 40.0])
FAKE = torch.tensor([-2.0, 5.0, 0.5, -90.0])


def test_discriminator_loss_is_binary_cross_entropy_with_labels_1_and_0() -> None:
    expected = F.binary_cross_entropy_with_logits(
        REAL, torch.ones(4)
    ) + F.binary_cross_entropy_with_logits(FAKE, torch.zeros(4))
    torch.testing.assert_close(bce_discriminator_loss(REAL, FAKE), expected)


def test_generator_loss_is_binary_cross_entropy_with_label_1() -> None:
    expected = F.binary_cross_entropy_with_logits(FAKE, torch.ones(4))
    torch.testing.assert_close(bce_generator_loss(FAKE), expected)


def test_a_hopeless_generator_still_has_a_gradient() -> None:
    logits = torch.full((4,), -200.0, requires_grad=True)
    bce_generator_loss(logits).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.full((4,), -0.25))
