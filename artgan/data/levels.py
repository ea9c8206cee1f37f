"""Levels of any depth as 8 bits, and which kinds of TIFF are not read.

Pillow gives levels of more than 8 bits as they are in the file. Where white is among them, the file
does not always say: 12 bits of a scanner are often kept in 16.
"""

import io
import warnings
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COMPRESSION,
    COMPRESSION_INFO,
    EXTRASAMPLES,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    ImageFileDirectory_v2,
    TiffImageFile,
)

# White of images that use only a part of what their depth allows: 1, 8, 10, 12 and 16 bits.
WHITES = (1, 255, 1023, 4095, 65535)
OVERSHOOT = 0.1  # share of the range by which resampled floating-point levels may leave it
DARKEST = 1 / 4  # of white: if no level reaches that, it is unclear which white is meant
SIGNED, FLOAT = 2, 3  # values of SAMPLEFORMAT
APART = 2  # value of PLANAR_CONFIGURATION: one channel after the other
PLANES = (("RGB", ()), ("RGBA", (2,)), ("CMYK", ()))  # mode and EXTRASAMPLES that are read so
UNREAD = "a kind of TIFF that is not read"
ADVICE = "save it as RGB with 8 bits a channel"


class UnusableImage(Exception):
    """A file that cannot be used; its text is the reason, for a person."""


class Depth(NamedTuple):
    """How the levels of a file are kept: bits of each, and whether they are signed and inverted."""

    bits: int
    signed: bool = False
    white_is_zero: bool = False


def depth_of(image: Image.Image, content: bytes) -> Depth:
    """The depth of an image that is opened and not loaded yet, from its file.

    Raises:
        UnusableImage: Pillow would read it wrongly.
    """
    if image.format == "PNG":
        return Depth(content[24])
    if not isinstance(image, TiffImageFile):
        # Pillow scales the levels of other formats: grey ones to 8 or 16 bits, colours to 8.
        return Depth(16 if image.mode == "F" or image.mode.startswith("I") else 8)
    tags = image.tag_v2
    depth = Depth(
        max(tags.get(BITSPERSAMPLE, (1,))),
        SIGNED in tags.get(SAMPLEFORMAT, ()),
        tags.get(PHOTOMETRIC_INTERPRETATION) == 0,
    )
    if depth.signed and depth.bits == 8:
        raise UnusableImage(_unread(tags))
    if tags.get(PLANAR_CONFIGURATION) == APART and tags.get(SAMPLESPERPIXEL, 1) > 1:
        kind = (image.mode, tags.get(EXTRASAMPLES, ()))
        if kind not in PLANES or (image.mode, depth.bits) == ("CMYK", 16):
            raise UnusableImage(_unread(tags))
        if depth.bits == 16:
            order = "L" if tags.prefix == b"II" else "B"
            image.tile = [_of_16_bits(tile, order) for tile in image.tile]
    return depth


def _of_16_bits(tile: Any, order: str) -> Any:
    """A tile of one 16-bit channel; uncompressed, Pillow takes its bytes for levels."""
    channel, *rest = tile.args
    if tile.codec_name != "raw" or channel not in ("R", "G", "B", "A"):
        return tile
    return tile._replace(args=(f"{channel};16{order}", *rest))


def to_eight_bits(image: Image.Image, depth: Depth) -> Image.Image:
    """A loaded image with levels from 0 to 255, grey ones as mode L or LA.

    Grey levels are scaled so that white is the least of 1, 255, 1,023, 4,095, 65,535 and the
    largest number of that depth that no level exceeds; in colours, Pillow has taken the upper 8 of
    16 bits.

    Raises:
        UnusableImage: it is unclear which levels are black and white.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return keep_info(image, _grey(image, depth))
    # Black ink on transparency is dark in all channels but the last.
    is_deep = depth.bits == 16 and image.mode in ("RGB", "RGBA", "LA")
    if is_deep and max(most for _, most in image.getextrema()) < 255 * DARKEST:  # type: ignore[misc]
        used = "only the lowest 14 of 16 bits a channel are used, if so many"
        raise UnusableImage(f"unclear levels: {used}; {ADVICE}")
    return image


def _grey(image: Image.Image, depth: Depth) -> Image.Image:
    levels = np.asarray(image)
    if image.mode == "I" and depth.bits == 32 and not depth.signed:
        levels = levels.view(np.uint32)
    numbers = np.isfinite(levels)
    least = float(levels.min(where=numbers, initial=0))
    most = float(levels.max(where=numbers, initial=0))
    overshoot = OVERSHOOT if image.mode == "F" else 0
    largest = 65535 if image.mode == "F" else 2 ** (depth.bits - depth.signed) - 1
    whites = [*(white for white in WHITES if white < largest), largest]
    white = next((white for white in whites if most <= (1 + overshoot) * white), None)
    if white is None or least < -overshoot * white or 1 < most < DARKEST * white:
        span = f"from {least:.7g} to {most:.7g}"
        raise UnusableImage(f"unclear levels: {span}; {ADVICE}")
    scaled = np.nan_to_num(levels.astype(np.float32), copy=False, posinf=most)
    scaled *= 255 / white
    grey = np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)
    result = Image.fromarray(255 - grey if depth.white_is_zero else grey)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = np.where(levels == transparent, 0, 255).astype(np.uint8)
        result = Image.merge("LA", (result, Image.fromarray(alpha)))
    return result


def keep_info(image: Image.Image, made: Image.Image) -> Image.Image:
    """Gives an image made from another what is still needed: its orientation and profile."""
    made.info = {key: value for key, value in image.info.items() if key != "transparency"}
    made.getexif().update(image.getexif())
    return made


def kind_of_tiff(content: bytes) -> str | None:
    """Why Pillow does not know a TIFF; None if it is none."""
    if content[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    if content[:4] == b"MM\0+":
        return f"{UNREAD}: BigTIFF of big-endian order; {ADVICE}"
    try:
        tags = ImageFileDirectory_v2(content[: 16 if content[2] == ord("+") else 8])
        file = io.BytesIO(content)
        file.seek(tags.next)
        with warnings.catch_warnings(action="ignore"):
            tags.load(file)
        if (method := tags.get(COMPRESSION, 1)) not in COMPRESSION_INFO:
            return f"{UNREAD}: compressed by method {method}; {ADVICE}"
        return _unread(tags)
    except Exception:  # as with all damaged files
        return "damaged: the directory of this TIFF cannot be read"


def _unread(tags: ImageFileDirectory_v2) -> str:
    count, bits = tags.get(SAMPLESPERPIXEL, 1), max(tags[BITSPERSAMPLE])
    kind = "1 channel" if count == 1 else f"{count} channels"
    if count > 1 and tags.get(PLANAR_CONFIGURATION) == APART:
        kind += ", kept apart,"
    numbers = {SIGNED: "-bit signed numbers", FLOAT: "-bit floating-point numbers"}
    kind += f" of {bits}{numbers.get(tags.get(SAMPLEFORMAT, (1,))[0], ' bits')}"
    return f"{UNREAD}: {kind}; {ADVICE}"
