"""Style transfer from Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from artgan.config import compose
from artgan.errors import UserError
from artgan.style.checks import listed, refuse_existing, refuse_mistakes, single_file
from artgan.style.inputs import load_style
from artgan.style.job import Job, Method, enough_memory, paint, read_scene
from artgan.style.photo import Source, name_of, read_mask


def stylize(
    content: Source | NDArray[Any],
    style: Source | NDArray[Any] | Sequence[Source | NDArray[Any]],
    out: str | Path | None = None,
    **options: Any,
) -> Image.Image:
    """Repaints an image in a style; the command repaints any number of them.

    Args:
        content: file of an image, a Pillow image, or an array [H, W], [H, W, 3] or [H, W, 4],
            uint8, or float in [0, 1].
        style: the same, a folder of paintings, run or checkpoint, or a list of several of these.
        out: file to write; None for none.
        options: any others of the command, with its names and defaults; `mask` may be a Pillow
            image or an array, too, also of bool.

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
    sources = listed("style", _images("style", style))
    masks = listed("mask", _images("mask", options.get("mask")))
    (image,) = listed("content", _images("content", content))
    plain = {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in options.items()
    }
    named = {
        "content": name_of(image),
        "style": [name_of(source) for source in sources],
        "mask": [name_of(mask) for mask in masks],
        "out": out,
    }
    config = compose("stylize", plain | named)
    refuse_mistakes(config, options, len(sources), len(masks))
    if config.gallery or (isinstance(image, str) and Path(image).is_dir()):
        raise UserError("content: stylize() repaints one image; the command repaints folders.")
    if config.out is None and (config.snapshot_every or config.animation):
        raise UserError("snapshot_every: snapshots are written beside the result. Add out=")
    file = None if config.out is None else single_file(Path(config.out))
    if file:
        refuse_existing([file], config)
    styles = [load_style(source, config.seed) for source in sources]
    job = Job(image, styles, [read_mask(mask) for mask in masks], file, config, "size" in options)
    with enough_memory(image):
        result, is_finished = paint(job, read_scene(job), Method(config))
    if not is_finished:
        raise KeyboardInterrupt
    return result


def _images(option: str, value: Any) -> Any:
    """Arrays, also within a list, as Pillow images; anything else as it is."""
    if isinstance(value, list | tuple):
        return [_images(option, one) for one in value]
    if not isinstance(value, np.ndarray):
        return value
    is_shaped = value.size > 0 and (value.ndim == 2 or value.shape[2:] in ((3,), (4,)))
    is_share = value.dtype.kind in "bf" and bool(((value >= 0) & (value <= 1)).all())
    if not is_shaped or not (is_share or value.dtype == np.uint8):
        raise UserError(
            f"{option}: an array of {value.dtype} and shape {value.shape} is no image. Give "
            "[height, width], [height, width, 3] or [height, width, 4], as uint8, or as floats "
            "from 0 to 1."
        )
    if is_share:
        value = (value * 255.0).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(value))
