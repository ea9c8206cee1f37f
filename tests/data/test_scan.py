import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artgan.data.scan import UnusableImage, decode, find_images, square_transform


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def test_pictures_are_found_at_any_depth_in_a_fixed_order(tmp_path: Path) -> None:
    names = ["b.png", "a/z.JPG", "a/deep/er/山水.webp", "._b.png", ".hidden/c.png", "notes.txt"]
    for name in [*names, "__MACOSX/b.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.as_posix() for path in find_images(tmp_path)]
    assert found == ["a/deep/er/山水.webp", "a/z.JPG", "b.png"]


def test_a_linked_folder_that_leads_back_up_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "one.png").touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_images(tmp_path) == [Path("one.png")]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    assert find_images(tmp_path) == []


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (40, 20), "white")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert decode(encoded(image, "JPEG", exif=exif)).size == (20, 40)


def test_what_is_transparent_becomes_white() -> None:
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    assert decode(encoded(image)).getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "LA", "1"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = Image.new("RGB", (20, 20), (128, 128, 128)).convert(mode)
    assert decode(encoded(image, "TIFF")).mode == "RGB"


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.full((20, 20), 0x8080, np.uint16))
    assert decode(encoded(grey)).getpixel((0, 0)) == (0x80, 0x80, 0x80)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html></html>", "not a picture"),
        (encoded(Image.new("RGB", (8, 200))), "too small: 8×200"),
        (encoded(Image.effect_noise((99, 99), 50), "JPEG")[:2000], "damaged"),
        (encoded(Image.effect_noise((99, 99), 50), "PNG")[:2000], "damaged"),
    ],
    ids=["empty", "html", "small", "torn jpeg", "torn png"],
)
def test_a_file_that_cannot_be_used_gives_its_reason(content: bytes, reason: str) -> None:
    with pytest.raises(UnusableImage, match=reason):
        decode(content)


def test_the_middle_is_cut_out_of_the_resized_picture() -> None:
    image = Image.new("RGB", (300, 100), "black")
    image.paste("white", (100, 0, 200, 100))
    square = square_transform(50)(image)
    assert square.size == (50, 50)
    assert np.asarray(square)[:, 2:-2].min() == 255
