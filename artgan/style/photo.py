"""The picture that is repainted, and the result as a file, which keeps what belonged to it."""

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from artgan import __version__
from artgan.data.decode import SMALLEST_SIDE, SRGB, UnusableImage, load, on_white, opened, to_rgb
from artgan.errors import UserError, printable
from artgan.files import atomic_write
from artgan.images import PROVENANCE, tile, to_pil

# A file, or a picture that is in memory.
Source = str | Path | Image.Image


@dataclass(frozen=True)
class Format:
    """A kind of file that results are written as: its name and options, and pixels of a side."""

    name: str
    options: dict[str, Any]
    largest: int = 2**31


JPEG = Format("JPEG", {"quality": 95, "subsampling": 0}, 65_500)
TIFF = Format("TIFF", {})  # compressed, Pillow would have no place for the EXIF
FORMATS = {
    ".png": Format("PNG", {"compress_level": 2}),
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".tif": TIFF,
    ".tiff": TIFF,
    ".webp": Format("WEBP", {"quality": 95}, 16_383),
}
# Tags below 600 mostly tell how a TIFF file lays out its pixels; these are of the picture.
DESCRIPTIVE = {
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.XResolution,
    ExifTags.Base.YResolution,
    ExifTags.Base.ResolutionUnit,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.HostComputer,
}
# Tags that point at other parts, or belong to what is kept elsewhere: the profile.
OTHER = {ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, 34675}
OF_PIXELS = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight, ExifTags.IFD.Interop)
JPEG_EXIF = 65_533  # bytes that a JPEG has room for
LARGEST_EXIF = 60_000  # bytes that are kept, so that there is room for the settings
LONGEST_SETTING = 500  # signs of one where there is too little room
CELL = 256  # pixels of the side of a picture on a sheet
EXIF, ICC = "exif", "icc_profile"  # of what Pillow knows of a picture


@dataclass(frozen=True)
class Content:
    """A picture to repaint, upright.

    Attributes:
        image: RGB, in sRGB; what is wholly transparent is white.
        own: RGB, in the colours of its profile.
        profile: ICC profile that the result bears; None for sRGB.
        alpha: L; None where it cannot be transparent.
        exif: of the file, without what no longer holds.
    """

    image: Image.Image
    own: Image.Image
    profile: bytes | None
    alpha: Image.Image | None
    exif: bytes


def read_content(source: Source, size: int | None = None) -> Content:
    """Reads a picture with all that its result is to keep.

    Args:
        source: of any format, mode and profile that `artgan.data` reads.
        size: pixels of the long side that it is brought to; None for its own.

    Raises:
        UserError: it cannot be read, or would be too narrow.
    """
    whole = _read(source, "content")
    rgb, profile = to_rgb(whole), _rgb_profile(whole)
    own = whole.convert(rgb.mode) if profile else rgb
    scale = (size or max(rgb.size)) / max(rgb.size)
    width, height = (round(side * scale) for side in rgb.size)
    if size is None and min(width, height) < SMALLEST_SIDE:
        raise UserError(
            f"content: {name_of(source)} has {width}×{height} pixels. Give one with at least "
            f"{SMALLEST_SIDE} on the short side."
        )
    if min(width, height) < SMALLEST_SIDE:
        raise UserError(
            f"size: {size} would make {name_of(source)} {width}×{height} pixels. Give one with at "
            f"least {SMALLEST_SIDE} on the short side."
        )
    # Pillow weighs colours by their alpha here, so that those of transparent pixels do not spread.
    if (width, height) != rgb.size:
        rgb, own = (image.resize((width, height), Image.Resampling.LANCZOS) for image in (rgb, own))
    alpha = rgb.getchannel("A") if rgb.mode == "RGBA" else None
    image = rgb.convert("RGB")
    if alpha is not None:
        image.paste("white", mask=alpha.point(lambda level: 0 if level else 255))
    return Content(image, own.convert("RGB"), profile, alpha, whole.info[EXIF])


def read_picture(source: Source, option: str) -> Image.Image:
    """Reads a picture as RGB, in sRGB, upright and whole; what is transparent becomes white.

    Args:
        source: the picture.
        option: that named it, for messages.

    Raises:
        UserError: it cannot be read.
    """
    return on_white(to_rgb(_read(source, option)))


def read_mask(source: Source) -> Image.Image:
    """Reads a mask as L, upright and whole; what is transparent becomes black.

    Args:
        source: the picture.

    Raises:
        UserError: it cannot be read.
    """
    image = to_rgb(_read(source, "mask")).convert("RGBA")
    black = Image.new("RGBA", image.size, "black")
    return Image.alpha_composite(black, image).convert("L")


def read_whole(content: bytes) -> Image.Image:
    """Decodes a picture file, upright, in its own mode, colours and size; its EXIF is in `info`.

    Raises:
        UnusableImage: it is no picture, is damaged, or is too small or too large.
    """
    with opened(content) as image:
        load(image, content)
        return _upright(image)


def fitted(image: Image.Image, size: tuple[int, int], option: str) -> Image.Image:
    """A picture of the same shape as another, at its size.

    Args:
        image: of any size.
        size: width and height in pixels.
        option: that named it, for messages.

    Raises:
        UserError: it has another shape.
    """
    # As nearly the same as whole pixels of the smaller of both allow.
    excess = abs(image.width * size[1] - image.height * size[0])
    if excess > max(*size, *image.size):
        raise UserError(
            f"{option}: has {image.width}×{image.height} pixels, and the content "
            f"{size[0]}×{size[1]}: another shape. Give one that covers the whole content."
        )
    # Nothing is darker or lighter than its surroundings then, as it would be with Lanczos.
    return image.resize(size, Image.Resampling.BILINEAR)


def to_tensor(image: Image.Image) -> Tensor:
    """A picture of mode L or RGB as float32 [1, 1 or 3, H, W] in [0, 1]."""
    pixels = torch.from_numpy(np.array(image, np.float32)) / 255
    return pixels.reshape(1, image.height, image.width, -1).permute(0, 3, 1, 2).contiguous()


def to_levels(picture: Tensor) -> Tensor:
    """float32 [1, 3, H, W] in [0, 1] as uint8 [3, H, W]."""
    return (picture[0].clamp(0, 1) * 255).round().byte()


def luminance(image: Image.Image) -> Image.Image:
    """The grey picture of the same luminance, as RGB."""
    return image.convert("L").convert("RGB")


def finished(
    content: Content, painted: Tensor, keep_color: bool = False, mask: Image.Image | None = None
) -> Image.Image:
    """The result: what was painted, with what it keeps of the content.

    Args:
        content: that was repainted.
        painted: float32 [1, 3, H, W] in [0, 1], sRGB.
        keep_color: only its luminance is taken, and the colours are those of the content: the
            luminance-only transfer of Gatys et al. 2016 (arXiv:1606.05897), in YCbCr, whose
            luminance is that of their YIQ.
        mask: L; outside of it, where it is black, the pixels are those of the content.

    Returns:
        RGB, or RGBA where the content had transparency; profile and EXIF are in its `info`.
    """
    image = to_pil(to_levels(painted))
    if keep_color:
        _, *colors = content.image.convert("YCbCr").split()
        image = Image.merge("YCbCr", [image.convert("L"), *colors]).convert("RGB")
    if content.profile:
        target = ImageCms.ImageCmsProfile(io.BytesIO(content.profile))
        if "sRGB" not in ImageCms.getProfileDescription(target):
            ImageCms.profileToProfile(image, SRGB, target, inPlace=True)
    if mask is not None:
        image = Image.composite(image, content.own, mask)
    if content.alpha is not None:
        image.putalpha(content.alpha)
    image.info = {ICC: content.profile} if content.profile else {}
    image.info[EXIF] = content.exif
    return image


def format_of(path: Path) -> Format:
    """The format that the ending of a result's name says.

    Raises:
        UserError: it says none.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"out: {path} ends in none of {', '.join(FORMATS)}.")
    return FORMATS[path.suffix.lower()]


def save(image: Image.Image, path: Path, settings: dict[str, Any]) -> None:
    """Writes a result, whole or not at all, in the format of its ending.

    The settings are in its EXIF, as the user's comment, and in a PNG also in a text chunk.

    Args:
        image: as `finished` gives it.
        path: where it shall lie.
        settings: plain values, which say how it was painted.

    Raises:
        UserError: it cannot be written.
    """
    form, told = format_of(path), json.dumps(settings)
    if form is JPEG and image.mode == "RGBA":
        print(f"{path}: JPEG knows no transparency, so it is on white there.", file=sys.stderr)
        info, image = image.info, on_white(image)
        image.info = info
    exif = _telling(image.getexif(), told)
    if form is JPEG and len(exif) > JPEG_EXIF:
        print(f"{path}: has no room for the EXIF of the content.", file=sys.stderr)
        exif = _telling(Image.Exif(), told)
    if form is JPEG and len(exif) > JPEG_EXIF:
        print(f"{path}: has no room for the longest settings. A PNG has.", file=sys.stderr)
        signs = {key: len(json.dumps(value)) for key, value in settings.items()}
        short = {key: settings[key] for key in settings if signs[key] <= LONGEST_SETTING}
        exif = _telling(Image.Exif(), json.dumps(short))
    options = dict(form.options)
    if form.name == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_text(PROVENANCE, told)
    # Not into the file at once: Pillow would not say then that the disk is full.
    buffer = io.BytesIO()
    image.save(buffer, form.name, exif=exif, icc_profile=image.info.get(ICC), **options)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def cell(picture: Image.Image | None) -> Image.Image:
    """A picture as a square of a sheet, in sRGB on white; an empty one without a picture."""
    if picture is None:
        return Image.new("RGB", (CELL, CELL), "white")
    return ImageOps.pad(on_white(to_rgb(picture)), (CELL, CELL), color="white")


def sheet(cells: Sequence[Image.Image], columns: int) -> Tensor:
    """Lays cells side by side in rows, as uint8 [3, H, W]."""
    squares = torch.from_numpy(np.stack([np.asarray(square) for square in cells]))
    return tile(squares.permute(0, 3, 1, 2), columns)


def name_of(source: Source) -> str:
    """What a picture is called in messages."""
    return "the picture" if isinstance(source, Image.Image) else printable(str(source))


def _read(source: Source, option: str) -> Image.Image:
    if isinstance(source, Image.Image):
        try:
            return _upright(source)
        # Its file is only read now; of a closed one Pillow may only assert that it is open.
        except (OSError, SyntaxError, ValueError, AssertionError) as error:
            reason = str(error) or "its file is closed"
            raise UserError(f"{option}: the picture cannot be used: {reason}.") from None
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"{option}: there is no picture {name_of(source)}.")
    try:
        return read_whole(path.read_bytes())
    except OSError as error:
        raise UserError(f"{option}: {name_of(source)} cannot be read ({error.strerror}).") from None
    except UnusableImage as unusable:
        raise UserError(f"{option}: {name_of(source)} cannot be used: {unusable}.") from None


def _telling(exif: Image.Exif, told: str) -> bytes:
    """EXIF with the settings in it."""
    exif[ExifTags.Base.Software] = f"artgan {__version__}"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0" + told.encode()
    return exif.tobytes()


def _upright(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    upright.info[EXIF] = _kept_exif(image)
    return upright


def _kept_exif(image: Image.Image) -> bytes:
    """What the EXIF tells of the picture: not its thumbnail, orientation, size and layout."""
    kept = Image.Exif()
    try:
        exif = image.getexif()
        for tag, value in exif.items():
            if tag in DESCRIPTIVE or (tag >= 600 and tag not in OTHER):
                kept[tag] = value
        for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            kept.get_ifd(part).update(exif.get_ifd(part))
        for tag in OF_PIXELS:
            kept.get_ifd(ExifTags.IFD.Exif).pop(tag, None)
        content = kept.tobytes()
    except Exception:
        # What cameras and programs write there is often damaged, in as many ways as there are.
        return b""
    return content if len(content) <= LARGEST_EXIF else b""


def _rgb_profile(image: Image.Image) -> bytes | None:
    """The ICC profile of a picture whose colours are red, green and blue."""
    content = image.info.get(ICC)
    if not content or image.mode not in ("RGB", "RGBA"):
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
    except (ImageCms.PyCMSError, OSError):
        return None
    return content if profile.profile.xcolor_space.strip() == "RGB" else None
