import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from artgan.checkpoint import load_checkpoint
from artgan.config import SampleConfig
from artgan.errors import UserError
from artgan.networks.dcgan import Generator
from artgan.pictures import read_provenance, save_png
from artgan.sampling import (
    draw_latents,
    load_painter,
    paint,
    sample,
    scroll_latents,
    spherical,
    walk,
)

Settings = Callable[..., SampleConfig]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a generator of random weights, at 32 px."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    networks = {"generator": Generator(32, width=8), "generator_ema": Generator(32, width=8)}
    state = {
        f"{prefix}.{name}": tensor
        for prefix, network in networks.items()
        for name, tensor in network.state_dict().items()
    }
    config = {"resolution": 32, "model": {"latent_dim": 100, "width": 8}}
    described = {"format": 1, "config": config, "progress": {"images_seen": 12, "seconds": 1.0}}
    torch.save({"state_dict": state, "artgan": described}, folder / "last.ckpt")
    return folder


@pytest.fixture
def settings(folder: Path, tmp_path: Path) -> Settings:
    default = SampleConfig(
        ckpt=str(folder),
        num=4,
        seed=0,
        out=str(tmp_path / "out"),
        truncation=1.0,
        ema=True,
        interpolate=0,
        frames=4,
        layout="single",
        length=3.0,
        from_image=None,
        device="cpu",
    )
    return lambda **changes: replace(default, **changes)


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


def test_without_out_pictures_lie_beside_the_checkpoint(settings: Settings, folder: Path) -> None:
    grid, *_ = sample(settings(out=None))
    assert grid.parent == folder / "painted" / "images-000000012"


def test_the_averaged_generator_is_the_default_and_the_raw_one_can_be_had(
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
        (again,) = sample(settings(ckpt=None, out=None, from_image=str(picture)))
        assert again != picture
        assert again.read_bytes() == picture.read_bytes()


def test_a_picture_finds_its_checkpoint_among_others_of_the_run(
    settings: Settings, folder: Path
) -> None:
    copy = folder / "images-000000012.ckpt"
    copy.write_bytes((folder / "last.ckpt").read_bytes())
    try:
        grid, *_ = sample(settings())
        (folder / "last.ckpt").rename(folder / "away")
        (again,) = sample(settings(ckpt=None, from_image=str(grid)))
        np.testing.assert_array_equal(pixels(again), pixels(grid))
        copy.unlink()
        with pytest.raises(UserError, match=r"ckpt: the checkpoint that painted this picture"):
            sample(settings(ckpt=None, from_image=str(grid)))
    finally:
        (folder / "away").rename(folder / "last.ckpt")


def test_a_picture_of_another_origin_cannot_be_painted_again(
    settings: Settings, tmp_path: Path
) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "other.png")
    (tmp_path / "none.png").write_text("no picture")
    for name, message in (
        ("other.png", "does not say how it was painted"),
        ("none.png", "cannot be read"),
        ("missing.png", "there is no picture"),
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
    frames = imageio.imread(mp4, plugin="FFMPEG")
    assert frames.shape == (12, 32, 32, 3)


def test_a_walk_without_variety_stays_at_the_mean_picture(settings: Settings, folder: Path) -> None:
    gif, _ = sample(settings(interpolate=2, truncation=0))
    painter = load_painter(folder / "last.ckpt")
    mean = paint(painter.generator, torch.zeros(1, 100, 1, 1))[0].permute(1, 2, 0).double()
    with Image.open(gif) as film:
        frame = np.asarray(film.convert("RGB"), np.float64)
    assert np.abs(frame - mean.numpy()).mean() < 8  # a GIF has 256 colours


def test_a_walk_along_a_scroll_is_refused(settings: Settings) -> None:
    with pytest.raises(UserError, match="interpolate: walks through single pictures"):
        sample(settings(interpolate=2, layout="scroll"))


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
    with pytest.raises(UserError, match="from_image"):
        sample(settings(ckpt=None, from_image=str(altered)))


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


def test_parts_that_do_not_fit_together_are_refused(settings: Settings, folder: Path) -> None:
    content = torch.load(folder / "last.ckpt", weights_only=True)
    content["artgan"]["config"]["model"]["width"] = 16
    torch.save(content, folder / "odd.ckpt")
    with pytest.raises(UserError, match="do not fit together"):
        sample(settings(ckpt=str(folder / "odd.ckpt")))
    (folder / "odd.ckpt").unlink()


def test_sampling_needs_a_checkpoint_and_a_device_that_is_there(settings: Settings) -> None:
    with pytest.raises(UserError, match="ckpt: say which run"):
        sample(settings(ckpt=None))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="there is no cuda"):
            sample(settings(device="cuda"))
