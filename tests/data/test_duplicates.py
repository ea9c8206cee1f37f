import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from artgan import inkwash
from artgan.data.duplicates import ALIKE, SIDE, Sketch, fingerprint, group, likeness, sketch


def painting(index: int) -> Image.Image:
    return Image.fromarray(inkwash.paint(3, index)).convert("RGB").resize((200, 160))


def saved_poorly(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=20)
    return Image.open(buffer)


SAME: dict[str, Callable[[Image.Image], Image.Image]] = {
    "poorer": saved_poorly,
    "smaller": lambda image: image.resize((90, 72)),
    "stretched": lambda image: image.resize((200, 150)),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.85),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "cropped": lambda image: image.crop((3, 2, 198, 158)),
}


def groups(images: list[Image.Image]) -> list[list[int]]:
    contents = [str(number) for number in range(len(images))]
    return group(contents, [fingerprint(image) for image in images], lambda n: sketch(images[n]))


@pytest.mark.parametrize("how", SAME)
def test_the_same_image_in_another_form_is_found(how: str) -> None:
    others = [painting(index) for index in range(1, 12)]
    assert groups([painting(0), *others, SAME[how](painting(0))]) == [[0, 12]]


def test_different_paintings_are_not_duplicates() -> None:
    assert groups([painting(index) for index in range(60)]) == []


def test_two_paintings_on_the_same_mount_are_not_duplicates() -> None:
    on_mount = []
    for index in (0, 1):
        mount = Image.new("RGB", (300, 300), "black")
        mount.paste(painting(index).resize((240, 90)), (30, 105))
        on_mount.append(mount)
    coarse = [np.asarray(image.convert("L").resize((32, 32)), float).ravel() for image in on_mount]
    assert np.corrcoef(coarse)[0, 1] > 0.95
    assert likeness(*map(sketch, on_mount)) < ALIKE


@pytest.mark.parametrize(("factor", "pale"), [(0.03, 0), (0.06, 0), (0.03, 247), (0.06, 239)])
def test_images_too_dark_or_pale_to_show_anything_are_alike_only_if_they_are_the_same(
    factor: float, pale: int
) -> None:
    def faint(index: int, size: tuple[int, int] = (200, 160)) -> Image.Image:
        image = painting(index).resize(size)
        return image.point(lambda level: round(pale + factor * level))

    first, *others = (sketch(faint(index)) for index in range(12))
    assert likeness(first, sketch(faint(0, (150, 120)))) >= ALIKE
    assert max(likeness(first, other) for other in others) < ALIKE
    assert groups([faint(0), faint(0, (150, 120))]) == [[0, 1]]


@pytest.mark.filterwarnings("error")
def test_any_two_sketches_can_be_compared() -> None:
    ramp = np.linspace(0, 1, SIDE**2).reshape(SIDE, SIDE)
    dot = np.zeros((SIDE, SIDE), np.uint8)
    dot[5, 5] = 255
    levels = [np.full((SIDE, SIDE), level, np.uint8) for level in (0, 128, 255)]
    soft = [(ramp * height).astype(np.uint8) for height in (1, 2, 20, 255)]
    sketches = [*levels, *soft, dot, sketch(painting(0))]
    table = np.array([[likeness(one, two) for two in sketches] for one in sketches])
    assert (np.abs(table) <= 1 + 1e-5).all()  # and so none is NaN
    assert (table[:3] == 0).all()
    assert (table[:, :3] < ALIKE).all()


def test_an_image_is_wholly_like_itself() -> None:
    same = sketch(painting(0))
    assert likeness(same, same) == pytest.approx(1, abs=1e-5)


def test_files_with_the_same_content_are_one_group_without_being_decoded() -> None:
    def never(number: int) -> Sketch:
        raise AssertionError(number)

    assert group(["a", "b", "a", "a"], [0, 2**63 - 1, 0, 0], never) == [[0, 2, 3]]


def test_a_chain_of_likeness_is_one_group() -> None:
    first = painting(0)
    assert groups([saved_poorly(first), first, SAME["smaller"](first)]) == [[0, 1, 2]]


def test_the_hash_has_a_bit_for_each_low_frequency_above_the_median() -> None:
    x = (np.arange(32) + 0.5) * np.pi / 32
    wave = np.cos(3 * x)[None, :] + 0 * x[:, None]  # frequency (0, 3) alone
    image = Image.fromarray((127.5 + 100 * wave).round().astype(np.uint8))
    bits = f"{fingerprint(image):064b}"
    assert bits[2] == "1"  # (0, 3), as the mean, (0, 0), is left out
    assert bits[63] == "0"
