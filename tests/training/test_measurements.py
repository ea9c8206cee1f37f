import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor

from artgan.checkpoint import load_checkpoint
from artgan.config import CONFIGS, documented_keys
from artgan.errors import UserError
from artgan.evaluation import SEED, Reference, evaluate
from artgan.metrics import features
from artgan.metrics.features import Features
from artgan.options import DatasetConfig, EvaluateConfig, TrainConfig
from artgan.training import measurements
from artgan.training.callbacks import FIGURES, Clock
from tests.helpers import assert_same_state, evaluation_of, serving

Run = Callable[..., Path]


@pytest.fixture
def measured(run: Run, weights: Path) -> Callable[..., Path]:
    """Trains 64 images, half of the 40 paintings held out, and measures every 24."""

    def measured(**overrides: Any) -> Path:
        chosen = {
            "evaluate_every": 24,
            "evaluate__num": 16,
            "evaluate__features": weights,
            "dataset__holdout": 0.5,
        }
        if "resume" in overrides:
            return run(**overrides)
        return run(**chosen | overrides)

    return measured


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has measurements give these values for every figure, one after the other."""

    def scripted(*values: float) -> None:
        left = list(values)

        def scripted_measure(
            _: Any, inputs: Tensor, reference: Reference, extract: Features | None
        ) -> tuple[dict[str, Any], Tensor]:
            keys = ("kid", "kid_std", "fid", "precision", "recall", "swd", "ratio", "near")
            figures = dict.fromkeys(keys, left.pop(0))
            names = [*(part.name for part in reference.parts), "originality"]
            described: dict[str, Any] = {
                "similarity": 0.5,
                "samples": len(inputs),
                "features": extract and extract.name,
            }
            sheet = torch.zeros(3, 8, 8, dtype=torch.uint8)
            return described | dict.fromkeys(names, figures), sheet

        monkeypatch.setattr(measurements, "measure", scripted_measure)

    return scripted


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def points(folder: Path) -> dict[int, dict[str, Any]]:
    """The figures in the run's folder, by images seen."""
    found = (json.loads(path.read_text()) for path in sorted(folder.glob("evaluated/*/*.json")))
    return {figures["images_seen"]: figures for figures in found}


def best(folder: Path) -> tuple[int, float]:
    """Images seen, and the figure, of the state kept as the best."""
    checkpoint = load_checkpoint(folder / "best.ckpt")
    kept = checkpoint["callbacks"]["Measurements"]["best"]
    return checkpoint["artgan"]["progress"]["images_seen"], kept["value"]


def test_measuring_leaves_the_training_as_it_is_bit_for_bit(run: Run, measured: Run) -> None:
    plain = run(name="plain", dataset__holdout=0.5)
    folder = measured(name="mine", checkpoint__monitor="kid")
    assert list(points(folder)) == [24, 48, 64]
    assert_same_state(folder / "last.ckpt", plain / "last.ckpt")


def test_the_figures_are_those_of_evaluate_py(measured: Run, weights: Path) -> None:
    folder = measured(name="mine", checkpoint__every=24, checkpoint__keep=9)
    assert dict(documented(key) for key in ("seed", "ema")) == {"seed": str(SEED), "ema": "true"}
    found = points(folder)
    for seen in (24, 48, 64):
        config = EvaluateConfig(
            ckpt=str(folder / f"images-{seen:09d}.ckpt"),
            dataset=DatasetConfig(),
            features=str(weights),
            num=16,
            seed=SEED,
            ema=True,
            out=str(folder / "again"),
            device="cpu",
        )
        figures, _ = evaluate(config)
        assert figures | {"checkpoint": None} == found[seen]
        sheet = folder / "evaluated" / f"images-{seen:09d}" / "nearest.png"
        assert sheet.read_bytes() == (folder / "again" / "nearest.png").read_bytes()


def documented(key: str) -> tuple[str, str]:
    return next((k, v) for k, v, _ in documented_keys(CONFIGS / "evaluate.yaml") if k == key)


def test_tensorboard_shows_the_figures_under_the_name_of_their_features(measured: Run) -> None:
    folder = measured(name="mine")
    log, found = events(folder), points(folder)
    name = found[64]["features"]
    tags = {tag for tag in log.Tags()["scalars"] if tag.startswith("evaluate/")}
    assert tags == {
        *(
            f"evaluate/{key} {part} ({name})"
            for key in ("kid", "kid_std", "fid", "precision", "recall")
            for part in ("training", "held-out")
        ),
        "evaluate/similarity",
        "evaluate/swd training",
        "evaluate/swd held-out",
        f"evaluate/originality ratio ({name})",
        f"evaluate/originality near ({name})",
    }
    shown = {point.step: point.value for point in log.Scalars(f"evaluate/kid held-out ({name})")}
    assert shown == pytest.approx({seen: found[seen]["held-out"]["kid"] for seen in found})
    assert [image.step for image in log.Images("nearest")] == [24, 48, 64]
    file = folder / "evaluated" / "images-000000048" / "nearest.png"
    assert log.Images("nearest")[1].encoded_image_string == file.read_bytes()
    with Image.open(file) as sheet:
        assert sheet.size == (16 * 34 + 2, 2 * 34 + 2)
    metadata = log.SummaryMetadata("_hparams_/experiment")
    experiment = HParamsPluginData.FromString(metadata.plugin_data.content).experiment
    assert {info.name.tag for info in experiment.metric_infos} == {*FIGURES, *tags}


def test_features_of_the_paintings_are_computed_once(
    measured: Run, monkeypatch: pytest.MonkeyPatch, paintings: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(paintings, tmp_path / "mine", ignore=shutil.ignore_patterns(".artgan"))
    computed: list[int] = []
    compute = Features.__call__

    def counting(self: Features, images: Tensor, progress: str | None = None) -> Tensor:
        computed.append(len(images))
        return compute(self, images, progress)

    monkeypatch.setattr(Features, "__call__", counting)
    measured(name="mine", dataset__root=root)
    # Those trained on, those held out, those trained on mirrored, and three times the samples.
    assert computed == [20, 20, 20, 16, 16, 16]


def test_a_run_without_evaluate_every_measures_nothing(run: Run) -> None:
    folder = run(name="mine", dataset__holdout=0.5)
    assert not (folder / "evaluated").exists()
    assert not [tag for tag in events(folder).Tags()["scalars"] if tag.startswith("evaluate/")]
    assert load_checkpoint(folder / "last.ckpt")["callbacks"] == {}


def test_without_features_there_are_the_other_figures(measured: Run) -> None:
    folder = measured(name="mine", evaluate__features="none", checkpoint__monitor="swd")
    figures = points(folder)[64]
    assert figures["features"] is None
    assert "kid" not in figures["held-out"]
    tags = {tag for tag in events(folder).Tags()["scalars"] if tag.startswith("evaluate/")}
    assert tags == {
        "evaluate/similarity",
        "evaluate/swd training",
        "evaluate/swd held-out",
        "evaluate/originality ratio (thumbnails)",
        "evaluate/originality near (thumbnails)",
    }
    seen, value = best(folder)
    swd = {seen: figures["held-out"]["swd"] for seen, figures in points(folder).items()}
    assert (seen, value) == (min(swd, key=swd.__getitem__), min(swd.values()))


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SqueezeNet's weights are neither there nor to be fetched."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "web").mkdir()
    with serving(tmp_path / "web") as address:
        monkeypatch.setattr(features, "SQUEEZENET_URL", f"{address}/squeezenet1_0-00000000.pth")


def test_a_run_goes_on_without_features_that_cannot_be_fetched(
    measured: Run, nowhere: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = measured(name="mine", evaluate__features="squeezenet")
    said = capsys.readouterr().err
    assert said.count("cannot be downloaded") == 1
    assert said.count("Measuring without it: no FID and no KID.") == 1
    assert [figures["features"] for figures in points(folder).values()] == [None] * 3


def test_but_not_where_the_best_is_told_by_them(measured: Run, nowhere: None) -> None:
    with pytest.raises(UserError, match="cannot be downloaded"):
        measured(name="mine", evaluate__features="squeezenet", checkpoint__monitor="kid")


SWD = {"evaluate__features": "none", "checkpoint__monitor": "swd"}


def test_a_better_state_replaces_the_best_and_a_worse_one_does_not(
    measured: Run, scripted: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(0.5, 0.2, 0.3)
    folder = measured(name="mine", **SWD, checkpoint__every=24, checkpoint__keep=2)
    assert best(folder) == (48, 0.2)
    # The state of that very moment, also after 24 and 64 images have come and gone.
    assert_same_state(folder / "best.ckpt", folder / "images-000000048.ckpt")
    said = capsys.readouterr().out
    assert f"the best     {folder / 'best.ckpt'}, evaluate/swd held-out 0.2" in said
    assert not list(folder.glob(".*.tmp"))


def test_the_best_so_far_is_known_to_a_resumed_run_and_survives_what_is_kept(
    measured: Run, scripted: Callable[..., None]
) -> None:
    scripted(0.5, 0.2, 0.3)
    folder = measured(name="mine", **SWD, checkpoint__every=8, checkpoint__keep=1)
    scripted(0.4, 0.25)
    measured(resume=folder, max_images=96)
    assert best(folder) == (48, 0.2)
    scripted(0.15, 0.18)
    measured(resume=folder, max_images=128)
    assert best(folder) == (120, 0.15)
    assert list(points(folder)) == [24, 48, 64, 72, 96, 120, 128]


def test_a_best_state_later_than_the_checkpoint_is_known_too(
    measured: Run, scripted: Callable[..., None]
) -> None:
    scripted(0.5, 0.2, 0.3)
    folder = measured(name="mine", **SWD, checkpoint__every=24)
    # As if killed after 48 images with the last checkpoint at 24.
    shutil.copy(folder / "images-000000024.ckpt", folder / "last.ckpt")
    scripted(0.3, 0.3)
    measured(resume=folder)
    assert best(folder) == (48, 0.2)


@pytest.mark.slow
def test_a_figure_on_other_features_does_not_compare(
    measured: Run, scripted: Callable[..., None], weights: Path, tmp_path: Path
) -> None:
    scripted(0.5, 0.2, 0.3)
    folder = measured(name="mine", checkpoint__monitor="kid")
    state = torch.load(weights, weights_only=True)
    state["features.0.bias"] += 1
    torch.save(state, tmp_path / "other.pth")
    scripted(0.4, 0.6)
    other = {"evaluate.features": tmp_path / "other.pth"}
    measured(resume=folder, max_images=96, **other)
    assert best(folder) == (72, 0.4)


@pytest.mark.slow
def test_a_run_from_before_can_be_measured_when_it_goes_on(run: Run, weights: Path) -> None:
    folder = run(name="mine", max_images=32)
    assert "Measurements" not in load_checkpoint(folder / "last.ckpt")["callbacks"]
    given = {"evaluate.features": weights, "evaluate.num": 16, "checkpoint.monitor": "fid"}
    run(resume=folder, max_images=64, evaluate_every=24, **given)
    assert list(points(folder)) == [48, 64]
    assert best(folder)[1] == min(point["training"]["fid"] for point in points(folder).values())


@pytest.mark.slow
def test_the_best_can_be_measured_and_painted_with(measured: Run) -> None:
    from artgan.sampling import load_painter

    folder = measured(name="mine", checkpoint__monitor="kid")
    painter = load_painter(folder / "best.ckpt")
    assert painter.images_seen == best(folder)[0]
    _, where = evaluate(evaluation_of(folder / "best.ckpt", num=16))
    assert where == folder / "evaluated" / f"images-{painter.images_seen:09d}-none-16-seed0"


@pytest.mark.slow
def test_time_spent_measuring_is_not_time_of_training(
    measured: Run, scripted: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(1, 1, 1, 1)
    measure = measurements.measure

    def slowly(*arguments: Any) -> tuple[dict[str, Any], Tensor]:
        time.sleep(1)
        return measure(*arguments)

    monkeypatch.setattr(measurements, "measure", slowly)
    began = time.monotonic()
    folder = measured(name="mine", evaluate__features="none", evaluate_every=8, max_images=32)
    assert list(points(folder)) == [8, 16, 24, 32]
    took = time.monotonic() - began
    progress = load_checkpoint(folder / "last.ckpt")["artgan"]["progress"]
    assert progress["seconds"] < took - 4
    rates = [point.value for point in events(folder).Scalars("images per second")]
    # Two of the measurements lie between the points.
    assert len(rates) == 2
    assert sum(16 / rate for rate in rates) == pytest.approx(progress["seconds"], abs=0.7)


def test_a_paused_clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = Clock()
    start = clock()
    now = 103.0
    with pytest.raises(ZeroDivisionError), clock.paused():
        now = 150.0
        _ = 1 / 0
    now = 154.0
    assert clock() - start == 7.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"monitor": "kid", "every": None}, "checkpoint.monitor: kid is never measured"),
        ({"monitor": "kid", "features": "none"}, "checkpoint.monitor: kid needs features"),
        ({"monitor": "fid", "features": "none"}, "checkpoint.monitor: fid needs features"),
        ({"features": "inceptoin"}, "evaluate.features: there is no file .*inceptoin"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_there_is_a_folder(
    run: Run, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    asked = {"every": 24, "features": "squeezenet", "monitor": None} | settings
    with pytest.raises(UserError, match=message) as refused:
        run(
            name="mine",
            evaluate_every=asked["every"],
            evaluate__features=asked["features"],
            checkpoint__monitor=asked["monitor"],
        )
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_another_monitor_is_refused(configure: Callable[..., TrainConfig]) -> None:
    with pytest.raises(UserError, match=r"checkpoint.monitor: 'kidd' is none of kid, fid, swd"):
        configure(checkpoint__monitor="kidd")


def test_a_file_of_features_is_found_from_any_folder(
    measured: Run,
    scripted: Callable[..., None],
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(weights.parent)
    scripted(1, 1, 1, 1)
    folder = measured(name="mine", evaluate__features=weights.name)
    monkeypatch.chdir(tmp_path)
    measured(resume=folder, max_images=72)
    assert points(folder)[72]["features"] == points(folder)[64]["features"] is not None
