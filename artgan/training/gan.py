"""The Lightning module: two networks, two optimisers, one update of each per batch."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from artgan import __version__
from artgan.checkpoint import FORMAT, KEY
from artgan.errors import UserError
from artgan.networks.dcgan import Discriminator, Generator
from artgan.networks.ranks import is_distributed, mean_over_ranks
from artgan.options import TrainConfig
from artgan.training.augment import DRAWS, adapted, augment
from artgan.training.ema import update_ema
from artgan.training.graph import CapturedGraph, captures
from artgan.training.losses import (
    RELATIVISTIC,
    confidences,
    discriminator_loss,
    generator_loss,
)
from artgan.training.penalties import gradient_penalty, squared_gradient_norms
from artgan.training.state import Progress, RunState


class GAN(pl.LightningModule):
    """A generator and a discriminator that learn from each other.

    Everything random in a step (latents, flips, augmentation) is drawn from a generator seeded by
    the seed and the images seen, for the batch of all ranks, of which each takes its part. So a
    resumed run draws what the uninterrupted one would have drawn, on however many devices.

    Args:
        config: the whole configuration of the run.
        dataset_key: hash of the paintings, kept in checkpoints to notice another dataset.
        state: where the run stands; schedules follow its share of the budget.
        classes: the name of each class and how many paintings are of it, kept in checkpoints to
            paint by; none if the networks are not to tell them apart.
    """

    augment_probability: Tensor
    METRICS = (
        "loss/discriminator",
        "loss/generator",
        "gradient norm/generator",
        "D(x)",
        "D(G(z))",
    )

    def __init__(
        self,
        config: TrainConfig,
        dataset_key: str,
        state: RunState | None = None,
        classes: dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.dataset_key = dataset_key
        self.state = state or RunState()
        self.classes = classes or {}

        model = config.model
        inputs = model.latent_dim + len(self.classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.generator = Generator(config.resolution, inputs, model.width)
            self.discriminator = Discriminator(
                config.resolution,
                model.width,
                model.normalization,
                model.minibatch_std,
                len(self.classes),
            )
        self.generator_ema = Generator(config.resolution, inputs, model.width)
        self.generator_ema.load_state_dict(self.generator.state_dict())
        self.generator_ema.eval().requires_grad_(False)
        # The layout that convolutions are fastest in, on CPUs and GPUs alike.
        self.to(memory_format=torch.channels_last)
        # Not a buffer: no state of the run.
        self.metric_sums = torch.zeros(len(self.METRICS))
        self.metric_steps = 0
        # Like the sums; shares of the learning rate and of the penalties, by the schedules.
        self.learning_rate = torch.tensor(model.learning_rate)
        self.penalty_share = torch.tensor(1.0)
        if model.augment:
            first = 0.0 if model.augment_target is not None else model.augment_probability
            self.register_buffer("augment_probability", torch.tensor(first))
        self._updates = self._plain_updates()

    @property
    def progress(self) -> Progress:
        """How far the run has come."""
        return self.state.progress

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        model = self.config.model
        return [
            torch.optim.Adam(
                network.parameters(),
                lr=self.learning_rate,
                betas=(model.beta1, model.beta2),
                fused=True,
            )
            for network in (self.discriminator, self.generator)
        ]

    def on_fit_start(self) -> None:
        self.metric_sums = self.metric_sums.to(self.device)
        self.penalty_share = self.penalty_share.to(self.device)
        if captures(self.config.trainer, self.device):
            self._updates = {
                penalized: CapturedGraph(update, self.trainer.optimizers)
                for penalized, update in self._updates.items()
            }

    def on_train_start(self) -> None:
        self.learning_rate = self.learning_rate.to(self.device)
        # A tensor that a captured graph reads anew each time, also where a checkpoint held another.
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate

    def on_fit_end(self) -> None:
        self._updates = self._plain_updates()  # the graphs' memory goes with them

    def _plain_updates(self) -> dict[bool, Callable[..., None]]:
        """What an update runs, by whether it is penalised."""
        return {penalized: partial(self.update, penalized) for penalized in (False, True)}

    def train(self, mode: bool = True) -> "GAN":
        super().train(mode)
        self.generator_ema.eval()
        return self

    def training_step(self, batches: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Some updates, one after another.

        Args:
            batches: this rank's parts of them: paintings, uint8 [updates, N, 3, H, W], and their
                classes, float32 [updates, N, K] one-hot.
            batch_idx: not used; progress is counted in images.
        """
        model = self.config.model
        penalties = bool(model.r1 or model.r2 or model.gradient_penalty)
        for paintings, classes in zip(*batches, strict=True):
            self._follow_schedules()
            update = self.progress.images_seen // self.config.batch_size
            penalized = penalties and update % model.penalty_every == 0
            self._updates[penalized](paintings, classes, *self._draw(len(paintings)))
            self.metric_steps += 1
            images = self.config.batch_size
            self.progress.images_seen += images
            update_ema(
                self.generator_ema,
                self.generator,
                images,
                self.progress.images_seen,
                model.ema_half_life,
                model.ema_ramp,
            )

    def _follow_schedules(self) -> None:
        """Sets the learning rate and the penalties to where their cosines stand."""
        model = self.config.model
        remaining = (1 + math.cos(math.pi * self.state.used)) / 2
        final = model.learning_rate_final
        self.learning_rate.fill_(model.learning_rate * (final + (1 - final) * remaining))
        self.penalty_share.fill_(model.penalty_final + (1 - model.penalty_final) * remaining)

    def update(
        self,
        penalized: bool,
        paintings: Tensor,
        classes: Tensor,
        latents: Tensor,
        mirrored: Tensor,
        shares: Tensor,
        draws: Tensor,
    ) -> None:
        """One update of the discriminator and one of the generator.

        Nothing in it waits for the device or depends on anything but tensors, so that it can be
        captured as a CUDA graph.

        Each generated picture is to be of the class of one painting. So classes are as frequent
        among the generated as among the paintings, and a relativistic loss, which sets one
        against the other, compares within a class.

        Args:
            penalized: whether the discriminator's gradient is penalised this time.
            paintings: uint8 [N, 3, H, W].
            classes: float32 [N, K], the paintings' and the generated pictures', one-hot.
            latents: float32 [N, latent_dim, 1, 1].
            mirrored: bool [N, 1, 1, 1], which paintings are shown mirrored.
            shares: float32 [N, 1, 1, 1], of paintings in the mixtures of the gradient penalty.
            draws: float32 [3, N, DRAWS], for the augmentation of the paintings, and of the
                generated pictures as the discriminator and as the generator learn from them.
        """
        # Not those that Lightning wraps: their hooks would run once, when the update is captured.
        discriminator_optimizer, generator_optimizer = self.trainer.optimizers
        model = self.config.model
        real = paintings.to(memory_format=torch.channels_last) / 127.5 - 1
        real = torch.where(mirrored, real.flip(-1), real)
        fake = self.generator(torch.cat([latents, classes[:, :, None, None]], dim=1))
        real = self._augmented(real.to(fake.dtype), draws[0])

        both = torch.cat([real, self._augmented(fake.detach(), draws[1])])
        both.requires_grad_(penalized)
        of_both = torch.cat([classes, classes])
        logits = self.discriminator(both, batches=2, classes=of_both).float()
        real_logits, fake_logits = logits.chunk(2)
        loss = discriminator_loss(model.loss, real_logits, fake_logits, model.label_smoothing)
        penalty = self._penalty(logits, both, classes, shares) if penalized else 0.0
        self._step(discriminator_optimizer, loss + model.penalty_every * penalty)

        # The generator's loss has no use for the discriminator's own gradients.
        self.discriminator.requires_grad_(False)
        judged = self._augmented(fake, draws[2])
        if model.loss in RELATIVISTIC:
            judged = torch.cat([real, judged])
            logits = self.discriminator(judged, batches=2, classes=of_both).float()
            real_against, fake_against = logits.chunk(2)
        else:
            real_against = None
            fake_against = self.discriminator(judged, classes=classes).float()
        against = generator_loss(model.loss, fake_against, real_against)
        self._step(generator_optimizer, against)
        self.discriminator.requires_grad_(True)

        self._adapt(real_logits, fake_logits)
        gradients = [p.grad for p in self.generator.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        probabilities = confidences(model.loss, real_logits, fake_logits)
        # For `mean_metrics`, which reads the sums once in a while.
        means = (value.detach().mean() for value in (loss, against, norm, *probabilities))
        self.metric_sums += torch.stack(list(means))

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """Moves the weights of an optimiser against the gradient of a loss, averaged over ranks."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        if is_distributed():
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            gradients = [p.grad for p in parameters if p.grad is not None]
            # As one tensor, for sending many small ones takes longer; each in the order in which it
            # lies in memory, which is that of its weights.
            flat = [gradient.as_strided((gradient.numel(),), (1,)) for gradient in gradients]
            means = torch.cat(flat)
            dist.all_reduce(means)
            means /= dist.get_world_size()
            for gradient, mean in zip(flat, means.split([len(one) for one in flat]), strict=True):
                gradient.copy_(mean)
        optimizer.step()

    def _adapt(self, real_logits: Tensor, fake_logits: Tensor) -> None:
        """Moves the augmentation's probability, where it is to follow how far D overfits."""
        model = self.config.model
        if model.augment_target is None:
            return
        # In pairs only differences mean something.
        scores = real_logits - fake_logits if model.loss in RELATIVISTIC else real_logits
        sign_mean = mean_over_ranks(scores.detach().sign().mean())
        self.augment_probability.copy_(
            adapted(
                self.augment_probability, sign_mean, self.config.batch_size, model.augment_target
            )
        )

    def _augmented(self, images: Tensor, draws: Tensor) -> Tensor:
        policy = self.config.model.augment
        return augment(images, draws, policy, self.augment_probability) if policy else images

    def _penalty(self, logits: Tensor, both: Tensor, classes: Tensor, shares: Tensor) -> Tensor:
        """What is added to the discriminator's loss for its gradient.

        Args:
            logits: [2N], of `both`.
            both: [2N, 3, H, W], paintings and generated pictures, that require a gradient.
            classes: [N, K], of the paintings as of the generated pictures, and so of mixtures.
            shares: [N, 1, 1, 1], of the paintings in mixtures of both.
        """
        model = self.config.model
        penalty = torch.zeros((), device=logits.device)
        if model.r1 or model.r2:
            on_real, on_fake = squared_gradient_norms(logits, both).chunk(2)
            penalty = (model.r1 / 2 * on_real + model.r2 / 2 * on_fake).mean() * self.penalty_share
        if model.gradient_penalty:
            real, fake = both.detach().chunk(2)
            discriminator = partial(self.discriminator, classes=classes)
            distance = gradient_penalty(discriminator, real, fake, shares)
            penalty = penalty + model.gradient_penalty * distance
        return penalty

    def _draw(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All that is random in this update, as `update` takes it, for this rank's `count` images.

        Half of the paintings are mirrored if `dataset.flip`.
        """
        # The zero keeps the draws of runs that have begun with it.
        key = [self.config.seed, 0, self.progress.images_seen]
        key += [self.progress.rollbacks] if self.progress.rollbacks else []
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        random = torch.Generator(self.device).manual_seed(seed)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=random, device=self.device)

        of_all = self.config.batch_size
        shape = (of_all, self.config.model.latent_dim, 1, 1)
        latents = torch.randn(shape, generator=random, device=self.device)
        mirrored = uniform(of_all, 1, 1, 1) < (0.5 if self.config.dataset.flip else 0.0)
        shares, draws = uniform(of_all, 1, 1, 1), uniform(3, of_all, DRAWS)
        ours = slice(self.global_rank * count, (self.global_rank + 1) * count)
        return latents[ours], mirrored[ours], shares[ours], draws[:, ours]

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
            "classes": self.classes,
            "progress": asdict(self.progress),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses what would fail later, or take the place of other parts than it was."""
        try:
            fits = self._fits(checkpoint)
        except (AttributeError, LookupError, TypeError, ValueError):
            fits = False
        if not fits:
            raise UserError(f"{self.trainer.ckpt_path}: its parts do not fit together.")

    def _fits(self, checkpoint: dict[str, Any]) -> bool:
        """Whether weights and Adam's moments are shaped as those of the networks."""
        pairs: list[tuple[Mapping[Any, Tensor], Mapping[Any, Tensor]]]
        pairs = [(checkpoint["state_dict"], self.state_dict())]
        optimizers = zip(
            (self.discriminator, self.generator), checkpoint["optimizer_states"], strict=True
        )
        for network, kept in optimizers:
            parameters = dict(enumerate(network.parameters()))
            for moment in ("exp_avg", "exp_avg_sq"):
                moments = {index: state[moment] for index, state in kept["state"].items()}
                pairs.append((moments, parameters))
        return all(_shapes(kept) == _shapes(own) for kept, own in pairs)


def _shapes(tensors: Mapping[Any, Tensor]) -> dict[Any, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
