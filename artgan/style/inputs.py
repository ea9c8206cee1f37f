"""Styles: paintings, folders of them and runs, and the regions where they are painted."""

import hashlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from artgan.cache import read_cache, write_cache
from artgan.checkpoint import EXPORTED, find_checkpoint
from artgan.data.decode import UnusableImage, find_images, on_white, to_rgb
from artgan.errors import UserError, printable
from artgan.files import user_cache
from artgan.style.photo import Source, decode_upright, read_image, to_grey

CHECKPOINTS = (".ckpt", EXPORTED)
LONGEST_NAME = 60  # characters of a name within a file name

Statistics = dict[str, Tensor]


@dataclass(frozen=True)
class Style:
    """What an image is to be painted like."""

    name: str  # short, fit for a file name
    key: str  # SHA-256 of its pixels, or of a folder's file names, sizes and times
    count: int  # of its images
    images: Callable[[], Iterator[Image.Image]]  # upright RGB, sRGB, at full size
    # Statistics computed so far, by the key of the style, also in grey, and of the statistics.
    computed: dict[tuple[str, str], Statistics] = field(default_factory=dict)

    def in_grey(self) -> "Style":
        """The style of the luminance of its images alone."""
        return replace(
            self,
            key=hashlib.sha256(f"{self.key} in grey".encode()).hexdigest(),
            images=lambda: map(to_grey, self.images()),
        )


@dataclass(frozen=True)
class Region:
    """A style, and where it is painted."""

    style: Style
    weight: float  # among the styles; those of all regions sum to 1
    mask: Tensor | None  # [1, 1, H, W] in [0, 1], 1 where it is painted; None for everywhere


def partition(
    masks: Sequence[Tensor | None], weights: Sequence[float]
) -> Iterator[tuple[list[int], Tensor | None, float]]:
    """Divides an image among styles.

    Styles with the same mask are blended. Where different masks overlap, they share the place by
    the weights of their styles.

    Args:
        masks: [H, W] in [0, 1] of each style; None for everywhere.
        weights: of each style.

    Yields:
        The styles that are blended; their share of each position, [H, W], or None for all of the
        image; and their share of the whole image.
    """
    groups: list[list[int]] = []
    for index, mask in enumerate(masks):
        same = [group for group in groups if _equal(mask, masks[group[0]])]
        if same:
            same[0].append(index)
        else:
            groups.append([index])
    if len(groups) == 1 and masks[0] is None:
        yield groups[0], None, 1.0
        return
    (size,) = {mask.shape for mask in masks if mask is not None}
    firsts = [masks[group[0]] for group in groups]
    each = torch.stack([torch.ones(size) if mask is None else mask for mask in firsts])
    totals = torch.tensor([sum(weights[index] for index in group) for group in groups])
    weighted = each * totals[:, None, None]
    shares = weighted / weighted.sum(0).clamp(min=1e-12) * each.amax(0)
    for group, share in zip(groups, shares, strict=True):
        if share.any():
            yield group, share, float(share.mean())


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def short_name(source: Source, seed: int = 0) -> str:
    """The name of a content or style within file names; `seed` is that of a run's sample."""
    if isinstance(source, Image.Image):
        return "image"
    path = Path(source).expanduser().absolute()
    if _is_run(path):
        name = path.parent.name if path.suffix == CHECKPOINTS[0] else path.stem
        name += f"-seed{seed}"
    else:
        name = path.name if path.is_dir() else path.stem
    return re.sub(r"[^\w.+-]", "_", name)[:LONGEST_NAME]


def load_style(source: Source, seed: int) -> Style:
    """Loads the style of an image, a folder of paintings, or a run's sample of a seed.

    Raises:
        UserError: it is missing, or none of these.
    """
    name = short_name(source, seed)
    path = None if isinstance(source, Image.Image) else Path(source).expanduser()
    if path and path.is_dir() and not _is_run(path):
        return _folder(name, path)
    if path and _is_run(path):
        # Imported only here: most styles are files, and the command should start quickly.
        from artgan.painter import load_painter

        image = load_painter(find_checkpoint(path)).paint([seed])[0]
    else:
        image = read_image(source, "style")
    key = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    return Style(name, key, 1, lambda: iter([image]))


def mean_statistics(
    style: Style, statistics: Callable[[Image.Image], Statistics], key: str
) -> Statistics:
    """The mean of statistics over the images of a style, computed once for each style and key.

    Those of a folder are kept in the user's cache, too.

    Args:
        style: whose images are read.
        statistics: of one image, each a float32 tensor of a shape that all images share.
        key: tells these statistics from others of the same style; letters, digits and dashes.

    Returns:
        float32 on the CPU.

    Raises:
        UserError: no image can be used.
    """
    if (style.key, key) not in style.computed:
        if style.count == 1:
            (image,) = style.images()
            found = {name: value.cpu() for name, value in statistics(image).items()}
        else:
            found = _mean_of_folder(style, statistics, key)
        style.computed[style.key, key] = found
    return style.computed[style.key, key]


def _mean_of_folder(
    style: Style, statistics: Callable[[Image.Image], Statistics], key: str
) -> Statistics:
    path = user_cache() / "statistics" / f"{style.key}-{key}.zip"
    with suppress(OSError, ValueError):  # missing or damaged
        return {name: torch.from_numpy(one) for name, one in read_cache(path).arrays.items()}
    sums: Statistics = {}
    count = 0
    label = f"Reading {style.name}"
    for image in tqdm(style.images(), label, style.count, unit="img", leave=False, disable=None):
        count += 1
        for name, value in statistics(image).items():
            sums[name] = sums.get(name, 0) + value.cpu().double()
    means = {name: (total / count).float() for name, total in sums.items()}
    with suppress(UserError):  # such as a read-only home: computed again next time
        write_cache(path, {name: mean.numpy() for name, mean in means.items()})
    return means


def _is_run(path: Path) -> bool:
    return path.suffix in CHECKPOINTS or any(path.glob(f"*{CHECKPOINTS[0]}"))


def _folder(name: str, folder: Path) -> Style:
    runs = sorted(checkpoint.parent for checkpoint in folder.glob(f"*/*{CHECKPOINTS[0]}"))
    if runs:
        raise UserError(f"style: {folder} is a folder of runs. Name one of them, such as {runs[0]}")
    names = find_images(folder)[0]
    if not names:
        raise UserError(
            f"style: there are no images in {folder}. Name an image, or a folder of some."
        )
    files = [folder / found for found in names]
    key = hashlib.sha256()
    for found, file in zip(names, files, strict=True):
        key.update(repr(found).encode())
        with suppress(OSError):  # reported when the images are read
            key.update(repr((file.stat().st_size, file.stat().st_mtime_ns)).encode())
    return Style(name, key.hexdigest(), len(files), lambda: _usable(folder, files))


def _usable(folder: Path, files: list[Path]) -> Iterator[Image.Image]:
    """The images of a folder; those that cannot be used are reported in one line at the end."""
    reasons = []
    for file in files:
        try:
            image = on_white(to_rgb(decode_upright(file.read_bytes())))
        except (OSError, UnusableImage) as error:
            reasons.append(f"{printable(file.name)}: {error}")
        else:
            yield image
    if len(reasons) == len(files):
        raise UserError(f"style: none of the images in {folder} can be used ({reasons[0]}).")
    if reasons:
        unusable = f"{len(reasons)} of {len(files)} images cannot be used"
        print(f"{folder}: {unusable} and are skipped ({reasons[0]}).", file=sys.stderr)
