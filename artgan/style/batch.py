"""From pictures on disk to repainted pictures on disk."""

import itertools
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import reduce
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops
from torch import Tensor
from tqdm import tqdm

from artgan import __version__
from artgan.config import composed, stylize_config
from artgan.data.decode import find_pictures
from artgan.device import pick_device
from artgan.errors import UserError, not_among, printable
from artgan.images import save_png
from artgan.memory import is_out_of_memory
from artgan.options import StylizeConfig
from artgan.style.inputs import Region, Style, Watch, load_style, short_name
from artgan.style.live import film_of, save_film, snapshots_of, watching
from artgan.style.photo import (
    FORMATS,
    Content,
    Source,
    cell,
    finished,
    fitted,
    format_of,
    luminance,
    name_of,
    read_content,
    read_mask,
    read_picture,
    save,
    sheet,
    to_tensor,
)

PAINTED = "painted"  # folder in which results come to lie
# Options that mean nothing to the other method, besides those that presets set.
ONLY = {
    "magenta": {"strength"},
    "gatys": {"preset", "init", "precision", "snapshot_every", "animation", "tensorboard"},
}
# Options that change nothing in the picture.
APART = {"out", "overwrite", "gallery", "weights_dir", "snapshot_every", "animation", "tensorboard"}
INITS = ("content", "noise", "magenta")  # or a file


@dataclass(frozen=True)
class Job:
    """One result that is asked for.

    Attributes:
        content: that is repainted.
        styles: that are blended in it.
        masks: L, of any size; none, one for all styles, or one for each.
        out: where it shall lie; None for nowhere.
        config: with content and style of this result alone.
    """

    content: Source
    styles: list[Style]
    masks: list[Image.Image]
    out: Path | None
    config: StylizeConfig


@dataclass(frozen=True)
class Scene:
    """What a result is painted from.

    Attributes:
        content: that is repainted.
        seen: float32 [1, 3, H, W] in [0, 1], the content as the method is to see it.
        regions: styles, and where each is painted.
        mask: L, where any of them is painted; None for everywhere.
    """

    content: Content
    seen: Tensor
    regions: list[Region]
    mask: Image.Image | None


def stylize(
    content: Source, style: Source | Sequence[Source], out: str | Path | None = None, **options: Any
) -> Image.Image:
    """Repaints a picture in a style; `stylize.py` does the same for any number of them.

    Args:
        content: file of a picture, or a picture of Pillow's.
        style: file, picture, folder of paintings, run or checkpoint of ours, or several of these.
        out: file to write; None writes none.
        options: any others of `stylize.py`, by the same names and with the same defaults; `mask`
            may be a picture, too.

    Returns:
        RGB, or RGBA where the content has transparency; its profile and EXIF are in its `info`.

    Raises:
        UserError: an argument cannot be used.
        KeyboardInterrupt: by Ctrl-C; with method=gatys `out` then holds the picture so far.

    Example:
        >>> from artgan.style import stylize
        >>> stylize("photo.jpg", "painting.jpg", strength=0.8).save("result.png")
    """
    if isinstance(content, list | tuple):
        raise UserError("content: stylize() repaints one picture; stylize.py does several.")
    if isinstance(options.get("init"), Image.Image):
        raise UserError("init: cannot be a picture in memory. Save it, and name its file.")
    sources, masks = _listed("style", style), _listed("mask", options.get("mask"))
    (content,) = _listed("content", content)
    plain = {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in options.items()
    }
    named = {
        "content": name_of(content),
        "style": [name_of(one) for one in sources],
        "mask": [name_of(one) for one in masks],
        "out": out,
    }
    config = stylize_config(plain | named)
    _refuse_mistakes(config, options.keys(), len(sources), len(masks))
    if config.gallery or (isinstance(content, str | Path) and Path(content).is_dir()):
        raise UserError("content: stylize() repaints one picture; stylize.py does folders of them.")
    if config.out is None and (config.snapshot_every or config.animation):
        raise UserError("snapshot_every: snapshots lie beside the result. Say where it lies: out=")
    file = None if config.out is None else _file(Path(config.out))
    if file:
        _refuse_present(_results(file, config), config)
    styles = [load_style(source, config.seed) for source in sources]
    job = Job(content, styles, [read_mask(one) for one in masks], file, config)
    with _enough_memory(content):
        image, whole = _paint(job, _scene(job), Method(config))
    if not whole:
        raise KeyboardInterrupt
    return image


def repaint(config: StylizeConfig, overrides: list[str]) -> list[Path]:
    """Does what one `stylize.py` command asks.

    Args:
        config: all its options.
        overrides: `key=value`, those that were given.

    Returns:
        The files written, the one to look at first in front.

    Raises:
        UserError: an option cannot be used, or some pictures could not be repainted; the others
            have been.
        SystemExit: with code 130, by Ctrl-C, once the picture so far has been written.
    """
    sources, masks = _listed("style", config.style), _listed("mask", config.mask)
    keys = [re.split("[=@]", override.lstrip("+"))[0] for override in overrides]
    _refuse_mistakes(config, keys, len(sources), len(masks))
    contents, several = _contents(config)
    groups = [[source] for source in sources] if config.gallery else [sources]
    outs = _targets(config, contents, groups, several)
    mistakes: list[str] = []
    styles: dict[str, Style] = {}
    for source in sources:
        # Where each is painted by itself, the others are painted without it.
        with _noted(mistakes) if config.gallery else nullcontext():
            styles[source] = load_style(source, config.seed)
    drawn = [read_mask(mask) for mask in masks]
    jobs = [
        Job(
            content,
            [styles[source] for source in group],
            drawn,
            out,
            replace(config, content=content, style=group),
        )
        for (content, group), out in zip(itertools.product(contents, groups), outs, strict=False)
        if styles.keys() >= set(group)
    ]
    method: Method | None = None
    shown: list[Image.Image] = []
    painted = 0
    for job in tqdm(jobs, "Repainting", unit="img", disable=None if several else True):
        scene = image = None
        with _noted(mistakes), _enough_memory(job.content):
            scene = _scene(job)
        if scene:
            # Only once there is something to paint; and without it, nothing is painted at all.
            method = method or Method(config)
            with _noted(mistakes), _enough_memory(job.content):
                image, whole = _paint(job, scene, method)
                if not whole:
                    print(f"Stopped: {job.out} is the picture so far.", file=sys.stderr)
                    sys.exit(130)
        painted += image is not None
        shown += [cell(scene.content.image if scene else None), cell(image)]
    mistakes = list(dict.fromkeys(mistakes))
    if not painted:
        raise UserError("\n".join(mistakes))
    if several:
        _save_overview(outs[-1], shown, list(styles.values()), config.gallery)
    if mistakes:
        wanted = len(contents) * len(groups)
        told = f"{wanted - painted} of {wanted} pictures were not repainted; see {outs[-1]}"
        raise UserError("\n".join([*mistakes, told]))
    return [outs[-1], *outs[:-1]]


class Method:
    """The networks of the chosen method, loaded once for any number of pictures."""

    def __init__(self, config: StylizeConfig) -> None:
        self.config = config
        device = pick_device(config.device)
        # Imported only here, since each takes its time.
        if "magenta" in (config.method, config.init):
            from artgan.style.magenta import Magenta

            self.magenta = Magenta(config, device)
        if config.method == "gatys":
            from artgan.style.gatys import Gatys

            self.gatys = Gatys(config, device)

    @property
    def network(self) -> str:
        """What tells its weights from others."""
        return self.magenta.key if self.config.method == "magenta" else self.gatys.backbone.name

    def paint(self, scene: Scene, watch: Watch) -> tuple[Tensor, bool]:
        """Paints a scene.

        Returns:
            float32 [1, 3, H, W] in [0, 1], and whether it was finished, rather than stopped by
            Ctrl-C.
        """
        if self.config.method == "magenta":
            return self.magenta.paint(scene.seen, scene.regions), True
        from artgan.style.gatys import Interrupted

        try:
            init = self._init(scene)
            return self.gatys.paint(scene.seen, scene.regions, watch, init), True
        except Interrupted as stopped:
            return stopped.picture, False

    def _init(self, scene: Scene) -> Tensor | None:
        match self.config.init:
            case "noise":
                return None
            case "content":
                return scene.seen
            case "magenta":
                painted = self.magenta.paint(scene.seen, scene.regions)
                if scene.mask is None:
                    return painted
                return torch.lerp(scene.seen, painted, to_tensor(scene.mask))
            case file:
                picture = read_picture(file, "init")
                return to_tensor(fitted(picture, scene.content.image.size, "init"))


def _paint(job: Job, scene: Scene, method: Method) -> tuple[Image.Image, bool]:
    """Paints and writes one result, and tells whether it was finished."""
    config = job.config
    with watching(job.out, config) as live:
        painted, whole = method.paint(scene, live)
    image = finished(scene.content, painted, config.color == "content", scene.mask)
    if job.out:
        save(image, job.out, _settings(config, method.network))
        if config.animation:
            save_film(live.frames, image, film_of(job.out))
    return image, whole


def _settings(config: StylizeConfig, network: str) -> dict[str, Any]:
    """What a result says of how it was painted."""
    apart = APART | _of_another_method(config)
    kept = {key: value for key, value in asdict(config).items() if key not in apart}
    return {"kind": "repainted", "version": __version__, "network": network} | kept


def _scene(job: Job) -> Scene:
    config = job.config
    content = read_content(job.content, config.size)
    size = content.image.size
    largest = format_of(job.out).largest if job.out else max(size)
    if max(size) > largest:
        raise UserError(
            f"out: {job.out} would have {size[0]}×{size[1]} pixels, and its format has room for "
            f"{largest:,} a side. Give another ending, or a smaller size="
        )
    weights = config.weights or [1.0] * len(job.styles)
    # A style without weight has no place either.
    placed = job.masks if len(job.masks) == 1 else itertools.compress(job.masks, weights)
    masks = [fitted(mask, size, "mask") for mask in placed]
    union = reduce(ImageChops.add, masks) if masks else None
    if union and union.getextrema() == (0, 0):
        raise UserError("mask: is black all over, so nothing would be repainted. White is.")
    in_grey = config.color == "content"
    styles = [style.in_grey() for style in job.styles] if in_grey else job.styles
    styles = list(itertools.compress(styles, weights))
    weights = [weight for weight in weights if weight]
    places: list[Tensor | None] = [to_tensor(mask) for mask in masks] or [None]
    if len(places) == 1:
        places *= len(styles)
    regions = [
        Region(style, weight / sum(weights), place)
        for style, weight, place in zip(styles, weights, places, strict=True)
    ]
    seen = luminance(content.image) if in_grey else content.image
    return Scene(content, to_tensor(seen), regions, union)


def _contents(config: StylizeConfig) -> tuple[list[str], bool]:
    """What is repainted, and whether the results are to lie in a folder."""
    contents = _listed("content", config.content)
    several = config.gallery or isinstance(config.content, list)
    if len(contents) == 1 and (folder := Path(contents[0]).expanduser()).is_dir():
        contents = [str(folder / name) for name in find_pictures(folder).names]
        if not contents:
            raise UserError(f"content: no pictures lie in {folder}.")
        several = True
    return contents, several


def _targets(
    config: StylizeConfig, contents: list[str], groups: list[list[str]], several: bool
) -> list[Path]:
    """The file of each result, by content and style, and at the end that of an overview.

    Raises:
        UserError: one of them is there already, or could not be written.
    """
    blends = ["+".join(short_name(one, config.seed) for one in group)[:100] for group in groups]
    names = _distinct(f"{short_name(content)}-{blend}" for content in contents for blend in blends)
    if not several:
        files = [_file(Path(config.out or f"{PAINTED}/{names[0]}.png"))]
    else:
        folder = Path(config.out or PAINTED).expanduser()
        if folder.suffix.lower() in FORMATS or folder.is_file():
            raise UserError(f"out: {folder} names a file, and several pictures go into a folder.")
        overview = "gallery" if config.gallery else f"sheet-{blends[0]}"
        files = [folder / f"{name}.png" for name in [*names, overview]]
    _refuse_present([result for file in files for result in _results(file, config)], config)
    return files


def _file(path: Path) -> Path:
    """The file of a single result; a name that cannot be written to is refused."""
    path = path.expanduser()
    if path.is_dir():
        raise UserError(f"out: {path} is a folder. Name a file, such as {path / 'result.png'}")
    format_of(path)
    return path


def _results(file: Path, config: StylizeConfig) -> list[Path]:
    """All that is written for one result."""
    snapshots = [snapshots_of(file)] if config.snapshot_every else []
    return [file, *snapshots, *([film_of(file)] if config.animation else [])]


def _refuse_present(results: list[Path], config: StylizeConfig) -> None:
    present = [path for path in results if path.exists()]
    if present and not config.overwrite:
        more = f" So are {len(present) - 1} more." if len(present) > 1 else ""
        raise UserError(
            f"out: {present[0]} is there already.{more} Give another place by out=, or replace it "
            "by overwrite=true"
        )
    # Found now rather than at the end of the work.
    folder = next(folder for folder in results[0].absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"out: {folder} cannot be written to. Choose another place.")


def _refuse_mistakes(
    config: StylizeConfig, given: Collection[str], styles: int, masks: int
) -> None:
    """Refuses options that mean nothing, or do not fit together.

    Args:
        config: of the whole command.
        given: names of the options that the user gave.
        styles: how many there are.
        masks: how many there are.
    """
    for key in sorted(_of_another_method(config) & set(given)):
        other = "gatys" if config.method == "magenta" else "magenta"
        raise UserError(
            f"{key}: means nothing to method={config.method}. Add method={other}, or leave it out."
        )
    if config.gallery and (config.weights or masks > 1):
        key = "weights" if config.weights else "mask"
        raise UserError(f"{key}: a gallery paints every style by itself. Leave out gallery=true.")
    if config.weights and len(config.weights) != styles:
        raise UserError(f"weights: {len(config.weights)} for {styles} styles. Give one for each.")
    if not all(isfinite(weight) and weight >= 0 for weight in config.weights) or (
        config.weights and not any(config.weights)
    ):
        raise UserError(f"weights: {config.weights} must be at least 0, and one of them above it.")
    if masks not in (0, 1, styles):
        raise UserError(f"mask: {masks} for {styles} styles. Give one for all, or one for each.")
    if config.init not in INITS and not Path(config.init).expanduser().is_file():
        raise UserError(f"init: {not_among(config.init, INITS)} Nor is it a picture's file.")
    if config.animation and not config.snapshot_every:
        raise UserError("animation: is made of snapshots. Add snapshot_every=10, for example.")


def _of_another_method(config: StylizeConfig) -> set[str]:
    """Options that mean nothing to the chosen method."""
    if config.method == "gatys":
        return ONLY["magenta"] - ({"strength"} if config.init == "magenta" else set())
    return ONLY["gatys"] | composed("preset/_common", {}).keys()


def _listed(option: str, value: Any) -> list[Any]:
    """The names or pictures that an option holds, which may be one or a list; no mask is none."""
    if value is None and option == "mask":
        return []
    values = list(value) if isinstance(value, list | tuple) else [value]
    for one in values:
        if not isinstance(one, str | Path | int | float | Image.Image) or one == "":
            shown = printable(str(one))[:40]
            raise UserError(f"{option}: '{shown}' is neither a picture nor a folder.")
    if not values and option != "mask":
        raise UserError(f"{option}: name at least one.")
    return [one if isinstance(one, Image.Image) else str(one) for one in values]


def _distinct(names: Iterable[str]) -> list[str]:
    """The names, of which those that were there before get a number."""
    distinct: list[str] = []
    for name in names:
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        distinct.append(
            next(one for one in itertools.chain([name], numbered) if one not in distinct)
        )
    return distinct


def _save_overview(
    path: Path, shown: list[Image.Image], styles: list[Style], gallery: bool
) -> None:
    """Writes a sheet: contents at the left, styles above, or between contents and results.

    Args:
        path: of the PNG.
        shown: content and result of each job.
        styles: all of them.
        gallery: whether each job has one of the styles, rather than all.
    """
    samples = []
    for style in styles:
        sample = None
        with suppress(UserError):
            sample = next(style.pictures())
        samples.append(cell(sample))
    if gallery:
        columns = len(styles)
        cells = [cell(None), *samples]
        for start in range(0, len(shown), 2 * columns):
            cells += [shown[start], *shown[start + 1 : start + 2 * columns : 2]]
        columns += 1
    else:
        cells = []
        for content, result in zip(shown[::2], shown[1::2], strict=True):
            cells += [content, *samples, result]
        columns = len(styles) + 2
        # So many contents side by side that the sheet is about square.
        columns *= max(1, round(sqrt(len(shown) / 2 / columns)))
    save_png(sheet(cells, columns), path)


@contextmanager
def _noted(mistakes: list[str]) -> Iterator[None]:
    """Keeps the message of a mistake, so that the other pictures are painted all the same."""
    try:
        yield
    except UserError as error:
        mistakes.append(str(error))


@contextmanager
def _enough_memory(content: Source) -> Iterator[None]:
    """Tells of too little memory as of a mistake in the size."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"size: there is too little memory for {name_of(content)}. Give a smaller size="
        ) from error
