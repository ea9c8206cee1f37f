"""All that is random in an update, as a function of the seed and the images seen."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from artgan.options import TrainConfig
from artgan.training.augment import FIRST_COLUMNS, columns
from artgan.training.state import Progress


class Batch(NamedTuple):
    """What one update takes, on this rank.

    Attributes:
        paintings: uint8 [N, 3, H, W], or latents, float16 [N, 32, H/8, W/8].
        classes: float32 [N, K] one-hot, of the paintings and of the generated images: a class is
            as frequent in both, and a relativistic loss compares within a class.
        latents: float32 [N, latent_dim, 1, 1].
        mirrored: bool [N, 1, 1, 1], which paintings to mirror.
        shares: float32 [N, 1, 1, 1], of the paintings in the mixtures of the gradient penalty.
        augmentation: float32 [3, N, columns()], draws for the real images, for the generated ones
            as the discriminator learns from them, and as the generator does.
    """

    paintings: Tensor
    classes: Tensor
    latents: Tensor
    mirrored: Tensor
    shares: Tensor
    augmentation: Tensor


def draw(
    config: TrainConfig, progress: Progress, rank: int, paintings: Tensor, classes: Tensor
) -> Batch:
    """Draws for the batch of all ranks, and takes the part of one.

    So a resumed run draws what the uninterrupted one would have drawn, on any number of devices.
    The paintings and their classes, float32 [N, K], are already that part.
    """
    # The zero keeps the draws of runs that have begun with it.
    key = [config.seed, 0, progress.images_seen]
    key += [progress.rollbacks] if progress.rollbacks else []
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
    device, total = paintings.device, config.batch_size
    random = torch.Generator(device).manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, device=device)

    shape = (total, config.model.latent_dim, 1, 1)
    latents = torch.randn(shape, generator=random, device=device)
    # Latents have been mirrored before they were encoded.
    flips = config.dataset.flip and config.autoencoder == "none"
    mirrored = uniform(total, 1, 1, 1) < (0.5 if flips else 0.0)
    shares = uniform(total, 1, 1, 1)
    widths = (FIRST_COLUMNS, columns() - FIRST_COLUMNS)
    augmentation = torch.cat([uniform(3, total, width) for width in widths], dim=2)
    part = slice(rank * len(paintings), (rank + 1) * len(paintings))
    drawn = (latents[part], mirrored[part], shares[part], augmentation[:, part])
    return Batch(paintings, classes, *drawn)
