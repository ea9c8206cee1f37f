import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from artgan.checkpoint import load_checkpoint
from artgan.config import load_config
from artgan.errors import UserError
from artgan.options import Recipe, TrainConfig
from artgan.painter import load_painter, paint
from artgan.sampling import render
from artgan.training.callbacks.curves import TAGS
from artgan.training.callbacks.grids import SampleGrids
from artgan.training.callbacks.stopping import Stopping
from artgan.training.losses import LOSSES
from artgan.training.run_folder import claim_folder, settle
from artgan.training.state import RunState
from tests.helpers import EVERYTHING, THE_OTHERS, assert_same_state, pack_of

Run = Callable[..., Path]
Configure = Callable[..., TrainConfig]


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


def test_resume_in_mid_epoch_equals_the_uninterrupted_run(run: Run) -> None:
    whole = run(name="whole", max_images=160)
    part = run(name="part", max_images=72)  # 40 paintings: in the middle of the second epoch

    run(resume=part, max_images=160)

    assert_same_state(part / "last.ckpt", whole / "last.ckpt")


@pytest.mark.slow
def test_resume_in_bfloat16_equals_the_uninterrupted_run(run: Run) -> None:
    # Wide enough for deep convolutions to be matrix products.
    options = {"trainer__precision": "bf16", "model__width": 128, "sample_every": 1000}
    whole = run(name="whole", max_images=40, **options)
    part = run(name="part", max_images=24, **options)

    run(resume=part, max_images=40)

    assert_same_state(part / "last.ckpt", whole / "last.ckpt")


@pytest.mark.parametrize("precision", ["32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(EVERYTHING, id="most"),
        pytest.param(THE_OTHERS, id="others", marks=pytest.mark.slow),
    ],
)
def test_resume_with_every_option_equals_the_uninterrupted_run(
    run: Run, options: dict[str, object], precision: str
) -> None:
    """Lazy penalties, schedules, the adapted probability and power iterations continue exactly.

    In bfloat16 the network is wide enough for deep convolutions to be matrix products.
    """
    if precision == "bf16":
        options = options | {"trainer__precision": "bf16", "model__width": 128}
        options |= {"batch_size": 4, "sample_every": 1000}
    whole_run, part = (160, 72) if precision == "32" else (16, 8)
    folder = run(name="mine", max_images=whole_run, checkpoint__every=part, **options)
    whole = folder.rename(folder.with_name("whole"))
    folder.mkdir()
    for name in ("config.yaml", f"images-{part:09d}.ckpt"):
        (folder / name).write_bytes((whole / name).read_bytes())

    run(resume=folder)

    assert_same_state(folder / "last.ckpt", whole / "last.ckpt")


def test_a_run_of_an_older_version_resumes(run: Run) -> None:
    whole = run(name="whole", max_images=96)
    folder = run(name="mine", max_images=64)
    for name in ("last.ckpt", "images-000000064.ckpt"):
        checkpoint = load_checkpoint(folder / name)
        for key in ("loss", "normalization", "augment", "learning_rate_final", "conditional"):
            del checkpoint["artgan"]["config"]["model"][key]
        del checkpoint["artgan"]["classes"]
        for optimizer in checkpoint["optimizer_states"]:
            optimizer["param_groups"][0]["lr"] = 2e-4  # was a number
        torch.save(checkpoint, folder / f"{name}.old")
        (folder / f"{name}.old").replace(folder / name)

    run(resume=folder, max_images=96)

    assert_same_state(folder / "last.ckpt", whole / "last.ckpt")


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Twelve blue and eight red paintings, in a folder each."""
    random = np.random.default_rng(0)
    for index in range(20):
        path = tmp_path / "colours" / ("blue" if index < 12 else "red") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 60, (40, 40, 3), np.uint8)
        pixels[..., 2 if index < 12 else 0] += 180
        Image.fromarray(pixels).save(path)
    return tmp_path / "colours"


@pytest.mark.slow
def test_a_conditional_run_learns_to_paint_each_class(run: Run, colours: Path) -> None:
    folder = run(
        name="mine",
        dataset__root=colours,
        max_images=2400,
        sample_every=2400,
        model__conditional="true",
        model__loss="rpgan",
        model__normalization="none",
        model__r1=0.5,
        model__learning_rate=2e-3,
    )
    painter = load_painter(folder / "last.ckpt")
    assert list(painter.classes.items()) == [("blue", 12), ("red", 8)]

    def redness(*chosen: str) -> torch.Tensor:
        """[16], in ±255."""
        samples = paint(painter.generator, painter.inputs(100, 16, classes=chosen)).float()
        return (samples[:, 0] - samples[:, 2]).mean(dim=(1, 2))

    blue, both, red = redness("blue"), redness("blue", "red"), redness("red")
    assert blue.max() < -50 < 50 < red.min()
    assert blue.mean() + 50 < both.mean() < red.mean() - 50

    grid = render(painter, Recipe(**GRID))
    with Image.open(folder / "samples" / "images-000002400.png") as image:
        np.testing.assert_array_equal(grid.permute(1, 2, 0), np.asarray(image))


GRID: dict[str, Any] = {
    "kind": "grid",
    "seed": 0,
    "truncation": 1.0,
    "ema": True,
    "num": 64,
    "length": 1.0,
}
GRID |= {"classes": []}


def test_the_classes_are_those_of_the_paintings_trained_on(run: Run) -> None:
    folder = run(name="mine", max_images=8, model__conditional="true", dataset__holdout=0.25)
    classes = load_checkpoint(folder / "last.ckpt")["artgan"]["classes"]
    assert list(classes) == ["landscape", "river"]
    assert sum(classes.values()) == 30
    plain = run(name="plain", max_images=8)
    assert load_checkpoint(plain / "last.ckpt")["artgan"]["classes"] == {}


@pytest.mark.parametrize(
    ("place", "message"),
    [("", "8 paintings are in no subfolder"), ("blue", "in one subfolder of .*, blue. Give")],
)
def test_a_dataset_without_classes_is_refused_before_a_folder_is_made(
    run: Run, colours: Path, tmp_path: Path, place: str, message: str
) -> None:
    for file in (colours / "red").iterdir():
        file.rename(colours / place / file.name)
    with pytest.raises(UserError, match=f"^model.conditional: .*{message}"):
        run(dataset__root=colours, model__conditional="true")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "[cutuot]"}, "model.augment: 'cutuot' is none of color, translation, cutout"),
        ({"augment_target": 0.6}, r"Add model.augment=\[translation,cutout\]"),
        (
            {"augment": "[cutout]", "augment_target": 0.6, "augment_probability": 0.5},
            "model.augment_probability: is adapted",
        ),
        (
            {"augment": "[cutout]", "augment_target": 0.6, "loss": "lsgan"},
            "the sign of a logit means nothing with the loss lsgan",
        ),
        ({"loss": "wgan_gp", "normalization": "none"}, "Add model.gradient_penalty=10"),
        ({"r1": 1}, "model.r1: .* Add model.normalization=none"),
        ({"gradient_penalty": 10}, "model.gradient_penalty: .* Add model.normalization=none"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "the loss hinge has no labels"),
    ],
)
def test_options_that_conflict_are_refused_before_a_folder_is_made(
    run: Run, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(**{f"model__{key}": value for key, value in options.items()})
    assert not (tmp_path / "runs").exists()


def test_ranks_follow_one_clock_and_stop_together() -> None:
    """Else their schedules would differ, and with them their weights."""
    state = RunState(max_seconds=100.0)
    state.progress.images_seen = 8
    other_stops = False
    strategy = SimpleNamespace(
        broadcast=lambda seconds: 40.0,
        reduce_boolean_decision=lambda stop, all: other_stops or stop,
    )
    trainer: Any = SimpleNamespace(world_size=2, strategy=strategy)
    stopping = Stopping(state)
    with stopping.handling_signals():
        stopping.on_train_start(trainer, trainer)
        stopping.on_train_batch_end(trainer, trainer)
        assert (state.progress.seconds, state.used, state.stopping) == (40.0, 0.4, False)
        other_stops = True
        stopping.on_train_batch_end(trainer, trainer)
        assert state.stopping


def test_a_seed_makes_a_run_repeatable(run: Run) -> None:
    first, second = run(name="first", seed=5), run(name="second", seed=5)
    assert_same_state(first / "last.ckpt", second / "last.ckpt")
    other = load_checkpoint(run(name="other", seed=6) / "last.ckpt")["state_dict"]
    same = load_checkpoint(first / "last.ckpt")["state_dict"]
    assert not torch.equal(same["generator.layers.0.weight"], other["generator.layers.0.weight"])


@pytest.mark.parametrize(
    ("budget", "images"),
    [
        ({"max_images": 61}, 64),  # rounded up to whole batches
        ({"max_images": None, "epochs": 2}, 80),
        ({"max_images": None, "epochs": 2, "dataset__holdout": 0.4}, 48),  # of 24 paintings
        ({"max_images": 48, "epochs": 2}, 48),  # whichever ends first
        ({"max_images": 48, "max_time": "1h"}, 48),
    ],
)
def test_a_budget_ends_the_run(run: Run, budget: dict[str, object], images: int) -> None:
    folder = run(name="budget", **budget)
    progress = load_checkpoint(folder / "last.ckpt")["artgan"]["progress"]
    assert progress["images_seen"] == images


def test_a_budget_in_time_ends_the_run_after_that_time(run: Run) -> None:
    folder = run(name="budget", max_images=None, max_time="1.5s")
    progress = load_checkpoint(folder / "last.ckpt")["artgan"]["progress"]
    assert progress["seconds"] >= 1.5
    assert progress["images_seen"] > 0


def test_without_a_budget_the_datasets_own_applies(configure: Configure) -> None:
    config = configure(max_images=None)
    settle(config)
    assert (config.epochs, config.max_images, config.max_time) == (650, None, None)


def test_a_finished_run_is_refused_and_resumes_with_a_larger_budget(run: Run) -> None:
    folder = run(name="finished", max_images=32)
    with pytest.raises(UserError, match="this run is finished, after 32 images"):
        run(resume=folder)
    run(resume=folder, epochs=2)
    assert load_checkpoint(folder / "last.ckpt")["artgan"]["progress"]["images_seen"] == 80


def test_a_resumed_run_goes_on_with_its_clock(run: Run) -> None:
    folder = run(name="mine", max_images=None, max_time="2s")
    first = load_checkpoint(folder / "last.ckpt")["artgan"]["progress"]
    run(resume=folder, max_time=None, max_images=first["images_seen"] + 8)
    second = load_checkpoint(folder / "last.ckpt")["artgan"]["progress"]
    assert 2 <= first["seconds"] < second["seconds"]


def test_a_run_killed_before_last_ckpt_was_linked_gets_it(run: Run) -> None:
    folder = run(name="finished", max_images=32)
    (folder / "last.ckpt").unlink()
    with pytest.raises(UserError, match="this run is finished, after 32 images"):
        run(resume=folder)
    assert (folder / "last.ckpt").samefile(folder / "images-000000032.ckpt")


@pytest.mark.parametrize("key", ["model.width", "batch_size", "seed", "resolution"])
def test_options_that_define_a_run_cannot_change_on_resume(run: Run, key: str) -> None:
    folder = run(name="mine", max_images=16)
    with pytest.raises(UserError, match=f"{key}: cannot change in a run that is resumed"):
        run(resume=folder, **{key.replace(".", "__"): 64})


def test_other_paintings_under_a_resumed_run_are_noticed(
    run: Run, paintings: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(paintings, tmp_path / "mine"))
    folder = run(name="mine", dataset__root=root, max_images=16)
    next(root.rglob("*.jpg")).unlink()
    with pytest.raises(UserError, match="trained on other paintings"):
        run(resume=folder, max_images=32)


def test_a_run_of_that_name_is_never_overwritten(run: Run) -> None:
    folder = run(name="mine", max_images=16)
    before = (folder / "last.ckpt").read_bytes()
    with pytest.raises(UserError, match=re.escape(f"resume={folder}")):
        run(name="mine", max_images=32)
    assert (folder / "last.ckpt").read_bytes() == before


def test_default_names_sort_by_time_and_never_clash(configure: Configure) -> None:
    folders = []
    for _ in range(3):
        folders.append(claim_folder(configure()))
        (folders[-1] / "config.yaml").touch()
    assert len(set(folders)) == 3
    for folder in folders:
        assert re.fullmatch(r"\d{8}-\d{6}-paintings\d+-32px(-\d)?", folder.name), folder.name


def test_a_run_folder_holds_these_files(run: Run) -> None:
    folder = run(name="mine", max_images=160, checkpoint__every=32, checkpoint__keep=2)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    (event_file,) = {name for name in names if name.startswith("events.")}
    assert names - {event_file} == {
        ".lock",
        "config.yaml",
        "last.ckpt",
        "images-000000128.ckpt",
        "images-000000160.ckpt",
        "samples",
        "samples/paintings.png",
        "samples/latest.png",
        *(f"samples/images-{count:09d}.png" for count in (0, 64, 128, 160)),
    }
    latest = (folder / "samples" / "latest.png").read_bytes()
    assert latest == (folder / "samples" / "images-000000160.png").read_bytes()
    config = load_config(folder)
    assert (config.name, config.max_images, config.model.width) == ("mine", 160, 4)
    assert load_checkpoint(folder / "last.ckpt")["artgan"]["config"]["max_images"] == 160


def test_the_first_grids_come_soon(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(name="mine", max_images=1104, sample_every=10_000)
    grids = sorted(path.stem for path in (folder / "samples").glob("images-*.png"))
    assert [int(name[7:]) for name in grids] == [0, 256, 504, 1000, 1104]  # in batches of 8
    assert f"newest samples are always in {folder}/samples/latest.png" in capsys.readouterr().err


def test_the_first_grids_of_large_samples_are_small(tmp_path: Path) -> None:
    grids = SampleGrids(tmp_path, pack_of(np.zeros((16, 256, 256, 3), np.uint8)))
    assert (grids.first_side, grids.side) == (2, 4)
    grids = SampleGrids(tmp_path, pack_of(np.zeros((16, 128, 128, 3), np.uint8)))
    assert (grids.first_side, grids.side) == (8, 8)


def test_everything_in_tensorboard_is_over_images_seen(run: Run) -> None:
    folder = run(name="mine", max_images=96)
    log = events(folder)
    for tag in TAGS:
        points = log.Scalars(tag)
        assert all(math.isfinite(point.value) for point in points)
        steps = [point.step for point in points]
        assert steps == ([0, 64, 96] if tag == "diversity" else [16, 32, 48, 64, 80, 96])
    assert [image.step for image in log.Images("samples")] == [0, 64, 96]
    assert [image.step for image in log.Images("paintings")] == [0]


def test_the_hparams_tab_shows_settings_and_metrics(run: Run) -> None:
    folder = run(name="mine", max_images=16, batch_size=16)
    metadata = events(folder).SummaryMetadata("_hparams_/session_start_info")
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = HParamsPluginData.FromString(metadata.plugin_data.content)
    settings = content.session_start_info.hparams
    assert settings["batch_size"].number_value == 16
    assert settings["model.learning_rate"].number_value == 2e-4
    metadata = events(folder).SummaryMetadata("_hparams_/experiment")
    experiment = HParamsPluginData.FromString(metadata.plugin_data.content).experiment
    assert {info.name.tag for info in experiment.metric_infos} == set(TAGS)
    for tag in TAGS:
        assert events(folder).Scalars(tag)[-1].step == 16


def test_points_after_the_checkpoint_are_not_shown_twice(run: Run, tmp_path: Path) -> None:
    folder = run(name="mine", max_images=96, checkpoint__every=48)
    # As if killed after 96 images with the last checkpoint at 48.
    shutil.copy(folder / "images-000000048.ckpt", folder / "last.ckpt")
    (folder / "images-000000096.ckpt").unlink()
    run(resume=folder, max_images=112)
    steps = [point.step for point in events(folder).Scalars("loss/generator")]
    assert steps == [16, 32, 48, 64, 80, 96, 112]


def test_the_grid_of_paintings_shows_those_trained_on(run: Run, paintings: Path) -> None:
    folder = run(name="mine", max_images=16)
    with Image.open(folder / "samples" / "paintings.png") as image:
        grid = np.asarray(image)
    with Image.open(min(paintings.rglob("*.jpg"))) as image:
        first = image.resize((40, 32), Image.Resampling.BILINEAR).crop((4, 0, 36, 32))
    np.testing.assert_array_equal(grid[2:34, 2:34], np.asarray(first))


@pytest.mark.parametrize("name", ["../out", "/tmp/abs", "a/b", "..", "."])
def test_a_name_with_a_path_is_refused(run: Run, name: str) -> None:
    with pytest.raises(UserError, match="must be the plain name of a folder"):
        run(name=name)


def test_an_empty_run_folder_leaves_its_name_free(run: Run, tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert (run(name="mine", max_images=8) / "last.ckpt").is_file()


@pytest.mark.parametrize("damage", ["torn", "lost"])
def test_without_its_last_checkpoint_a_run_resumes_from_the_newest_whole_one(
    run: Run, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(name="whole", max_images=96)
    folder = run(name="mine", max_images=64, checkpoint__every=48)
    last = folder / "last.ckpt"
    if damage == "torn":
        last.write_bytes(last.read_bytes()[:5000])  # also the newest periodic: the same file
    else:
        last.unlink()
    capsys.readouterr()
    run(resume=folder, max_images=96)
    printed = capsys.readouterr().err
    assert (f"Using {folder}/images-000000048.ckpt" in printed) == (damage == "torn")
    assert_same_state(last, whole / "last.ckpt")


def test_a_run_can_be_resumed_from_another_working_directory(
    run: Run, paintings: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(paintings.parent)
    folder = run(name="mine", dataset__root=paintings.name, max_images=16)
    monkeypatch.chdir(tmp_path)
    run(resume=folder, max_images=32)


def test_devices_must_share_the_batch_of_a_resumed_run_too(run: Run) -> None:
    folder = run(name="mine", max_images=16)
    with pytest.raises(UserError, match="batch_size: 8 cannot be shared by 3 devices"):
        run(resume=folder, max_images=32, **{"trainer.devices": 3})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("width: 4", "was trained with another model"),
        ("a: [b", "cannot be read"),
        ("nonsense: 1", "nonsense"),
        ("- 1", "cannot be read .it holds no options"),
    ],
)
def test_a_damaged_configuration_is_a_clear_error(run: Run, damage: str, message: str) -> None:
    folder = run(name="mine", max_images=16)
    path = folder / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("width: 4", "width: 8") if "width" in damage else damage)
    with pytest.raises(UserError, match=message):
        run(resume=folder, max_images=32)


def test_a_full_disk_ends_the_run_with_one_message_and_keeps_the_last_checkpoint(
    run: Run, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("3m")
    folder = run(name="mine", output=disk, max_images=16)
    before = (folder / "last.ckpt").read_bytes()
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 100_000))
    with pytest.raises(UserError, match="the disk is full"):
        run(resume=folder, max_images=32)
    assert (folder / "last.ckpt").read_bytes() == before
    assert not list(folder.glob(".*.tmp"))


def test_a_collapse_of_diversity_is_reported_once(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artgan.training.callbacks.grids.EARLY", 0)
    # Without learning, the samples stay as alike as they are at the start.
    run(name="mine", max_images=256, model__learning_rate=0)
    assert capsys.readouterr().err.count("Diversity has collapsed") == 1


def test_training_that_diverges_stops_and_names_the_last_good_checkpoint(run: Run) -> None:
    folder = run(name="mine", max_images=32)
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    checkpoint["state_dict"]["generator.layers.0.weight"].fill_(1e38)
    torch.save(checkpoint, folder / "last.ckpt")
    before = (folder / "last.ckpt").read_bytes()
    with pytest.raises(UserError, match=r"not finite after 48 images.*last\.ckpt"):
        run(resume=folder, max_images=96)
    assert (folder / "last.ckpt").read_bytes() == before


def test_a_batch_that_devices_cannot_share_is_refused(run: Run) -> None:
    with pytest.raises(UserError, match="batch_size: 8 cannot be shared by 3 devices"):
        run(trainer__devices=3)


def test_a_missing_device_is_a_clear_error_and_the_name_stays_free(run: Run) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="trainer: "):
        run(name="mine", trainer__accelerator="gpu")
    run(name="mine", max_images=8)


@pytest.mark.slow
def test_a_discriminator_that_wins_is_reported_once(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A generator that does not learn leaves the field to the discriminator.
    flat = replace(LOSSES["bce"], generator=lambda fake_logits: 0 * fake_logits.mean())
    monkeypatch.setitem(LOSSES, "bce", flat)
    run(model__learning_rate=2e-3, max_images=1200)
    assert capsys.readouterr().err.count("The discriminator has won") == 1


def test_a_run_gets_a_printable_name_from_any_folder(
    configure: Callable[..., TrainConfig],
) -> None:
    config = configure()
    config.dataset.root = os.fsdecode(b"/paintings/my\xff set")
    assert claim_folder(config).name.endswith("-my_-set-32px")
