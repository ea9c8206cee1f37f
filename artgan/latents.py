"""Paintings as latents of TAEF2: encoded once, kept in a file, and decoded to paint.

`model=latent` trains on these instead of pixels. An image of 256×256 pixels becomes 32×32×32
numbers, so that a small network can paint a large image.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from artgan.cache import new_cache, read_cache, write_cache
from artgan.data.pack import FEATURES, Pack, is_whole
from artgan.device import Network, on_device
from artgan.download import Published
from artgan.errors import UserError
from artgan.networks.taef2 import CHANNELS, SCALE, Encoder, ToImages, fast
from artgan.weights import read_weights

ADDRESS = (
    "https://raw.githubusercontent.com/madebyollin/taesd/5cccb12dc72074a4be35680c3b108548a7c69978/"
)
ENCODER = Published(
    "taef2_encoder.pth",
    ADDRESS + "taef2_encoder.pth",
    "10a4e1021e89d7551eaf161352da8dbd0b1aa83872ae28b150c1df1ce2f147b6",
)
DECODER = Published(
    "taef2_decoder.pth",
    ADDRESS + "taef2_decoder.pth",
    "0a44a31e1ae59eb9dbf9359d24942fd3ef5928162c1800d97a28c61d51be0ab5",
)
WITHOUT = (
    "give their folder by weights_dir=PATH, or train on pixels, which needs no download: "
    "resolution=128, or autoencoder=none"
)
TOGETHER = 8  # squares encoded at once
# From this many squares on, a set is varied enough without mirror images, which take as long again
# to encode.
ENOUGH = 1000
PART = 256  # squares in one part of the file, which an interrupted encoding keeps
VERSION = 1  # increment when the same paintings and weights give other latents


@dataclass(frozen=True)
class Latents:
    """The paintings of a run as latents.

    Attributes:
        pack: like that of the paintings, but its squares are float16 [side, side, 32] latents.
        mean: float32 [32, 1, 1], of each channel over the pack.
        std: the standard deviation, likewise.
    """

    pack: Pack
    mean: Tensor
    std: Tensor


def encode(pack: Pack, flip: bool, weights_dir: str | None, device: str) -> Latents:
    """Encodes the squares of a pack, or reads their latents if it was done before.

    Squares are taken half a side apart along strips that are longer than a square. With `flip`
    and fewer than 1,000 squares, the mirrored squares follow, as those of a mirrored image are not
    mirrored latents. A process that is interrupted loses the last few hundred squares only.

    Raises:
        UserError: the weights are not available, the device is not, or the disk is full.
    """
    state, digest = _weights(ENCODER, weights_dir)
    strips, places = _squares(pack)
    mirror = flip and len(strips) < ENOUGH
    which = hashlib.sha256(b"".join(map(bytes, (pack.starts, places)))).hexdigest()[:8]
    name = f"{pack.key}-{which}-taef2-{digest[:8]}-{VERSION}{'-mirrored' * mirror}"
    path = pack.report.parent / FEATURES / f"{name}.cache"
    if not is_whole(path):
        encoder = _load(Encoder(), state, ENCODER)
        encoder = on_device(encoder.to(memory_format=torch.channels_last), device)
        _write(path, encoder, pack, strips, places, mirror)
    cache = read_cache(path, mapped=True, verify=False)
    rows, side = cache.arrays["rows"], pack.resolution // SCALE
    strips = np.tile(strips, 1 + mirror)
    squares = replace(
        pack,
        rows=rows,
        starts=np.arange(len(strips)) * side,
        lengths=np.full(len(strips), side),
        lying=np.zeros(len(strips), bool),
        files=[pack.files[strip] for strip in strips],
    )
    mean, std = (torch.tensor(cache.arrays[name]).view(-1, 1, 1) for name in ("mean", "std"))
    return Latents(squares, mean, std)


def load_decoder(latents: Latents, weights_dir: str | None) -> ToImages:
    """The network that turns normalised latents like these into images.

    Raises:
        UserError: the weights are not available.
    """
    images = ToImages()
    _load(images.decoder, _weights(DECODER, weights_dir)[0], DECODER)
    images.mean.copy_(latents.mean)
    images.std.copy_(latents.std)
    return images


def _weights(published: Published, weights_dir: str | None) -> tuple[dict[str, Tensor], str]:
    path = published.find(Path(weights_dir)) if weights_dir else published.download(WITHOUT)
    return read_weights(path, WITHOUT.capitalize())


def _load(network: Network, state: dict[str, Tensor], published: Published) -> Network:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{published.name}: its tensors are not those of TAEF2.") from error
    return network


def _squares(pack: Pack) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The strip and the place of each square to encode, as `Pack.squares` takes them."""
    slack = pack.lengths - pack.resolution
    counts = 1 + np.ceil(2 * slack / pack.resolution).astype(np.int64)
    strips = np.repeat(np.arange(len(pack)), counts)
    places = [np.linspace(0, 1, count, endpoint=False) + 0.5 / count for count in counts]
    return strips, np.concatenate(places)


def _write(
    path: Path,
    encoder: Encoder,
    pack: Pack,
    strips: NDArray[np.int64],
    places: NDArray[np.float64],
    mirror: bool,
) -> None:
    """Encodes squares into parts, each a file of its own until all are there."""
    jobs = [
        (start, mirrored) for mirrored in range(1 + mirror) for start in range(0, len(strips), PART)
    ]
    parts = [path.with_suffix(f".part{number}") for number in range(len(jobs))]
    total = len(strips) * (1 + mirror)
    with tqdm(total=total, desc="Encoding", unit="img", leave=False, disable=None) as bar:
        for part, (start, mirrored) in zip(parts, jobs, strict=True):
            chosen = slice(start, start + PART)
            if is_whole(part):
                bar.update(len(strips[chosen]))
                continue
            squares = pack.squares(strips[chosen], places[chosen])
            images = torch.from_numpy(squares).permute(0, 3, 1, 2)
            rows = _encoded(encoder, images.flip(-1) if mirrored else images, bar)
            write_cache(part, {"rows": rows.numpy()})
            pack.forget_read()
    _join(path, parts)
    for part in parts:
        part.unlink()


def _join(path: Path, parts: list[Path]) -> None:
    """Writes all latents as one array, and the mean and deviation of their channels."""
    count, total, squares = 0, np.zeros(CHANNELS), np.zeros(CHANNELS)
    with new_cache(path) as writer:
        for part in parts:
            rows = read_cache(part).arrays["rows"]
            exact = rows.reshape(-1, CHANNELS).astype(np.float64)
            count += len(exact)
            total += exact.sum(0)
            squares += np.square(exact).sum(0)
            writer.append("rows", rows)
        mean = total / count
        for name, values in {"mean": mean, "std": np.sqrt(squares / count - mean**2)}.items():
            writer.append(name, values.astype(np.float32))


@torch.inference_mode()
def _encoded(encoder: Encoder, images: Tensor, bar: "tqdm[NoReturn]") -> Tensor:
    """Latents of images uint8 [N, 3, H, W], as float16 rows [N · H/8, W/8, 32]."""
    device = next(encoder.parameters()).device
    latents = []
    for some in images.split(TOGETHER):
        batch = some.to(device).float().contiguous(memory_format=torch.channels_last) / 255
        with fast(device):
            latents.append(encoder(batch).permute(0, 2, 3, 1).half().cpu())
        bar.update(len(some))
    return torch.cat(latents).flatten(0, 1)
