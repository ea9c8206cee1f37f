import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from artgan.data.stream import PaintingStream
from artgan.networks.dcgan import Generator, MinibatchStd
from artgan.options import TrainConfig
from artgan.training.draws import Batch, draw
from artgan.training.gan import GAN, update_ema
from artgan.training.lightning import Paintings, pick_precision
from artgan.training.state import Progress, RunState
from tests.helpers import EVERYTHING, assert_same, pack_of

Configure = Callable[..., TrainConfig]
CLASSES = {"figure": 3, "landscape": 5, "river": 1}


def paintings(count: int = 8) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(7)
    )


def classes_of(module: GAN, count: int) -> Tensor:
    """float32 [count, K] one-hot, the classes in turn."""
    known = len(module.classes)
    return torch.eye(known)[torch.arange(count) % max(known, 1)] if known else torch.zeros(count, 0)


def draw_for(module: GAN, images: Tensor) -> Batch:
    """The batch of the next update, of one rank alone."""
    return draw(module.config, module.progress, 0, images, classes_of(module, len(images)))


def one_update(module: GAN, batch: Tensor, precision: Any = "32-true") -> None:
    fit(module, batch[None, None], steps=1, precision=precision)


def fit(module: GAN, steps_batches: Tensor, steps: int, precision: Any = "32-true") -> None:
    """Trains on uint8 [steps, updates, N, 3, H, W]."""
    updates, count = steps_batches.shape[1:3]
    classes = classes_of(module, count).expand(updates, -1, -1)
    data = [(batches, classes) for batches in steps_batches]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=steps,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(data, batch_size=None))  # type: ignore[arg-type]


def test_one_update_is_that_of_the_tutorial(configure: Configure) -> None:
    module = GAN(configure(dataset__flip="false"), "key")
    generator, discriminator = copy.deepcopy((module.generator, module.discriminator))
    real = paintings()
    one_update(module, real)

    # The tutorial's loop, written out: labels, BCE, two losses summed, one step each.
    optimizers = [
        torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999))
        for network in (discriminator, generator)
    ]
    seed = int(np.random.SeedSequence([0, 0, 0]).generate_state(1, np.uint64)[0] >> 1)
    latents = torch.randn(8, 100, 1, 1, generator=torch.Generator().manual_seed(seed))
    fake = generator(latents)
    bce = F.binary_cross_entropy_with_logits
    real_loss = bce(discriminator(real.float() / 127.5 - 1), torch.ones(8))
    (real_loss + bce(discriminator(fake.detach()), torch.zeros(8))).backward()
    optimizers[0].step()
    bce(discriminator(fake), torch.ones(8)).backward()
    optimizers[1].step()

    for ours, theirs in ((module.generator, generator), (module.discriminator, discriminator)):
        for (name, tensor), expected in zip(
            ours.state_dict().items(), theirs.state_dict().values(), strict=True
        ):
            # Adam's first step is ±2e-4 whatever the gradient's size: where a gradient is all but
            # zero, rounding decides its sign. Those few are left out by their quantile.
            error = (tensor - expected).abs().float().flatten()
            assert error.quantile(0.99) < 1e-6, name


@pytest.mark.parametrize("named", [None, CLASSES], ids=["plain", "conditional"])
def test_one_relativistic_update_with_penalties_is_that_written_out(
    configure: Configure, named: dict[str, int] | None
) -> None:
    module = GAN(
        configure(
            dataset__flip="false",
            model__loss="rpgan",
            model__normalization="none",
            model__r1=0.5,
            model__r2=0.25,
            model__gradient_penalty=2,
            model__penalty_every=4,
            model__penalty_final=0.2,
        ),
        "key",
        RunState(Progress(images_seen=32), max_images=64),  # where 0.2 + 0.8 / 2 of R1, R2 is left
        classes=named,
    )
    generator, discriminator = copy.deepcopy((module.generator, module.discriminator))
    _, classes, latents, _, shares, _ = draw_for(module, paintings())
    one_update(module, paintings())

    real = paintings().float() / 127.5 - 1
    fake = generator(torch.cat([latents, classes[..., None, None]], dim=1))
    mixed = shares * real + (1 - shares) * fake.detach()

    def norms(images: Tensor) -> Tensor:
        images = images.detach().requires_grad_()
        logits = discriminator(images, classes=classes)
        gradients = torch.autograd.grad(logits.sum(), images, create_graph=True)[0]
        return gradients.square().sum(dim=(1, 2, 3))

    def ahead(fake: Tensor) -> Tensor:
        return discriminator(real, classes=classes) - discriminator(fake, classes=classes)

    penalty = 0.6 * (0.5 / 2 * norms(real).mean() + 0.25 / 2 * norms(fake).mean())
    penalty = penalty + 2 * (norms(mixed).sqrt() - 1).square().mean()
    (-F.logsigmoid(ahead(fake.detach())).mean() + 4 * penalty).backward()
    expected = [p.grad for p in discriminator.parameters()]
    # The module's own gradients are of its last backward pass, before its step.
    for ours, theirs in zip(module.discriminator.parameters(), expected, strict=True):
        torch.testing.assert_close(ours.grad, theirs, rtol=1e-3, atol=1e-6)

    discriminator.load_state_dict(module.discriminator.state_dict())
    generator.zero_grad()
    (-F.logsigmoid(-ahead(fake)).mean()).backward()
    for ours, theirs in zip(module.generator.parameters(), generator.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-6)


def test_penalties_come_every_few_updates(configure: Configure) -> None:
    config = configure(model__r1=1, model__normalization="none", model__penalty_every=3)
    module = GAN(config, "key", RunState(Progress(images_seen=8)))  # resumed after one update
    watched: list[bool] = []
    # A penalty differentiates the logits of both batches with respect to the images.
    module.discriminator.register_forward_pre_hook(
        lambda _, inputs: watched.append(inputs[0].requires_grad) if len(inputs[0]) == 16 else None
    )
    fit(module, paintings(48).view(6, 1, 8, 3, 32, 32), steps=6)
    assert watched == [False, False, True, False, False, True]


def test_schedules_follow_a_cosine_over_the_budget(configure: Configure) -> None:
    config = configure(model__r1=1, model__penalty_final=0.2, model__learning_rate_final=0.1)
    module = GAN(config, "key", RunState(max_images=32))
    seen: list[tuple[float, float]] = []
    module.generator.register_forward_pre_hook(
        lambda *_: seen.append((module.learning_rate.item(), module.penalty_share.item()))
    )
    fit(module, paintings(40).view(5, 1, 8, 3, 32, 32), steps=5)
    cosine = [(1 + np.cos(np.pi * used)) / 2 for used in (0, 0.25, 0.5, 0.75, 1)]
    expected = [(2e-4 * (0.1 + 0.9 * left), 0.2 + 0.8 * left) for left in cosine]
    assert seen == [pytest.approx(pair, rel=1e-5) for pair in expected]


def test_schedules_follow_the_clock_if_the_budget_is_time(configure: Configure) -> None:
    state = RunState(Progress(seconds=30), max_seconds=60)
    module = GAN(configure(model__learning_rate_final=0), "key", state)
    one_update(module, paintings())
    assert module.learning_rate.item() == pytest.approx(1e-4)


def test_adam_steps_with_the_scheduled_learning_rate(configure: Configure) -> None:
    """Adam's first step is as long as its learning rate, wherever there is a gradient."""
    state = RunState(Progress(images_seen=16), max_images=32)
    module = GAN(configure(model__learning_rate_final=0), "key", state)
    before = copy.deepcopy(module.generator)
    one_update(module, paintings())
    steps = [
        (new - old).abs().median().item()
        for new, old in zip(module.generator.parameters(), before.parameters(), strict=True)
    ]
    assert steps == [pytest.approx(1e-4, rel=0.01)] * len(steps)


def test_all_that_the_discriminator_sees_is_augmented(configure: Configure) -> None:
    module = GAN(configure(model__augment="[cutout]", dataset__flip="false"), "key")
    shown: list[Tensor] = []
    module.discriminator.register_forward_pre_hook(
        lambda _, inputs: shown.append(inputs[0].detach())
    )
    one_update(module, torch.full((8, 3, 32, 32), 255, dtype=torch.uint8))
    both, fake = shown
    masks = [(images == 0).all(dim=1) for images in (both[:8], both[8:], fake)]
    on_real, *on_fake = (mask.flatten(1).sum(dim=1) for mask in masks)
    # A square of half the side, of which at least a quarter is in the image.
    assert ((on_real >= 8 * 8) & (on_real <= 16 * 16)).all()
    assert all((hidden >= 8 * 8).all() for hidden in on_fake)
    # Neither real images, nor generated ones in the two losses, are cut alike.
    # A generated image may be 0 elsewhere, too.
    assert all((masks[i] & ~masks[j]).any() for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize(
    ("loss", "real", "fake", "rises"),
    [
        ("bce", 1.0, -2.0, True),
        ("bce", -1.0, 2.0, False),
        ("rpgan", 3.0, 2.0, True),
        ("rpgan", 2.0, 3.0, False),
    ],
)
def test_the_augmentation_adapts_to_logits_or_in_pairs_to_their_difference(
    configure: Configure, loss: str, real: float, fake: float, rises: bool
) -> None:
    options = {"model__augment": "[cutout]", "model__augment_target": 0.6, "model__loss": loss}
    module = GAN(configure(**options), "key")
    assert module.augment_probability.item() == 0
    module.augment_probability.fill_(0.5)
    real_logits, fake_logits = torch.full((8,), real), torch.full((8,), fake)

    def logits(_: object, __: object, output: Tensor) -> Tensor:
        return output * 0 + torch.cat([real_logits, fake_logits])[-len(output) :]

    module.discriminator.register_forward_hook(logits)
    one_update(module, paintings())
    expected = 0.5 + (1 if rises else -1) * 8 / 500_000
    assert module.augment_probability.item() == pytest.approx(expected, abs=1e-7)
    assert "augment_probability" in module.state_dict()


def test_labels_are_smoothed_as_the_option_says(configure: Configure) -> None:
    losses, logits = [], []
    for smoothing in (0.0, 0.25):
        module = GAN(configure(model__label_smoothing=smoothing), "key")
        module.discriminator.register_forward_hook(lambda _, __, output: logits.append(output))
        one_update(module, paintings())
        losses.append(module.metric_sums[0].item())
    # With the label 1 - s in place of 1, bce has s times the logit more.
    assert losses[1] - losses[0] == pytest.approx(0.25 * logits[0][:8].mean().item(), abs=1e-6)


def test_the_discriminator_sees_the_deviation_if_the_option_says_so(
    configure: Configure,
) -> None:
    for chosen in (False, True):
        network = GAN(configure(model__minibatch_std=str(chosen)), "key").discriminator
        assert chosen == any(isinstance(layer, MinibatchStd) for layer in network.modules())


@pytest.mark.parametrize(
    ("half_life", "ramp"), [(16, 100), (10_000, 2)], ids=["half-life", "ramp: 2 · 8 images seen"]
)
def test_each_update_moves_the_average_towards_the_generator(
    configure: Configure, half_life: float, ramp: float
) -> None:
    module = GAN(configure(model__ema_half_life=half_life, model__ema_ramp=ramp), "key")
    before = module.generator_ema.state_dict()["layers.0.weight"].clone()
    one_update(module, paintings())
    after = module.generator.state_dict()["layers.0.weight"]
    keep = 0.5 ** (8 / 16)
    expected = keep * before + (1 - keep) * after
    torch.testing.assert_close(module.generator_ema.state_dict()["layers.0.weight"], expected)


def test_in_bfloat16_the_generator_learns_from_the_updated_discriminator(
    configure: Configure,
) -> None:
    module = GAN(configure(model__learning_rate="0.5"), "key")
    logits: list[Tensor] = []
    module.discriminator.register_forward_hook(lambda _, __, output: logits.append(output.detach()))
    one_update(module, paintings(), "bf16-mixed")
    both, after = logits  # of real and fake images, and of the same fakes after its update
    assert not torch.allclose(both[8:].float(), after.float())


def test_one_update_in_bfloat16_is_near_that_in_float32(configure: Configure) -> None:
    """Wide enough for the matrix products in place of convolutions.

    The bounds are about 1.5 times the rounding to eight bits; the generator's gradient passes
    through twice as many layers.
    """
    gradients, metrics = [], []
    for precision in ("32-true", "bf16-mixed"):
        module = GAN(configure(model__width=128), "key")
        one_update(module, paintings(), precision)
        metrics.append(module.metric_sums)
        networks = (module.discriminator, module.generator)
        gradients.append(
            [torch.cat([p.grad.flatten() for p in net.parameters()]) for net in networks]
        )
    torch.testing.assert_close(metrics[0], metrics[1], rtol=0.02, atol=0.02)
    assert not torch.equal(metrics[0], metrics[1])
    for exact, rounded, bound in zip(*gradients, (0.1, 0.2), strict=True):
        assert 0 < (exact - rounded).norm() < bound * exact.norm()


def test_ranks_share_the_draws_of_one_and_each_update_has_its_own(configure: Configure) -> None:
    config, images = configure(), paintings()

    def drawn(rank: int, count: int, images_seen: int) -> list[Tensor]:
        part = images[rank * count : (rank + 1) * count]
        progress = Progress(images_seen=images_seen)
        *parts, augmentation = draw(config, progress, rank, part, torch.zeros(count, 0))
        return [*parts, augmentation.transpose(0, 1)]

    whole = drawn(0, 8, images_seen=8)
    parts = zip(*(drawn(rank, 4, images_seen=8) for rank in (0, 1)), strict=True)
    assert_same(whole, [torch.cat(pair) for pair in parts])
    latents = Batch._fields.index("latents")
    assert not torch.equal(whole[latents], drawn(0, 8, images_seen=16)[latents])


def test_each_rank_gets_its_own_paintings_from_where_the_run_stands(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = pack_of(np.tile(np.arange(40, dtype=np.uint8)[:, None, None, None], 3))
    together = PaintingStream(numbers, batch_size=8, seed=0, images_seen=16)
    expected = next(iter(together))[0][0, :, 0, 0, 0].tolist()
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    state = RunState(Progress(images_seen=16), max_images=64)
    module = GAN(configure(), "key", state)
    trainer.strategy.connect(module)
    data = Paintings(numbers, [], module.config, state)
    data.trainer = trainer
    monkeypatch.setattr(pl.Trainer, "world_size", 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(pl.Trainer, "global_rank", rank)
        shares += next(iter(data.train_dataloader()))[0][0, :, 0, 0, 0].tolist()
    assert shares == expected


def test_paintings_come_in_minus_one_to_one_half_of_them_mirrored(configure: Configure) -> None:
    shown: list[Tensor] = []
    module = GAN(configure(batch_size=64), "key")
    module.discriminator.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    batch = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    batch[..., 16:] = 255
    one_update(module, batch)
    real = shown[0][:64]
    assert set(real.unique().tolist()) == {-1.0, 1.0}
    mirrored = real[:, 0, 0, 0] == 1
    assert torch.equal(
        real[mirrored], torch.flip(real[~mirrored][:1], [-1]).expand_as(real[mirrored])
    )
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.2)

    shown.clear()
    module = GAN(configure(dataset__flip="false", batch_size=64), "key")
    module.discriminator.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    one_update(module, batch)
    assert torch.equal(shown[0][:64, ..., 0], torch.full((64, 3, 32), -1.0))


def test_updates_in_one_step_of_lightning_are_those_of_several(configure: Configure) -> None:
    batches = paintings(24).unflatten(0, (3, 8))
    modules = [GAN(configure(), "key") for _ in range(2)]
    fit(modules[0], batches[None], steps=1)
    fit(modules[1], batches[:, None], steps=3)
    first, second = modules
    assert first.progress.images_seen == second.progress.images_seen == 24
    assert_same(dict(first.state_dict()), dict(second.state_dict()))
    assert torch.equal(first.metric_sums, second.metric_sums)
    assert first.metric_steps == second.metric_steps == 3


def test_metrics_are_means_over_the_updates_since_they_were_last_asked_for(
    configure: Configure,
) -> None:
    module = GAN(configure(), "key")
    module.discriminator.register_forward_hook(lambda _, __, output: output * 0 + 1)
    fit(module, paintings(24).view(3, 1, 8, 3, 32, 32), steps=3)
    means = module.mean_metrics()
    assert means["D(x)"] == means["D(G(z))"] == pytest.approx(1 / (1 + np.exp(-1)))
    assert means["loss/generator"] == pytest.approx(np.log1p(np.exp(-1)))
    assert set(module.mean_metrics().values()) == {0.0}


def test_an_update_draws_nothing_itself(configure: Configure) -> None:
    """A captured update must depend only on its inputs: replayed, it would repeat its draws."""
    module = GAN(configure(**EVERYTHING), "key", classes=CLASSES)
    one_update(module, paintings())
    batch = draw_for(module, paintings())
    state = torch.get_rng_state()
    module.update(module.penalties, *batch)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_update_never_waits_for_the_device(configure: Configure) -> None:
    """A tensor on the meta device has no values, and reading one raises."""
    module = GAN(configure(**EVERYTHING), "key", classes=CLASSES).to("meta")
    module.metric_sums = module.metric_sums.to("meta")
    module.penalty_share = module.penalty_share.to("meta")
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(module)
    module.trainer = trainer
    trainer.optimizers = [
        torch.optim.SGD(network.parameters(), lr=0.1)  # Adam has no meta kernels
        for network in (module.discriminator, module.generator)
    ]
    batch = draw_for(module, paintings())
    module.update(module.penalties, *(tensor.to("meta") for tensor in batch))
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        module.metric_sums.tolist()


def test_the_same_seed_builds_the_same_networks_whatever_was_drawn_before(
    configure: Configure,
) -> None:
    first = GAN(configure(), "key")
    torch.randn(5)
    second = GAN(configure(), "key")
    other = GAN(configure(seed=1), "key")
    weights = [m.generator.layers[0].weight for m in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_precision_is_named_for_lightning() -> None:
    assert pick_precision("32", "cpu") == "32-true"
    assert pick_precision("bf16", "cpu") == "bf16-mixed"


@pytest.mark.parametrize(("capabilities", "precision"), [
    ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, "bf16-mixed"),
    ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "Intel Xeon"}, "32-true"),
    ({"avx512_bf16": True, "amx_bf16": False, "cpu_name": "AMD EPYC"}, "bf16-mixed"),
    ({"avx512_bf16": True}, "bf16-mixed"),
    ({}, "32-true"),
])  # fmt: skip
def test_auto_is_the_precision_at_which_a_cpu_is_fastest(
    capabilities: dict[str, object], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert pick_precision("auto", "cpu") == precision


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
