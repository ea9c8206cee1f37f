"""The Lightning module: two networks, two optimisers, one update of each per batch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from artgan.checkpoint import FORMAT, KEY
from artgan.errors import UserError
from artgan.networks import load_network
from artgan.networks.ranks import average_over_ranks, mean_over_ranks
from artgan.networks.taef2 import ORIGIN, LatentPainter, ToImages, painted_size
from artgan.options import TrainConfig
from artgan.training.augment import adapted, augment
from artgan.training.draws import Batch, draw
from artgan.training.graph import CapturedGraph, captures
from artgan.training.losses import LOSSES, gradient_penalty, squared_gradient_norms
from artgan.training.state import Progress, RunState
from artgan.version import __version__

Penalty = Callable[[Batch, Tensor, Tensor], Tensor]  # of a batch, images and their logits


class GAN(pl.LightningModule):
    """A generator and a discriminator that learn from each other.

    Args:
        config: the whole configuration of the run.
        dataset_key: hash of the paintings, kept in checkpoints to detect another dataset.
        state: where the run stands; schedules follow its share of the budget.
        classes: name of each class and how many paintings it has, kept in checkpoints; none for
            networks without classes.
        to_images: makes images of latents, where the paintings are latents.
    """

    METRICS = ("loss/discriminator", "loss/generator", "gradient norm/generator", "D(x)", "D(G(z))")
    augment_probability: Tensor

    def __init__(
        self,
        config: TrainConfig,
        dataset_key: str,
        state: RunState | None = None,
        classes: dict[str, int] | None = None,
        to_images: ToImages | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.dataset_key = dataset_key
        self.state = state or RunState()
        self.classes = classes or {}
        self.to_images = to_images
        self._build_networks()
        self._choose_objectives()
        self._choose_updates()
        # Not buffers: not part of the run's state.
        self.metric_sums = torch.zeros(len(self.METRICS))
        self.metric_steps = 0
        self.learning_rate = torch.tensor(config.model.learning_rate)
        self.penalty_share = torch.tensor(1.0)  # of R1 and R2

    def _build_networks(self) -> None:
        config, model = self.config, self.config.model
        network = load_network(model.network)
        inputs = model.latent_dim + len(self.classes)
        side, channels = painted_size(config.resolution, config.autoencoder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.generator = network.Generator(side, inputs, model.width, channels)
            options = (model.width, model.normalization, model.minibatch_std, len(self.classes))
            self.discriminator = network.Discriminator(side, *options, channels)
        self.generator_ema = network.Generator(side, inputs, model.width, channels)
        self.generator_ema.load_state_dict(self.generator.state_dict())
        self.generator_ema.eval().requires_grad_(False)
        # The layout in which convolutions are fastest, on CPUs and GPUs alike.
        self.to(memory_format=torch.channels_last)

    def _choose_objectives(self) -> None:
        """Picks loss, penalties and adaptation by the options, once for all updates."""
        model = self.config.model
        self.loss = loss = LOSSES[model.loss]
        labels = {"smoothing": model.label_smoothing} if loss.labels else {}
        self.discriminator_loss = partial(loss.discriminator, **labels)
        self.penalties: tuple[Penalty, ...] = ()
        if model.r1 or model.r2:
            self.penalties += (self._r1_and_r2,)
        if model.gradient_penalty:
            self.penalties += (self._gradient_penalty,)
        adapts = model.augment_target is not None
        self.adapt = self._adapt if adapts else lambda margin: None
        probability = torch.tensor(0.0 if adapts else model.augment_probability)
        self.register_buffer("augment_probability", probability, persistent=bool(model.augment))

    def _choose_updates(self, wrap: Callable[..., Any] = lambda update: update) -> None:
        """Prepares the updates without and with penalties, for example to be captured."""
        plain = wrap(partial(self.update, ()))
        penalized = wrap(partial(self.update, self.penalties)) if self.penalties else plain
        self._updates = {False: plain, True: penalized}

    @property
    def painter(self) -> torch.nn.Module:
        """The averaged generator, of images [N, 3, H, W] in [-1, 1]."""
        if self.to_images is None:
            return self.generator_ema
        return LatentPainter(self.generator_ema, self.to_images)

    @property
    def progress(self) -> Progress:
        """How far the run has come."""
        return self.state.progress

    def configure_optimizers(self) -> list[Optimizer]:
        betas = (self.config.model.beta1, self.config.model.beta2)
        return [
            torch.optim.Adam(network.parameters(), self.learning_rate, betas, fused=True)
            for network in (self.discriminator, self.generator)
        ]

    def on_train_start(self) -> None:
        for name in ("metric_sums", "penalty_share", "learning_rate"):
            setattr(self, name, getattr(self, name).to(self.device))
        # A tensor that a captured graph reads at each replay, also where a checkpoint held another.
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate
        if captures(self.config.trainer, self.device):
            self._choose_updates(partial(CapturedGraph, optimizers=self.trainer.optimizers))
        self.trainer.should_stop = self.state.stopping

    def on_train_batch_end(self, *_: object) -> None:
        self.trainer.should_stop = self.state.stopping  # after all callbacks

    def on_fit_end(self) -> None:
        self._choose_updates()  # frees the memory of captured graphs

    def train(self, mode: bool = True) -> "GAN":
        super().train(mode)
        self.generator_ema.eval()
        return self

    def training_step(self, batches: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Several updates: paintings [updates, N, C, H, W], classes [updates, N, K]."""
        model, images = self.config.model, self.config.batch_size
        for paintings, classes in zip(*batches, strict=True):
            self._follow_schedules()
            penalized = self.progress.images_seen // images % model.penalty_every == 0
            batch = draw(self.config, self.progress, self.global_rank, paintings, classes)
            self._updates[penalized](*batch)
            self.metric_steps += 1
            self.progress.images_seen += images
            half_life = min(model.ema_half_life, model.ema_ramp * self.progress.images_seen)
            update_ema(self.generator_ema, self.generator, images, half_life)

    def _follow_schedules(self) -> None:
        """Sets learning rate and penalties to their values on a cosine over the budget."""
        model = self.config.model
        remaining = (1 + math.cos(math.pi * self.state.used)) / 2
        final = model.learning_rate_final
        self.learning_rate.fill_(model.learning_rate * (final + (1 - final) * remaining))
        self.penalty_share.fill_(model.penalty_final + (1 - model.penalty_final) * remaining)

    def update(self, penalties: Sequence[Penalty], *tensors: Tensor) -> None:
        """Updates the discriminator, then the generator.

        Depends on the tensors of a `Batch` alone and never waits for the device, so it can be
        captured as a CUDA graph. The penalties are all of `self.penalties`, or none.
        """
        batch = Batch(*tensors)
        # Not those that Lightning wraps: their hooks would run once, when the update is captured.
        d_optimizer, g_optimizer = self.trainer.optimizers
        real, fake = self.images(batch)
        objective, d_loss, margins = self.discriminator_objective(
            batch, real, fake.detach(), penalties
        )
        self.step(d_optimizer, objective)
        g_loss = self.generator_objective(batch, real, fake)
        self.step(g_optimizer, g_loss)
        self.adapt(margins[0])
        self.record(d_loss, g_loss, *margins)

    def images(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Augmented real images and generated ones, each [N, 3, H, W], in [-1, 1] but for color.

        Where the paintings are latents, so are these, normalised: [N, 32, H/8, W/8].
        """
        real = batch.paintings.to(memory_format=torch.channels_last)
        real = real / 127.5 - 1 if self.to_images is None else self.to_images.normalize(real)
        real = torch.where(batch.mirrored, real.flip(-1), real)
        fake = self.generator(torch.cat([batch.latents, batch.classes[:, :, None, None]], dim=1))
        return self.augmented(real.to(fake.dtype), batch.augmentation[0]), fake

    def discriminator_objective(
        self, batch: Batch, real: Tensor, fake: Tensor, penalties: Sequence[Penalty]
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """What the discriminator minimises, its loss without the penalties, and its margins.

        The images are those of `images`, the real ones augmented already.
        """
        both = torch.cat([real, self.augmented(fake, batch.augmentation[1])])
        both.requires_grad_(bool(penalties))
        logits = self.scores(both, batch.classes)
        real_logits, fake_logits = logits.chunk(2)
        loss = self.discriminator_loss(real_logits, fake_logits)
        penalty = sum(penalty(batch, both, logits) for penalty in penalties)
        margins = self.loss.margins(real_logits.detach(), fake_logits.detach())
        # Weighted to stand for the updates without penalties, too.
        return loss + self.config.model.penalty_every * penalty, loss, margins

    def generator_objective(self, batch: Batch, real: Tensor, fake: Tensor) -> Tensor:
        """What the generator minimises, with the images as in `discriminator_objective`."""
        self.discriminator.requires_grad_(False)  # its own gradients are not needed
        fake_logits = self.scores(self.augmented(fake, batch.augmentation[2]), batch.classes)
        with torch.no_grad():
            real_logits = [self.scores(real, batch.classes)] if self.loss.relativistic else []
        self.discriminator.requires_grad_(True)
        return self.loss.generator(fake_logits, *real_logits)

    def scores(self, images: Tensor, classes: Tensor) -> Tensor:
        """Logits of one or several batches of the same classes [N, K], each scored by itself."""
        batches = len(images) // len(classes)
        classes = classes.repeat(batches, 1)
        return self.discriminator(images, batches=batches, classes=classes).float()

    def augmented(self, images: Tensor, draws: Tensor) -> Tensor:
        return augment(images, draws, self.config.model.augment, self.augment_probability)

    def _r1_and_r2(self, batch: Batch, both: Tensor, logits: Tensor) -> Tensor:
        r1, r2 = self.config.model.r1, self.config.model.r2
        on_real, on_fake = squared_gradient_norms(logits, both).chunk(2)
        return (r1 / 2 * on_real + r2 / 2 * on_fake).mean() * self.penalty_share

    def _gradient_penalty(self, batch: Batch, both: Tensor, logits: Tensor) -> Tensor:
        real, fake = both.detach().chunk(2)
        discriminator = partial(self.discriminator, classes=batch.classes)
        distance = gradient_penalty(discriminator, real, fake, batch.shares)
        return self.config.model.gradient_penalty * distance

    def step(self, optimizer: Optimizer, objective: Tensor) -> None:
        """Steps against the gradient of an objective, averaged over ranks."""
        optimizer.zero_grad()
        self.manual_backward(objective)
        average_over_ranks(p for group in optimizer.param_groups for p in group["params"])
        optimizer.step()

    def _adapt(self, margin: Tensor) -> None:
        """Adapts the augmentation's probability to the discriminator's margin on real images."""
        target = self.config.model.augment_target
        assert target is not None
        sign_mean = mean_over_ranks(margin.sign().mean())
        images = self.config.batch_size
        probability = adapted(self.augment_probability, sign_mean, images, target)
        self.augment_probability.copy_(probability)

    def record(self, d_loss: Tensor, g_loss: Tensor, real: Tensor, fake: Tensor) -> None:
        """Adds the METRICS of an update to their sums, for `mean_metrics`."""
        gradients = [p.grad for p in self.generator.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        values = (d_loss, g_loss, norm, real.sigmoid(), fake.sigmoid())
        self.metric_sums += torch.stack([value.detach().mean() for value in values])

    def mean_metrics(self) -> dict[str, float]:
        """Means of the METRICS since the last call; every rank must call it at the same step."""
        means = self.metric_sums / max(self.metric_steps, 1)
        values = self.trainer.strategy.reduce(means, reduce_op="mean").tolist()
        self.metric_sums.zero_()
        self.metric_steps = 0
        return dict(zip(self.METRICS, values, strict=True))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {
            "format": FORMAT,
            "version": __version__,
            "config": asdict(self.config),
            "dataset_key": self.dataset_key,
            "classes": self.classes,
            "progress": asdict(self.progress),
        }
        if self.to_images is not None:
            checkpoint[KEY]["decoder"] = ORIGIN

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses weights and moments of Adam that do not have the shapes of these networks."""
        expected = [_shapes(self.state_dict())]
        for network in (self.discriminator, self.generator):
            expected += [_shapes(dict(enumerate(network.parameters())))] * 2
        try:
            found = [_shapes(checkpoint["state_dict"])]
            for optimizer in checkpoint["optimizer_states"]:
                for moment in ("exp_avg", "exp_avg_sq"):
                    found.append(_shapes({i: s[moment] for i, s in optimizer["state"].items()}))
        except (AttributeError, LookupError, TypeError, ValueError):
            found = []
        if found != expected:
            raise UserError(f"{self.trainer.ckpt_path}: its parts do not fit together.")


def _shapes(tensors: dict[Any, Tensor]) -> dict[Any, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


@torch.no_grad()
def update_ema(average: nn.Module, current: nn.Module, images: int, half_life: float) -> None:
    """Moves the averaged generator towards the current one.

    BatchNorm's running statistics are averaged with the weights: averaged weights have other
    activations than the current ones. The half-life is in images, of which the update had
    `images`; 0 follows the current generator exactly.

    Source: Karras et al. 2020 (arXiv:2006.06676), StyleGAN2-ADA.
    """
    keep = 0.5 ** (images / half_life) if half_life > 0 else 0.0
    torch._foreach_lerp_(_floating_state(average), _floating_state(current), 1 - keep)


def _floating_state(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, without BatchNorm's integer count of batches."""
    tensors = (*module.parameters(), *module.buffers())
    return [tensor for tensor in tensors if tensor.is_floating_point()]
