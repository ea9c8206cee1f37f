"""One result: content and styles are read, painted by a method, and written to a file."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageChops
from torch import Tensor

from artgan.device import pick_device
from artgan.errors import UserError
from artgan.memory import is_out_of_memory
from artgan.options import StylizeConfig
from artgan.style import photo
from artgan.style.checks import of_another_method
from artgan.style.inputs import Region, Style
from artgan.style.live import Watch, film_of, save_film, snapshots_of, watching
from artgan.style.photo import Source, to_tensor
from artgan.version import __version__

# Options that do not change the result.
UNRECORDED = {"out", "overwrite", "gallery", "weights_dir"}
UNRECORDED |= {"snapshot_every", "animation", "tensorboard"}
SOURCES = {"content", "style", "mask", "init"}  # options that name files


@dataclass(frozen=True)
class Job:
    """One result that is asked for."""

    content: Source
    styles: list[Style]  # blended
    masks: list[Image.Image]  # L, of any size; none, one for all styles, or one for each
    out: Path | None  # file to write, if any
    config: StylizeConfig  # with the content and style of this result alone
    enlarge: bool  # whether a content smaller than `size` is enlarged to it


@dataclass(frozen=True)
class Scene:
    """What a method paints."""

    content: photo.Content
    image: Tensor  # the content as the method sees it, float32 [1, 3, H, W] in [0, 1]
    regions: list[Region]
    mask: Image.Image | None  # L, the union of the regions' masks; None for everywhere


def read_scene(job: Job) -> Scene:
    """Reads the content of a result, and places the styles in it; UserError if it cannot."""
    config = job.config
    content = photo.read_content(job.content, config.size, job.enlarge)
    size = content.image.size
    largest = photo.format_of(job.out).largest if job.out else max(size)
    if max(size) > largest:
        raise UserError(
            f"out: {job.out} would have {size[0]}×{size[1]} pixels; its format allows {largest:,} "
            "a side. Choose another format, or a smaller size="
        )
    weights = config.weights or [1.0] * len(job.styles)
    # A style without weight is painted nowhere, whatever its mask.
    used = job.masks if len(job.masks) == 1 else itertools.compress(job.masks, weights)
    masks = [photo.fit(mask, size, "mask") for mask in used]
    union = reduce(ImageChops.add, masks) if masks else None
    if union and union.getextrema() == (0, 0):
        raise UserError("mask: is black all over. Make it white where the image is repainted.")
    in_grey = config.color == "content"
    chosen = itertools.compress(job.styles, weights)
    styles = [style.in_grey() if in_grey else style for style in chosen]
    weights = [weight for weight in weights if weight]
    places: list[Tensor | None] = [to_tensor(mask) for mask in masks] or [None]
    if len(places) == 1:
        places *= len(styles)
    regions = [
        Region(style, weight / sum(weights), place)
        for style, weight, place in zip(styles, weights, places, strict=True)
    ]
    shown = photo.to_grey(content.image) if in_grey else content.image
    return Scene(content, to_tensor(shown), regions, union)


class Method:
    """The networks of the chosen method, loaded once for any number of images."""

    network: str  # identifies the weights of the method

    def __init__(self, config: StylizeConfig) -> None:
        self.config = config
        device = pick_device(config.device)
        # Imported only here: each takes its time.
        if "magenta" in (config.method, config.init):
            from artgan.style.magenta import Magenta

            self.magenta = Magenta(config, device)
            self.network = self.magenta.key
        if config.method == "gatys":
            from artgan.style.gatys import Gatys

            self.gatys = Gatys(config, device)
            self.network = self.gatys.backbone.name

    def paint(self, scene: Scene, watch: Watch) -> tuple[Tensor, bool]:
        """Paints float32 [1, 3, H, W] in [0, 1], and says whether it was not stopped by Ctrl-C."""
        if self.config.method == "magenta":
            return self.magenta.paint(scene.image, scene.regions), True
        from artgan.style.gatys import Interrupted

        init: Tensor | None
        match self.config.init:
            case "noise":
                init = None
            case "content":
                init = scene.image
            case "magenta":
                init = self.magenta.paint(scene.image, scene.regions)
                if scene.mask is not None:
                    init = torch.lerp(scene.image, init, to_tensor(scene.mask))
            case file:
                image = photo.read_image(file, "init")
                init = to_tensor(photo.fit(image, scene.content.image.size, "init"))
        try:
            return self.gatys.paint(scene.image, scene.regions, watch, init), True
        except Interrupted as interrupted:
            return interrupted.image, False


def paint(job: Job, scene: Scene, method: Method) -> tuple[Image.Image, bool]:
    """Paints one result, and writes it; also says whether it is finished."""
    config = job.config
    with watching(job.out, config) as watch:
        painted, is_finished = method.paint(scene, watch)
    image = photo.finish(scene.content, painted, config.color == "content", scene.mask)
    if job.out:
        unrecorded = UNRECORDED | of_another_method(config)
        settings = {"kind": "repainted", "version": __version__, "network": method.network}
        settings |= {
            key: _named(value) if key in SOURCES else value
            for key, value in asdict(config).items()
            if key not in unrecorded
        }
        photo.save(image, job.out, settings)
        if config.animation:
            save_film(snapshots_of(job.out), image, film_of(job.out))
    return image, is_finished


def _named(source: Any) -> Any:
    """The names of files without their folders, which could give away who made the result."""
    if isinstance(source, list):
        return [_named(one) for one in source]
    return Path(source).name or source if isinstance(source, str | Path) else source


@contextmanager
def enough_memory(content: Source) -> Iterator[None]:
    """Reports too little memory as a mistake in the size."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"size: there is too little memory for {photo.name_of(content)}. Give a smaller size="
        ) from error
