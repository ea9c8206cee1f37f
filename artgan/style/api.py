"""Style transfer from Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from artgan.config import compose
from artgan.errors import UserError
from artgan.style.checks import listed, refuse_existing, refuse_mistakes, single_file
from artgan.style.inputs import load_style
from artgan.style.job import Job, Method, enough_memory, paint, read_scene
from artgan.style.photo import Source, name_of, read_mask


def stylize(
    content: Source, style: Source | Sequence[Source], out: str | Path | None = None, **options: Any
) -> Image.Image:
    """Repaints an image in a style; the command repaints any number of them.

    Args:
        content: file of an image, or a Pillow image.
        style: file, Pillow image, folder of paintings, run or checkpoint, or several of these.
        out: file to write; None for none.
        options: any others of the command, with its names and defaults; `mask` may be a Pillow
            image, too.

    Returns:
        RGB, or RGBA if the content has transparency; its profile and EXIF are in its `info`.

    Raises:
        UserError: an argument cannot be used.
        KeyboardInterrupt: by Ctrl-C; with method=gatys `out` is then the image so far.

    Example:
        >>> from artgan.style import stylize
        >>> stylize("photo.jpg", "painting.jpg", strength=0.8).save("result.png")
    """
    if isinstance(content, list | tuple):
        raise UserError("content: stylize() repaints one image; the command repaints several.")
    if isinstance(options.get("init"), Image.Image):
        raise UserError("init: cannot be an image in memory. Save it, and name its file.")
    sources, masks = listed("style", style), listed("mask", options.get("mask"))
    (content,) = listed("content", content)
    plain = {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in options.items()
    }
    named = {
        "content": name_of(content),
        "style": [name_of(source) for source in sources],
        "mask": [name_of(mask) for mask in masks],
        "out": out,
    }
    config = compose("stylize", plain | named)
    refuse_mistakes(config, options, len(sources), len(masks))
    if config.gallery or (isinstance(content, str) and Path(content).is_dir()):
        raise UserError("content: stylize() repaints one image; the command repaints folders.")
    if config.out is None and (config.snapshot_every or config.animation):
        raise UserError("snapshot_every: snapshots are written beside the result. Add out=")
    file = None if config.out is None else single_file(Path(config.out))
    if file:
        refuse_existing([file], config)
    styles = [load_style(source, config.seed) for source in sources]
    job = Job(content, styles, [read_mask(mask) for mask in masks], file, config)
    with enough_memory(content):
        image, is_finished = paint(job, read_scene(job), Method(config))
    if not is_finished:
        raise KeyboardInterrupt
    return image
