"""A generator as a file to pass on: safetensors, with a header that describes it."""

import json
from pathlib import Path

from safetensors.torch import save

from artgan.checkpoint import EXPORTED, FORMAT, KEY, find_checkpoint
from artgan.errors import UserError
from artgan.files import atomic_write, refuse_to_replace
from artgan.networks.taef2 import ORIGIN
from artgan.options import ExportConfig
from artgan.painter import load_painter
from artgan.version import __version__


def export(config: ExportConfig) -> Path:
    """Writes the averaged generator of a run, under the names of `Generator.state_dict`.

    A generator of latents has the decoder beside it, under `to_images`.

    The file holds nothing of the paintings, the machine or the discriminator.
    `artgan sample` paints from it as from the checkpoint.

    Returns:
        The file written.

    Raises:
        UserError: the checkpoint cannot be used, or the file exists or cannot be written.
    """
    if config.ckpt is None:
        raise UserError("ckpt: no run given. Add ckpt=checkpoints/RUN")
    if Path(config.ckpt).suffix == EXPORTED:
        raise UserError(f"ckpt: {config.ckpt} is an exported generator already. Copy the file.")
    painter = load_painter(find_checkpoint(Path(config.ckpt)))
    path = Path(config.out) if config.out else painter.checkpoint.with_suffix(EXPORTED)
    if path.suffix != EXPORTED:
        raise UserError(f"out: {path} must end in {EXPORTED}, as in out=mine{EXPORTED}")
    refuse_to_replace([path], config.overwrite)
    described = {
        "format": FORMAT,
        "resolution": painter.resolution,
        "model": painter.config["model"],
        "classes": painter.classes,
        "images_seen": painter.images_seen,
    }
    if painter.config.get("autoencoder", "none") != "none":
        described |= {"autoencoder": painter.config["autoencoder"], "decoder": ORIGIN}
    header = {key: json.dumps(value) for key, value in described.items()}
    weights = {
        name.removeprefix("generator."): tensor.contiguous()
        for name, tensor in painter.generator.state_dict().items()
    }
    with atomic_write(path) as file:
        file.write(save(weights, header | {KEY: __version__}))
    return path
