import itertools

import numpy as np
import pytest
from PIL import Image

from artgan.data.crop import MOST_TILES, cut


def ruler(width: int, height: int) -> Image.Image:
    """An image whose red shows the place along the width, and green that along the height."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width).round()
    pixels[..., 1] = np.linspace(0, 255, height).round()[:, None]
    return Image.fromarray(pixels)


def test_the_middle_of_the_resized_image_is_cut() -> None:
    image = Image.new("RGB", (300, 100), "black")
    image.paste("white", (100, 0, 200, 100))
    (strip,) = cut(image, 50, "center")
    assert strip.rows.shape == (50, 50, 3)
    assert strip.rows[2:-2].min() == 255


def test_a_strip_lies_or_stands_like_its_image() -> None:
    (lying,) = cut(ruler(300, 100), 50, "center")
    (standing,) = cut(ruler(100, 300), 50, "center")
    assert (lying.lying, standing.lying) == (True, False)
    assert (
        np.ptp(lying.rows[:, 0, 1]) == 0
    )  # along the rows of a lying strip, the height is constant
    assert np.ptp(standing.rows[:, 0, 0]) == 0
    np.testing.assert_array_equal(lying.rows, standing.rows[..., [1, 0, 2]])


def test_the_whole_length_is_kept_for_crops_that_move() -> None:
    (strip,) = cut(ruler(300, 100), 50, "random")
    assert strip.rows.shape == (150, 50, 3)


@pytest.mark.parametrize(("width", "count"), [(100, 1), (130, 1), (200, 3), (400, 5), (5000, 12)])
def test_a_scroll_gives_a_limited_number_of_squares_from_end_to_end(width: int, count: int) -> None:
    strips = cut(ruler(width, 100), 50, "tiles")
    assert len(strips) == count <= MOST_TILES
    assert all(strip.rows.shape == (50, 50, 3) for strip in strips)
    if count > 1:
        assert strips[0].rows[0, 0, 0] < 3
        assert strips[-1].rows[-1, 0, 0] > 252


def test_neighbouring_squares_of_a_scroll_overlap() -> None:
    strips = cut(ruler(800, 100), 50, "tiles")
    for left, right in itertools.pairwise(strips):
        assert right.rows[0, 0, 0] < left.rows[-1, 0, 0]
