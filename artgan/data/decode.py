"""Finding the images in a folder, and decoding a file to one upright RGB image."""

import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pi_heif
import simplejpeg
from PIL import Image, ImageCms, ImageOps

from artgan.data.levels import UnusableImage, depth_of, keep_info, kind_of_tiff, to_eight_bits

pi_heif.register_heif_opener()

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
    | {".avif", ".heic", ".heif", ".jp2", ".tga", ".ppm", ".pgm"}
)
# Pillow knows more, some of which it passes to other programs: PostScript named .jpg would be run.
FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF", "JPEG2000", "TGA", "PPM"]
SMALLEST_SIDE = 16
# Pixels of the short side that large scans are reduced to: at least twice the largest resolution.
DECODED_SIDE = 1024
# Some cameras leave a few stray bytes in a file whose image is whole.
STRAY_BYTES = 4
SRGB = ImageCms.createProfile("sRGB")
LAB = ImageCms.createProfile("LAB")


class Decoded(NamedTuple):
    """A decoded file.

    Attributes:
        image: upright RGB, 8 bits a channel; a large one is reduced, to at least `DECODED_SIDE`
            pixels on the short side.
        width, height: of the whole image, upright, in pixels.
        format, mode: of the file, as Pillow names them, such as JPEG and CMYK.
        pages: how many pages or frames the file has; the image is the first.
    """

    image: Image.Image
    width: int
    height: int
    format: str
    mode: str
    pages: int = 1


def find_images(root: Path) -> tuple[list[str], dict[str, int]]:
    """Lists the image files below `root`, and counts the others.

    Hidden files and folders, `__MACOSX` copies and linked folders are skipped. A folder that cannot
    be searched is listed like a file, as reading it will show why.

    Returns:
        The names relative to `root`, with forward slashes, sorted, the same on every platform; how
        many other files there are, by their lower-case ending, and linked folders.
    """
    images: list[str] = []
    others: Counter[str] = Counter()

    def relative(folder: str) -> str:
        return Path(folder).relative_to(root).as_posix()

    for folder, subfolders, names in os.walk(
        root, onerror=lambda error: images.append(relative(error.filename))
    ):
        subfolders[:] = [name for name in subfolders if not is_hidden(name)]
        if links := sum(Path(folder, name).is_symlink() for name in subfolders):
            others["linked folder"] += links  # `walk` does not follow them
        prefix = "" if relative(folder) == "." else relative(folder) + "/"
        for name in names:
            if is_hidden(name):
                continue
            stem, dot, ending = name.rpartition(".")
            suffix = (dot + ending).lower() if stem else ""
            if suffix in SUFFIXES:
                images.append(prefix + name)
            else:
                others[suffix] += 1
    return sorted(images), dict(others)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is skipped for its name."""
    return name.startswith(".") or name == "__MACOSX"


def decode(content: bytes) -> Decoded:
    """Decodes the bytes of an image file, upright, as sRGB; transparent parts become white.

    Raises:
        UnusableImage: it is not an image, is damaged, or is too small or too large.
    """
    with opened(content) as image:
        file_format, mode, size = image.format or "", image.mode, image.size
        image.draft(None, (DECODED_SIDE, DECODED_SIDE))
        upright = ImageOps.exif_transpose(_reduced(load(image, content)))
        rgb = _visible(to_rgb(upright))
    turned = (rgb.width < rgb.height) != (size[0] < size[1])
    width, height = reversed(size) if turned else size
    return Decoded(rgb, width, height, file_format, mode, _count_pages(content))


def _count_pages(content: bytes) -> int:
    """How many pages or frames a file has that can be decoded; the previews of cameras are none."""
    try:
        with opened(content) as image:
            return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except UnusableImage:  # damaged after the first
        return 1


@contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """Opens the bytes of an image file, not decoded yet, while the block runs.

    Raises:
        UnusableImage: it is not an image, is damaged, or is too small or too large.
    """
    if not content:
        raise UnusableImage("the file is empty")
    try:
        with (
            # What Pillow only warns about is harmless, such as large scans of long scrolls.
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(content), formats=FORMATS) as image,
        ):
            if min(image.size) < SMALLEST_SIDE:
                raise UnusableImage(f"too small: {image.width}×{image.height} pixels")
            yield image
    except UnusableImage:
        raise
    except Image.DecompressionBombError:
        raise UnusableImage("more pixels than is safe to decode") from None
    except Image.UnidentifiedImageError:
        start = content[:512].lstrip().lower()
        page = start.startswith((b"<!doctype html", b"<html", b"<head"))
        reason = kind_of_tiff(content) or "not an image" + " but a web page" * page
        raise UnusableImage(reason) from None
    except KeyError as error:  # a compression that Pillow does not know
        raise UnusableImage(kind_of_tiff(content) or f"damaged: {error}") from None
    except MemoryError:
        raise UnusableImage("too large for this machine's memory") from None
    except Exception as error:
        # Pillow's decoders raise almost anything on damaged files (OSError, SyntaxError,
        # struct.error, ...), and one bad file must not end a run.
        raise UnusableImage(f"damaged: {error}") from None


def load(image: Image.Image, content: bytes) -> Image.Image:
    """Decodes an opened image, with 8 bits a channel.

    Raises:
        UnusableImage: a part of it is missing, or its levels are unclear. Pillow's own errors are
            left to `opened`.
    """
    depth = depth_of(image, content)
    image.load()
    # Pillow ignores some damage, showing grey where data is missing. In formats without checksums,
    # garbage can still pass for an image.
    if image.format in ("JPEG", "MPO"):
        try:
            # At an eighth of the size, still every byte is read, which is all that matters.
            simplejpeg.decode_jpeg(content, "GRAY", min_height=1, min_width=1, min_factor=8)
        except ValueError as error:
            stray = re.search(r"(\d+) extraneous bytes", str(error))
            harmless = stray is not None and int(stray[1]) <= STRAY_BYTES
            if re.search(r"Corrupt JPEG|Premature end", str(error)) and not harmless:
                raise UnusableImage(f"damaged: {error}") from None
    elif image.format == "PNG":
        with Image.open(io.BytesIO(content), formats=FORMATS) as again:
            again.verify()  # the checksums, which decoding alone does not compare
    elif image.mode in ("RGB", "RGBA", "L"):
        lightness = np.asarray(image.convert("L"), np.float32)
        lower = lightness[len(lightness) // 2 :]
        if abs(lower.mean() - 128) < 8 and lower.std() < 1 and lightness.std() > 0:
            raise UnusableImage("damaged: the lower half is only grey")
    return to_eight_bits(image, depth)


def _reduced(image: Image.Image) -> Image.Image:
    """Reduces a large image, as JPEGs are while they are decoded; later copies are small."""
    factor = min(image.size) // DECODED_SIDE
    if factor < 2 or image.mode not in ("RGB", "RGBA", "L", "LA", "CMYK"):
        return image
    return keep_info(image, image.reduce(factor))


def _visible(image: Image.Image) -> Image.Image:
    """An RGB or RGBA image on white, unless all it shows is white, too."""
    rgb = on_white(image)
    if image.mode == "RGBA" and rgb.getextrema() == ((255, 255),) * 3:
        least, most = image.getchannel("A").getextrema()
        if least != most:
            raise UnusableImage("white on transparency, which becomes white: give it a background")
    return rgb


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as RGB, or RGBA if it has transparency, in sRGB.

    Colours are converted from the profile in the file; an invalid profile is ignored.
    """
    if image.mode == "LAB":
        return ImageCms.profileToProfile(image, LAB, SRGB, outputMode="RGB") or image
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "RGBA", "CMYK", "L"):
        target = "RGBA" if image.mode == "RGBA" else "RGB"
        with suppress(ImageCms.PyCMSError, OSError, ValueError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" not in ImageCms.getProfileDescription(source):
                converted = ImageCms.profileToProfile(image, source, SRGB, outputMode=target)
                image = converted or image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def on_white(image: Image.Image) -> Image.Image:
    """An RGB or RGBA image as RGB; transparent parts become white."""
    if image.mode == "RGB":
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
