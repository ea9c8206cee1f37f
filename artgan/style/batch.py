"""The command: any number of images, each repainted in all styles together or in each by itself."""

import itertools
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from artgan.data.decode import find_images, on_white, to_rgb
from artgan.errors import UserError
from artgan.images import save_png, tile
from artgan.options import StylizeConfig
from artgan.style.checks import listed, refuse_existing, refuse_mistakes, single_file
from artgan.style.inputs import Style, load_style, short_name
from artgan.style.job import Job, Method, enough_memory, paint, read_scene
from artgan.style.photo import FORMATS, read_mask

PAINTED = "painted"  # folder of results
CELL = 256  # side of an image on a sheet in pixels
SHOWN = 100  # results on a sheet, which would not fit into memory with those of a whole film


def repaint(config: StylizeConfig, given: Collection[str]) -> list[Path]:
    """Does what one command asks for.

    Args:
        given: names of the options that the user gave.

    Returns:
        The files written, the one to look at first in front.

    Raises:
        UserError: an option cannot be used, or some images could not be repainted; the others
            have been.
        SystemExit: with code 130, by Ctrl-C, once the image so far has been written.
    """
    sources, masks = listed("style", config.style), listed("mask", config.mask)
    refuse_mistakes(config, given, len(sources), len(masks))
    contents, several = _contents(config)
    groups = [[source] for source in sources] if config.gallery else [sources]
    outs = _targets(config, contents, groups, several)
    mistakes: list[str] = []
    styles: dict[str, Style] = {}
    for source in sources:
        # In a gallery the other styles are painted without it.
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
            "size" in given,
        )
        for (content, group), out in zip(itertools.product(contents, groups), outs, strict=False)
        if styles.keys() >= set(group)
    ]
    rows = max(1, SHOWN // len(groups))  # whole ones, so that a gallery has all styles
    pairs, painted = _paint(
        jobs, config, mistakes, rows * len(styles if config.gallery else groups)
    )
    if not painted:
        raise UserError("\n".join(dict.fromkeys(mistakes)))
    if several:
        save_png(_overview(pairs, list(styles.values()), config.gallery), outs[-1])
    if mistakes:
        wanted = len(contents) * len(groups)
        summary = f"{wanted - painted} of {wanted} images were not repainted; see {outs[-1]}"
        raise UserError("\n".join([*dict.fromkeys(mistakes), summary]))
    return [outs[-1], *outs[:-1]]


Pair = tuple[Image.Image, Image.Image | None]  # cells of a content and its result


def _paint(
    jobs: list[Job], config: StylizeConfig, mistakes: list[str], shown: int
) -> tuple[list[Pair], int]:
    """Does the jobs, noting the mistakes of those that fail.

    Returns:
        Cells of the first `shown` of them, and the number of those that were painted.
    """
    method: Method | None = None
    pairs: list[Pair] = []
    painted = 0
    for job in tqdm(jobs, "Repainting", unit="img", disable=None if len(jobs) > 1 else True):
        scene = image = None
        with _noted(mistakes), enough_memory(job.content):
            scene = read_scene(job)
        if scene:
            # Loaded once there is something to paint; if it fails, nothing is painted at all.
            method = method or Method(config)
            with _noted(mistakes), enough_memory(job.content):
                image, is_finished = paint(job, scene, method)
                if not is_finished:
                    print(f"Stopped: {job.out} is the image so far.", file=sys.stderr)
                    sys.exit(130)
        painted += image is not None
        if len(pairs) < shown:
            content = cell(scene.content.image if scene else None)
            pairs.append((content, None if image is None else cell(image)))
    return pairs, painted


def _contents(config: StylizeConfig) -> tuple[list[str], bool]:
    """The files to repaint, and whether the results go into a folder."""
    contents = listed("content", config.content)
    several = config.gallery or isinstance(config.content, list)
    if len(contents) == 1 and (folder := Path(contents[0]).expanduser()).is_dir():
        contents = [str(folder / name) for name in find_images(folder)[0]]
        if not contents:
            raise UserError(f"content: there are no images in {folder}.")
        several = True
    return contents, several


def _targets(
    config: StylizeConfig, contents: list[str], groups: list[list[str]], several: bool
) -> list[Path]:
    """The file of each result, by content and style, and the overview's, if any, at the end."""
    blends = ["+".join(short_name(one, config.seed) for one in group)[:100] for group in groups]
    names: list[str] = []
    for content, blend in itertools.product(contents, blends):
        stem = f"{short_name(content)}-{blend}"
        numbered = (f"{stem}-{number}" for number in itertools.count(2))
        names.append(next(name for name in itertools.chain([stem], numbered) if name not in names))
    if not several:
        files = [single_file(Path(config.out or f"{PAINTED}/{names[0]}.png"))]
    else:
        folder = Path(config.out or PAINTED)
        if folder.suffix.lower() in FORMATS or folder.is_file():
            raise UserError(f"out: {folder} is a file; several images need a folder.")
        overview = "gallery" if config.gallery else f"sheet-{blends[0]}"
        files = [folder / f"{name}.png" for name in [*names, overview]]
    refuse_existing(files, config)
    return files


def cell(image: Image.Image | None) -> Image.Image:
    """An image as a square of a sheet, in sRGB on white; empty for None."""
    if image is None:
        return Image.new("RGB", (CELL, CELL), "white")
    return ImageOps.pad(on_white(to_rgb(image)), (CELL, CELL), color="white")


def sheet(cells: list[Image.Image], columns: int) -> Tensor:
    """Lays cells side by side in rows, as uint8 [3, H, W]."""
    squares = torch.from_numpy(np.stack([np.asarray(square) for square in cells]))
    return tile(squares.permute(0, 3, 1, 2), columns)


def _overview(pairs: list[Pair], styles: list[Style], gallery: bool) -> Tensor:
    """A sheet: contents at the left, styles above, or between contents and results."""
    shown = []
    for style in styles:
        first = None
        with suppress(UserError):
            first = next(style.images())
        shown.append(cell(first))
    if gallery:
        cells = [cell(None), *shown]
        for start in range(0, len(pairs), len(styles)):
            row = pairs[start : start + len(styles)]
            cells += [row[0][0], *(result or cell(None) for _, result in row)]
        return sheet(cells, len(styles) + 1)
    cells = []
    for content, result in pairs:
        cells += [content, *shown, result or cell(None)]
    columns = len(styles) + 2
    # As many contents side by side as make the sheet about square.
    return sheet(cells, columns * max(1, round(sqrt(len(pairs) / columns))))


@contextmanager
def _noted(mistakes: list[str]) -> Iterator[None]:
    """Notes a mistake, so that the other images are painted all the same."""
    try:
        yield
    except UserError as error:
        mistakes.append(str(error))
