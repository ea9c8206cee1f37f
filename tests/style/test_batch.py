"""The command and `stylize()`, with stand-ins for the methods, which have tests of their own."""

import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from artgan import cli, inkwash
from artgan.config import CONFIGS, compose
from artgan.errors import UserError
from artgan.images import read_provenance
from artgan.options import StylizeConfig
from artgan.style import api, batch, live, photo, stylize
from artgan.style.batch import repaint
from artgan.style.inputs import Region
from artgan.style.job import Method, Scene
from artgan.style.live import Watch
from artgan.style.photo import Content, Source

STEPS = 6


class Inverting:
    """A stand-in for `Method`: paints the negative of the content, in `STEPS` steps."""

    loaded: list[StylizeConfig]
    scenes: list[Scene]
    stopped = False
    network = "stand-in"

    def __init__(self, config: StylizeConfig) -> None:
        self.loaded.append(config)

    def paint(self, scene: Scene, watch: Watch) -> tuple[Tensor, bool]:
        self.scenes.append(scene)
        for step in range(1, STEPS + 1):
            watch(step, STEPS, {"style": 1 / step}, lambda: torch.full((1, 3, 8, 12), 0.5))
        return 1 - scene.image, not self.stopped


@pytest.fixture(autouse=True)
def painter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Inverting]:
    monkeypatch.setattr(Inverting, "loaded", [], raising=False)
    monkeypatch.setattr(Inverting, "scenes", [], raising=False)
    monkeypatch.setattr(Inverting, "stopped", False)
    monkeypatch.setattr(api, "Method", Inverting)
    monkeypatch.setattr(batch, "Method", Inverting)
    monkeypatch.chdir(tmp_path)
    return Inverting


@pytest.fixture(autouse=True)
def images(tmp_path: Path) -> None:
    """Small contents in photos/, styles and a mask."""
    for index, name in enumerate(["photos/a.png", "photos/b.png", "sea.png", "wood.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(inkwash.paint(0, index)).resize((60, 40)).save(tmp_path / name)
    mask = Image.new("L", (60, 40))
    mask.paste(255, (30, 0, 60, 40))
    mask.save(tmp_path / "right.png")


def command(**options: Any) -> list[Path]:
    given = {"content": "photos/a.png", "style": "sea.png"} | options
    return repaint(compose("stylize", given), options)


def negative(name: str) -> np.ndarray:
    return 255 - np.asarray(Image.open(name).convert("RGB"))


def test_an_image_is_repainted_and_records_how() -> None:
    (path,) = command(seed=3)
    assert path == Path("painted/a-sea.png")
    np.testing.assert_array_equal(Image.open(path), negative("photos/a.png"))
    record = read_provenance(path)
    assert (record["kind"], record["content"], record["style"]) == (
        "repainted",
        "a.png",
        ["sea.png"],
    )
    assert record["network"] == "stand-in"
    assert (record["seed"], record["method"], record["strength"]) == (3, "magenta", 1.0)
    assert not {"iterations", "preset", "out"} & set(record)


@pytest.mark.parametrize("ending", photo.FORMATS)
def test_a_result_holds_no_folder_of_the_user(ending: str, tmp_path: Path) -> None:
    given = {
        "content": str(tmp_path / "photos/a.png"),
        "style": [str(tmp_path / "sea.png"), str(tmp_path / "wood.png")],
        "mask": [str(tmp_path / "right.png")] * 2,
        "weights_dir": str(tmp_path),
        "tensorboard": str(tmp_path / "events"),
        "init": str(tmp_path / "wood.png"),
    }
    (path,) = command(**given, method="gatys", out=str(tmp_path / f"result{ending}"))
    with Image.open(path) as result:
        comment = result.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    record = json.loads(comment.removeprefix(b"ASCII\0\0\0"))
    names = [record[key] for key in ("content", "style", "mask", "init")]
    assert names == ["a.png", ["sea.png", "wood.png"], ["right.png"] * 2, "wood.png"]
    assert str(tmp_path).encode() not in path.read_bytes()
    assert not any(str(tmp_path) in json.dumps(value) for value in record.values())


def test_the_function_returns_what_the_command_writes(painter: type[Inverting]) -> None:
    image = stylize("photos/a.png", Path("sea.png"))
    np.testing.assert_array_equal(image, Image.open(command()[0]))
    function, of_command = painter.loaded
    for config in (function, of_command):
        config.content, config.style, config.mask = None, None, None
    assert function == of_command
    assert not list(Path().glob("*.snapshots"))


def test_the_function_takes_and_returns_images(painter: type[Inverting]) -> None:
    content, style = Image.open("photos/a.png").convert("RGBA"), Image.open("sea.png")
    content.putalpha(99)
    image = stylize(content, [style, "wood.png"], mask=Image.open("right.png"), weights=[3, 1])
    assert image.mode == "RGBA"
    assert image.getchannel("A").getextrema() == (99, 99)
    (scene,) = painter.scenes
    assert [region.weight for region in scene.regions] == [0.75, 0.25]
    assert [region.style.name for region in scene.regions] == ["image", "wood"]
    np.testing.assert_array_equal(
        np.asarray(image)[:, :30, :3], Image.open("photos/a.png").crop((0, 0, 30, 40))
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: image / 255,
        lambda image: image.astype(np.float32) / 255,
        lambda image: np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]),
    ],
)
def test_the_function_takes_arrays(change: Callable[..., Any], painter: type[Inverting]) -> None:
    photo, style = (np.asarray(Image.open(name)) for name in ("photos/a.png", "sea.png"))
    mask = np.asarray(Image.open("right.png")) > 0
    image = stylize(change(photo), [change(style), "wood.png"], mask=mask)
    expected = np.where(mask[..., None], 255 - photo, photo)
    np.testing.assert_array_equal(np.asarray(image)[..., :3], expected)
    (first, _) = painter.scenes[0].regions
    np.testing.assert_array_equal(next(first.style.images()), style)
    grey = np.full((40, 60), 7, np.uint8)
    assert np.asarray(stylize(grey, "sea.png")).min() == 248


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 40, 60), np.uint8),
        np.zeros((40, 60, 3), np.int64),
        np.full((40, 60), 1.5),
        np.full((40, 60), np.nan),
        np.zeros((0, 0, 3), np.uint8),
    ],
)
def test_the_function_refuses_other_arrays(array: Any) -> None:
    for option in ("content", "style", "mask"):
        given: dict[str, Any] = {"content": "photos/a.png", "style": "sea.png"} | {option: array}
        with pytest.raises(UserError, match=rf"^{option}: an array of {array.dtype} and shape"):
            stylize(**given)


def test_a_small_image_is_enlarged_only_if_asked_to() -> None:
    for options, size in (({}, 60), ({"size": 512}, 512), ({"method": "gatys"}, 60)):
        (path,) = command(**options, out=f"{size}-{len(options)}-{'size' in options}.png")
        assert Image.open(path).width == size
        assert stylize("photos/a.png", "sea.png", **options).width == size
    Image.new("RGB", (900, 600)).save("large.png")
    assert stylize("large.png", "sea.png", method="gatys").size == (512, 341)


def test_the_function_writes_to_out() -> None:
    stylize("photos/a.png", "sea.png", out=Path("result.webp"), size=48)
    with Image.open("result.webp") as image:
        assert (image.format, image.size) == ("WEBP", (48, 32))


def truncated() -> Image.Image:
    return Image.open(io.BytesIO(Path("sea.png").read_bytes()[:400]))


def closed() -> Image.Image:
    with Image.open("sea.png") as image:
        return image


@pytest.mark.parametrize("option", ["content", "style", "mask"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda: {"a": 1}, "' is neither an image nor a folder."),
        (truncated, "the image cannot be used: image file is truncated."),
        (closed, "the image cannot be used: its file is closed."),
    ],
)
def test_the_function_refuses_what_is_not_an_image(
    option: str, value: Callable[[], Any], message: str
) -> None:
    given: dict[str, Any] = {"content": "photos/a.png", "style": "sea.png"} | {option: value()}
    with pytest.raises(UserError, match=rf"^{option}: .*{message}$"):
        stylize(**given)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "content: 'None' is neither an image nor a folder."),
        (["photos/a.png"], "content: stylize() repaints one image; the command repaints several."),
        (Image.new("RGB", (60, 9)), "content: the image has 60×9 pixels. The short side needs at"),
    ],
)
def test_the_function_repaints_one_image_of_sufficient_size(content: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        stylize(content, "sea.png", size=None)


def test_the_function_takes_numbers_of_numpy(painter: type[Inverting]) -> None:
    assert (
        stylize("photos/a.png", "sea.png", size=np.int64(48), strength=np.float32(0.5)).width == 48
    )
    assert painter.loaded[0].strength == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": Image.new("RGB", (60, 40))}, "init: cannot be an image in memory. Save it"),
        ({"strenght": 1}, "strenght: there is no such option. Did you mean strength?"),
        ({"size": 3}, "size: 3 must be at least 16"),
        ({"method": "gatis"}, "method: 'gatis' is none of gatys, magenta. Did you mean 'gatys'?"),
        ({"size": "large"}, "size: 'large' is not a whole number."),
        ({"iterations": 9}, "iterations: has no effect with method=magenta. Add method=gatys"),
        ({"gallery": True}, r"content: stylize\(\) repaints one image"),
        ({"method": "gatys", "snapshot_every": 2}, "snapshot_every: snapshots are written beside"),
    ],
)
def test_the_function_refuses_what_the_command_does(options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        stylize("photos/a.png", "sea.png", **options)


@pytest.mark.slow
def test_presets_and_methods_from_python_are_those_of_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    composed: list[Any] = []
    monkeypatch.setitem(cli.RUN, "stylize", lambda config, _: composed.append(config))
    monkeypatch.setattr(sys, "argv", ["artgan"])
    for method in ("magenta", "gatys"):
        for preset in (path.stem for path in (CONFIGS / "preset").glob("*.yaml")):
            options = ["size=99", f"method={method}", f"preset={preset}"]
            cli.launch("stylize", ["a", "b", *options])
            chosen = {"content": "a", "style": "b", "size": 99}
            chosen |= {"method": method, "preset": preset}
            assert composed[-1] == compose("stylize", chosen)


def test_a_folder_is_repainted_with_one_network_and_a_sheet(painter: type[Inverting]) -> None:
    sheet, *paths = command(content="photos", style=["sea.png", "wood.png"], out="done")
    assert paths == [Path("done/a-sea+wood.png"), Path("done/b-sea+wood.png")]
    np.testing.assert_array_equal(Image.open(paths[1]), negative("photos/b.png"))
    assert len(painter.loaded) == 1
    assert read_provenance(paths[1])["content"] == "b.png"
    with Image.open(sheet) as image:
        assert (sheet.name, image.size) == ("sheet-sea+wood.png", (4 * 258 + 2, 2 * 258 + 2))


def mean_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), float).mean((0, 1))


def cells(sheet: Path) -> list[list[np.ndarray]]:
    """The mean colour of each cell of a sheet, without the empty parts above and below images."""
    with Image.open(sheet) as image:
        columns, rows = (side // 258 for side in image.size)
        return [
            [
                mean_of(image.crop((x * 258 + 10, y * 258 + 60, x * 258 + 250, y * 258 + 200)))
                for x in range(columns)
            ]
            for y in range(rows)
        ]


def test_a_gallery_has_styles_above_and_contents_at_the_left() -> None:
    sheet, *paths = command(content="photos", style=["sea.png", "wood.png"], gallery=True)
    assert [path.stem for path in paths] == ["a-sea", "a-wood", "b-sea", "b-wood"]
    assert read_provenance(paths[1])["style"] == ["wood.png"]
    shown = cells(sheet)
    expected = [
        [np.full(3, 255.0), *(mean_of(Image.open(f"{name}.png")) for name in ("sea", "wood"))],
        *(
            [
                mean_of(Image.open(f"photos/{name}.png")),
                *[negative(f"photos/{name}.png").mean((0, 1))] * 2,
            ]
            for name in ("a", "b")
        ),
    ]
    np.testing.assert_allclose(shown, expected, atol=12)


def test_of_several_images_a_bad_one_is_named_and_skipped(painter: type[Inverting]) -> None:
    Path("photos/aa.jpg").write_text("text")
    with pytest.raises(UserError) as mistake:
        command(content="photos", out="done")
    assert "aa.jpg cannot be used:" in str(mistake.value)
    assert "1 of 3 images were not repainted" in str(mistake.value)
    written = sorted(path.name for path in Path("done").iterdir())
    assert written == ["a-sea.png", "b-sea.png", "sheet-sea.png"]
    assert len(painter.loaded) == 1
    np.testing.assert_allclose(cells(Path("done/sheet-sea.png"))[1][0], 255)


def test_in_a_gallery_a_bad_style_is_named_and_skipped() -> None:
    Path("text.jpg").write_text("text")
    with pytest.raises(UserError) as mistake:
        command(content="photos", style=["sea.png", "text.jpg", "wood.png", "no"], gallery=True)
    unusable, *others = str(mistake.value).splitlines()
    assert unusable.startswith("style: text.jpg cannot be used: ")
    assert others == [
        "style: there is no image no.",
        "4 of 8 images were not repainted; see painted/gallery.png",
    ]
    written = sorted(path.stem for path in Path("painted").iterdir())
    assert written == ["a-sea", "a-wood", "b-sea", "b-wood", "gallery"]
    assert np.shape(cells(Path("painted/gallery.png"))) == (3, 3, 3)
    with pytest.raises(UserError, match=r"^style: text.jpg cannot be used: .*$"):
        command(style=["sea.png", "text.jpg"], out="blend.png")


def test_a_gallery_is_laid_out_even_if_a_style_cannot_be_shown() -> None:
    Path("bad").mkdir()
    Path("bad/one.jpg").write_text("text")
    sheet, *_ = command(style=["bad", "sea.png"], gallery=True)
    np.testing.assert_allclose(cells(sheet)[0][1], 255)
    np.testing.assert_allclose(cells(sheet)[0][2], mean_of(Image.open("sea.png")), atol=12)


def test_the_sheet_of_many_contents_is_about_square() -> None:
    sheet, *paths = command(content=["photos/a.png", "photos/b.png"] * 6)
    assert len(paths) == 12
    shown = cells(sheet)
    assert np.shape(shown) == (6, 6, 3)
    np.testing.assert_allclose(shown[0][3], mean_of(Image.open("photos/b.png")), atol=12)


@pytest.mark.parametrize(("gallery", "shape"), [(False, (2, 3, 3)), (True, (3, 3, 3))])
def test_a_sheet_shows_the_first_results_only(
    gallery: bool, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "SHOWN", 5 if gallery else 2)
    contents = ["photos/a.png", "photos/b.png", "photos/a.png", "photos/b.png"]
    style = ["sea.png", "wood.png"] if gallery else "sea.png"
    sheet, *paths = command(content=contents, style=style, gallery=gallery)
    assert len(paths) == (8 if gallery else 4)
    assert all(path.is_file() for path in paths)
    assert np.shape(cells(sheet)) == shape


def test_contents_with_the_same_name_have_separate_results() -> None:
    Path("more").mkdir()
    Image.open("sea.png").save("more/a.png")
    _, *paths = command(content=["photos/a.png", "more/a.png"])
    assert [path.name for path in paths] == ["a-sea.png", "a-sea-2.png"]
    np.testing.assert_array_equal(Image.open(paths[1]), negative("more/a.png"))


def test_outside_the_mask_nothing_changes() -> None:
    (path,) = command(mask="right.png")
    result = np.asarray(Image.open(path))
    np.testing.assert_array_equal(result[:, :30], np.asarray(Image.open("photos/a.png"))[:, :30])
    np.testing.assert_array_equal(result[:, 30:], negative("photos/a.png")[:, 30:])


def test_each_style_has_its_mask(painter: type[Inverting]) -> None:
    Image.eval(Image.open("right.png"), lambda level: (255 - level) // 5).save("left.png")
    command(style=["sea.png", "wood.png"], mask=["right.png", "left.png"])
    right, left = (region.mask for region in painter.scenes[0].regions)
    assert right is not None and left is not None
    assert (right.shape, right[..., :30].max(), right[..., 30:].min()) == ((1, 1, 40, 60), 0, 1)
    torch.testing.assert_close(left[..., :30], torch.full((1, 1, 40, 30), 0.2))
    union = painter.scenes[0].mask
    assert union is not None
    assert (union.getpixel((3, 3)), union.getpixel((40, 3))) == (51, 255)


def test_a_style_of_weight_zero_is_left_out_with_its_mask(painter: type[Inverting]) -> None:
    ImageOps.invert(Image.open("right.png")).save("left.png")
    (path,) = command(**TWO, mask=["right.png", "left.png"], weights=[2, 0])
    ((region,), union) = painter.scenes[0].regions, painter.scenes[0].mask
    assert (region.style.name, region.weight) == ("sea", 1)
    assert union is not None
    np.testing.assert_array_equal(union, Image.open("right.png"))
    np.testing.assert_array_equal(
        np.asarray(Image.open(path))[:, :30], np.asarray(Image.open("photos/a.png"))[:, :30]
    )
    command(**TWO, mask="right.png", weights=[0, 2], out="one.png")
    assert [region.style.name for region in painter.scenes[1].regions] == ["wood"]


def test_a_mask_of_another_size_is_fitted(painter: type[Inverting]) -> None:
    Image.open("right.png").resize((120, 80)).save("large.png")
    command(mask="large.png", size=30)
    mask = painter.scenes[0].regions[0].mask
    assert mask is not None
    assert mask.shape == (1, 1, 20, 30)


def test_with_the_contents_colours_only_luminance_is_painted(
    painter: type[Inverting],
) -> None:
    (path,) = command(color="content")
    (scene,) = painter.scenes
    assert torch.equal(scene.image[:, 0], scene.image[:, 2])
    (style,) = scene.regions[0].style.images()
    assert style.convert("HSV").getchannel("S").getextrema() == (0, 0)
    own, result = (
        np.asarray(Image.open(one).convert("YCbCr"), int) for one in ("photos/a.png", path)
    )
    assert np.abs(result[..., 1:] - own[..., 1:]).mean() < 3  # except colours outside RGB
    assert np.abs(result[..., 0] - (255 - own[..., 0])).mean() < 3


def test_where_a_mask_is_transparent_nothing_changes() -> None:
    mask = Image.new("RGBA", (60, 40), "white")
    mask.putalpha(Image.open("right.png"))
    mask.save("mask.png")
    (path,) = command(mask="mask.png")
    result = np.asarray(Image.open(path))
    np.testing.assert_array_equal(result[:, :30], np.asarray(Image.open("photos/a.png"))[:, :30])
    np.testing.assert_array_equal(result[:, 30:], negative("photos/a.png")[:, 30:])


def test_snapshots_events_and_a_film_show_the_progress() -> None:
    (path,) = command(
        method="gatys", snapshot_every=2, tensorboard="events", animation=True, size=51
    )
    folder = path.with_suffix(".snapshots")
    assert sorted(one.name for one in folder.iterdir()) == [
        "000002.png",
        "000004.png",
        "000006.png",
    ]
    assert Image.open(folder / "000002.png").getpixel((0, 0)) == (128, 128, 128)
    events = EventAccumulator("events/a-sea")
    events.Reload()
    points = [(event.step, event.value) for event in events.Scalars("loss/style")]
    assert points == [(step, pytest.approx(1 / step)) for step in range(1, STEPS + 1)]
    assert [event.step for event in events.Images("image")] == [2, 4, 6]
    with av.open(path.with_suffix(".mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert [frame.shape for frame in frames] == [(34, 52, 3)] * 4
    assert np.abs(frames[0].astype(int) - 128).max() < 8
    assert np.abs(frames[3].astype(int) - np.asarray(Image.open(path).resize((52, 34)))).mean() < 8


@pytest.mark.parametrize("place", ["sea.png", "sea.png/below", "/proc/none", "/proc/no/ne"])
def test_events_that_cannot_be_written_are_one_message(place: str) -> None:
    with pytest.raises(UserError, match=rf"^{place}\S*: cannot be written"):
        command(method="gatys", tensorboard=place)
    assert not Path("painted").exists()


def test_a_disk_that_events_fill_is_one_message(
    small_disk: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    disk = small_disk("4k")
    (disk / "filling").write_bytes(b"all of one page")
    with pytest.raises(UserError, match="disk is full"):
        command(method="gatys", tensorboard=str(disk), snapshot_every=1, size=90)
    assert "Traceback" not in capfd.readouterr().err


def test_a_film_opens_one_snapshot_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Image.Image] = []
    real_open, held = Image.open, []

    def noting(*args: Any, **options: Any) -> Image.Image:
        opened.append(real_open(*args, **options))
        return opened[-1]

    def film(frames: Iterable[Tensor], path: Path) -> None:
        opened.clear()
        for frame in frames:
            assert frame.shape == (3, 20, 32)
            held.append((len(opened), sum(vars(one)["fp"] is not None for one in opened)))

    monkeypatch.setattr(Image, "open", noting)
    monkeypatch.setattr(live, "save_mp4", film)
    command(method="gatys", snapshot_every=2, animation=True, size=32)
    assert held == [(1, 0), (2, 0), (3, 0), (3, 0)]


def test_snapshots_of_an_earlier_result_are_replaced_with_it() -> None:
    gatys = {"method": "gatys", "out": "result.png"}
    command(**gatys, snapshot_every=2)
    with pytest.raises(UserError, match=r"result.snapshots exists already"):
        Path("result.png").unlink()
        command(**gatys, snapshot_every=3)
    command(**gatys, snapshot_every=3, overwrite=True)
    names = sorted(one.name for one in Path("result.snapshots").iterdir())
    assert names == ["000003.png", "000006.png"]


def test_after_ctrl_c_the_image_so_far_is_written(
    painter: type[Inverting], capsys: pytest.CaptureFixture[str]
) -> None:
    painter.stopped = True
    with pytest.raises(SystemExit) as end:
        command(method="gatys", size=60)
    assert end.value.code == 130
    assert capsys.readouterr().err == "Stopped: painted/a-sea.png is the image so far.\n"
    np.testing.assert_array_equal(Image.open("painted/a-sea.png"), negative("photos/a.png"))
    with pytest.raises(KeyboardInterrupt):
        stylize("photos/a.png", "sea.png", out="result.png", method="gatys", size=60)
    np.testing.assert_array_equal(Image.open("result.png"), negative("photos/a.png"))


BATCH = {"content": "photos"}
TWO = {"style": ["sea.png", "wood.png"]}
GATYS = {"method": "gatys"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"content": "nowhere.jpg"}, "content: there is no image nowhere.jpg."),
        ({"content": "text.jpg"}, "content: text.jpg cannot be used: "),
        ({"content": "empty"}, "content: there are no images in empty."),
        ({"content": []}, "content: name at least one."),
        ({"content": {"a": 1}}, "content: '{'a': 1}' is neither an image nor a folder."),
        ({"content": [""]}, "content: '' is neither"),
        ({"style": "nowhere.jpg"}, "style: there is no image nowhere.jpg."),
        ({"style": "text.jpg"}, "style: text.jpg cannot be used: "),
        ({"style": "empty"}, "style: there are no images in empty."),
        ({"out": "there.png"}, "out: there.png exists already. Give another place as out=, or"),
        ({"out": "result"}, "out: result must end in one of .png, .jpg"),
        ({"out": "result.bmp"}, "out: result.bmp must end in one of"),
        ({"out": "empty"}, "out: empty is a folder. Name a file, such as empty/result.png"),
        ({"out": "there.png/result.png"}, "cannot be written to. Choose another place."),
        ({"content": ["text.jpg", "text.jpg"]}, "content: text.jpg cannot be used: "),
        (BATCH | {"out": "new.png"}, "out: new.png is a file; several images need a folder."),
        (BATCH | {"out": "text.jpg"}, "out: text.jpg is a file"),
        ({"mask": "nowhere.png"}, "mask: there is no image nowhere.png."),
        (
            {"mask": "tall.png"},
            "mask: has 40×60 pixels, the content 60×40. Give",
        ),
        ({"mask": "black.png"}, "mask: is black all over"),
        (TWO | {"mask": ["right.png"] * 3}, "mask: 3 for 2 styles."),
        (TWO | {"weights": [1]}, "weights: 1 for 2 styles. Give one for each."),
        (TWO | {"weights": [1, -1]}, "weights: [1.0, -1.0] must be at least 0"),
        (TWO | {"weights": [0, 0]}, "weights: [0.0, 0.0] must be at least 0, and one of them"),
        (TWO | {"weights": [1, float("nan")]}, "weights: nan is not a finite number."),
        (
            TWO | {"weights": [1, 1], "gallery": True},
            "weights: a gallery uses one style",
        ),
        (TWO | {"mask": ["right.png"] * 2, "gallery": True}, "mask: a gallery uses one style"),
        ({"size": 16}, "size: 16 would make photos/a.png 16×11 pixels."),
        (
            {"content": "wide.png", "size": 16_384, "out": "new.webp"},
            "out: new.webp would have 16384×164 pixels; its format allows 16,383",
        ),
        ({"style_weight": 2}, "style_weight: has no effect with method=magenta. Add method=gatys"),
        ({"preset": "best"}, "preset: has no effect with method=magenta."),
        ({"init": "noise"}, "init: has no effect with method=magenta."),
        (
            GATYS | {"strength": 0.5},
            "strength: has no effect with method=gatys. Add method=magenta",
        ),
        (
            GATYS | {"init": "noize"},
            "init: 'noize' is none of content, noise, magenta. Did you mean",
        ),
        (
            GATYS | {"preset": "adam", "style_size": 300},
            "style_size: has no effect with style_shape=content. Add style_shape=own",
        ),
        (GATYS | {"animation": True}, "animation: is made of snapshots. Add snapshot_every=10"),
    ],
)
def test_a_mistake_is_one_clear_line_and_nothing_is_written(
    options: dict[str, Any], message: str, painter: type[Inverting]
) -> None:
    Path("text.jpg").write_text("text")
    Path("there.png").write_text("precious")
    Path("empty").mkdir()
    Image.open("right.png").transpose(Image.Transpose.ROTATE_90).save("tall.png")
    Image.new("L", (60, 40)).save("black.png")
    Image.new("L", (1600, 16)).save("wide.png")
    before = sorted(Path().rglob("*"))
    with pytest.raises(UserError) as mistake:
        command(**options)
    assert message in str(mistake.value)
    assert len(str(mistake.value).splitlines()) == 1
    assert sorted(Path().rglob("*")) == before
    assert not painter.loaded
    assert Path("there.png").read_text() == "precious"


def test_existing_files_are_replaced_if_asked_to() -> None:
    Path("there.png").write_text("old")
    command(out="there.png", overwrite=True)
    np.testing.assert_array_equal(Image.open("there.png"), negative("photos/a.png"))


NO_MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
]


@pytest.mark.parametrize("error", NO_MEMORY)
@pytest.mark.parametrize("where", ["paint", "read"])
def test_with_too_little_memory_for_one_image_the_others_are_painted(
    painter: type[Inverting], monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    paint, read = painter.paint, photo.read_content

    def failing_paint(self: Inverting, scene: Scene, watch: Watch) -> tuple[Tensor, bool]:
        if scene.image.shape[-1] == 60:
            raise error
        return paint(self, scene, watch)

    def failing_read(source: Source, size: int | None, enlarge: bool) -> Content:
        if source == "photos/a.png":
            raise error
        return read(source, size, enlarge)

    Image.open("photos/b.png").crop((0, 0, 30, 40)).save("photos/b.png")
    if where == "paint":
        monkeypatch.setattr(painter, "paint", failing_paint)
    else:
        monkeypatch.setattr(photo, "read_content", failing_read)
    message = "size: there is too little memory for photos/a.png. Give a smaller size="
    for function in (command, lambda: stylize("photos/a.png", "sea.png")):
        with pytest.raises(UserError, match=f"^{message}$"):
            function()
    with pytest.raises(UserError, match=f"{message}\n1 of 2 images were not repainted"):
        command(**BATCH)
    assert sorted(path.name for path in Path("painted").iterdir()) == ["b-sea.png", "sheet-sea.png"]


def test_other_failures_of_a_method_are_raised(
    painter: type[Inverting], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(painter, "paint", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        command()


class Recording:
    """A stand-in for Magenta and Gatys: records where it begins, and paints a plain grey."""

    def __init__(self, config: StylizeConfig, device: str) -> None:
        self.key = "magenta's"
        self.backbone = SimpleNamespace(name="gatys'")

    def paint(
        self,
        content: Tensor,
        regions: Sequence[Region],
        watch: Watch = lambda *_: None,
        init: Tensor | None = None,
    ) -> Tensor:
        self.init = init
        return torch.full_like(content, 0.25)


@pytest.fixture
def method(monkeypatch: pytest.MonkeyPatch, painter: type[Inverting]) -> Callable[..., Method]:
    """The real `Method`, with stand-ins for Magenta and Gatys."""
    command(out="scene.png")
    for name in ("magenta", "gatys"):
        stands = SimpleNamespace(Magenta=Recording, Gatys=Recording, Interrupted=ZeroDivisionError)
        monkeypatch.setitem(sys.modules, f"artgan.style.{name}", stands)

    def method(**options: Any) -> Method:
        config = compose("stylize", {"content": "a", "style": "b", "device": "cpu"} | options)
        return Method(config)

    return method


def test_a_method_names_the_weights_that_paint(method: Callable[..., Method]) -> None:
    assert method(method="magenta").network == "magenta's"
    assert method(method="gatys", init="magenta").network == "gatys'"


def test_outside_the_mask_gatys_begins_from_the_content_not_from_magenta(
    method: Callable[..., Method], painter: type[Inverting]
) -> None:
    command(mask="right.png", out="masked.png")
    scene = painter.scenes[-1]
    chosen = method(method="gatys", init="magenta")
    chosen.paint(scene, lambda *_: None)
    begun = vars(chosen.gatys)["init"]
    assert torch.equal(begun[..., :30], scene.image[..., :30])
    assert begun[..., 30:].unique().tolist() == [0.25]


def test_gatys_begins_from_the_init_asked_for(
    method: Callable[..., Method], painter: type[Inverting]
) -> None:
    (scene,) = painter.scenes
    begun = {}
    for init in ("content", "noise", "magenta", "wood.png"):
        chosen = method(method="gatys", init=init)
        painted, whole = chosen.paint(scene, lambda *_: None)
        assert whole
        assert painted.unique().tolist() == [0.25]
        begun[init] = vars(chosen.gatys)["init"]
    assert begun["noise"] is None
    assert torch.equal(begun["content"], scene.image)
    assert begun["magenta"].unique().tolist() == [0.25]
    np.testing.assert_allclose(
        begun["wood.png"][0].permute(1, 2, 0) * 255, np.asarray(Image.open("wood.png")), atol=1e-3
    )


def test_settings_in_every_format_are_plain_json() -> None:
    for ending in ("jpg", "tif", "webp"):
        command(out=f"result.{ending}", seed=5)
        with Image.open(f"result.{ending}") as image:
            comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert json.loads(comment.removeprefix(b"ASCII\0\0\0"))["seed"] == 5


def test_a_sheet_shows_images_in_squares_in_srgb() -> None:
    """A profile with the primaries of red and green exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"tmp!").replace(b"gXYZ", b"rXYZ").replace(b"tmp!", b"gXYZ")
    image = Image.new("RGB", (200, 100), (250, 10, 10))
    image.info["icc_profile"] = swapped.replace(
        "sRGB".encode("utf-16-be"), "sGRB".encode("utf-16-be")
    )
    shown = batch.sheet([batch.cell(None), batch.cell(image)], columns=2)
    assert shown.shape == (3, 2 + 258, 2 + 2 * 258)
    assert shown[:, 130, 130].tolist() == [255, 255, 255]
    np.testing.assert_allclose(shown[:, 130, 388], (10, 250, 10), atol=2)
    assert shown[:, 20, 388].tolist() == [255, 255, 255]
