import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from artgan import sampling
from artgan.checkpoint import load_checkpoint
from artgan.errors import UserError
from artgan.images import read_provenance, save_png
from artgan.networks.dcgan import Generator
from artgan.options import Recipe, SampleConfig
from artgan.painter import draw_classes, draw_inputs, draw_latents, load, load_painter, paint
from artgan.sampling import columns, in_grid, render, sample, scroll_latents, spherical, walk
from tests.helpers import make_run, sampling_of

Settings = Callable[..., SampleConfig]


CLASSES = {"figure": 5, "landscape": 10, "river": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a version without classes."""
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with classes."""
    return str(make_run(tmp_path_factory.mktemp("conditional"), classes=CLASSES))


@pytest.fixture
def settings(folder: Path, tmp_path: Path) -> Settings:
    return lambda **chosen: sampling_of(**{"ckpt": folder, "out": tmp_path / "out"} | chosen)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_grid_and_single_pictures_are_written(settings: Settings, tmp_path: Path) -> None:
    grid, *singles = sample(settings(num=5))
    assert [path.name for path in singles] == [f"seed{seed}.png" for seed in range(5)]
    assert pixels(grid).shape == (2 * 34 + 2, 3 * 34 + 2, 3)
    np.testing.assert_array_equal(pixels(grid)[2:34, 36:68], pixels(singles[1]))


def test_a_seed_gives_the_same_picture_whatever_is_painted_with_it(
    settings: Settings, tmp_path: Path
) -> None:
    _, *many = sample(settings(num=9, seed=3))
    _, alone = sample(settings(num=1, seed=7, out=str(tmp_path / "alone")))
    assert alone.read_bytes() == many[4].read_bytes()


def test_without_out_samples_are_written_beside_the_checkpoint(
    settings: Settings, folder: Path
) -> None:
    grid, *_ = sample(settings(out=None))
    assert grid.parent == folder / "painted" / "images-000000012"


def test_the_averaged_generator_is_the_default_and_the_raw_one_is_available(
    settings: Settings, folder: Path
) -> None:
    state = load_checkpoint(folder / "last.ckpt")["state_dict"]
    for ema, prefix in ((True, "generator_ema."), (False, "generator.")):
        painter = load_painter(folder / "last.ckpt", ema)
        weight = painter.generator.state_dict()["layers.0.weight"]
        assert torch.equal(weight, state[prefix + "layers.0.weight"])
    averaged, raw = sample(settings()), sample(settings(ema=False))
    assert not np.array_equal(pixels(averaged[0]), pixels(raw[0]))


def test_truncation_draws_latents_towards_their_mean() -> None:
    torch.testing.assert_close(draw_latents(0, 4, 100, 0.8), 0.8 * draw_latents(0, 4, 100))
    assert draw_latents(0, 2000, 10).std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    "changes",
    [{}, {"truncation": 0.7}, {"ema": False}, {"layout": "scroll"}],
    ids=["single", "truncation", "raw", "scroll"],
)
def test_a_picture_can_be_painted_again_the_same_bits(
    settings: Settings, changes: dict[str, object]
) -> None:
    for picture in sample(settings(seed=11, **changes))[:2]:
        (again,) = sample(settings(out=None, from_image=str(picture)))
        assert again != picture
        assert again.read_bytes() == picture.read_bytes()


@pytest.mark.parametrize("layout", ["single", "scroll"])
@pytest.mark.parametrize("classes", [[], ["river"], ["figure", "river"]], ids=str)
def test_a_picture_of_a_class_can_be_painted_again_the_same_bits(
    settings: Settings, conditional: str, classes: list[str], layout: str
) -> None:
    chosen = {"ckpt": conditional, "classes": classes, "layout": layout}
    for picture in sample(settings(seed=11, **chosen))[:2]:
        (again,) = sample(settings(ckpt=conditional, out=None, from_image=str(picture)))
        assert again.read_bytes() == picture.read_bytes()


def test_a_picture_from_before_there_were_classes_can_be_painted_again(
    settings: Settings, tmp_path: Path
) -> None:
    picture, *_ = sample(settings(seed=11))
    provenance = read_provenance(picture)
    del provenance["classes"], provenance["scale"]
    save_png(torch.zeros(3, 8, 8, dtype=torch.uint8), tmp_path / "old.png", provenance)
    (again,) = sample(settings(from_image=str(tmp_path / "old.png")))
    assert again.read_bytes() == picture.read_bytes()


def test_a_picture_finds_its_checkpoint_among_others_of_the_run(
    settings: Settings, folder: Path
) -> None:
    copy = folder / "images-000000012.ckpt"
    copy.write_bytes((folder / "last.ckpt").read_bytes())
    try:
        grid, *_ = sample(settings(out=None))  # below the run
        (folder / "last.ckpt").rename(folder / "away")
        (again,) = sample(settings(ckpt=None, from_image=str(grid)))
        np.testing.assert_array_equal(pixels(again), pixels(grid))
        copy.unlink()
        with pytest.raises(UserError, match=r"ckpt: the checkpoint that painted this image"):
            sample(settings(ckpt=None, from_image=str(grid)))
    finally:
        (folder / "away").rename(folder / "last.ckpt")


def test_a_picture_does_not_show_where_its_run_is_but_finds_it_in_checkpoints(
    settings: Settings, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, single, *_ = sample(settings(num=1))
    assert read_provenance(single)["checkpoint"] == "last.ckpt"
    assert str(folder.parent).encode() not in single.read_bytes()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"above it, nor in checkpoints. .* add ckpt=PATH"):
        sample(settings(ckpt=None, from_image=str(single)))
    shutil.copytree(folder, "checkpoints/mine")
    (again,) = sample(settings(ckpt=None, from_image=str(single)))
    assert again.read_bytes() == single.read_bytes()


def test_a_picture_of_another_origin_cannot_be_painted_again(
    settings: Settings, tmp_path: Path
) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "other.png")
    (tmp_path / "none.png").write_text("no picture")
    for name, message in (
        ("other.png", "does not say how it was painted"),
        ("none.png", "cannot be read"),
        ("missing.png", "there is no image"),
    ):
        with pytest.raises(UserError, match=message):
            sample(settings(from_image=str(tmp_path / name)))


def test_a_walk_is_spherical_and_closed() -> None:
    start, end = draw_latents(0, 2, 100)
    middle = spherical(start, end, 0.5)
    angles = [
        math.acos(float(torch.dot(middle.flatten(), x.flatten()) / (middle.norm() * x.norm())))
        for x in (start, end)
    ]
    assert angles[0] == pytest.approx(angles[1], rel=1e-4)
    assert middle.norm().item() == pytest.approx(float((start.norm() + end.norm()) / 2), rel=0.15)
    torch.testing.assert_close(spherical(start, end, 0.0), start)
    torch.testing.assert_close(spherical(start, end, 1.0), end)

    stops = draw_latents(0, 3, 100)
    steps = walk(stops, frames=5)
    assert len(steps) == 15
    torch.testing.assert_close(steps[::5], stops)


def test_a_walk_writes_a_gif_and_an_mp4_with_all_frames(settings: Settings) -> None:
    gif, mp4 = sample(settings(interpolate=3, frames=4))
    with Image.open(gif) as film:
        assert film.n_frames == 12  # type: ignore[attr-defined]
        assert film.size == (32, 32)
    with av.open(mp4) as film:
        stream = film.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
        assert (len(frames), stream.codec_context.name) == (12, "h264")
        assert (stream.average_rate, stream.codec_context.pix_fmt) == (24, "yuv420p")
    _, first, *_ = sample(settings(num=1))
    assert np.abs(frames[0].astype(int) - pixels(first)).mean() < 25  # an image of high contrast


def test_a_walk_without_variety_stays_at_the_mean_picture(settings: Settings, folder: Path) -> None:
    gif, _ = sample(settings(interpolate=2, truncation=0))
    painter = load_painter(folder / "last.ckpt")
    mean = paint(painter.generator, torch.zeros(1, 100, 1, 1))[0].permute(1, 2, 0).double()
    with Image.open(gif) as film:
        frame = np.asarray(film.convert("RGB"), np.float64)
    assert np.abs(frame - mean.numpy()).mean() < 8  # a GIF has 256 colours


@pytest.mark.parametrize(
    ("chosen", "ignored"),
    [
        (
            {"interpolate": 4, "num": 5, "length": 3.0},
            "num, length: has no effect here: inter",
        ),
        ({"interpolate": 2, "layout": "scroll"}, "layout: has no effect here: interpolate"),
        ({"layout": "scroll", "frames": 3, "num": 2}, "frames, num: has no effect here: a scroll"),
        ({"frames": 3}, "frames: has no effect here: frames= needs interpolate="),
        ({"length": 3.0, "seed": 1}, "length: has no effect here: .* length= needs layout=scroll"),
        ({"from_image": "x.png", "seed": 3}, "seed: has no effect here: the image says itself"),
    ],
)
def test_options_without_effect_are_refused(
    settings: Settings, chosen: dict[str, Any], ignored: str
) -> None:
    with pytest.raises(UserError, match=f"^{ignored}"):
        sample(settings(**chosen), chosen)


def test_options_that_keep_their_default_are_taken_with_others(settings: Settings) -> None:
    chosen = {"interpolate": 2, "layout": "single", "from_image": None, "frames": 1, "seed": 1}
    assert len(sample(settings(**chosen), chosen)) == 2


@pytest.mark.parametrize("chosen", [{}, {"layout": "scroll"}, {"interpolate": 2}], ids=str)
def test_files_are_replaced_only_if_asked_for(settings: Settings, chosen: dict[str, Any]) -> None:
    first, *_ = sample(settings(**chosen))
    first.write_bytes(b"mine")
    with pytest.raises(UserError, match=rf"^out: {first} exists already\..* overwrite=true"):
        sample(settings(**chosen))
    assert first.read_bytes() == b"mine"
    sample(settings(**chosen, overwrite=True))
    assert first.read_bytes() != b"mine"


def test_a_picture_painted_again_is_replaced_only_if_asked_for(settings: Settings) -> None:
    picture, *_ = sample(settings())
    again = {"out": None, "from_image": str(picture)}
    sample(settings(**again))
    with pytest.raises(UserError, match=r"-again\.png exists already"):
        sample(settings(**again))
    sample(settings(**again, overwrite=True))


def test_samples_beside_their_checkpoint_can_be_painted_again(settings: Settings) -> None:
    assert sample(settings(out=None)) == sample(settings(out=None))


def test_a_grid_shows_no_more_than_other_programs_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_grid(100_000, 64) == 400
    for side in (32, 512, 4096):
        wide = columns(in_grid(100_000, side)) * (side + 2) + 2
        assert wide**2 <= 89_478_485  # where Pillow begins to warn
    monkeypatch.setattr(sampling, "GRID_COLUMNS", 2)
    grid, *singles = sample(settings(num=7, seed=3))
    assert grid.name == "grid-seed3-num4.png"
    assert len(singles) == 7
    (again,) = sample(settings(from_image=str(grid)))
    assert again.read_bytes() == grid.read_bytes()


def test_a_scroll_longer_than_other_programs_read_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "MOST_PIXELS", 32 * 32 * 4)
    assert len(sample(settings(layout="scroll", length=4.0))) == 1
    with pytest.raises(UserError, match=r"^length: 5 heights of 32 px .* at most length=4$"):
        sample(settings(layout="scroll", length=5.0))


def test_the_provenance_of_an_image_of_any_size_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_png(torch.zeros(3, 80, 80, dtype=torch.uint8), tmp_path / "large.png", {"seed": 3})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "large.png")
    assert read_provenance(tmp_path / "large.png") == {"seed": 3}


def test_what_is_painted_can_be_enlarged(settings: Settings, tmp_path: Path) -> None:
    _, small = sample(settings(num=1, seed=5))
    grid, large = sample(settings(num=1, seed=5, scale=4))
    assert large.name == "seed5-scale4.png"
    with Image.open(small) as image:
        expected = image.resize((128, 128), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(pixels(large), np.asarray(expected))
    assert pixels(grid).shape == (132, 132, 3)
    (scroll,) = sample(settings(layout="scroll", length=2.0, scale=2))
    assert pixels(scroll).shape == (64, 128, 3)
    for picture in (grid, large, scroll):
        (again,) = sample(settings(out=None, from_image=str(picture)))
        assert again.read_bytes() == picture.read_bytes()
    gif, film = sample(settings(interpolate=2, frames=2, scale=2))
    assert pixels(gif).shape[:2] == (64, 64)
    with av.open(str(film)) as opened:
        assert (opened.streams.video[0].width, opened.streams.video[0].height) == (64, 64)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "x"},
        {"seed": -1},
        {"num": 0},
        {"num": 10**9},
        {"length": "inf"},
        {"truncation": None},
        {"kind": "foo"},
        {"ema": "no way"},
        {"classes": "river"},
        {"classes": ["river"]},
        {"checkpoint_sha256": 7},
    ],
    ids=str,
)
def test_an_altered_provenance_is_refused(
    settings: Settings, change: dict[str, object], tmp_path: Path
) -> None:
    grid, *_ = sample(settings())
    altered = tmp_path / "altered.png"
    save_png(torch.zeros(3, 8, 8, dtype=torch.uint8), altered, read_provenance(grid) | change)
    with pytest.raises(UserError, match=r"from_image|classes: this checkpoint cannot paint"):
        sample(settings(from_image=str(altered)))


def test_a_scroll_is_one_long_picture_whose_parts_do_not_depend_on_its_length(
    settings: Settings, folder: Path
) -> None:
    (scroll,) = sample(settings(layout="scroll", length=7.0))
    assert pixels(scroll).shape == (32, 7 * 32, 3)

    painter = load_painter(folder / "last.ckpt")
    latents = scroll_latents(0, 7, 100)
    part = paint(painter.generator, latents[None, :, :, 4:20])[0]
    whole = paint(painter.generator, latents[None])[0]
    np.testing.assert_array_equal(pixels(scroll), whole[:, :, 24:-24].permute(1, 2, 0))
    # Away from its ends, a cut-out latent map paints just what it paints within the whole.
    difference = part[:, :, 48:-48].int() - whole[:, :, 32 + 48 : 32 + 19 * 8 - 48].int()
    assert difference.abs().max() <= 1


def test_a_scroll_keeps_the_variance_of_the_first_features() -> None:
    layer = Generator(64).layers[0]
    scroll = layer(scroll_latents(0, 500, 100)[None])[..., 3:-3]
    assert scroll.shape[-1] == 4 * 500
    squares = layer(draw_latents(0, 500, 100))
    assert scroll.std().item() == pytest.approx(squares.std().item(), rel=0.03)


def test_seeds_draw_classes_as_frequent_as_the_paintings_whatever_their_latents() -> None:
    classes = draw_classes(0, 3000, CLASSES)
    assert classes.shape == (3000, 3, 1, 1)
    assert torch.equal(classes.sum(1).flatten(), torch.ones(3000))
    assert set(classes.unique().tolist()) == {0, 1}
    shares = classes.mean(0).flatten()
    torch.testing.assert_close(shares, torch.tensor([5, 10, 1]) / 16, atol=0.03, rtol=0)
    both = torch.cat([classes, draw_latents(0, 3000, 20)], dim=1).flatten(1)
    assert torch.corrcoef(both.T)[:3, 3:].abs().max() < 0.08
    assert torch.equal(draw_classes(1234, 5, CLASSES), classes[1234:1239])


def test_a_seed_has_the_same_latents_in_every_class(conditional: str) -> None:
    painter = load_painter(Path(conditional) / "last.ckpt")
    for chosen in ([], ["river"]):
        inputs = draw_inputs(3, 4, 100, painter.classes, 0.5, chosen)
        assert torch.equal(inputs[:, :100], draw_latents(3, 4, 100, 0.5))
        assert torch.equal(inputs[:, 100:], draw_classes(3, 4, CLASSES, chosen))


@pytest.mark.parametrize(
    ("chosen", "shares"),
    [
        (["landscape"], [0, 1, 0]),
        (["river", "figure"], [0.5, 0, 0.5]),
        (["river", "figure", "river", "river"], [0.25, 0, 0.75]),
    ],
)
def test_chosen_classes_are_mixed_in_equal_parts(chosen: list[str], shares: list[float]) -> None:
    assert draw_classes(7, 2, CLASSES, chosen).flatten(1).tolist() == [shares, shares]


def test_a_class_that_is_asked_for_is_painted(settings: Settings, conditional: str) -> None:
    painter = load_painter(Path(conditional) / "last.ckpt")
    one_hot = torch.tensor([0.0, 0, 1])[None, :, None, None]
    expected = paint(painter.generator, torch.cat([draw_latents(5, 1, 100), one_hot], dim=1))[0]
    _, river = sample(settings(ckpt=conditional, num=1, seed=5, classes=["river"]))
    assert river.name == "seed5-river.png"
    np.testing.assert_array_equal(pixels(river), expected.permute(1, 2, 0))
    _, both = sample(settings(ckpt=conditional, num=1, seed=5, classes=["river", "figure"]))
    assert both.name == "seed5-river+figure.png"
    assert not np.array_equal(pixels(both), pixels(river))


def test_a_class_that_is_not_there_is_refused(settings: Settings, conditional: str) -> None:
    nearest = "'lanscape' is none of figure, landscape, river. Did you mean 'landscape'"
    for options in ({}, {"layout": "scroll"}, {"interpolate": 2}):
        with pytest.raises(UserError, match=f"^classes: {nearest}"):
            sample(settings(ckpt=conditional, classes=["river", "lanscape"], **options))
        with pytest.raises(UserError, match=r"^classes: .* model.conditional=true"):
            sample(settings(classes=["river"], **options))


def test_a_walk_between_classes_mixes_them(settings: Settings, conditional: str) -> None:
    stops = draw_classes(0, 8, CLASSES)
    steps = walk(stops, 4, torch.lerp)
    torch.testing.assert_close(steps[::4], stops)
    torch.testing.assert_close(steps[2::4], (stops + stops.roll(-1, 0)) / 2)
    torch.testing.assert_close(steps.sum(1).flatten(), torch.ones(32))

    river, _ = sample(settings(ckpt=conditional, interpolate=2, frames=2, classes=["river"]))
    assert river.name == "walk-seed0-river.gif"


def test_a_scroll_has_the_mean_of_its_class_in_every_column(conditional: str) -> None:
    painter = load_painter(Path(conditional) / "last.ckpt")
    features: list[torch.Tensor] = []
    layers: Any = painter.generator.layers
    layers[0].register_forward_hook(lambda _, __, seen: features.append(seen))
    for kind in ("scroll", "single"):
        render(
            painter,
            Recipe(
                kind=kind, seed=0, truncation=0.0, ema=True, num=1, length=3.0, classes=["river"]
            ),
        )
    scroll, square = features
    expected = square.mean(dim=-1, keepdim=True).expand(-1, -1, -1, 12)
    torch.testing.assert_close(scroll[..., 3:-3], expected)


def test_the_name_of_a_class_leads_nowhere_else(settings: Settings, tmp_path: Path) -> None:
    folder = make_run(tmp_path, classes={"../山水 (1)": 1, "b": 1})
    _, picture = sample(settings(ckpt=str(folder), num=1, classes=["../山水 (1)"]))
    assert picture.name == "seed0-..%2F山水 (1).png"
    assert picture.parent == tmp_path / "out"


def test_classes_of_like_names_have_files_of_their_own(settings: Settings, tmp_path: Path) -> None:
    names = ["a/b", "a_b", "a b", "a%2Fb"]
    folder = make_run(tmp_path, classes=dict.fromkeys(names, 1))
    painted = {sample(settings(ckpt=str(folder), num=1, classes=[name]))[0] for name in names}
    assert len(painted) == len(names)


@pytest.mark.parametrize("classes", [["a", "b"], {"a": "b"}, {"a": 0}, {"a": 1}], ids=str)
def test_classes_that_do_not_fit_are_refused(
    settings: Settings, folder: Path, tmp_path: Path, classes: object
) -> None:
    content = load_checkpoint(folder / "last.ckpt")
    content["artgan"]["classes"] = classes
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match="do not fit together"):
        sample(settings(ckpt=str(tmp_path / "odd.ckpt")))


def test_parts_that_do_not_fit_together_are_refused(settings: Settings, folder: Path) -> None:
    content = torch.load(folder / "last.ckpt", weights_only=True)
    content["artgan"]["config"]["model"]["width"] = 16
    torch.save(content, folder / "odd.ckpt")
    with pytest.raises(UserError, match="do not fit together"):
        sample(settings(ckpt=str(folder / "odd.ckpt")))
    (folder / "odd.ckpt").unlink()


def test_sampling_needs_a_checkpoint_and_a_device_that_is_there(settings: Settings) -> None:
    with pytest.raises(UserError, match="ckpt: no run given"):
        sample(settings(ckpt=None))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="there is no cuda"):
            sample(settings(device="cuda"))


def test_a_painter_gives_the_pixels_that_the_command_writes(
    settings: Settings, conditional: str
) -> None:
    _, *files = sample(settings(ckpt=conditional, num=3, seed=5, truncation=0.7))
    painter = load(conditional)
    assert (painter.resolution, painter.images_seen, painter.classes) == (32, 12, CLASSES)
    images = painter.paint(seeds=range(5, 8), truncation=0.7)
    for image, file in zip(images, files, strict=True):
        np.testing.assert_array_equal(np.asarray(image), pixels(file))
    (river,) = painter.paint([5], classes=["river"])
    _, file = sample(settings(ckpt=conditional, num=1, seed=5, classes=["river"]))
    np.testing.assert_array_equal(np.asarray(river), pixels(file))
    assert painter.paint([]) == []
