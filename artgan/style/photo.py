"""The image that is repainted, and the result as a file, which keeps profile, EXIF and alpha."""

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from PIL.ExifTags import IFD, Base
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from artgan.data.decode import SMALLEST_SIDE, SRGB, UnusableImage, load, on_white, opened, to_rgb
from artgan.errors import UserError, printable
from artgan.files import atomic_write
from artgan.images import PROVENANCE, to_pil
from artgan.version import __version__

# A file, or an image in memory.
Source = str | Path | Image.Image


@dataclass(frozen=True)
class Format:
    """A format of results."""

    name: str  # Pillow's
    options: dict[str, Any]
    largest: int = 2**31  # side in pixels


JPEG = Format("JPEG", {"quality": 95, "subsampling": 0}, 65_500)
TIFF = Format("TIFF", {})  # compressed, Pillow would write no EXIF
FORMATS = {
    ".png": Format("PNG", {"compress_level": 2}),
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".tif": TIFF,
    ".tiff": TIFF,
    ".webp": Format("WEBP", {"quality": 95}, 16_383),
}
# Most tags below 600 describe the layout of a TIFF file; these describe the image.
DESCRIPTIVE = {
    *(Base.ImageDescription, Base.Make, Base.Model, Base.DateTime, Base.Artist, Base.HostComputer),
    *(Base.XResolution, Base.YResolution, Base.ResolutionUnit),
}
# Tags that point to other parts, and the profile, which is kept by itself.
OTHER = {IFD.Exif, IFD.GPSInfo, 34675}
OF_PIXELS = (Base.ExifImageWidth, Base.ExifImageHeight, IFD.Interop)
JPEG_EXIF = 65_533  # bytes that a JPEG has room for
LARGEST_EXIF = 60_000  # bytes that are kept, which leaves room for the settings
LONGEST_SETTING = 500  # characters of one setting where there is too little room
EXIF, ICC = "exif", "icc_profile"  # keys of Pillow's `info`


@dataclass(frozen=True)
class Content:
    """An image to repaint, upright, with what its result keeps."""

    image: Image.Image  # RGB, in sRGB; white where it is fully transparent
    original: Image.Image  # RGB, in the colours of its profile
    profile: bytes | None  # ICC; None for sRGB
    alpha: Image.Image | None  # L; None if the image has no transparency
    exif: bytes  # without what is not true of the result


def read_content(source: Source, size: int | None = None, enlarge: bool = True) -> Content:
    """Reads an image with all that its result is to keep.

    Args:
        source: of any format, mode and profile that `artgan.data` reads.
        size: pixels of the long side that it is resized to; None for its own.
        enlarge: whether a smaller image is enlarged to this size.

    Raises:
        UserError: it cannot be read, or is too narrow.
    """
    whole = _read(source, "content")
    rgb, profile = to_rgb(whole), _rgb_profile(whole)
    original = whole.convert(rgb.mode) if profile else rgb
    scale = (size or max(rgb.size)) / max(rgb.size)
    scale = scale if enlarge else min(scale, 1)
    width, height = (round(side * scale) for side in rgb.size)
    if min(width, height) < SMALLEST_SIDE:
        name = name_of(source)
        fault = f"size: {size} would make {name}" if size else f"content: {name} has"
        raise UserError(
            f"{fault} {width}×{height} pixels. The short side needs at least {SMALLEST_SIDE}."
        )
    # Pillow weights colours by alpha here, so that those of transparent pixels do not spread.
    if (width, height) != rgb.size:
        rgb, original = (
            image.resize((width, height), Image.Resampling.LANCZOS) for image in (rgb, original)
        )
    alpha = rgb.getchannel("A") if rgb.mode == "RGBA" else None
    image = rgb.convert("RGB")
    if alpha is not None:
        image.paste("white", mask=alpha.point(lambda level: 0 if level else 255))
    return Content(image, original.convert("RGB"), profile, alpha, whole.info[EXIF])


def read_image(source: Source, option: str) -> Image.Image:
    """Reads the image of an option as RGB, in sRGB, upright, on white; UserError if it cannot."""
    return on_white(to_rgb(_read(source, option)))


def read_mask(source: Source) -> Image.Image:
    """Reads a mask as L, upright, on black; UserError if it cannot."""
    image = to_rgb(_read(source, "mask")).convert("RGBA")
    black = Image.new("RGBA", image.size, "black")
    return Image.alpha_composite(black, image).convert("L")


def decode_upright(content: bytes) -> Image.Image:
    """Decodes an image file, upright, in its own mode and colours; its EXIF is in `info`.

    Raises:
        UnusableImage: it is not an image, is damaged, or is too small or too large.
    """
    with opened(content) as image:
        return _upright(load(image, content))


def fit(image: Image.Image, size: tuple[int, int], option: str) -> Image.Image:
    """Resizes the image of an option to (width, height); UserError if its aspect ratio differs."""
    # Equal up to the rounding to whole pixels in the smaller of the two.
    excess = abs(image.width * size[1] - image.height * size[0])
    if excess > max(*size, *image.size):
        raise UserError(
            f"{option}: has {image.width}×{image.height} pixels, the content "
            f"{size[0]}×{size[1]}. Give an image of the same aspect ratio as the content."
        )
    # Unlike Lanczos, bilinear resampling does not overshoot.
    return image.resize(size, Image.Resampling.BILINEAR)


def to_tensor(image: Image.Image) -> Tensor:
    """An image of mode L or RGB as float32 [1, 1 or 3, H, W] in [0, 1]."""
    pixels = torch.from_numpy(np.array(image, np.float32)) / 255
    return pixels.reshape(1, image.height, image.width, -1).permute(0, 3, 1, 2).contiguous()


def to_uint8(image: Tensor) -> Tensor:
    """float32 [1, 3, H, W] in [0, 1] as uint8 [3, H, W]."""
    return (image[0].clamp(0, 1) * 255).round().byte()


def to_grey(image: Image.Image) -> Image.Image:
    """The luminance of an image, as RGB."""
    return image.convert("L").convert("RGB")


def finish(
    content: Content, painted: Tensor, keep_color: bool = False, mask: Image.Image | None = None
) -> Image.Image:
    """Makes the result of what was painted and what is kept of the content.

    Args:
        content: that was repainted.
        painted: float32 [1, 3, H, W] in [0, 1], sRGB.
        keep_color: take only the luminance from `painted`, and the colours from the content: the
            luminance-only transfer of Gatys et al. 2016 (arXiv:1606.05897), in YCbCr, whose
            luminance is that of their YIQ.
        mask: L; where it is black, the pixels are the content's.

    Returns:
        RGB, or RGBA if the content has transparency; profile and EXIF are in its `info`.
    """
    image = to_pil(to_uint8(painted))
    if keep_color:
        _, *colors = content.image.convert("YCbCr").split()
        image = Image.merge("YCbCr", [image.convert("L"), *colors]).convert("RGB")
    if content.profile:
        target = ImageCms.ImageCmsProfile(io.BytesIO(content.profile))
        if "sRGB" not in ImageCms.getProfileDescription(target):
            ImageCms.profileToProfile(image, SRGB, target, inPlace=True)
    if mask is not None:
        image = Image.composite(image, content.original, mask)
    if content.alpha is not None:
        image.putalpha(content.alpha)
    image.info = {ICC: content.profile} if content.profile else {}
    image.info[EXIF] = content.exif
    return image


def format_of(path: Path) -> Format:
    """The format of a result, by the suffix of its name; UserError if there is none."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"out: {path} must end in one of {', '.join(FORMATS)}.")
    return FORMATS[path.suffix.lower()]


def save(image: Image.Image, path: Path, settings: dict[str, Any]) -> None:
    """Writes a result atomically, in the format of its suffix.

    The settings are in its EXIF, as the user's comment, and in a PNG also in a text chunk.

    Args:
        image: as `finish` returns it.
        settings: plain values, which record how it was painted.

    Raises:
        UserError: it cannot be written.
    """
    form, text = format_of(path), json.dumps(settings)
    if form is JPEG and image.mode == "RGBA":
        print(f"{path}: JPEG has no transparency, so the result is on white.", file=sys.stderr)
        info, image = image.info, on_white(image)
        image.info = info
    exif = _with_settings(image.getexif(), text)
    if form is JPEG and len(exif) > JPEG_EXIF:
        print(f"{path}: JPEG has no room for the content's EXIF.", file=sys.stderr)
        exif = _with_settings(Image.Exif(), text)
        if len(exif) > JPEG_EXIF:
            print(f"{path}: JPEG has no room for the longest settings. PNG has.", file=sys.stderr)
            lengths = {key: len(json.dumps(value)) for key, value in settings.items()}
            short = {key: settings[key] for key in settings if lengths[key] <= LONGEST_SETTING}
            exif = _with_settings(Image.Exif(), json.dumps(short))
    chunk = PngInfo()  # other formats ignore it
    chunk.add_text(PROVENANCE, text)
    # Not straight into the file: Pillow would not report a full disk.
    buffer = io.BytesIO()
    profile = image.info.get(ICC)
    image.save(buffer, form.name, exif=exif, icc_profile=profile, pnginfo=chunk, **form.options)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def name_of(source: Source) -> str:
    """What an image is called in messages."""
    return "the image" if isinstance(source, Image.Image) else printable(str(source))


def _read(source: Source, option: str) -> Image.Image:
    if isinstance(source, Image.Image):
        try:
            return _upright(source)
        # Its file is read only now; if it is closed, Pillow may merely assert that it is open.
        except (OSError, SyntaxError, ValueError, AssertionError) as error:
            reason = str(error) or "its file is closed"
            raise UserError(f"{option}: the image cannot be used: {reason}.") from None
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"{option}: there is no image {name_of(source)}.")
    try:
        return decode_upright(path.read_bytes())
    except OSError as error:
        raise UserError(f"{option}: {name_of(source)} cannot be read ({error.strerror}).") from None
    except UnusableImage as unusable:
        raise UserError(f"{option}: {name_of(source)} cannot be used: {unusable}.") from None


def _with_settings(exif: Image.Exif, text: str) -> bytes:
    exif[Base.Software] = f"artgan {__version__}"
    exif.get_ifd(IFD.Exif)[Base.UserComment] = b"ASCII\0\0\0" + text.encode()
    return exif.tobytes()


def _upright(image: Image.Image) -> Image.Image:
    """Turns an image, and keeps its EXIF without thumbnail, orientation, size and layout."""
    upright = ImageOps.exif_transpose(image)
    kept = Image.Exif()
    try:
        exif = image.getexif()
        for tag, value in exif.items():
            if tag in DESCRIPTIVE or (tag >= 600 and tag not in OTHER):
                kept[tag] = value
        for part in (IFD.Exif, IFD.GPSInfo):
            kept.get_ifd(part).update(exif.get_ifd(part))
        for tag in OF_PIXELS:
            kept.get_ifd(IFD.Exif).pop(tag, None)
        content = kept.tobytes()
    except Exception:  # cameras and programs damage it in many ways
        content = b""
    upright.info[EXIF] = content if len(content) <= LARGEST_EXIF else b""
    return upright


def _rgb_profile(image: Image.Image) -> bytes | None:
    """The ICC profile of an image, if it is one of RGB colours."""
    content = image.info.get(ICC)
    if not content or image.mode not in ("RGB", "RGBA"):
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
    except (ImageCms.PyCMSError, OSError):
        return None
    return content if profile.profile.xcolor_space.strip() == "RGB" else None
