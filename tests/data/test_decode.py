import io
import os
import random
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from artgan import inkwash
from artgan.data.decode import DECODED_SIDE, UnusableImage, decode, find_images, opened

pillow_heif.register_heif_opener()
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF", "PPM", "TGA", "JPEG2000"]


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def painting(index: int = 0) -> Image.Image:
    return Image.fromarray(inkwash.paint(0, index))


def test_images_are_found_at_any_depth_in_a_fixed_order(tmp_path: Path) -> None:
    names = ["b.png", "a/z.JPG", "a/deep/er/山水.webp", "._b.png", ".hidden/c.png", "notes.txt"]
    for name in [*names, "__MACOSX/b.png", "a/readme"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found, others = find_images(tmp_path)
    assert found == ["a/deep/er/山水.webp", "a/z.JPG", "b.png"]
    assert others == {".txt": 1, "": 1}


def test_a_linked_folder_is_counted_but_not_followed(tmp_path: Path) -> None:
    (tmp_path / "one.png").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_images(tmp_path) == (["one.png"], {"linked folder": 1})


def test_a_folder_that_may_not_be_searched_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:
        # Root may search anything, so the test sets the system's answer.
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert find_images(tmp_path)[0] == ["closed"]


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_read(format: str) -> None:
    decoded = decode(encoded(painting(), format))
    difference = np.abs(np.asarray(decoded.image, int) - np.asarray(painting(), int))
    assert difference.mean() < 12
    assert (decoded.width, decoded.height) == painting().size
    assert decoded.format == format


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (40, 20), "white")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    decoded = decode(encoded(image, "JPEG", exif=exif))
    assert decoded.image.size == (decoded.width, decoded.height) == (20, 40)


def test_a_large_jpeg_is_reduced_while_decoding_and_described_by_its_true_size() -> None:
    large = painting().resize((4096, 2048))
    decoded = decode(encoded(large, "JPEG"))
    assert decoded.image.size == (2 * DECODED_SIDE, DECODED_SIDE)
    assert (decoded.width, decoded.height) == (4096, 2048)


def test_a_large_image_of_any_format_is_reduced_upright(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artgan.data.decode.DECODED_SIDE", 64)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    decoded = decode(encoded(painting().resize((400, 200)), "PNG", exif=exif))
    assert (decoded.width, decoded.height) == (200, 400)
    assert decoded.image.size == (67, 134)


def test_a_palette_with_more_transparencies_than_colours_is_decoded() -> None:
    content = encoded(painting().convert("P"))
    length, kind = (300).to_bytes(4, "big"), b"tRNS" + bytes(300)
    chunk = length + kind + zlib.crc32(kind).to_bytes(4, "big")
    at = content.index(b"IDAT") - 4
    with pytest.raises(UnusableImage, match="damaged"):
        decode(content[:at] + chunk + content[at:])


@pytest.mark.parametrize(("white", "expected"), [(1.0, 128), (255.0, 128), (60000.0, 117)])
def test_float_images_are_scaled(white: float, expected: int) -> None:
    levels = np.full((20, 20), white / 2, np.float32)
    levels[0, 0], levels[0, 1] = white, np.nan
    decoded = decode(encoded(Image.fromarray(levels), "TIFF"))
    assert decoded.image.getpixel((9, 9)) == (expected, expected, expected)


def test_transparent_parts_become_white() -> None:
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    assert decode(encoded(image)).image.getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "LA", "1"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = Image.new("RGB", (20, 20), (128, 128, 128)).convert(mode)
    decoded = decode(encoded(image, "TIFF"))
    assert (decoded.image.mode, decoded.mode) == ("RGB", mode)


def test_cmyk_jpeg_keeps_its_colours() -> None:
    red = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    assert decode(encoded(red, "JPEG")).image.getpixel((9, 9)) == pytest.approx((254, 0, 0), abs=3)


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.full((20, 20), 0x8080, np.uint16))
    assert decode(encoded(grey)).image.getpixel((0, 0)) == (0x80, 0x80, 0x80)


def test_the_first_frame_of_an_animation_is_used() -> None:
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(animation).image.getpixel((0, 0)) == (255, 0, 0)


def test_colours_are_converted_from_the_profile_in_the_file() -> None:
    # sRGB with red and green exchanged, under its own name.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"tmp!").replace(b"gXYZ", b"rXYZ").replace(b"tmp!", b"gXYZ")
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "sGRB".encode("utf-16-be"))
    image = Image.new("RGB", (20, 20), (255, 0, 0))
    decoded = decode(encoded(image, icc_profile=swapped))
    assert decoded.image.getpixel((0, 0)) == pytest.approx((0, 255, 0), abs=2)


def test_an_invalid_profile_is_ignored() -> None:
    image = Image.new("RGB", (20, 20), (10, 20, 30))
    assert decode(encoded(image, icc_profile=b"rubbish")).image.getpixel((0, 0)) == (10, 20, 30)


NOISE = Image.effect_noise((99, 99), 50)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b" <!DOCTYPE html><html></html>", "not an image but a web page"),
        (b"rubbish", "^not an image$"),
        (encoded(Image.new("RGB", (8, 200))), "too small: 8×200"),
        (encoded(NOISE, "JPEG")[:2000], "damaged"),
        (encoded(NOISE, "PNG")[:2000], "damaged"),
    ],
    ids=["empty", "html", "rubbish", "small", "torn jpeg", "torn png"],
)
def test_a_file_that_cannot_be_used_gives_its_reason(content: bytes, reason: str) -> None:
    with pytest.raises(UnusableImage, match=reason):
        decode(content)


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnusableImage, match="more pixels than is safe"):
        decode(encoded(NOISE))


def test_an_image_too_large_for_the_memory_is_not_called_damaged() -> None:
    refused = pytest.raises(UnusableImage, match="too large for this machine's memory")
    with refused, opened(encoded(painting())):
        bytearray(1 << 60)


def test_a_jpeg_whose_lower_half_would_be_grey_is_refused() -> None:
    content = bytearray(encoded(painting(), "JPEG"))
    middle = len(content) // 2
    content[middle : middle + 2] = b"\xff\xd9"  # marks the end of the image
    with Image.open(io.BytesIO(content)) as image:
        image.load()  # Pillow alone accepts it
    with pytest.raises(UnusableImage, match="damaged: Corrupt JPEG"):
        decode(bytes(content))


def test_a_few_stray_bytes_after_a_whole_jpeg_are_harmless() -> None:
    content = encoded(painting(), "JPEG")
    stray = content[:-2] + b"\x00\x00" + content[-2:]
    assert decode(stray).image.tobytes() == decode(content).image.tobytes()


def mutated(content: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(content)
    where = chance.randrange(len(content))
    match chance.randrange(4):
        case 0:
            damaged[where] ^= 1 << chance.randrange(8)
        case 1:
            for _ in range(5):
                damaged[chance.randrange(len(content))] = chance.randrange(256)
        case 2:
            del damaged[where:]
        case _:
            damaged[where : where + 300] = bytes(len(damaged[where : where + 300]))
    return bytes(damaged)


def half_is_lost(image: Image.Image, whole: Image.Image) -> bool:
    """Only the lower half has become plain."""

    def spreads(one: Image.Image) -> list[float]:
        halves = np.array_split(np.asarray(one), 2)
        return [float(half.reshape(-1, 3).std(0).max()) for half in halves]

    upper, lower = spreads(image)
    return lower < 1 < upper and spreads(whole)[1] > 5


def survive(seed: int, count: int) -> None:
    """Damages files in every format: each is refused with a reason, or no half of it is lost."""
    chance = random.Random(seed)
    for number in range(count):
        whole = painting(number % 8).resize((120, 120))
        content = mutated(encoded(whole, FORMATS[number % len(FORMATS)]), chance)
        try:
            decoded = decode(content)
        except UnusableImage as refused:
            assert str(refused)
        else:
            assert decoded.image.mode == "RGB"
            assert not half_is_lost(decoded.image, whole), (number, content[:16])


@pytest.mark.slow
def test_damaged_files_of_every_format_are_refused_or_whole() -> None:
    survive(seed=0, count=330)


@pytest.mark.weekly
def test_two_thousand_damaged_files_of_every_format_are_refused_or_whole() -> None:
    survive(seed=1, count=2000)
