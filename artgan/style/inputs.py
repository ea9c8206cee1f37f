"""What a picture can be painted like: paintings, folders of them, runs of ours."""

import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from artgan.checkpoint import EXPORTED, find_checkpoint
from artgan.data.decode import UnusableImage, find_pictures, on_white, to_rgb
from artgan.errors import UserError, printable
from artgan.files import atomic_write, user_cache
from artgan.style.photo import Source, luminance, read_picture, read_whole

CHECKPOINTS = (".ckpt", EXPORTED)
LONGEST_NAME = 60  # signs of a name that goes into that of a file

# watch(step, steps, losses, picture) is called once an iteration; picture() gives what has been
# painted so far, float32 [1, 3, H, W] in [0, 1], at the size of the present scale.
Watch = Callable[[int, int, dict[str, float], Callable[[], Tensor]], None]


@dataclass(frozen=True)
class Style:
    """What a picture is to be painted like.

    Attributes:
        name: short, fit for a file name.
        key: SHA-256 of all that it shows, or of the names, sizes and times of the files of a
            folder; statistics are kept under it.
        count: pictures in it.
        pictures: gives them anew at each call: upright RGB, sRGB, whole.
        computed: its statistics so far, and those in grey, by both their keys.
    """

    name: str
    key: str
    count: int
    pictures: Callable[[], Iterator[Image.Image]]
    computed: dict[tuple[str, str], dict[str, Tensor]] = field(default_factory=dict)

    def in_grey(self) -> "Style":
        """The style of the luminance of its pictures alone."""
        return replace(
            self,
            key=hashlib.sha256(f"{self.key} in grey".encode()).hexdigest(),
            pictures=lambda: map(luminance, self.pictures()),
        )


@dataclass(frozen=True)
class Region:
    """A style, and where it is painted.

    Attributes:
        style: that is painted.
        weight: of it among the styles that are blended; those of all regions sum to 1.
        mask: float32 [1, 1, H, W] in [0, 1] at the size of the content, 1 where it is painted; None
            for everywhere.
    """

    style: Style
    weight: float
    mask: Tensor | None


def short_name(source: Source, seed: int = 0) -> str:
    """What a content or style is called in the names of files.

    Args:
        source: a picture, a folder, or a run, whose painting of the seed is meant.
        seed: of that painting.
    """
    if isinstance(source, Image.Image):
        return "picture"
    path = Path(source).expanduser().absolute()
    if _is_run(path):
        name = path.parent.name if path.suffix == CHECKPOINTS[0] else path.stem
        name += f"-seed{seed}"
    else:
        name = path.name if path.is_dir() else path.stem
    return re.sub(r"[^\w.+-]", "_", name)[:LONGEST_NAME]


def load_style(source: Source, seed: int) -> Style:
    """Finds what a picture is to be painted like.

    Args:
        source: a picture, a folder of paintings, or a run or checkpoint, which paints one.
        seed: of the painting of a run.

    Raises:
        UserError: it is not there, or is none of these.
    """
    name = short_name(source, seed)
    path = None if isinstance(source, Image.Image) else Path(source).expanduser()
    if path and _is_run(path):
        return _single(name, _painting_of(path, seed))
    if path and path.is_dir():
        return _folder(name, path)
    return _single(name, read_picture(source, "style"))


def averaged(
    style: Style, statistics: Callable[[Image.Image], dict[str, Tensor]], key: str
) -> dict[str, Tensor]:
    """The mean of statistics over the pictures of a style, computed once for each style and key.

    Those of several pictures are kept in the cache on disk, too.

    Args:
        style: whose pictures are looked at.
        statistics: of one picture, each a float32 tensor of a shape that all pictures share.
        key: what tells these statistics from others of the same style; letters, digits and dashes.

    Returns:
        float32 on the CPU.

    Raises:
        UserError: no picture can be used.
    """
    computed = style.computed
    if (style.key, key) not in computed:
        computed[style.key, key] = _mean(style, statistics, key)
    return computed[style.key, key]


def _mean(
    style: Style, statistics: Callable[[Image.Image], dict[str, Tensor]], key: str
) -> dict[str, Tensor]:
    if style.count == 1:
        (picture,) = style.pictures()
        return {name: value.cpu() for name, value in statistics(picture).items()}
    kept = user_cache() / "statistics" / f"{style.key}-{key}.safetensors"
    # Whatever is wrong with what was kept: it is made anew.
    with suppress(OSError, SafetensorError):
        return load_file(kept)
    sums: dict[str, Tensor] = {}
    count = 0
    label = f"Looking at {style.name}"
    shown = tqdm(style.pictures(), label, style.count, unit="img", leave=False, disable=None)
    for picture in shown:
        count += 1
        for name, value in statistics(picture).items():
            sums[name] = sums.get(name, 0) + value.cpu().double()
    means = {name: (total / count).float() for name, total in sums.items()}
    # Where nothing can be kept, as in a home that is read only, they are computed anew next time.
    with suppress(UserError), atomic_write(kept) as file:
        file.write(save(means))
    return means


def _is_run(path: Path) -> bool:
    return path.suffix in CHECKPOINTS or any(path.glob(f"*{CHECKPOINTS[0]}"))


def _single(name: str, image: Image.Image) -> Style:
    shown = hashlib.sha256(repr(image.size).encode() + image.tobytes())
    return Style(name, shown.hexdigest(), 1, lambda: iter([image]))


def _painting_of(run: Path, seed: int) -> Image.Image:
    # Imported only now, since most styles are files, and a start is to be quick.
    from artgan.images import to_pil
    from artgan.painter import draw_inputs, load_painter, paint

    painter = load_painter(find_checkpoint(run))
    return to_pil(
        paint(painter.generator, draw_inputs(seed, 1, painter.latent_dim, painter.classes))[0]
    )


def _folder(name: str, folder: Path) -> Style:
    runs = sorted(checkpoint.parent for checkpoint in folder.glob(f"*/*{CHECKPOINTS[0]}"))
    if runs:
        raise UserError(f"style: {folder} is a folder of runs. Name one of them, such as {runs[0]}")
    names = find_pictures(folder).names
    if not names:
        raise UserError(f"style: no pictures lie in {folder}. Name a picture, or a folder of some.")
    files = [folder / found for found in names]
    shown = hashlib.sha256()
    for found, file in zip(names, files, strict=True):
        shown.update(repr(found).encode())
        # What cannot be read is told of once the pictures are looked at.
        with suppress(OSError):
            shown.update(repr((file.stat().st_size, file.stat().st_mtime_ns)).encode())
    return Style(name, shown.hexdigest(), len(files), partial(_usable, folder, files))


def _usable(folder: Path, files: list[Path]) -> Iterator[Image.Image]:
    """The pictures of a folder; of those that cannot be used one line tells at the end."""
    reasons = []
    for file in files:
        try:
            picture = on_white(to_rgb(read_whole(file.read_bytes())))
        except (OSError, UnusableImage) as error:
            reasons.append(f"{printable(file.name)}: {error}")
        else:
            yield picture
    if len(reasons) == len(files):
        raise UserError(f"style: no picture in {folder} can be used ({reasons[0]}).")
    if reasons:
        told = f"{len(reasons)} of {len(files)} pictures cannot be used ({reasons[0]})"
        print(f"{folder}: {told}; they are passed over.", file=sys.stderr)
