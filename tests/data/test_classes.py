from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from artgan.data.classes import count_classes, one_hot
from artgan.data.inspection import Checkup
from artgan.data.pack import Pack
from artgan.errors import UserError
from tests.helpers import pack_of


def pack_from(*files: str) -> Pack:
    pack = pack_of(np.zeros((len(files), 2, 2, 3), np.uint8))
    return replace(pack, files=list(files), checkup=Checkup(Path("/mine"), [], [], {}))


def test_the_classes_are_the_first_subfolders_in_the_order_of_their_names() -> None:
    pack = pack_from("river/1.jpg", "人物/song/2.jpg", "landscape/3.jpg", "river/deep/4.jpg")
    assert list(count_classes(pack).items()) == [("landscape", 1), ("river", 2), ("人物", 1)]


def test_one_hot_numbers_follow_the_order_of_the_names() -> None:
    files = ["b/1.jpg", "c/a/2.jpg", "a/3.jpg"]
    expected = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32)
    found = one_hot(files, ["a", "b", "c"])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    assert one_hot(files, []).shape == (3, 0)


def test_a_painting_outside_any_subfolder_is_refused() -> None:
    with pytest.raises(UserError, match=r"^model.conditional: 2 .* of /mine, such as 0.jpg\. Give"):
        count_classes(pack_from("a/1.jpg", "7.jpg", "0.jpg", "0.jpg", "b/2.jpg"))


def test_a_single_class_is_refused() -> None:
    with pytest.raises(UserError, match="all paintings are in one subfolder of /mine, a"):
        count_classes(pack_from("a/1.jpg", "a/b/2.jpg"))
