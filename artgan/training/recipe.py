"""Which options of `model` fit together; checked before torch is imported."""

from collections.abc import Iterator, Mapping

from artgan.errors import UserError, not_among
from artgan.networks import NETWORKS
from artgan.options import ModelConfig, TrainConfig
from artgan.training.augment import TRANSFORMATIONS
from artgan.training.losses import LOSSES

PENALTIES = ("r1", "r2", "gradient_penalty")


def check_model(config: TrainConfig) -> None:
    """Refuses unknown names and options of the model that do not fit together.

    Raises:
        UserError: naming the option, its value and what to set instead.
    """
    for mistake in _mistakes(config.model):
        raise UserError(f"model.{mistake}")
    if config.autoencoder == "none" and config.resolution == 512:
        raise UserError("resolution: 512 is too much for pixels. Add model=latent")
    if config.autoencoder != "none" and config.resolution == 32:
        raise UserError("resolution: 32 is too little for latents. Add model=artgan")
    if config.autoencoder != "none" and "color" in config.model.augment:
        raise UserError("model.augment: latents have no color. Take translation and cutout only.")


def _mistakes(model: ModelConfig) -> Iterator[str]:
    names: list[tuple[str, str, Mapping[str, object]]] = [
        ("loss", model.loss, LOSSES),
        ("network", model.network, NETWORKS),
        *(("augment", name, TRANSFORMATIONS) for name in model.augment),
    ]
    for option, name, table in names:
        if name not in table:
            yield f"{option}: {not_among(name, table)}"
    loss, losses = LOSSES[model.loss], LOSSES.items()
    if loss.needs_penalty and not model.gradient_penalty:
        yield f"loss: {model.loss} is unbounded without its penalty. Add model.gradient_penalty=10"
    if model.label_smoothing and not loss.labels:
        allowed = " or ".join(name for name, other in losses if other.labels)
        yield f"label_smoothing: the loss {model.loss} has no labels. Choose model.loss={allowed}"
    penalty = next((name for name in PENALTIES if getattr(model, name)), None)
    if penalty and model.normalization == "batch":
        yield (
            f"{penalty}: needs the gradient of each image alone, but BatchNorm mixes the images "
            "of a batch. Add model.normalization=none"
        )
    if model.augment_target is None:
        return
    if not model.augment:
        yield (
            "augment_target: there is no augmentation to adapt. "
            "Add model.augment=[translation,cutout]"
        )
    if model.augment_probability != 1:
        yield "augment_probability: is adapted with model.augment_target. Set only one of the two."
    if not loss.signed:
        allowed = " or ".join(name for name, other in losses if other.signed)
        yield (
            f"augment_target: the sign of a logit means nothing with the loss {model.loss}. "
            f"Leave it out, or choose model.loss={allowed}"
        )
