"""From a checkpoint to samples in memory."""

import bisect
import copy
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from artgan.checkpoint import AVERAGED, EXPORTED, KEY, TO_IMAGES, find_checkpoint, load_checkpoint
from artgan.device import on_device, pick_device
from artgan.errors import UserError, not_among
from artgan.files import sha256
from artgan.images import to_pil
from artgan.networks import load_network
from artgan.networks.taef2 import LatentPainter, ToImages, painted_size

MOST_IMAGES = 2**53  # that a checkpoint may claim to have seen


@dataclass(frozen=True)
class Painter:
    """A trained generator, and where it comes from.

    Attributes:
        generator: in evaluation mode, on its device.
        checkpoint: its file.
        checkpoint_sha256: of that file.
        latent_dim: numbers in a latent vector.
        resolution: side of its squares in pixels.
        images_seen: images it was trained on.
        ema: whether it is the averaged generator.
        config: of its run, as the checkpoint holds it.
        classes: name of each class and how many paintings it has; empty without classes.
        dataset_key: of the pack it was trained on; None if the checkpoint does not say.
    """

    generator: nn.Module
    checkpoint: Path
    checkpoint_sha256: str
    latent_dim: int
    resolution: int
    images_seen: int
    ema: bool
    config: dict[str, Any]
    classes: dict[str, int]
    dataset_key: str | None

    def paint(
        self, seeds: Iterable[int], truncation: float = 1.0, classes: Sequence[str] = ()
    ) -> list[Image.Image]:
        """Paints a sample for each seed, 0 ≤ seed < 2³², with the pixels of `artgan sample`.

        Below 1, a truncation gives less varied, often cleaner samples. Several classes are mixed
        in equal parts; without them each seed has its own.
        """
        inputs = [self.inputs(seed, 1, truncation, classes)[0] for seed in seeds]
        return [to_pil(sample) for sample in paint(self.generator, inputs)] if inputs else []

    def inputs(
        self, first_seed: int, count: int, truncation: float = 1.0, classes: Sequence[str] = ()
    ) -> Tensor:
        """`draw_inputs` for this generator."""
        return draw_inputs(first_seed, count, self.latent_dim, self.classes, truncation, classes)


def load(run: str | Path, ema: bool = True, device: str = "auto") -> Painter:
    """Loads the generator of a run folder (its newest whole checkpoint), checkpoint or export.

    Raises:
        UserError: there is none, it cannot be used, or the device is not available.

    Example:
        >>> artgan.load("checkpoints/mine").paint(seeds=range(16))[0].save("first.png")
    """
    return load_painter(find_checkpoint(Path(run).expanduser()), ema, pick_device(device))


def load_painter(path: Path, ema: bool = True, device: str = "cpu") -> Painter:
    """Loads the generator of a checkpoint or exported file; nothing but the file is needed.

    Arguments and errors are those of `load`, with a file and a device that is not auto.
    """
    if path.suffix == EXPORTED and not ema:
        raise UserError(f"ema: {path} holds only the averaged generator. Leave out ema=false.")
    checkpoint = load_checkpoint(path)
    described = checkpoint[KEY]
    try:
        config = described["config"]
        # Older checkpoints name no classes and no network.
        classes = {str(name): int(count) for name, count in described.get("classes", {}).items()}
        if any(count < 1 for count in classes.values()):
            raise ValueError(f"classes {classes}")
        generator = _load_generator(checkpoint["state_dict"], ema, config, len(classes))
        images_seen = int(described["progress"]["images_seen"])
        if not 0 <= images_seen <= MOST_IMAGES:
            raise ValueError("images_seen")
    except (
        *(ArithmeticError, AttributeError, LookupError),
        *(ImportError, RuntimeError, TypeError, ValueError),
    ) as error:
        raise UserError(f"{path}: its parts do not fit together ({error!r:.200}).") from error
    return Painter(
        on_device(generator, device),
        path,
        sha256(path),
        config["model"]["latent_dim"],
        config["resolution"],
        images_seen,
        ema,
        config,
        classes,
        described.get("dataset_key"),
    )


def _load_generator(
    state: dict[str, Tensor], ema: bool, config: dict[str, Any], classes: int
) -> nn.Module:
    model, prefix = config["model"], AVERAGED if ema else "generator."
    # Takes no memory before the weights are known to fit, whatever width is claimed.
    with torch.device("meta"):
        network = load_network(model.get("network", "dcgan"))
        inputs = model["latent_dim"] + classes
        # Older checkpoints know of no autoencoder.
        autoencoder = config.get("autoencoder", "none")
        side, channels = painted_size(config["resolution"], autoencoder)
        generator = network.Generator(side, inputs, model["width"], channels)
        if autoencoder != "none":
            generator = LatentPainter(generator, ToImages())
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    if autoencoder != "none":
        weights = {f"generator.{name}": tensor for name, tensor in weights.items()}
        weights |= {name: tensor for name, tensor in state.items() if name.startswith(TO_IMAGES)}
    generator.load_state_dict(weights, assign=True)
    generator = copy.deepcopy(generator)  # out of the file, which may change
    return generator.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def draw_latents(first_seed: int, count: int, latent_dim: int, truncation: float = 1.0) -> Tensor:
    """Latents of `count` consecutive seeds, float32 [count, latent_dim, 1, 1].

    They are the same on every device, and from N(0, 1); a truncation below 1 draws them towards
    their mean (Karras et al. 2019, arXiv:1812.04948, appendix B, applied to z).
    """
    latents = [
        torch.randn(latent_dim, 1, 1, generator=torch.Generator().manual_seed(first_seed + index))
        for index in range(count)
    ]
    return truncation * torch.stack(latents)


def draw_classes(
    first_seed: int, count: int, classes: dict[str, int], chosen: Sequence[str] = ()
) -> Tensor:
    """The classes of `count` consecutive seeds, float32 [count, K, 1, 1], each with a sum of 1.

    Args:
        first_seed: of the first.
        count: of seeds.
        classes: the K names, and how many paintings each has; may be empty.
        chosen: names, mixed in equal parts for all seeds. Without them each seed has a class of its
            own, as frequent as among the paintings and independent of its latents.

    Raises:
        UserError: there is no class of a chosen name.

    Source: Mirza and Osindero 2014 (arXiv:1411.1784), section 3.2, for the one-hot numbers.
    """
    for name in chosen:
        if not classes:
            raise UserError(
                f"classes: this checkpoint cannot paint '{name}': it was trained without classes. "
                "Leave classes= out, or train with model.conditional=true."
            )
        if name not in classes:
            raise UserError(f"classes: {not_among(name, classes)}")
    names = list(classes)
    shares = torch.zeros(count, len(names), 1, 1)
    for name in chosen:
        shares[:, names.index(name)] += 1 / len(chosen)
    if names and not chosen:
        ends = list(itertools.accumulate(classes.values()))
        for index, row in enumerate(shares):
            # The class of one painting, drawn from another source of numbers than the latents.
            (drawn,) = np.random.SeedSequence(first_seed + index).generate_state(1, np.uint64)
            row[bisect.bisect_right(ends, int(drawn) % ends[-1])] = 1
    return shares


def draw_inputs(
    first_seed: int,
    count: int,
    latent_dim: int,
    classes: dict[str, int],
    truncation: float = 1.0,
    chosen: Sequence[str] = (),
) -> Tensor:
    """Latents followed by classes, float32 [count, latent_dim + K, 1, 1], as drawn above."""
    latents = draw_latents(first_seed, count, latent_dim, truncation)
    return torch.cat([latents, draw_classes(first_seed, count, classes, chosen)], dim=1)


@torch.no_grad()
def paint(generator: nn.Module, inputs: Iterable[Tensor]) -> Tensor:
    """Paints inputs [latent_dim + K, h, w], at least one, to uint8 [N, 3, H, W] on the CPU.

    One by one, so that a sample never depends on those painted with it. The generator is in
    evaluation mode.
    """
    device = next(generator.parameters()).device
    samples = []
    for one in inputs:
        image = generator(one[None].to(device)).float()[0]
        samples.append(((image + 1) * 127.5).round().clamp(0, 255).byte().cpu())
    return torch.stack(samples)
