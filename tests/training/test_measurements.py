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
from artgan.config import compose
from artgan.download import Published
from artgan.errors import UserError
from artgan.evaluation import evaluate
from artgan.measuring import Reference
from artgan.metrics import features
from artgan.metrics.features import Features
from artgan.options import TrainConfig
from artgan.training.callbacks import measurements
from artgan.training.callbacks.curves import TAGS
from artgan.training.state import Clock
from tests.helpers import assert_same_state, evaluation_of

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
    """Has measurements give these values for every metric, one after the other."""

    def scripted(*values: float) -> None:
        left = list(values)

        def scripted_measure(
            _: Any, inputs: Tensor, reference: Reference, extract: Features | None
        ) -> tuple[dict[str, Any], Tensor]:
            keys = ("kid", "kid_std", "fid", "precision", "recall", "swd", "ratio", "near")
            scores = dict.fromkeys(keys, left.pop(0))
            names = [*(part.name for part in reference.parts), "originality"]
            described: dict[str, Any] = {
                "similarity": 0.5,
                "samples": len(inputs),
                "features": extract and extract.name,
            }
            sheet = torch.zeros(3, 8, 8, dtype=torch.uint8)
            return described | dict.fromkeys(names, scores), sheet

        monkeypatch.setattr(measurements, "measure", scripted_measure)

    return scripted


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def points(folder: Path) -> dict[int, dict[str, Any]]:
    """The scores in the run's folder, by images seen."""
    found = (json.loads(path.read_text()) for path in sorted(folder.glob("evaluated/*/*.json")))
    return {scores["images_seen"]: scores for scores in found}


def best(folder: Path) -> tuple[int, float]:
    """Images seen, and the monitored score, of the state kept as the best."""
    checkpoint = load_checkpoint(folder / "best.ckpt")
    kept = checkpoint["callbacks"]["Measurements"]["best"]
    return checkpoint["artgan"]["progress"]["images_seen"], kept["value"]


def test_measuring_does_not_change_training_by_a_bit(run: Run, measured: Run) -> None:
    plain = run(name="plain", dataset__holdout=0.5)
    folder = measured(name="mine", checkpoint__monitor="kid")
    assert list(points(folder)) == [24, 48, 64]
    assert_same_state(folder / "last.ckpt", plain / "last.ckpt")


@pytest.mark.slow
def test_the_scores_are_those_of_evaluate_py(measured: Run, weights: Path) -> None:
    folder = measured(name="mine", checkpoint__every=24, checkpoint__keep=9)
    found = points(folder)
    for seen in (24, 48, 64):
        chosen = {
            "ckpt": str(folder / f"images-{seen:09d}.ckpt"),
            "features": str(weights),
            "num": 16,
            "out": str(folder / "again"),
            "overwrite": True,
            "device": "cpu",
        }
        scores, _ = evaluate(compose("evaluate", chosen))
        assert scores | {"checkpoint": None} == found[seen]
        sheet = folder / "evaluated" / f"images-{seen:09d}" / "nearest.png"
        assert sheet.read_bytes() == (folder / "again" / "nearest.png").read_bytes()


@pytest.mark.slow
def test_tensorboard_labels_scores_with_their_features(measured: Run) -> None:
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
    assert {info.name.tag for info in experiment.metric_infos} == {*TAGS, *tags}


@pytest.mark.slow
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


def test_without_features_the_other_metrics_are_measured(measured: Run) -> None:
    folder = measured(name="mine", evaluate__features="none", checkpoint__monitor="swd")
    scores = points(folder)[64]
    assert scores["features"] is None
    assert "kid" not in scores["held-out"]
    tags = {tag for tag in events(folder).Tags()["scalars"] if tag.startswith("evaluate/")}
    assert tags == {
        "evaluate/similarity",
        "evaluate/swd training",
        "evaluate/swd held-out",
        "evaluate/originality ratio (thumbnails)",
        "evaluate/originality near (thumbnails)",
    }
    seen, value = best(folder)
    swd = {seen: scores["held-out"]["swd"] for seen, scores in points(folder).items()}
    assert (seen, value) == (min(swd, key=swd.__getitem__), min(swd.values()))


@pytest.fixture
def unpublished(web: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """SqueezeNet's weights are neither kept nor on the web."""
    name = "squeezenet1_0-00000000.pth"
    published = Published(name, f"{web[1]}/{name}", "00000000")
    monkeypatch.setitem(features.PUBLISHED, "squeezenet", published)


def test_a_run_measures_without_features_that_cannot_be_downloaded(
    measured: Run, unpublished: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = measured(name="mine", evaluate__features="squeezenet")
    printed = capsys.readouterr().err
    assert printed.count("cannot be downloaded") == 1
    assert printed.count("Measuring without it: no FID and no KID.") == 1
    assert [scores["features"] for scores in points(folder).values()] == [None] * 3


def test_features_that_the_monitor_needs_must_be_available(
    measured: Run, unpublished: None
) -> None:
    with pytest.raises(UserError, match="cannot be downloaded"):
        measured(name="mine", evaluate__features="squeezenet", checkpoint__monitor="kid")


SWD = {"evaluate__features": "none", "checkpoint__monitor": "swd"}


def test_a_better_state_replaces_the_best_and_a_worse_one_does_not(
    measured: Run, scripted: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(0.5, 0.2, 0.3)
    folder = measured(name="mine", **SWD, checkpoint__every=24, checkpoint__keep=2)
    assert best(folder) == (48, 0.2)
    # The state after 48 images, though training went on.
    assert_same_state(folder / "best.ckpt", folder / "images-000000048.ckpt")
    printed = capsys.readouterr().out
    assert f"best         {folder / 'best.ckpt'}, evaluate/swd held-out 0.2" in printed
    assert not list(folder.glob(".*.tmp"))


def test_a_resumed_run_knows_the_best_so_far_and_keeps_its_checkpoint(
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


def test_a_best_state_newer_than_the_checkpoint_is_known_too(
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
def test_scores_on_other_features_are_not_compared(
    measured: Run, scripted: Callable[..., None], weights: Path, tmp_path: Path
) -> None:
    scripted(0.5, 0.2, 0.3)
    folder = measured(name="mine", checkpoint__monitor="kid")
    state = torch.load(weights, weights_only=True)
    state["features.0.bias"] += 1
    torch.save(state, tmp_path / "other.pth")
    scripted(0.4, 0.6)
    other = {"evaluate.features": str(tmp_path / "other.pth")}
    measured(resume=folder, max_images=96, **other)
    assert best(folder) == (72, 0.4)


@pytest.mark.slow
def test_a_run_can_be_measured_from_a_resume_on(run: Run, weights: Path) -> None:
    folder = run(name="mine", max_images=32)
    assert "Measurements" not in load_checkpoint(folder / "last.ckpt")["callbacks"]
    given = {"evaluate.features": str(weights), "evaluate.num": 16, "checkpoint.monitor": "fid"}
    run(resume=folder, max_images=64, evaluate_every=24, **given)
    assert list(points(folder)) == [48, 64]
    assert best(folder)[1] == min(point["training"]["fid"] for point in points(folder).values())


@pytest.mark.slow
def test_the_best_can_be_measured_and_painted_with(measured: Run) -> None:
    from artgan.painter import load_painter

    folder = measured(name="mine", checkpoint__monitor="kid")
    painter = load_painter(folder / "best.ckpt")
    assert painter.images_seen == best(folder)[0]
    _, where = evaluate(evaluation_of(folder / "best.ckpt", num=16))
    assert where == folder / "evaluated" / f"images-{painter.images_seen:09d}-none-16-seed0"


def test_time_spent_measuring_is_not_time_of_training(
    measured: Run, scripted: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(1, 1, 1, 1)
    now, measure, spent = time.monotonic, measurements.measure, [0]

    def slowly(*arguments: Any) -> tuple[dict[str, Any], Tensor]:
        spent[0] += 100_000
        return measure(*arguments)

    monkeypatch.setattr(measurements, "measure", slowly)
    monkeypatch.setattr(time, "monotonic", lambda: now() + spent[0])
    folder = measured(name="mine", evaluate__features="none", evaluate_every=8, max_images=32)
    assert list(points(folder)) == [8, 16, 24, 32]
    assert load_checkpoint(folder / "last.ckpt")["artgan"]["progress"]["seconds"] < 100_000
    # Two of the measurements are between the points.
    rates = [point.value for point in events(folder).Scalars("images per second")]
    assert [16 / rate < 100_000 for rate in rates] == [True, True]


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
def test_what_cannot_be_measured_is_refused_before_a_folder_is_made(
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
