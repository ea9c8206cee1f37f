"""Training on latents, with a seeded random autoencoder of the published shape."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from artgan import latents
from artgan.checkpoint import load_checkpoint
from artgan.config import compose
from artgan.data.folder import load_pack
from artgan.data.pack import Cut, Pack
from artgan.errors import UserError
from artgan.export import export
from artgan.latents import Latents, encode, load_decoder
from artgan.networks.taef2 import Encoder
from artgan.options import ExportConfig, TrainConfig
from artgan.painter import load
from artgan.sampling import sample
from artgan.training.callbacks.grids import SampleGrids
from tests.helpers import assert_same_state, evaluation_of, sampling_of

LATENT = {"model": "latent", "resolution": 64, "model__width": 4, "batch_size": 8}
LATENT |= {"sample_every": 10_000}


@pytest.fixture
def pack(paintings: Path) -> Pack:
    return load_pack(paintings, Cut(64))


@pytest.fixture
def encoded(pack: Pack, autoencoder: Path) -> Latents:
    return encode(pack, True, str(autoencoder), "cpu")


def squares_of(pack: Pack) -> np.ndarray[Any, Any]:
    return pack.squares(np.arange(len(pack)), np.full(len(pack), 0.5))


def test_each_square_is_encoded_and_then_each_mirrored(
    pack: Pack, encoded: Latents, autoencoder: Path
) -> None:
    encoder = Encoder()
    encoder.load_state_dict(torch.load(autoencoder / "taef2_encoder.pth", weights_only=True))
    squares = torch.from_numpy(squares_of(pack)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = encoder(torch.cat([squares, squares.flip(-1)])).permute(0, 2, 3, 1)
    found = torch.from_numpy(squares_of(encoded.pack))
    assert found.dtype == torch.float16
    # bfloat16 on some machines
    assert torch.allclose(found.float(), expected, atol=0.03 * float(expected.std()))
    assert encoded.pack.files == pack.files * 2
    flat = found.float().flatten(0, 2)
    assert torch.allclose(encoded.mean.flatten(), flat.mean(0), atol=1e-4)
    assert torch.allclose(encoded.std.flatten(), flat.std(0, correction=0), atol=1e-4)


def test_large_sets_are_encoded_without_mirror_images(
    pack: Pack, autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encoded_files() -> list[str]:
        return encode(pack, True, str(autoencoder), "cpu").pack.files

    monkeypatch.setattr(latents, "ENOUGH", len(pack) + 1)
    assert encoded_files() == pack.files * 2
    monkeypatch.setattr(latents, "ENOUGH", len(pack))
    assert encoded_files() == pack.files


def test_long_strips_give_squares_half_a_side_apart(paintings: Path, autoencoder: Path) -> None:
    pack = load_pack(paintings, Cut(64, "random"))
    assert set(pack.lengths) == {80}
    found = encode(pack, False, str(autoencoder), "cpu").pack
    assert found.files == [name for name in pack.files for _ in range(2)]
    assert found.resolution == 8


def test_an_interrupted_encoding_goes_on_where_it_stopped(
    pack: Pack, encoded: Latents, autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = squares_of(encoded.pack)
    for path in pack.report.parent.glob("features/*taef2*"):
        path.unlink()
    monkeypatch.setattr(latents, "PART", 16)
    calls: list[int] = []
    encode_some = latents._encoded

    def interrupted(encoder: Encoder, images: torch.Tensor, bar: Any) -> torch.Tensor:
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode_some(encoder, images, bar)

    monkeypatch.setattr(latents, "_encoded", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode(pack, True, str(autoencoder), "cpu")
    again = encode(pack, True, str(autoencoder), "cpu")
    assert calls == [16, 16, 8, 8, 16, 16, 8]  # the two that were done are not repeated
    assert np.array_equal(squares_of(again.pack), whole)
    (path,) = pack.report.parent.glob("features/*taef2*")  # the parts are gone
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    calls[:] = [0] * 3
    assert np.array_equal(squares_of(encode(pack, True, str(autoencoder), "cpu").pack), whole)
    assert len(calls) == 9


def test_a_resumed_run_equals_the_uninterrupted_one_and_paints_its_last_grid(
    run: Callable[..., Path], autoencoder: Path, tmp_path: Path
) -> None:
    # A rate that decays over the budget would differ.
    latent = LATENT | {"weights_dir": str(autoencoder), "model__learning_rate_final": 1}
    whole = run(**latent, name="whole", max_images=72)
    resumed = run(**latent, name="resumed", max_images=40)
    run(resume=str(resumed), max_images=72)
    assert_same_state(whole / "last.ckpt", resumed / "last.ckpt")
    # Sampling needs the checkpoint alone.
    grid, *_ = sample(sampling_of(whole, tmp_path, num=64))
    last = whole / "samples" / "images-000000072.png"
    assert Image.open(grid).tobytes() == Image.open(last).tobytes()
    with Image.open(tmp_path / "seed0.png") as square:
        assert square.size == (64, 64)


def test_the_export_holds_the_decoder(
    run: Callable[..., Path], autoencoder: Path, tmp_path: Path
) -> None:
    folder = run(**LATENT, weights_dir=str(autoencoder), model__conditional="true")
    exported = export(ExportConfig(ckpt=str(folder), out=str(tmp_path / "one.safetensors")))
    for path in (folder / "last.ckpt", exported):
        assert "MIT" in load_checkpoint(path)["artgan"]["decoder"]["license"]
    state = load_checkpoint(folder / "last.ckpt")["state_dict"]
    assert state["discriminator.layers.0.weight"].shape == (4, 32, 4, 4)
    assert state["to_images.std"].min() > 0
    first, second = load(folder), load(exported)
    for one, other in zip(first.paint(range(3)), second.paint(range(3)), strict=True):
        assert one.tobytes() == other.tobytes()
    scroll = sample(sampling_of(exported, tmp_path, layout="scroll", length=2.0))[0]
    assert Image.open(scroll).height == 64


@pytest.mark.parametrize(("resolution", "count"), [(128, 40), (256, 16)])
def test_grids_of_large_samples_have_fewer(
    paintings: Path, tmp_path: Path, resolution: int, count: int
) -> None:
    """Of 40 paintings, all or 16 are shown for comparison."""
    grids = SampleGrids(tmp_path, load_pack(paintings, Cut(resolution)))
    assert len(grids.paintings) == count


@pytest.mark.slow
def test_it_is_measured_in_pixels(run: Callable[..., Path], autoencoder: Path) -> None:
    from artgan.evaluation import evaluate

    folder = run(
        **LATENT, weights_dir=str(autoencoder), dataset__holdout=0.5, evaluate_every=64,
        evaluate__features="none", evaluate__num=24,
    )  # fmt: skip
    scores, _ = evaluate(evaluation_of(folder))
    assert {"swd/64", "swd/32"} <= set(scores["held-out"])


@pytest.mark.parametrize(
    ("options", "model"),
    [
        ({"resolution": 256}, "taef2"),
        ({"resolution": 512}, "taef2"),
        ({"resolution": 128}, "none"),
        ({"resolution": 256, "model": "artgan"}, "none"),
        ({"resolution": 256, "autoencoder": "none"}, "none"),
        ({"model": "latent"}, "taef2"),
    ],
)
def test_large_images_are_trained_on_latents(options: dict[str, Any], model: str) -> None:
    assert compose("train", options).autoencoder == model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "artgan", "resolution": 512}, "Add model=latent"),
        ({"model": "latent", "resolution": 32}, "too little for latents"),
        ({"model": "latent", "model__augment": "[color]"}, "latents have no color"),
        (
            {"model": "latent", "weights_dir": "{empty}"},
            "no file taef2_encoder.pth in .*empty",
        ),
    ],
)
def test_what_cannot_work_is_one_message(
    run: Callable[..., Path], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    chosen = {key: str(value).format(empty=tmp_path / "empty") for key, value in options.items()}
    with pytest.raises(UserError, match=message):
        run(**({"resolution": 64} | chosen))


def test_weights_of_another_network_are_refused(
    pack: Pack, encoded: Latents, autoencoder: Path, tmp_path: Path
) -> None:
    torch.save({"0.weight": torch.zeros(3)}, tmp_path / "taef2_decoder.pth")
    with pytest.raises(UserError, match="not those of TAEF2"):
        load_decoder(encoded, str(tmp_path))


def test_configuration(configure: Callable[..., TrainConfig]) -> None:
    config = configure(model="latent", resolution=256)
    assert (config.autoencoder, config.model.r1, config.batch_size) == ("taef2", 3, 8)
