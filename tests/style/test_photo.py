import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin

from artgan import inkwash
from artgan.errors import UserError
from artgan.images import read_provenance
from artgan.style.photo import (
    FORMATS,
    Content,
    finish,
    fit,
    format_of,
    read_content,
    save,
    to_tensor,
    to_uint8,
)

# Files of each mode of Pillow.
MODES = [
    *((mode, ".png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *((mode, ".tif") for mode in ("CMYK", "F", "RGBA", "I;16")),
    ("CMYK", ".jpg"),
    ("RGBA", ".webp"),
    ("RGB", ".bmp"),
    ("P", ".gif"),
    ("RGB", ".avif"),
    ("RGB", ".jp2"),
]


def photo(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(inkwash.paint(0, 3)).resize((width, height))


def with_alpha(width: int = 60, height: int = 40) -> Image.Image:
    image = photo(width, height)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def in_mode(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(photo().convert("L"), np.uint16) * 257)
    image = with_alpha() if mode in ("LA", "RGBA") else photo()
    return image.convert(mode)


def exif(orientation: int = 1) -> bytes:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    tags[ExifTags.Base.Make] = "Camera"
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.5
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = 9999
    tags.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    return tags.tobytes()


@cache  # it contains the time at which it was made
def other_profile() -> bytes:
    """sRGB with the primaries of red and green exchanged, under another name."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"tmp!").replace(b"gXYZ", b"rXYZ").replace(b"tmp!", b"gXYZ")
    return swapped.replace("sRGB".encode("utf-16-be"), "sGRB".encode("utf-16-be"))


def unchanged(content: Content, **options: object) -> Image.Image:
    """The result of a method that changes nothing."""
    return finish(content, to_tensor(content.image), **options)  # type: ignore[arg-type]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, int)


@pytest.mark.parametrize(("mode", "ending"), MODES)
def test_every_mode_is_read_and_its_transparency_restored(
    tmp_path: Path, mode: str, ending: str
) -> None:
    in_mode(mode).save(tmp_path / f"photo{ending}")
    content = read_content(tmp_path / f"photo{ending}")
    assert (content.image.mode, content.image.size) == ("RGB", (60, 40))
    expected = in_mode(mode).convert("RGBA" if "A" in mode else "RGB")
    if mode == "I;16":
        expected = photo().convert("L").convert("RGB")
    elif mode == "F":
        expected = photo().convert("F").convert("RGB")
    result = unchanged(content)
    assert result.mode == expected.mode
    if "A" in mode:
        np.testing.assert_array_equal(result.getchannel("A"), expected.getchannel("A"))
    seen = pixels(expected)[..., -1:] > 0 if "A" in mode else True
    difference = np.abs(pixels(result)[..., :3] - pixels(expected)[..., :3]) * seen
    assert difference.mean() < 4


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("source", [".png", ".jpg", ".tif", ".webp"])
def test_a_result_keeps_the_exif_and_profile_and_is_upright(
    tmp_path: Path, source: str, ending: str
) -> None:
    photo().save(tmp_path / f"photo{source}", exif=exif(orientation=6), icc_profile=other_profile())
    path = tmp_path / f"result{ending}"
    save(unchanged(read_content(tmp_path / f"photo{source}")), path, {"seed": 7})
    with Image.open(path) as result:
        assert result.size == (40, 60)
        tags = result.getexif()
        assert tags[ExifTags.Base.Make] == "Camera"
        assert ExifTags.Base.Orientation not in tags
        taken = tags.get_ifd(ExifTags.IFD.Exif)
        assert taken[ExifTags.Base.ExposureTime] == 0.5
        assert ExifTags.Base.ExifImageWidth not in taken
        assert tags.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
        assert taken[ExifTags.Base.UserComment] == b'ASCII\0\0\0{"seed": 7}'
        assert result.info["icc_profile"] == other_profile()
    if ending == ".png":
        assert read_provenance(path) == {"seed": 7}


@pytest.mark.parametrize("size", [37, 60, 120])
def test_the_long_side_has_the_size_asked_for(size: int) -> None:
    wide, tall = (read_content(photo(*shape), size) for shape in [(60, 40), (40, 60)])
    assert wide.image.size == (size, round(size * 40 / 60))
    assert tall.image.size == (round(size * 40 / 60), size)


def test_a_result_that_would_be_too_narrow_is_refused() -> None:
    with pytest.raises(UserError, match="size: 64 would make the image 64×3 pixels"):
        read_content(photo(400, 20), 64)


def test_colours_of_transparent_pixels_do_not_spread() -> None:
    image = Image.new("RGBA", (80, 80), (255, 0, 0, 255))
    image.paste((0, 0, 255, 0), (0, 0, 40, 80))
    content = read_content(image, 33)
    assert content.alpha is not None
    shown = pixels(content.image)[pixels(content.alpha) > 0]
    assert (np.abs(shown - [255, 0, 0]) <= 8).all()
    assert (pixels(content.image)[pixels(content.alpha) == 0] == 255).all()


def test_results_have_the_profile_of_the_content(tmp_path: Path) -> None:
    """What is shown as green is painted as green, and stored in the profile's colours."""
    image = Image.new("RGB", (20, 20), (250, 10, 10))
    image.save(tmp_path / "photo.png", icc_profile=other_profile())
    content = read_content(tmp_path / "photo.png")
    np.testing.assert_allclose(pixels(content.image)[0, 0], (10, 250, 10), atol=2)
    result = unchanged(content)
    np.testing.assert_allclose(pixels(result)[0, 0], (250, 10, 10), atol=3)
    assert result.info["icc_profile"] == other_profile()


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_profile_of_other_colours_than_rgb_is_not_kept(tmp_path: Path, mode: str) -> None:
    photo().convert(mode).save(tmp_path / "photo.tif", icc_profile=other_profile())
    assert "icc_profile" not in unchanged(read_content(tmp_path / "photo.tif")).info


def test_an_invalid_profile_is_ignored(tmp_path: Path) -> None:
    photo().save(tmp_path / "photo.png", icc_profile=b"rubbish")
    result = unchanged(read_content(tmp_path / "photo.png"))
    assert "icc_profile" not in result.info
    np.testing.assert_array_equal(result, photo())


def test_tags_of_the_layout_of_a_tiff_are_not_kept(tmp_path: Path) -> None:
    photo().save(tmp_path / "photo.tif", exif=exif())
    save(unchanged(read_content(tmp_path / "photo.tif")), tmp_path / "result.jpg", {})
    with Image.open(tmp_path / "result.jpg") as result:
        pointers = {ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo}
        kept = {ExifTags.Base.Make, ExifTags.Base.Software, *pointers}
        assert set(result.getexif()) == kept


@pytest.mark.parametrize("tags", [exif()[:60], exif() + bytes(70_000)])
def test_a_result_is_written_without_exif_that_cannot_be_kept(tmp_path: Path, tags: bytes) -> None:
    photo().save(tmp_path / "photo.png", exif=tags)
    save(unchanged(read_content(tmp_path / "photo.png")), tmp_path / "result.jpg", {"a": 1})
    with Image.open(tmp_path / "result.jpg") as result:
        comment = result.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert json.loads(comment.removeprefix(b"ASCII\0\0\0")) == {"a": 1}


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"a": "x" * 10_000}, {"a": "x" * 10_000}),
        ({"style": ["name"] * 20_000, "seed": 7}, {"seed": 7}),
    ],
)
def test_a_jpeg_is_written_without_settings_that_are_too_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, object], kept: object
) -> None:
    tags = Image.Exif()
    tags[ExifTags.Base.ImageDescription] = "y" * 58_000
    photo().save(tmp_path / "photo.png", exif=tags.tobytes())
    save(unchanged(read_content(tmp_path / "photo.png")), tmp_path / "result.jpg", settings)
    assert "result.jpg: JPEG has no room for" in capsys.readouterr().err
    with Image.open(tmp_path / "result.jpg") as result:
        comment = result.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert json.loads(comment.removeprefix(b"ASCII\0\0\0")) == kept


def test_a_jpeg_has_full_colour_resolution_and_white_for_transparency(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    save(unchanged(read_content(clear)), tmp_path / "result.JPG", {})
    assert "JPEG has no transparency" in capsys.readouterr().err
    with Image.open(tmp_path / "result.JPG") as result:
        assert JpegImagePlugin.get_sampling(result) == 0
        assert result.getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize("profile", [None, other_profile()])
def test_outside_the_mask_the_pixels_are_the_contents(
    tmp_path: Path, profile: bytes | None
) -> None:
    photo().save(tmp_path / "photo.png", icc_profile=profile)
    content = read_content(tmp_path / "photo.png")
    mask = Image.new("L", (60, 40))
    mask.paste(255, (30, 0, 60, 40))
    mask.paste(128, (20, 0, 30, 40))
    black = torch.zeros(1, 3, 40, 60)
    result = pixels(finish(content, black, mask=mask))
    np.testing.assert_array_equal(result[:, :20], pixels(photo())[:, :20])
    np.testing.assert_array_equal(result[:, 30:], 0)
    np.testing.assert_allclose(result[:, 20:30], pixels(photo())[:, 20:30] / 2, atol=1)


def test_the_contents_colours_are_kept_under_the_new_luminance() -> None:
    muted = Image.blend(photo(), Image.new("RGB", (60, 40), (128, 128, 128)), 0.5)
    content = read_content(muted)
    painted = Image.new("RGB", (60, 40), (100, 120, 90))
    result = finish(content, to_tensor(painted), keep_color=True).convert("YCbCr")
    luminance, *colors = (pixels(channel) for channel in result.split())
    np.testing.assert_allclose(luminance, pixels(painted.convert("L")), atol=2)
    for color, own in zip(colors, content.image.convert("YCbCr").split()[1:], strict=True):
        np.testing.assert_allclose(color, pixels(own), atol=3)


def test_images_become_tensors_and_back_without_loss() -> None:
    tensor = to_tensor(photo())
    assert (tensor.shape, tensor.dtype) == ((1, 3, 40, 60), torch.float32)
    np.testing.assert_array_equal(to_uint8(tensor).permute(1, 2, 0), photo())
    assert to_tensor(photo().convert("L")).shape == (1, 1, 40, 60)
    assert to_uint8(torch.tensor([-1, 2, 0.5]).view(1, 3, 1, 1)).flatten().tolist() == [
        0,
        255,
        128,
    ]


def test_images_are_fitted_unless_their_aspect_ratio_differs() -> None:
    for size in [(30, 20), (61, 40), (120, 80)]:
        assert fit(photo(*size), (60, 40), "mask").size == (60, 40)
    with pytest.raises(UserError, match="mask: has 64×40 pixels, the content 60×40"):
        fit(photo(64, 40), (60, 40), "mask")


def test_an_unknown_suffix_is_refused() -> None:
    with pytest.raises(UserError, match=r"out: result.gif must end in one of .png, .jpg"):
        format_of(Path("result.gif"))


def test_a_full_disk_is_one_clear_message(
    small_disk: Callable[[str], Path],
) -> None:
    disk = small_disk("64k")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    with pytest.raises(UserError, match="the disk is full"):
        save(noise, disk / "result.png", {})
    assert not list(disk.iterdir())


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("text")
    buffer = io.BytesIO()
    photo().save(buffer, "PNG")
    (tmp_path / "torn.png").write_bytes(buffer.getvalue()[:500])
    for name, reason in [
        ("none.jpg", "there is no image"),
        ("text.jpg", "cannot be used: "),
        ("torn.png", "cannot be used: damaged"),
    ]:
        with pytest.raises(UserError, match=f"content: .*{name}.*{reason}|{reason} .*{name}"):
            read_content(tmp_path / name)
