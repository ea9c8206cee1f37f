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
from artgan.sampling import draw_inputs, load_painter, paint
from artgan.style.inputs import averaged, load_style, short_name
from tests.helpers import make_run


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of this test's own."""
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


def mean_color(picture: Image.Image) -> dict[str, Tensor]:
    return {"color": torch.from_numpy(np.asarray(picture, np.float32).mean((0, 1)))}


def colors_of(folder: Path) -> np.ndarray:
    files = sorted(folder.rglob("*.png"))
    return np.stack([np.asarray(Image.open(file), float).mean((0, 1)) for file in files])


def test_a_picture_is_a_style_whose_key_tells_what_it_shows(folder: Path) -> None:
    styles = [load_style(str(folder / f"{index}.png"), seed=0) for index in (0, 1, 0)]
    assert (styles[0].name, styles[0].count) == ("0", 1)
    (picture,) = styles[0].pictures()
    np.testing.assert_array_equal(picture, Image.open(folder / "0.png"))
    assert styles[0].key == styles[2].key == load_style(picture, seed=0).key
    assert styles[0].key not in (styles[1].key, styles[0].in_grey().key)


def test_a_style_in_grey_shows_only_luminance(folder: Path) -> None:
    (grey,) = load_style(str(folder / "0.png"), 0).in_grey().pictures()
    expected = np.asarray(Image.open(folder / "0.png").convert("L"))
    for channel in range(3):
        np.testing.assert_array_equal(np.asarray(grey)[..., channel], expected)


def test_statistics_of_a_folder_are_the_mean_over_its_pictures(folder: Path) -> None:
    style = load_style(str(folder), seed=0)
    assert (style.name, style.count) == ("paintings", 5)
    means = averaged(style, mean_color, "color")
    assert means["color"].dtype == torch.float32
    np.testing.assert_allclose(means["color"], colors_of(folder).mean(0), rtol=1e-6)


def refuse(picture: Image.Image) -> dict[str, Tensor]:
    raise AssertionError("computed anew")


def test_statistics_are_computed_once_for_each_folder_and_key(folder: Path, tmp_path: Path) -> None:
    before = averaged(load_style(str(folder), 0), mean_color, "color")
    folder.rename(tmp_path / "elsewhere")
    moved = load_style(str(tmp_path / "elsewhere"), 0)
    assert torch.equal(averaged(moved, refuse, "color")["color"], before["color"])
    with pytest.raises(AssertionError, match="computed anew"):
        averaged(moved, refuse, "another")
    (tmp_path / "elsewhere" / "0.png").unlink()
    with pytest.raises(AssertionError, match="computed anew"):
        averaged(load_style(str(tmp_path / "elsewhere"), 0), refuse, "color")


def test_statistics_of_a_picture_are_computed_once_also_in_grey(folder: Path) -> None:
    style = load_style(str(folder / "0.png"), 0)
    color = averaged(style, mean_color, "color")["color"]
    grey = averaged(style.in_grey(), mean_color, "color")["color"]
    assert grey.unique().numel() == 1
    assert torch.equal(averaged(style, refuse, "color")["color"], color)
    assert torch.equal(averaged(style.in_grey(), refuse, "color")["color"], grey)
    with pytest.raises(AssertionError, match="computed anew"):
        averaged(style, refuse, "another")


def test_the_key_of_a_folder_is_found_without_reading_its_pictures(
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


def test_statistics_that_were_damaged_are_computed_anew(folder: Path, cache: Path) -> None:
    style = load_style(str(folder), 0)
    before = averaged(style, mean_color, "color")
    (kept,) = cache.rglob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-3])
    assert torch.equal(averaged(style, mean_color, "color")["color"], before["color"])
    assert torch.equal(averaged(style, refuse, "color")["color"], before["color"])


def test_without_a_place_to_keep_them_statistics_are_computed_all_the_same(
    folder: Path, cache: Path
) -> None:
    (cache / "artgan").touch()
    means = averaged(load_style(str(folder), 0), mean_color, "color")
    np.testing.assert_allclose(means["color"], colors_of(folder).mean(0), rtol=1e-6)


def test_pictures_that_cannot_be_used_are_passed_over_and_told_of_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = colors_of(folder)[1:].mean(0)
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:-200])
    (folder / "5.jpg").write_text("not a picture")
    means = averaged(load_style(str(folder), 0), mean_color, "color")
    np.testing.assert_allclose(means["color"], expected, rtol=1e-6)
    said = capsys.readouterr().err.splitlines()
    (line,) = [one for one in said if one]
    assert "2 of 6 pictures cannot be used (0.png: damaged" in line


def test_a_folder_without_a_usable_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="style: no pictures lie in"):
        load_style(str(tmp_path), 0)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("text")
    with pytest.raises(UserError, match=r"style: no picture in .* can be used"):
        averaged(load_style(str(tmp_path), 0), mean_color, "color")
    (tmp_path / "b.png").unlink()
    with pytest.raises(UserError, match=r"style: no picture in .* can be used"):
        averaged(load_style(str(tmp_path), 0), mean_color, "color")


@pytest.mark.parametrize("name", ["", "last.ckpt"])
def test_a_run_paints_the_style_of_its_seed(tmp_path: Path, name: str) -> None:
    run = tmp_path / "blue hills"
    run.mkdir()
    make_run(run)
    style = load_style(str(run / name), seed=7)
    painter = load_painter(run / "last.ckpt")
    painting = paint(painter.generator, draw_inputs(7, 1, painter.latent_dim, painter.classes))[0]
    (picture,) = style.pictures()
    np.testing.assert_array_equal(picture, to_pil(painting))
    assert (style.name, style.count) == ("blue_hills-seed7", 1)
    assert style.key != load_style(str(run / name), seed=8).key


def test_a_folder_of_runs_is_refused_and_one_of_them_named(tmp_path: Path) -> None:
    for name in ("second", "first"):
        (tmp_path / name / "samples").mkdir(parents=True)
        (tmp_path / name / "last.ckpt").touch()
        Image.new("RGB", (30, 30)).save(tmp_path / name / "samples" / "000.png")
    with pytest.raises(UserError, match=r"is a folder of runs. Name one of them, .*/first$"):
        load_style(str(tmp_path), 0)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"style: there is no picture .*nowhere.jpg"):
        load_style(str(tmp_path / "nowhere.jpg"), 0)
    with pytest.raises(UserError, match=r"nowhere.ckpt: there is no such"):
        load_style(str(tmp_path / "nowhere.ckpt"), 0)


@pytest.mark.parametrize(
    ("source", "name"),
    [("a/Große Welle (2).jpg", "Große_Welle__2_"), ("mine.v2.safetensors", "mine.v2-seed7")],
)
def test_names_are_fit_for_files(source: str, name: str) -> None:
    assert short_name(source, 7) == name
