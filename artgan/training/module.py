"""The Lightning module: two networks, two optimisers, one update of each per batch."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from artgan import __version__
from artgan.checkpoint import FORMAT, KEY
from artgan.config import TrainConfig
from artgan.networks.dcgan import Discriminator, Generator
from artgan.training.capture import CapturedGraph, captures
from artgan.training.ema import update_ema
from artgan.training.losses import bce_discriminator_loss, bce_generator_loss


@dataclass
class Progress:
    """How far a run has come; kept in its checkpoints.

    Attributes:
        images_seen: paintings shown to the discriminator, over all devices.
        seconds: time spent in training, without set-up and pauses.
    """

    images_seen: int = 0
    seconds: float = 0.0


class GAN(pl.LightningModule):
    """A generator and a discriminator that learn from each other.

    Everything random in a step (latents, flips) is drawn from a generator seeded by the seed, the
    rank and the images seen. So a resumed run draws what the uninterrupted one would have drawn,
    and no two ranks draw the same.

    Args:
        config: the whole configuration of the run.
        dataset_key: hash of the paintings, kept in checkpoints to notice another dataset.
    """

    METRICS = ("loss/discriminator", "loss/generator", "D(x)", "D(G(z))")

    def __init__(self, config: TrainConfig, dataset_key: str) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.dataset_key = dataset_key
        self.progress = Progress()

        model = config.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.generator = Generator(config.resolution, model.latent_dim, model.width)
            self.discriminator = Discriminator(config.resolution, model.width)
        self.generator_ema = Generator(config.resolution, model.latent_dim, model.width)
        self.generator_ema.load_state_dict(self.generator.state_dict())
        self.generator_ema.eval().requires_grad_(False)
        # The layout that convolutions are fastest in, on CPUs and GPUs alike.
        self.to(memory_format=torch.channels_last)
        # Not a buffer: DDP would overwrite the sums of the other ranks with those of the first.
        self.metric_sums = torch.zeros(len(self.METRICS))
        self.metric_steps = 0
        self._update: Callable[[Tensor, Tensor, Tensor], None] = self.update

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        model = self.config.model
        return [
            torch.optim.Adam(
                network.parameters(),
                lr=model.learning_rate,
                betas=(model.beta1, model.beta2),
                fused=True,
            )
            for network in (self.discriminator, self.generator)
        ]

    def on_fit_start(self) -> None:
        self.metric_sums = self.metric_sums.to(self.device)
        if captures(self.config.trainer, self.device):
            self._update = CapturedGraph(self.update, self.trainer.optimizers)

    def on_fit_end(self) -> None:
        self._update = self.update  # the graph's memory goes with it

    def train(self, mode: bool = True) -> "GAN":
        super().train(mode)
        self.generator_ema.eval()
        return self

    def training_step(self, paintings: Tensor, batch_idx: int) -> None:
        """Some updates, one after another.

        Args:
            paintings: this rank's parts of the batches, uint8 [updates, N, 3, H, W].
            batch_idx: not used; progress is counted in images.
        """
        for batch in paintings:
            self._update(batch, *self._draw(len(batch)))
            self.metric_steps += 1
            images = len(batch) * self.trainer.world_size
            self.progress.images_seen += images
            model = self.config.model
            update_ema(
                self.generator_ema,
                self.generator,
                images,
                self.progress.images_seen,
                model.ema_half_life,
                model.ema_ramp,
            )

    def update(self, paintings: Tensor, latents: Tensor, mirrored: Tensor) -> None:
        """One update of the discriminator and one of the generator.

        Nothing in it waits for the device or depends on anything but tensors, so that it can be
        captured as a CUDA graph.

        Args:
            paintings: uint8 [N, 3, H, W].
            latents: float32 [N, latent_dim, 1, 1].
            mirrored: bool [N, 1, 1, 1], which paintings are shown mirrored.
        """
        # Not those that Lightning wraps: their hooks would run once, when the update is captured.
        discriminator_optimizer, generator_optimizer = self.trainer.optimizers
        real = paintings.to(memory_format=torch.channels_last) / 127.5 - 1
        real = torch.where(mirrored, real.flip(-1), real)
        fake = self.generator(latents)

        both = torch.cat([real.to(fake.dtype), fake.detach()])
        real_logits, fake_logits = self.discriminator(both, batches=2).float().chunk(2)
        discriminator_loss = bce_discriminator_loss(real_logits, fake_logits)
        discriminator_optimizer.zero_grad()
        self.manual_backward(discriminator_loss)
        discriminator_optimizer.step()

        # The generator's loss has no use for the discriminator's own gradients.
        self.discriminator.requires_grad_(False)
        generator_loss = bce_generator_loss(self.discriminator(fake).float())
        generator_optimizer.zero_grad()
        self.manual_backward(generator_loss)
        generator_optimizer.step()
        self.discriminator.requires_grad_(True)

        self._record(discriminator_loss, generator_loss, real_logits, fake_logits)

    def _draw(self, count: int) -> tuple[Tensor, Tensor]:
        """This step's latents, and which paintings are mirrored: half of them if `dataset.flip`."""
        key = [self.config.seed, self.global_rank, self.progress.images_seen]
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        random = torch.Generator(self.device).manual_seed(seed)
        shape = (count, self.config.model.latent_dim, 1, 1)
        latents = torch.randn(shape, generator=random, device=self.device)
        share = 0.5 if self.config.dataset.flip else 0.0
        draws = torch.rand(count, 1, 1, 1, generator=random, device=self.device)
        return latents, draws < share

    def _record(
        self,
        discriminator_loss: Tensor,
        generator_loss: Tensor,
        real_logits: Tensor,
        fake_logits: Tensor,
    ) -> None:
        """Adds to the sums that `mean_metrics` reads, without waiting for the device."""
        values = (
            discriminator_loss.detach(),
            generator_loss.detach(),
            real_logits.detach().sigmoid().mean(),
            fake_logits.detach().sigmoid().mean(),
        )
        self.metric_sums += torch.stack(values)

    def mean_metrics(self) -> dict[str, float]:
        """Means of the metrics since the last call; every rank must call it at the same step."""
        mine = self.metric_sums / max(self.metric_steps, 1)
        means = self.trainer.strategy.reduce(mine, reduce_op="mean").tolist()
        self.metric_sums.zero_()
        self.metric_steps = 0
        return dict(zip(self.METRICS, means, strict=True))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {
            "format": FORMAT,
            "version": __version__,
            "config": asdict(self.config),
            "dataset_key": self.dataset_key,
            "progress": asdict(self.progress),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.progress = Progress(**checkpoint[KEY]["progress"])
