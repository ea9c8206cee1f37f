import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from artgan.data.border import find_frame
from artgan.inkwash import paint

WHITE, BLACK, SILK, BROWN = (255, 255, 255), (0, 0, 0), (196, 178, 120), (90, 30, 20)
BORDER = (7, 12, 20, 5)  # left, top, right, bottom
PAINTING = (BORDER[0], BORDER[1], BORDER[0] + 256, BORDER[1] + 256)


@pytest.fixture(scope="module")
def landscape() -> Image.Image:
    """An ink landscape, more than half of it blank paper."""
    return Image.fromarray(paint(0, 0))


def strokes(width: int, height: int) -> Image.Image:
    """A painting full of ink of every tone."""
    coarse = np.random.default_rng(1).integers(0, 200, (height // 8 + 1, width // 8 + 1, 3))
    return Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.Resampling.BOX)


def with_noise(image: Image.Image, most: int) -> Image.Image:
    noise = np.random.default_rng(2).integers(-most, most + 1, (image.height, image.width, 1))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("color", [WHITE, BLACK, SILK, BROWN, (242, 242, 242)])
def test_a_border_uneven_on_its_four_sides_is_found_to_the_pixel(
    landscape: Image.Image, color: tuple[int, int, int]
) -> None:
    assert find_frame(ImageOps.expand(landscape, BORDER, color)) == PAINTING


@pytest.mark.parametrize("index", [1, 2, 3])
def test_empty_paper_is_part_of_the_painting(index: int) -> None:
    painting = Image.fromarray(paint(0, index))
    assert find_frame(painting) is None
    assert find_frame(ImageOps.expand(painting, BORDER, BROWN)) == PAINTING


def test_a_small_painting_on_a_wide_mount_is_found(landscape: Image.Image) -> None:
    assert find_frame(ImageOps.expand(landscape, (99, 60, 70, 150), BROWN)) == (99, 60, 355, 316)


def test_nested_frames_are_trimmed_together(landscape: Image.Image) -> None:
    framed = landscape
    for border, color in [((9, 30, 8, 35), SILK), ((12, 11, 10, 13), WHITE), ((5, 4, 6, 3), BLACK)]:
        framed = ImageOps.expand(framed, border, color)
    assert find_frame(framed) == (26, 45, 26 + 256, 45 + 256)


def test_the_weave_of_silk_is_plain(landscape: Image.Image) -> None:
    assert find_frame(with_noise(ImageOps.expand(landscape, BORDER, SILK), 8)) == PAINTING


@pytest.mark.parametrize("quality", [40, 75, 95])
@pytest.mark.parametrize("color", [WHITE, BLACK, BROWN])
def test_after_jpeg_a_border_is_found_within_a_pixel(
    landscape: Image.Image, color: tuple[int, int, int], quality: int
) -> None:
    buffer = io.BytesIO()
    ImageOps.expand(landscape, BORDER, color).save(buffer, "JPEG", quality=quality)
    frame = find_frame(Image.open(buffer))
    assert frame is not None
    assert np.abs(np.subtract(frame, PAINTING)).max() <= 1


def test_borders_on_only_two_sides_are_trimmed(landscape: Image.Image) -> None:
    assert find_frame(ImageOps.expand(landscape, (40, 0, 40, 0), WHITE)) == (40, 0, 296, 256)
    assert find_frame(ImageOps.expand(landscape, (0, 90, 0, 30), WHITE)) == (0, 90, 256, 346)
    assert find_frame(ImageOps.expand(strokes(90, 70), (9, 8, 0, 0), WHITE)) == (9, 8, 99, 78)


@pytest.mark.parametrize("side", [0, 1])
def test_a_mirrored_image_has_the_mirrored_frame(landscape: Image.Image, side: int) -> None:
    framed = with_noise(ImageOps.expand(ImageOps.expand(landscape, 9, SILK), BORDER, WHITE), 3)
    frame = find_frame(framed)
    mirrored = find_frame((ImageOps.mirror, ImageOps.flip)[side](framed))
    assert frame is not None and mirrored is not None
    mirrored_back = list(mirrored)
    mirrored_back[side] = framed.size[side] - mirrored[side + 2]
    mirrored_back[side + 2] = framed.size[side] - mirrored[side]
    assert tuple(mirrored_back) == frame


def test_large_images_are_trimmed_a_little_too_much_rather_than_too_little() -> None:
    frame = find_frame(ImageOps.expand(strokes(1500, 900), (100, 63, 41, 50), WHITE))
    assert frame is not None
    too_tight = np.subtract(frame, (100, 63, 1600, 963)) * (1, 1, -1, -1)
    assert np.isin(too_tight, range(9)).all()  # the image is reduced by 4


def ink_where(mask: np.ndarray) -> Image.Image:
    """Empty paper, painted on where `mask` says."""
    paper = np.full((*mask.shape, 3), 240, np.uint8)
    paper[mask] = np.asarray(strokes(*mask.shape[::-1]))[mask]
    return Image.fromarray(paper)


ROWS, COLUMNS = np.indices((200, 200))


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(np.abs(COLUMNS - 90) < 2 * (ROWS - 60), id="a mountain"),
        pytest.param((ROWS > 60) & (np.abs(COLUMNS - 100) < 75 - ROWS // 2), id="a roof"),
        pytest.param((np.abs(COLUMNS - 170) < 6) & (ROWS % 18 < 12), id="a column of writing"),
    ],
)
def test_ink_on_empty_paper_is_not_an_edge(mask: np.ndarray, turns: int) -> None:
    assert find_frame(ink_where(np.rot90(mask, turns))) is None


@pytest.mark.parametrize("slope", [0.2, 1, 2, 5, 12])
def test_a_wash_that_darkens_steadily_is_not_a_border(slope: float) -> None:
    tones = 250 - slope * np.arange(min(200, 250 // slope))
    wash = Image.fromarray(tones.astype(np.uint8)[:, None]).convert("RGB").resize((180, len(tones)))
    assert find_frame(wash) is None
    assert find_frame(wash.transpose(Image.Transpose.ROTATE_90)) is None


@pytest.mark.parametrize("color", [WHITE, BLACK, SILK])
def test_an_image_of_one_colour_has_no_border(color: tuple[int, int, int]) -> None:
    assert find_frame(Image.new("RGB", (200, 150), color)) is None
    assert find_frame(with_noise(Image.new("RGB", (200, 150), color), 8)) is None


def test_a_very_thin_border_is_kept() -> None:
    assert find_frame(ImageOps.expand(strokes(60, 60), 1, WHITE)) is None
    assert find_frame(ImageOps.expand(strokes(400, 400), 3, WHITE)) is None


def test_nothing_is_trimmed_if_too_little_would_remain() -> None:
    assert find_frame(ImageOps.expand(strokes(12, 60), 10, WHITE)) is None
    assert find_frame(ImageOps.expand(strokes(60, 60), 80, WHITE)) is None


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 5), (16, 16), (17, 2), (600, 1), (2000, 17)])
def test_tiny_and_narrow_images_are_left_alone(size: tuple[int, int]) -> None:
    assert find_frame(strokes(*size)) is None
    assert find_frame(Image.new("RGB", size, WHITE)) is None
