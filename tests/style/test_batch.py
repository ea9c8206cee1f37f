"""What surrounds the painters: these have tests of their own, and stand-ins here."""

import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from artgan import inkwash
from artgan.config import stylize_config
from artgan.errors import UserError
from artgan.images import read_provenance
from artgan.options import StylizeConfig
from artgan.style import batch as run
from artgan.style import live, stylize
from artgan.style.batch import Method, Scene, repaint
from artgan.style.inputs import Region, Watch
from artgan.style.photo import Content, Source

STEPS = 6


class Inverting:
    """Stands for a painter: shows the negative of what it is given, in so many steps."""

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
        return 1 - scene.seen, not self.stopped


@pytest.fixture(autouse=True)
def painter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Inverting]:
    monkeypatch.setattr(Inverting, "loaded", [], raising=False)
    monkeypatch.setattr(Inverting, "scenes", [], raising=False)
    monkeypatch.setattr(Inverting, "stopped", False)
    monkeypatch.setattr(run, "Method", Inverting)
    monkeypatch.chdir(tmp_path)
    return Inverting


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path) -> None:
    """Contents in photos/, styles in paintings/, all of them small."""
    for index, name in enumerate(["photos/a.png", "photos/b.png", "sea.png", "wood.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(inkwash.paint(0, index)).resize((60, 40)).save(tmp_path / name)
    mask = Image.new("L", (60, 40))
    mask.paste(255, (30, 0, 60, 40))
    mask.save(tmp_path / "right.png")


def command(**options: Any) -> list[Path]:
    given = {"content": "photos/a.png", "style": "sea.png"} | options
    return repaint(stylize_config(given), [f"{key}={value}" for key, value in options.items()])


def negative(name: str) -> np.ndarray:
    return 255 - np.asarray(Image.open(name).convert("RGB"))


def test_a_picture_is_repainted_and_says_how() -> None:
    (path,) = command(seed=3)
    assert path == Path("painted/a-sea.png")
    np.testing.assert_array_equal(Image.open(path), negative("photos/a.png"))
    told = read_provenance(path)
    assert (told["kind"], told["content"], told["style"]) == (
        "repainted",
        "photos/a.png",
        ["sea.png"],
    )
    assert told["network"] == "stand-in"
    assert (told["seed"], told["method"], told["strength"]) == (3, "magenta", 1.0)
    assert not {"iterations", "preset", "out"} & set(told)


def test_the_function_gives_what_the_command_writes(painter: type[Inverting]) -> None:
    image = stylize("photos/a.png", Path("sea.png"))
    np.testing.assert_array_equal(image, Image.open(command()[0]))
    function, of_command = painter.loaded
    for config in (function, of_command):
        config.content, config.style, config.mask = None, None, None
    assert function == of_command
    assert not list(Path().glob("*.snapshots"))


def test_the_function_takes_and_gives_pictures(painter: type[Inverting]) -> None:
    content, style = Image.open("photos/a.png").convert("RGBA"), Image.open("sea.png")
    content.putalpha(99)
    image = stylize(content, [style, "wood.png"], mask=Image.open("right.png"), weights=[3, 1])
    assert image.mode == "RGBA"
    assert image.getchannel("A").getextrema() == (99, 99)
    (scene,) = painter.scenes
    assert [region.weight for region in scene.regions] == [0.75, 0.25]
    assert [region.style.name for region in scene.regions] == ["picture", "wood"]
    np.testing.assert_array_equal(
        np.asarray(image)[:, :30, :3], Image.open("photos/a.png").crop((0, 0, 30, 40))
    )


def test_the_function_writes_where_it_is_told() -> None:
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
        (lambda: np.zeros((40, 60, 3)), "' is neither a picture nor a folder."),
        (truncated, "the picture cannot be used: image file is truncated."),
        (closed, "the picture cannot be used: its file is closed."),
    ],
)
def test_the_function_refuses_what_is_no_picture(
    option: str, value: Callable[[], Any], message: str
) -> None:
    given: dict[str, Any] = {"content": "photos/a.png", "style": "sea.png"} | {option: value()}
    with pytest.raises(UserError, match=rf"^{option}: .*{message}$"):
        stylize(**given)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "content: 'None' is neither a picture nor a folder."),
        (["photos/a.png"], "content: stylize() repaints one picture; stylize.py does several."),
        (Image.new("RGB", (60, 9)), "content: the picture has 60×9 pixels. Give one with at least"),
    ],
)
def test_the_function_repaints_one_picture_of_some_size(content: Any, message: str) -> None:
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
        ({"init": Image.new("RGB", (60, 40))}, "init: cannot be a picture in memory. Save it"),
        ({"strenght": 1}, "'strenght' is not an option. Did you mean 'strength'?"),
        ({"size": 3}, "size: 3 must be at least 16"),
        ({"method": "gatis"}, "method: 'gatis' is none of gatys, magenta. Did you mean 'gatys'?"),
        ({"size": "large"}, "size: Value 'large'"),
        ({"iterations": 9}, "iterations: means nothing to method=magenta. Add method=gatys"),
        ({"gallery": True}, r"content: stylize\(\) repaints one picture"),
        ({"method": "gatys", "snapshot_every": 2}, "snapshot_every: snapshots lie beside"),
    ],
)
def test_the_function_refuses_what_the_command_does(options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        stylize("photos/a.png", "sea.png", **options)


def test_each_preset_and_method_is_composed_as_hydra_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra import compose, initialize_config_dir

    from artgan.config import CONFIGS, _choices, register

    register(StylizeConfig)
    given = {"content": "a", "style": "b", "size": 99}
    for method in ("magenta", "gatys"):
        for preset in (path.stem for path in _choices("preset")):
            chosen = given | {"method": method, "preset": preset}
            with initialize_config_dir(str(CONFIGS), version_base="1.3"):
                expected = compose("stylize", [f"{key}={value}" for key, value in chosen.items()])
            assert vars(stylize_config(chosen)) == dict(expected)


def test_a_folder_is_repainted_with_one_network_and_a_sheet(painter: type[Inverting]) -> None:
    sheet, *paths = command(content="photos", style=["sea.png", "wood.png"], out="done")
    assert paths == [Path("done/a-sea+wood.png"), Path("done/b-sea+wood.png")]
    np.testing.assert_array_equal(Image.open(paths[1]), negative("photos/b.png"))
    assert len(painter.loaded) == 1
    assert read_provenance(paths[1])["content"] == "photos/b.png"
    with Image.open(sheet) as image:
        assert (sheet.name, image.size) == ("sheet-sea+wood.png", (4 * 258 + 2, 2 * 258 + 2))


def mean_of(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), float).mean((0, 1))


def cells(sheet: Path) -> list[list[np.ndarray]]:
    """The mean colour of each cell of a sheet, without what is empty above and below pictures."""
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


def test_of_several_pictures_a_bad_one_is_named_and_passed_over(painter: type[Inverting]) -> None:
    Path("photos/aa.jpg").write_text("not a picture")
    with pytest.raises(UserError) as mistake:
        command(content="photos", out="done")
    assert "aa.jpg cannot be used: not an image" in str(mistake.value)
    assert "1 of 3 pictures were not repainted" in str(mistake.value)
    written = sorted(path.name for path in Path("done").iterdir())
    assert written == ["a-sea.png", "b-sea.png", "sheet-sea.png"]
    assert len(painter.loaded) == 1
    np.testing.assert_allclose(cells(Path("done/sheet-sea.png"))[1][0], 255)


def test_of_a_gallery_a_bad_style_is_named_and_passed_over() -> None:
    Path("text.jpg").write_text("not a picture")
    with pytest.raises(UserError) as mistake:
        command(content="photos", style=["sea.png", "text.jpg", "wood.png", "no"], gallery=True)
    assert str(mistake.value).splitlines() == [
        "style: text.jpg cannot be used: not an image.",
        "style: there is no picture no.",
        "4 of 8 pictures were not repainted; see painted/gallery.png",
    ]
    written = sorted(path.stem for path in Path("painted").iterdir())
    assert written == ["a-sea", "a-wood", "b-sea", "b-wood", "gallery"]
    assert np.shape(cells(Path("painted/gallery.png"))) == (3, 3, 3)
    with pytest.raises(UserError, match=r"style: text.jpg cannot be used: not an image.$"):
        command(style=["sea.png", "text.jpg"], out="blend.png")


def test_a_style_that_cannot_be_shown_costs_no_gallery() -> None:
    Path("bad").mkdir()
    Path("bad/one.jpg").write_text("not a picture")
    sheet, *_ = command(style=["bad", "sea.png"], gallery=True)
    np.testing.assert_allclose(cells(sheet)[0][1], 255)
    np.testing.assert_allclose(cells(sheet)[0][2], mean_of(Image.open("sea.png")), atol=12)


def test_the_sheet_of_many_contents_is_about_square() -> None:
    sheet, *paths = command(content=["photos/a.png", "photos/b.png"] * 6)
    assert len(paths) == 12
    shown = cells(sheet)
    assert np.shape(shown) == (6, 6, 3)
    np.testing.assert_allclose(shown[0][3], mean_of(Image.open("photos/b.png")), atol=12)


def test_contents_of_one_name_have_results_of_their_own() -> None:
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


def test_a_style_without_weight_takes_no_part_nor_does_its_mask(painter: type[Inverting]) -> None:
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


def test_a_mask_of_another_size_but_the_same_shape_is_fitted(painter: type[Inverting]) -> None:
    Image.open("right.png").resize((120, 80)).save("large.png")
    command(mask="large.png", size=30)
    mask = painter.scenes[0].regions[0].mask
    assert mask is not None
    assert mask.shape == (1, 1, 20, 30)


def test_with_the_contents_colours_only_luminance_is_seen_and_painted(
    painter: type[Inverting],
) -> None:
    (path,) = command(color="content")
    (scene,) = painter.scenes
    assert torch.equal(scene.seen[:, 0], scene.seen[:, 2])
    (style,) = scene.regions[0].style.pictures()
    assert style.convert("HSV").getchannel("S").getextrema() == (0, 0)
    own, result = (
        np.asarray(Image.open(one).convert("YCbCr"), int) for one in ("photos/a.png", path)
    )
    assert np.abs(result[..., 1:] - own[..., 1:]).mean() < 3  # but where RGB has no such colour
    assert np.abs(result[..., 0] - (255 - own[..., 0])).mean() < 3


def test_where_a_mask_is_transparent_nothing_changes() -> None:
    mask = Image.new("RGBA", (60, 40), "white")
    mask.putalpha(Image.open("right.png"))
    mask.save("mask.png")
    (path,) = command(mask="mask.png")
    result = np.asarray(Image.open(path))
    np.testing.assert_array_equal(result[:, :30], np.asarray(Image.open("photos/a.png"))[:, :30])
    np.testing.assert_array_equal(result[:, 30:], negative("photos/a.png")[:, 30:])


def test_snapshots_events_and_a_film_show_how_it_came_about() -> None:
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
    assert [event.step for event in events.Images("picture")] == [2, 4, 6]
    film = imageio.imread(path.with_suffix(".mp4"), plugin="FFMPEG")
    assert film.shape == (4, 34, 52, 3)
    assert np.abs(film[0].astype(int) - 128).max() < 8
    assert np.abs(film[3].astype(int) - np.asarray(Image.open(path).resize((52, 34)))).mean() < 8


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
    open_picture, held = Image.open, []

    def noting(*args: Any, **options: Any) -> Image.Image:
        opened.append(open_picture(*args, **options))
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
    with pytest.raises(UserError, match=r"result.snapshots is there already"):
        Path("result.png").unlink()
        command(**gatys, snapshot_every=3)
    command(**gatys, snapshot_every=3, overwrite=True)
    names = sorted(one.name for one in Path("result.snapshots").iterdir())
    assert names == ["000003.png", "000006.png"]


def test_what_ctrl_c_leaves_is_written(
    painter: type[Inverting], capsys: pytest.CaptureFixture[str]
) -> None:
    painter.stopped = True
    with pytest.raises(SystemExit) as end:
        command(method="gatys", size=60)
    assert end.value.code == 130
    assert capsys.readouterr().err == "Stopped: painted/a-sea.png is the picture so far.\n"
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
        ({"content": "nowhere.jpg"}, "content: there is no picture nowhere.jpg."),
        ({"content": "text.jpg"}, "content: text.jpg cannot be used: not an image."),
        ({"content": "empty"}, "content: no pictures lie in empty."),
        ({"content": []}, "content: name at least one."),
        ({"content": {"a": 1}}, "content: '{'a': 1}' is neither a picture nor a folder."),
        ({"content": [""]}, "content: '' is neither"),
        ({"style": "nowhere.jpg"}, "style: there is no picture nowhere.jpg."),
        ({"style": "text.jpg"}, "style: text.jpg cannot be used: not an image."),
        ({"style": "empty"}, "style: no pictures lie in empty."),
        ({"out": "there.png"}, "out: there.png is there already. Give another place by out=, or"),
        ({"out": "result"}, "out: result ends in none of .png, .jpg"),
        ({"out": "result.bmp"}, "out: result.bmp ends in none of"),
        ({"out": "empty"}, "out: empty is a folder. Name a file, such as empty/result.png"),
        ({"out": "there.png/result.png"}, "cannot be written to. Choose another place."),
        ({"content": ["text.jpg", "text.jpg"]}, "content: text.jpg cannot be used: not an image"),
        (BATCH | {"out": "new.png"}, "out: new.png names a file, and several pictures go"),
        (BATCH | {"out": "text.jpg"}, "out: text.jpg names a file"),
        ({"mask": "nowhere.png"}, "mask: there is no picture nowhere.png."),
        ({"mask": "tall.png"}, "mask: has 40×60 pixels, and the content 60×40: another shape."),
        ({"mask": "black.png"}, "mask: is black all over"),
        (TWO | {"mask": ["right.png"] * 3}, "mask: 3 for 2 styles."),
        (TWO | {"weights": [1]}, "weights: 1 for 2 styles. Give one for each."),
        (TWO | {"weights": [1, -1]}, "weights: [1.0, -1.0] must be at least 0"),
        (TWO | {"weights": [0, 0]}, "weights: [0.0, 0.0] must be at least 0, and one of them"),
        (TWO | {"weights": [1, float("nan")]}, "weights: [1.0, nan] must be"),
        (TWO | {"weights": [1, 1], "gallery": True}, "weights: a gallery paints every style by"),
        (TWO | {"mask": ["right.png"] * 2, "gallery": True}, "mask: a gallery paints every"),
        ({"size": 16}, "size: 16 would make photos/a.png 16×11 pixels."),
        (
            {"content": "wide.png", "size": 16_384, "out": "new.webp"},
            "out: new.webp would have 16384×164 pixels, and its format has room for 16,383",
        ),
        ({"style_weight": 2}, "style_weight: means nothing to method=magenta. Add method=gatys"),
        ({"preset": "best"}, "preset: means nothing to method=magenta."),
        ({"init": "noise"}, "init: means nothing to method=magenta."),
        (GATYS | {"strength": 0.5}, "strength: means nothing to method=gatys. Add method=magenta"),
        (
            GATYS | {"init": "noize"},
            "init: 'noize' is none of content, noise, magenta. Did you mean",
        ),
        (GATYS | {"animation": True}, "animation: is made of snapshots. Add snapshot_every=10"),
    ],
)
def test_a_mistake_is_one_clear_line_and_nothing_is_written(
    options: dict[str, Any], message: str, painter: type[Inverting]
) -> None:
    Path("text.jpg").write_text("not a picture")
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


def test_what_is_there_is_replaced_if_asked_to() -> None:
    Path("there.png").write_text("old")
    command(out="there.png", overwrite=True)
    np.testing.assert_array_equal(Image.open("there.png"), negative("photos/a.png"))


NO_MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
]


@pytest.mark.parametrize("error", NO_MEMORY)
@pytest.mark.parametrize("where", ["paint", "read"])
def test_too_little_memory_for_one_picture_costs_none_of_the_others(
    painter: type[Inverting], monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    paint, read = painter.paint, run.read_content

    def failing_paint(self: Inverting, scene: Scene, watch: Watch) -> tuple[Tensor, bool]:
        if scene.seen.shape[-1] == 60:
            raise error
        return paint(self, scene, watch)

    def failing_read(source: Source, size: int | None) -> Content:
        if source == "photos/a.png":
            raise error
        return read(source, size)

    Image.open("photos/b.png").crop((0, 0, 30, 40)).save("photos/b.png")
    if where == "paint":
        monkeypatch.setattr(painter, "paint", failing_paint)
    else:
        monkeypatch.setattr(run, "read_content", failing_read)
    message = "size: there is too little memory for photos/a.png. Give a smaller size="
    for function in (command, lambda: stylize("photos/a.png", "sea.png")):
        with pytest.raises(UserError, match=f"^{message}$"):
            function()
    with pytest.raises(UserError, match=f"{message}\n1 of 2 pictures were not repainted"):
        command(**BATCH)
    assert sorted(path.name for path in Path("painted").iterdir()) == ["b-sea.png", "sheet-sea.png"]


def test_another_failure_of_the_painter_is_no_mistake_of_the_user(
    painter: type[Inverting], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(painter, "paint", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        command()


class Recording:
    """Stands for Magenta and for Gatys: notes what it was given, and paints a plain grey."""

    def __init__(self, config: StylizeConfig, device: str) -> None:
        self.key = "magenta's"
        self.backbone = SimpleNamespace(name="gatys'")

    def paint(
        self,
        content: Tensor,
        regions: Sequence[Region],
        watch: Watch | None = None,
        init: Tensor | None = None,
    ) -> Tensor:
        self.init = init
        return torch.full_like(content, 0.25)


@pytest.fixture
def method(monkeypatch: pytest.MonkeyPatch, painter: type[Inverting]) -> Callable[..., Method]:
    """The real chooser of methods, over stand-ins for both."""
    command(out="scene.png")
    for name in ("magenta", "gatys"):
        stands = SimpleNamespace(Magenta=Recording, Gatys=Recording, Interrupted=ZeroDivisionError)
        monkeypatch.setitem(sys.modules, f"artgan.style.{name}", stands)

    def method(**options: Any) -> Method:
        config = stylize_config({"content": "a", "style": "b", "device": "cpu"} | options)
        return Method(config)

    return method


def test_a_method_knows_whose_weights_paint(method: Callable[..., Method]) -> None:
    assert method(method="magenta").network == "magenta's"
    assert method(method="gatys", init="magenta").network == "gatys'"


def test_what_magenta_leaves_out_is_the_content_for_gatys_to_begin_from(
    method: Callable[..., Method], painter: type[Inverting]
) -> None:
    command(mask="right.png", out="masked.png")
    scene = painter.scenes[-1]
    chosen = method(method="gatys", init="magenta")
    chosen.paint(scene, lambda *_: None)
    begun = vars(chosen.gatys)["init"]
    assert torch.equal(begun[..., :30], scene.seen[..., :30])
    assert begun[..., 30:].unique().tolist() == [0.25]


def test_gatys_begins_from_what_is_asked_for(
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
    assert torch.equal(begun["content"], scene.seen)
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
