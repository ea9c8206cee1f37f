import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from artgan import inkwash
from artgan.errors import UserError
from artgan.images import to_pil
from artgan.painter import draw_inputs, load_painter, paint
from artgan.style.inputs import load_style, mean_statistics, partition, short_name
from tests.helpers import make_run


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five paintings of different sizes, one of them in a folder below."""
    for index in range(5):
        path = tmp_path / "paintings" / ("deep" if index == 4 else "") / f"{index}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(inkwash.paint(0, index)).resize((40 + index, 30)).save(path)
    return tmp_path / "paintings"


def mean_color(image: Image.Image) -> dict[str, Tensor]:
    return {"color": torch.from_numpy(np.asarray(image, np.float32).mean((0, 1)))}


def colors_of(folder: Path) -> np.ndarray:
    files = sorted(folder.rglob("*.png"))
    return np.stack([np.asarray(Image.open(file), float).mean((0, 1)) for file in files])


def test_the_key_of_an_image_depends_on_its_pixels(folder: Path) -> None:
    styles = [load_style(str(folder / f"{index}.png"), seed=0) for index in (0, 1, 0)]
    assert (styles[0].name, styles[0].count) == ("0", 1)
    (image,) = styles[0].images()
    np.testing.assert_array_equal(image, Image.open(folder / "0.png"))
    assert styles[0].key == styles[2].key == load_style(image, seed=0).key
    assert styles[0].key not in (styles[1].key, styles[0].in_grey().key)


def test_a_style_in_grey_has_only_luminance(folder: Path) -> None:
    (grey,) = load_style(str(folder / "0.png"), 0).in_grey().images()
    expected = np.asarray(Image.open(folder / "0.png").convert("L"))
    for channel in range(3):
        np.testing.assert_array_equal(np.asarray(grey)[..., channel], expected)


def test_statistics_of_a_folder_are_the_mean_over_its_images(folder: Path) -> None:
    style = load_style(str(folder), seed=0)
    assert (style.name, style.count) == ("paintings", 5)
    means = mean_statistics(style, mean_color, "color")
    assert means["color"].dtype == torch.float32
    np.testing.assert_allclose(means["color"], colors_of(folder).mean(0), rtol=1e-6)


def refuse(image: Image.Image) -> dict[str, Tensor]:
    raise AssertionError("computed again")


def test_statistics_are_computed_once_for_each_folder_and_key(folder: Path, tmp_path: Path) -> None:
    before = mean_statistics(load_style(str(folder), 0), mean_color, "color")
    folder.rename(tmp_path / "elsewhere")
    moved = load_style(str(tmp_path / "elsewhere"), 0)
    assert torch.equal(mean_statistics(moved, refuse, "color")["color"], before["color"])
    with pytest.raises(AssertionError, match="computed again"):
        mean_statistics(moved, refuse, "another")
    (tmp_path / "elsewhere" / "0.png").unlink()
    with pytest.raises(AssertionError, match="computed again"):
        mean_statistics(load_style(str(tmp_path / "elsewhere"), 0), refuse, "color")


def test_statistics_of_an_image_are_computed_once_also_in_grey(folder: Path) -> None:
    style = load_style(str(folder / "0.png"), 0)
    color = mean_statistics(style, mean_color, "color")["color"]
    grey = mean_statistics(style.in_grey(), mean_color, "color")["color"]
    assert grey.unique().numel() == 1
    assert torch.equal(mean_statistics(style, refuse, "color")["color"], color)
    assert torch.equal(mean_statistics(style.in_grey(), refuse, "color")["color"], grey)
    with pytest.raises(AssertionError, match="computed again"):
        mean_statistics(style, refuse, "another")


def test_the_key_of_a_folder_is_found_without_reading_its_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_style(str(folder), 0).key
    with monkeypatch.context() as context:
        context.setattr(Path, "open", refuse)
        assert load_style(str(folder), 0).key == before
    times = (folder / "0.png").stat()
    os.utime(folder / "0.png", ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
    touched = load_style(str(folder), 0).key
    (folder / "0.png").rename(folder / "00.png")
    assert len({before, touched, load_style(str(folder), 0).key}) == 3


@pytest.mark.parametrize("damage", ["flipped", "torn"])
def test_damaged_statistics_are_computed_again(folder: Path, cache: Path, damage: str) -> None:
    before = mean_statistics(load_style(str(folder), 0), mean_color, "color")["color"]
    (kept,) = cache.rglob("*.zip")
    content = bytearray(kept.read_bytes())
    content[content.index(before.numpy().tobytes())] ^= 1
    kept.write_bytes(content if damage == "flipped" else content[:-3])

    def one_more(image: Image.Image) -> dict[str, Tensor]:
        return {"color": mean_color(image)["color"] + 1}

    # Others than the kept ones, so that what was read and what was computed differ.
    again = mean_statistics(load_style(str(folder), 0), one_more, "color")["color"]
    torch.testing.assert_close(again, before + 1)
    before = again
    kept_again = mean_statistics(load_style(str(folder), 0), refuse, "color")["color"]
    assert torch.equal(kept_again, before)


def test_statistics_are_computed_where_none_can_be_kept(folder: Path, cache: Path) -> None:
    (cache / "artgan").touch()
    means = mean_statistics(load_style(str(folder), 0), mean_color, "color")
    np.testing.assert_allclose(means["color"], colors_of(folder).mean(0), rtol=1e-6)


def test_unusable_images_are_skipped_and_reported_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = colors_of(folder)[1:].mean(0)
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:-200])
    (folder / "5.jpg").write_text("text")
    means = mean_statistics(load_style(str(folder), 0), mean_color, "color")
    np.testing.assert_allclose(means["color"], expected, rtol=1e-6)
    (line,) = filter(None, capsys.readouterr().err.splitlines())
    assert "2 of 6 images cannot be used and are skipped (0.png: damaged" in line


def test_a_folder_without_a_usable_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="style: there are no images in"):
        load_style(str(tmp_path), 0)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("text")
    with pytest.raises(UserError, match=r"style: none of the images in .* can be used"):
        mean_statistics(load_style(str(tmp_path), 0), mean_color, "color")
    (tmp_path / "b.png").unlink()  # of a single file, nothing is kept
    with pytest.raises(UserError, match=r"style: none of the images in .* can be used"):
        mean_statistics(load_style(str(tmp_path), 0), mean_color, "color")


@pytest.mark.parametrize("name", ["", "last.ckpt"])
def test_a_run_paints_the_sample_of_its_seed(tmp_path: Path, name: str) -> None:
    run = tmp_path / "blue hills"
    run.mkdir()
    make_run(run)
    style = load_style(str(run / name), seed=7)
    painter = load_painter(run / "last.ckpt")
    sample = paint(painter.generator, draw_inputs(7, 1, painter.latent_dim, painter.classes))[0]
    (image,) = style.images()
    np.testing.assert_array_equal(image, to_pil(sample))
    assert (style.name, style.count) == ("blue_hills-seed7", 1)
    assert style.key != load_style(str(run / name), seed=8).key


def test_a_folder_of_runs_is_refused_and_one_of_them_named(tmp_path: Path) -> None:
    for name in ("second", "first"):
        (tmp_path / name / "samples").mkdir(parents=True)
        (tmp_path / name / "last.ckpt").touch()
        Image.new("RGB", (30, 30)).save(tmp_path / name / "samples" / "000.png")
    with pytest.raises(UserError, match=r"is a folder of runs. Name one of them, .*/first$"):
        load_style(str(tmp_path), 0)


def test_a_missing_style_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"style: there is no image .*nowhere.jpg"):
        load_style(str(tmp_path / "nowhere.jpg"), 0)
    with pytest.raises(UserError, match=r"nowhere.ckpt: there is no such"):
        load_style(str(tmp_path / "nowhere.ckpt"), 0)


@pytest.mark.parametrize(
    ("source", "name"),
    [("a/Große Welle (2).jpg", "Große_Welle__2_"), ("mine.v2.safetensors", "mine.v2-seed7")],
)
def test_names_are_fit_for_files(source: str, name: str) -> None:
    assert short_name(source, 7) == name


def test_overlapping_masks_share_a_place_by_weight() -> None:
    left, right = torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.5, 0.0]])
    (one, first, area), (two, second, _) = partition([left, right], [0.75, 0.25])
    assert (one, two) == ([0], [1])
    assert first is not None and second is not None
    torch.testing.assert_close(first, torch.tensor([[1.0, 0.75, 0.0, 0.0]]))
    torch.testing.assert_close(second, torch.tensor([[0.0, 0.25, 0.5, 0.0]]))
    assert area == pytest.approx(1.75 / 4)


def test_styles_with_the_same_mask_are_blended() -> None:
    mask, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    found = [group for group, _, _ in partition([mask, other, mask.clone()], [0.25, 0.5, 0.25])]
    assert found == [[0, 2], [1]]
    assert list(partition([None, None], [0.5, 0.5])) == [([0, 1], None, 1.0)]
    assert [group for group, _, _ in partition([torch.zeros(1, 2), other], [0.5, 0.5])] == [[1]]
