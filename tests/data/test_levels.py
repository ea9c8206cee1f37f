"""Files of every depth and layout, read as by an independent reader or refused by name."""

import io
import re
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from artgan import inkwash
from artgan.data.decode import UnusableImage, decode
from tests.helpers import ROOT

Array = NDArray[Any]
COLORS = np.array(Image.fromarray(inkwash.paint(0, 0)).resize((48, 40)))
COLORS[..., 0] //= 2  # so that exchanged channels show
COLORS[0, 0] = 255
GREY = COLORS[..., 1]


def white_of(dtype: str) -> int:
    return 1 if dtype.startswith("f") else int(np.iinfo(dtype).max)


def numbers(levels: Array, dtype: str, white: float | None = None) -> Array:
    """Levels from 0 to 255 as numbers from 0 to white."""
    scaled = levels.astype(np.float64) * (white or white_of(dtype)) / 255
    return scaled.astype(dtype) if dtype.startswith("f") else np.rint(scaled).astype(dtype)


def with_alpha(levels: Array, count: int = 1) -> Array:
    levels = levels.reshape(*levels.shape[:2], -1)
    return np.concatenate([levels, *[np.full_like(levels[..., :1], 255)] * count], -1)


def tiff(levels: Array, photometric: str = "minisblack", **options: Any) -> bytes:
    if options.get("planarconfig") == "separate":
        levels = np.moveaxis(levels, -1, 0)
    file = io.BytesIO()
    tifffile.imwrite(file, levels, photometric=photometric, **options)
    return file.getvalue()


def png(levels: Array, bits: int = 16) -> bytes:
    """A PNG of 16 bits a channel, which Pillow writes only in grey."""
    levels = levels.reshape(*levels.shape[:2], -1)
    height, width, channels = levels.shape
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in levels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def pnm(levels: Array, white: int) -> bytes:
    kind, dtype = "P5" if levels.ndim == 2 else "P6", ">u2" if white > 255 else "u1"
    header = f"{kind} {levels.shape[1]} {levels.shape[0]} {white}\n"
    return header.encode() + numbers(levels, "u2", white).astype(dtype).tobytes()


def saved(mode: str, format: str, **options: Any) -> Callable[[], bytes]:
    def content() -> bytes:
        file = io.BytesIO()
        image = Image.fromarray(COLORS)
        if mode == "LAB":
            srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
            image = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB") or image
        elif mode == "I;16":
            image = Image.fromarray(numbers(GREY, "u2"))
        else:
            image = image.convert(mode)
        image.save(file, format, **options)
        return file.getvalue()

    return content


ALPHA: dict[str, Any] = {"extrasamples": ["unassalpha"]}
APART: dict[str, Any] = {"planarconfig": "separate"}
MORE: dict[str, Any] = {"extrasamples": ["unspecified"] * 2}
INKS = np.asarray(Image.fromarray(COLORS).convert("CMYK"))


# All in little-endian order, uncompressed.
LAYOUTS: dict[str, Callable[[str], bytes]] = {
    "grey": lambda dtype: tiff(numbers(GREY, dtype)),
    "grey, white is zero": lambda dtype: tiff(
        (white_of(dtype) - numbers(GREY, dtype)).astype(dtype), "miniswhite"
    ),
    "grey with alpha": lambda dtype: tiff(numbers(with_alpha(GREY), dtype), **ALPHA),
    "RGB": lambda dtype: tiff(numbers(COLORS, dtype), "rgb"),
    "RGB, channels apart": lambda dtype: tiff(numbers(COLORS, dtype), "rgb", **APART),
    "RGBA": lambda dtype: tiff(numbers(with_alpha(COLORS), dtype), "rgb", **ALPHA),
    "RGBA, channels apart": lambda dtype: tiff(
        numbers(with_alpha(COLORS), dtype), "rgb", **ALPHA, **APART
    ),
    "RGB and 2 more": lambda dtype: tiff(numbers(with_alpha(COLORS, 2), dtype), "rgb", **MORE),
    "CMYK": lambda dtype: tiff(numbers(INKS, dtype), "separated"),
    "CMYK, channels apart": lambda dtype: tiff(numbers(INKS, dtype), "separated", **APART),
}
DEPTHS = {
    "u1": "8-bit",
    "u2": "16-bit",
    "u4": "32-bit",
    "i1": "8-bit signed",
    "i2": "16-bit signed",
    "i4": "32-bit signed",
    "f2": "16-bit float",
    "f4": "32-bit float",
    "f8": "64-bit float",
}
KINDS: dict[str, dict[str, Callable[[], bytes]]] = {
    "TIFF": {mode: saved(mode, "TIFF") for mode in ("1", "P", "YCbCr", "LAB")}
    | {
        "BigTIFF": lambda: tiff(COLORS, "rgb", bigtiff=True),
        "BigTIFF, big-endian": lambda: tiff(COLORS, "rgb", bigtiff=True, byteorder=">"),
        "32-bit grey of 0 to 255": lambda: tiff(numbers(GREY, "u4", 255)),
        "32-bit grey of 0 to 100,000": lambda: tiff(numbers(GREY, "u4", 100_000)),
        "32-bit float grey of 0 to 255": lambda: tiff(numbers(GREY, "f4", 255)),
        "32-bit float grey of 0 to 3": lambda: tiff(numbers(GREY, "f4", 3)),
        "32-bit float grey of -1 to 1": lambda: tiff(numbers(GREY, "f4", 2) - 1),
        "32-bit signed grey of -200 to 200": lambda: tiff(numbers(GREY, "i4", 400) - 200),
    },
    "PNG": {mode: saved(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")}
    | {
        "16-bit grey": lambda: png(numbers(GREY, "u2")),
        "16-bit grey of 8 bits": lambda: png(numbers(GREY, "u2", 255)),
        "16-bit grey of 10 bits": lambda: png(numbers(GREY, "u2", 1023)),
        "16-bit grey of 12 bits": lambda: png(numbers(GREY, "u2", 4095)),
        "16-bit grey of 14 bits": lambda: png(numbers(GREY, "u2", 2**14 - 1)),
        "16-bit grey with alpha": lambda: png(numbers(with_alpha(GREY), "u2")),
        "16-bit RGB": lambda: png(numbers(COLORS, "u2")),
        "16-bit RGB of 8 bits": lambda: png(numbers(COLORS, "u2", 255)),
        "16-bit RGB of 12 bits": lambda: png(numbers(COLORS, "u2", 4095)),
        "16-bit RGB of 14 bits": lambda: png(numbers(COLORS, "u2", 2**14 - 1)),
        "16-bit RGBA": lambda: png(numbers(with_alpha(COLORS), "u2")),
    },
    "PGM and PPM": {
        f"{bits}-bit {name}": partial(pnm, levels, 2**bits - 1)
        for name, levels in (("grey", GREY), ("RGB", COLORS))
        for bits in (8, 12, 16)
    },
    "JPEG": {mode: saved(mode, "JPEG", quality=100) for mode in ("L", "RGB", "CMYK", "YCbCr")},
    "JPEG 2000": {mode: saved(mode, "JPEG2000") for mode in ("L", "I;16", "RGB", "RGBA", "CMYK")},
    "WebP": {mode: saved(mode, "WEBP", lossless=True) for mode in ("RGB", "RGBA")},
    "BMP": {mode: saved(mode, "BMP") for mode in ("1", "L", "P", "RGB")},
    "TGA": {mode: saved(mode, "TGA") for mode in ("L", "LA", "P", "RGB", "RGBA")},
    "GIF": {mode: saved(mode, "GIF") for mode in ("L", "P")},
    "AVIF": {mode: saved(mode, "AVIF", quality=100) for mode in ("RGB", "RGBA")},
}
# Mean distance of what is lossy, or keeps less than `COLORS`.
ROUGH = {"P": 25, "LAB": 2, "YCbCr": 2, "CMYK": 2, "JPEG": 4, "AVIF": 4, "GIF": 25}


def outcome(container: str, kind: str) -> str:
    """Read, with the right pixels, or the reason why not."""
    try:
        image = decode(KINDS[container][kind]()).image
    except UnusableImage as refused:
        return re.sub(r": (from|1 chan|3 chan).*?;", ";", f"refused: {refused}")
    if kind == "1":
        wanted = np.asarray(Image.fromarray(COLORS).convert("1").convert("RGB"), int)
    elif kind in ("L", "LA"):
        wanted = np.asarray(Image.fromarray(COLORS).convert("L"), int)[..., None]
    else:
        wanted = (GREY[..., None] if "grey" in kind or kind == "I;16" else COLORS).astype(int)
    distance = np.abs(np.asarray(image, int) - wanted)
    rough = ROUGH.get(container, ROUGH.get(kind))
    assert distance.max() <= 1 if rough is None else distance.mean() <= rough, (container, kind)
    return "read"


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tiff_is_as_an_independent_reader_has_it_or_refused(layout: str, dtype: str) -> None:
    content = LAYOUTS[layout](dtype)
    levels = tifffile.imread(io.BytesIO(content)).astype(np.float64)
    expected = np.rint(levels / white_of(dtype) * 255).astype(int)
    if "apart" in layout:
        expected = np.moveaxis(expected, 0, -1)
    if "white is zero" in layout:
        expected = 255 - expected
    if "CMYK" in layout:
        image = Image.fromarray(expected.astype(np.uint8), "CMYK")
        expected = np.asarray(image.convert("RGB"), int)
    expected = np.atleast_3d(expected)[..., : 1 if "grey" in layout else 3]
    try:
        found = np.asarray(decode(content).image, int)
    except UnusableImage as refused:
        assert str(refused).startswith("a kind of TIFF that is not read: ")
    else:
        assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    ("levels", "options"),
    [
        (GREY, {"photometric": "minisblack"}),
        (COLORS, {"photometric": "rgb"}),
        (COLORS, {"photometric": "rgb", **APART}),
        (with_alpha(COLORS), {"photometric": "rgb", **APART, **ALPHA}),
    ],
    ids=["grey", "RGB", "apart", "RGBA apart"],
)
def test_16_bits_are_read_in_every_layout(
    levels: Array, options: dict[str, Any], byteorder: str, tile: Any, compression: str | None
) -> None:
    content = tiff(
        numbers(levels, "u2"), byteorder=byteorder, tile=tile, compression=compression, **options
    )
    expected = COLORS if options["photometric"] == "rgb" else np.repeat(GREY[..., None], 3, 2)
    np.testing.assert_array_equal(decode(content).image, expected)


def test_what_is_no_number_is_black_and_infinity_white() -> None:
    levels = numbers(GREY, "f4")
    levels[5, :3] = np.nan, np.inf, -np.inf
    expected = GREY.copy()
    expected[5, :3] = 0, 255, 0
    np.testing.assert_array_equal(np.asarray(decode(tiff(levels)).image)[..., 0], expected)


@pytest.mark.parametrize(("least", "most"), [(-0.05, 1.05), (0, 1.09), (0, 1), (0, 0.01)])
def test_floating_point_levels_may_overshoot(least: float, most: float) -> None:
    levels = np.linspace(least, most, 900, dtype=np.float32).reshape(30, 30)
    expected = np.rint(np.clip(levels, 0, 1) * 255)
    np.testing.assert_array_equal(np.asarray(decode(tiff(levels)).image)[..., 0], expected)


def test_a_transparent_level_of_16_bits_becomes_white() -> None:
    content = png(numbers(GREY, "u2"))
    at = content.index(b"IDAT") - 4
    body = b"tRNS" + struct.pack(">H", int(GREY[9, 9]) * 257)
    chunk = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    expected = np.where(GREY[9, 9] == GREY, 255, GREY)
    found = np.asarray(decode(content[:at] + chunk + content[at:]).image)[..., 0]
    np.testing.assert_array_equal(found, expected)


def test_a_white_drawing_on_transparency_is_named() -> None:
    drawing = Image.new("RGBA", (40, 30), (255, 255, 255, 0))
    drawing.paste("white", (5, 5, 30, 20))
    file = io.BytesIO()
    drawing.save(file, "PNG")
    with pytest.raises(UnusableImage, match="white on transparency, which becomes white"):
        decode(file.getvalue())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "BMP", "JPEG2000", "PPM", "TGA", "PNG"])
def test_a_dark_image_is_read_as_it_is(kind: str) -> None:
    dark = Image.fromarray(np.linspace(20, 60, 64 * 64).astype(np.uint8).reshape(64, 64))
    file = io.BytesIO()
    dark.convert("RGB").save(file, kind)
    read = np.asarray(decode(file.getvalue()).image.convert("L"))
    np.testing.assert_allclose(read, np.asarray(dark), atol=4)


@pytest.mark.parametrize("kind", ["WEBP", "TGA", "PNG", "TIFF"])
def test_black_ink_on_transparency_is_read_on_white(kind: str) -> None:
    ink = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    ink.paste("black", (5, 5, 30, 20))
    file = io.BytesIO()
    ink.save(file, kind, lossless=True)
    grey = np.asarray(decode(file.getvalue()).image.convert("L"))
    assert (grey[10, 10], grey[25, 35]) == (0, 255)


def test_a_torn_tiff_is_called_damaged() -> None:
    content = tiff(numbers(COLORS, "f4"), "rgb")
    with pytest.raises(UnusableImage, match="damaged: the directory of this TIFF"):
        decode(content[:40])


def test_an_unknown_compression_of_a_tiff_is_named() -> None:
    content = tiff(COLORS, "rgb")
    tag = struct.pack("<HHII", 259, 3, 1, 1)  # compression: none
    assert content.count(tag) == 1
    with pytest.raises(UnusableImage, match=r"a kind of TIFF .*: compressed by method 34887; save"):
        decode(content.replace(tag, struct.pack("<HHII", 259, 3, 1, 34887)))


def tables() -> str:
    """What is done with each kind of file, as tables for the documentation."""

    def is_read(content: bytes) -> bool:
        with suppress(UnusableImage):
            return bool(decode(content))
        return False

    lines = [f"| TIFF | {' | '.join(DEPTHS.values())} |", "|---" * (len(DEPTHS) + 1) + "|"]
    for layout, content in LAYOUTS.items():
        cells = ["read" if is_read(content(dtype)) else "–" for dtype in DEPTHS]
        lines.append(f"| {layout} | {' | '.join(cells)} |")
    lines += ["", "| file | kind | result |", "|---|---|---|"]
    for container, kinds in KINDS.items():
        results = [(outcome(container, kind), kind) for kind in kinds]
        for result in dict.fromkeys(result for result, _ in results):
            names = "; ".join(kind for one, kind in results if one == result)
            lines.append(f"| {container} | {names} | {result} |")
    return "\n".join(lines)


def test_the_documentation_lists_what_is_done_with_each_kind() -> None:
    assert tables() in (ROOT / "docs" / "datasets.md").read_text("utf-8")
