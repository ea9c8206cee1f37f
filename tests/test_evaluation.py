import errno
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter

from artgan.checkpoint import load_checkpoint
from artgan.config import load_config
from artgan.data.sources import load_paintings
from artgan.data.stream import PaintingStream
from artgan.errors import UserError
from artgan.evaluation import evaluate, table
from artgan.export import export
from artgan.measuring import Reference, feature_rows, measure
from artgan.metrics.features import Features
from artgan.options import ExportConfig
from artgan.painter import draw_classes, paint
from tests.helpers import evaluation_of, pack_of, script, succeed

Run = Callable[..., Path]


@pytest.fixture
def measured(run: Run) -> Path:
    """A run that has set half of its 40 paintings aside."""
    return run(name="measured", dataset__holdout=0.5)


def test_a_run_is_measured_against_what_it_has_and_has_not_seen(
    measured: Path, weights: Path
) -> None:
    scores, folder = evaluate(evaluation_of(measured, features=str(weights)))
    name = f"images-000000064-{scores['features']}-24-seed0"
    assert folder == measured / "evaluated" / name
    assert json.loads((folder / "metrics.json").read_text()) == scores
    assert scores["features"].startswith("squeezenet1_0-")
    key = load_checkpoint(measured / "last.ckpt")["artgan"]["dataset_key"]
    described = {"key": key, "holdout": 0.5, "crop": "center", "root": scores["dataset"]["root"]}
    assert scores["dataset"] == described
    assert "/" not in described["root"]
    for part in ("training", "held-out"):
        assert scores[part]["paintings"] == 20
        names = ("fid", "kid", "kid_std", "precision", "recall", "swd", "swd/32", "swd/16")
        assert all(isinstance(scores[part][name], float) for name in names)
    with Image.open(folder / "nearest.png") as sheet:
        assert sheet.size == (16 * 34 + 2, 2 * 34 + 2)


def test_without_features_there_are_the_other_scores(measured: Path) -> None:
    scores, _ = evaluate(evaluation_of(measured))
    assert scores["features"] is None
    assert "kid" not in scores["training"]
    assert {"swd", "similarity of the paintings"} <= set(scores["training"])
    assert {"ratio", "near"} <= set(scores["originality"])


def test_tensorboard_shows_the_scores_beside_the_run(measured: Path) -> None:
    written = {path: path.stat().st_mtime_ns for path in measured.glob("events.*")}
    for _ in range(2):  # the second takes the place of the first
        scores, folder = evaluate(evaluation_of(measured))
    log = EventAccumulator(str(folder)).Reload()
    assert len(list(folder.glob("events.*"))) == 1
    (point,) = log.Scalars("evaluate/swd held-out")
    assert (point.step, point.value) == (64, pytest.approx(scores["held-out"]["swd"]))
    assert set(log.Tags()["scalars"]) == {
        "evaluate/similarity",
        "evaluate/swd training",
        "evaluate/swd held-out",
        "evaluate/originality ratio (thumbnails)",
        "evaluate/originality near (thumbnails)",
    }
    (sheet,) = log.Images("nearest")
    assert sheet.encoded_image_string == (folder / "nearest.png").read_bytes()
    started = HParamsPluginData.FromString(
        log.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    ).session_start_info
    assert started.hparams["model.width"].number_value == 4
    # Another file among those of the run would end what TensorBoard shows of it.
    assert written == {path: path.stat().st_mtime_ns for path in measured.glob("events.*")}


@pytest.mark.slow
def test_the_same_call_gives_the_same_scores(measured: Path, weights: Path) -> None:
    first, _ = evaluate(evaluation_of(measured, features=str(weights)))
    second, _ = evaluate(evaluation_of(measured, features=str(weights)))
    assert first == second


def test_held_out_paintings_are_not_trained_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bytes] = []
    streamed = PaintingStream.__iter__

    def watched(stream: PaintingStream) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for squares, classes in streamed(stream):
            shown.extend(map(_pixels, squares.flatten(0, 1)))
            yield squares, classes

    monkeypatch.setattr(PaintingStream, "__iter__", watched)
    folder = run(name="watched", dataset__holdout=0.5, max_images=40)
    measured: dict[str, set[bytes]] = {}

    def kept(
        generator: torch.nn.Module, inputs: torch.Tensor, reference: Reference, extract: None
    ) -> tuple[dict[str, Any], torch.Tensor]:
        measured.update({p.name: {*map(_pixels, p.images)} for p in reference.parts})
        return measure(generator, inputs, reference, extract)

    monkeypatch.setattr("artgan.evaluation.measure", kept)
    evaluate(evaluation_of(folder))
    assert {*shown} == measured["training"]
    assert len(measured["held-out"]) == 20
    assert not {*shown} & measured["held-out"]


def _pixels(square: torch.Tensor) -> bytes:
    return square.contiguous().numpy().tobytes()


@pytest.mark.parametrize(("own", "given"), [(0, 0.5), (0.5, 0), (0.4, 0.5)])
def test_no_other_paintings_are_called_held_out_than_in_the_run(
    run: Run, paintings: Path, own: float, given: float
) -> None:
    folder = run(name="mine", dataset__holdout=own)
    refusal = f"dataset.holdout: .* held {own:g} of them out"
    for dataset in ({"holdout": given}, {"holdout": given, "root": str(paintings)}):
        with pytest.raises(UserError, match=refusal) as raised:
            evaluate(evaluation_of(folder, dataset=dataset))
        assert len(str(raised.value).splitlines()) == 1
    evaluate(evaluation_of(folder, dataset={"holdout": own}))


def test_the_run_s_paintings_are_recognised_after_a_move(
    measured: Path, paintings: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(paintings, tmp_path / "moved")
    here, _ = evaluate(evaluation_of(measured))
    there, _ = evaluate(evaluation_of(measured, dataset={"root": str(moved)}))
    assert there == here | {"dataset": here["dataset"] | {"root": "moved"}}
    with pytest.raises(UserError, match=r"dataset\.holdout"):
        evaluate(evaluation_of(measured, dataset={"root": str(moved), "holdout": 0.4}))


def test_of_changed_paintings_or_an_unknown_run_none_count_as_held_out(
    measured: Path, paintings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = shutil.copytree(paintings, tmp_path / "more")
    shutil.copy(next((paintings / "river").iterdir()), more / "another.jpg")
    changed = evaluation_of(measured, dataset={"root": str(more), "holdout": 0.5}, num=50)
    checkpoint = load_checkpoint(measured / "last.ckpt")
    del checkpoint["artgan"]["dataset_key"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    capsys.readouterr()
    for asked, count in ((changed, 41), (evaluation_of(tmp_path / "old.ckpt", num=50), 40)):
        scores, folder = evaluate(asked)
        assert scores["paintings"]["paintings"] == count
        assert scores["dataset"]["holdout"] is None
        assert scores["dataset"]["key"] in folder.name
        assert not {"training", "held-out"} & set(scores)
        (line,) = (line for line in capsys.readouterr().err.splitlines() if "trained on" in line)
        assert "none held out" in line


def test_a_run_without_held_out_paintings_is_measured_on_its_own(run: Run) -> None:
    scores, _ = evaluate(evaluation_of(run(name="whole")))
    assert scores["training"]["paintings"] == 24
    assert "held-out" not in scores


def test_too_few_held_out_paintings_are_reported(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    scores, _ = evaluate(evaluation_of(run(name="few", dataset__holdout=0.3)))
    assert "held-out" not in scores
    assert scores["training"]["paintings"] == 24
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "are held out," in line)
    assert line.startswith("Only 12 paintings are held out, too few to measure against")


@pytest.mark.slow
def test_another_dataset_is_measured_against_whole(
    measured: Path, paintings: Path, tmp_path: Path
) -> None:
    river = shutil.copytree(paintings / "river", tmp_path / "river")
    arguments = ["features=none", "num=40", "dataset=folder", f"dataset.root={river}"]
    succeed("evaluate.py", f"ckpt={measured}", "out=figures", *arguments, cwd=tmp_path)
    scores = json.loads((tmp_path / "figures" / "metrics.json").read_text())
    assert scores["paintings"]["paintings"] == 20
    assert not {"training", "held-out"} & set(scores)


@pytest.mark.slow
def test_an_option_of_the_dataset_alone_replaces_that_of_the_run(
    measured: Path, paintings: Path, tmp_path: Path
) -> None:
    river = shutil.copytree(paintings / "river", tmp_path / "a (b), 河")
    shutil.copytree(paintings / "landscape", river / "more")
    arguments = ["features=none", "num=40", f"dataset.root={river}"]
    succeed("evaluate.py", f"ckpt={measured}", "out=figures", *arguments, cwd=tmp_path)
    scores = json.loads((tmp_path / "figures" / "metrics.json").read_text())
    assert scores["paintings"]["paintings"] == 40
    assert scores["dataset"]["root"] == river.name


@pytest.mark.parametrize("flip", [True, False])
def test_copies_are_searched_for_among_all_training_paintings_as_they_were_seen(
    run: Run, monkeypatch: pytest.MonkeyPatch, flip: bool
) -> None:
    folder = run(name="mine", dataset__flip=flip)
    squares = torch.from_numpy(
        load_paintings(load_config(folder).dataset, 32).squares(np.arange(40), np.full(40, 0.5))
    ).permute(0, 3, 1, 2)
    # The network paints mirror images of the paintings, of most of which it is not asked.
    monkeypatch.setattr("artgan.measuring.paint", lambda *_: squares.flip(-1))
    scores, where = evaluate(evaluation_of(folder, num=16))
    assert (scores["originality"]["ratio"] < 1e-3) is flip
    assert scores["training"]["paintings"] == 16
    with Image.open(where / "nearest.png") as sheet:
        sample, painting = (sheet.crop((2, top, 34, top + 32)) for top in (2, 36))
    assert (sample.tobytes() == painting.tobytes()) is flip


@pytest.mark.slow
def test_features_of_the_paintings_are_cached_and_those_of_other_pixels_not_used(
    run: Run, measured: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    compute = Features.__call__

    def counting(self: Features, images: torch.Tensor, progress: str | None = None) -> torch.Tensor:
        computed.append(len(images))
        return compute(self, images, progress)

    monkeypatch.setattr(Features, "__call__", counting)
    first, _ = evaluate(evaluation_of(measured, features=str(weights), out=str(measured / "a")))
    computed.clear()
    again, _ = evaluate(evaluation_of(measured, features=str(weights), out=str(measured / "b")))
    assert computed == [24]  # the samples alone
    assert first == again
    computed.clear()
    evaluate(evaluation_of(run(name="other", dataset__holdout=0.4), features=str(weights)))
    # Other paintings on both sides, those of the one mirrored, and the samples.
    assert computed == [24, 16, 24, 24]


def test_a_flipped_bit_of_cached_features_changes_nothing(tmp_path: Path) -> None:
    chance = random.Random(0)
    rows = np.frombuffer(chance.randbytes(40 * 8 * 8 * 3), np.uint8).reshape(40, 8, 8, 3)
    pack = replace(pack_of(rows), report=tmp_path / "report.html")
    extract = Features("means", 192, lambda images: images.flatten(1).float(), "cpu")
    expected = feature_rows("training", pack, extract)
    (file,) = (tmp_path / "features").iterdir()
    whole = file.read_bytes()
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        file.write_bytes(damaged)
        assert torch.equal(feature_rows("training", pack, extract), expected)


@pytest.mark.slow
def test_cached_features_go_with_their_paintings(
    run: Run, weights: Path, paintings: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(paintings, tmp_path / "mine", ignore=shutil.ignore_patterns(".artgan"))
    folder = run(name="mine", dataset__root=root)
    evaluate(evaluation_of(folder, features=str(weights)))
    features = root / ".artgan" / "features"
    first = {*features.iterdir()}
    assert len(first) == 2  # of the paintings and of their mirror images
    run(name="larger", dataset__root=root, resolution=64)
    assert {*features.iterdir()} == first
    next((root / "river").iterdir()).unlink()
    run(name="fewer", dataset__root=root)
    assert not [*features.iterdir()]


def test_other_metrics_remain_where_named_features_are_not_available(
    measured: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    scores, _ = evaluate(evaluation_of(measured, features="inception"))
    assert scores["features"] is None
    assert "swd" in scores["held-out"]
    printed = capsys.readouterr().err
    assert printed.count("inception needs torch-fidelity") == 1
    assert printed.count("Measuring without it: no FID and no KID.") == 1


def test_other_settings_do_not_overwrite_the_scores(measured: Path) -> None:
    chosen: list[dict[str, Any]] = [{}, {"num": 16}, {"seed": 1}, {"ema": False}]
    folders = [evaluate(evaluation_of(measured, **one))[1] for one in chosen]
    assert len(set(folders)) == len(chosen)
    assert measured / "evaluated" / "images-000000064" not in folders


def test_the_raw_generator_is_measured_where_asked_for(measured: Path) -> None:
    averaged, raw = (evaluate(evaluation_of(measured, ema=ema))[0] for ema in (True, False))
    assert averaged["training"]["swd"] != raw["training"]["swd"]


def test_the_table_names_each_score_with_its_parts(measured: Path) -> None:
    scores, _ = evaluate(evaluation_of(measured))
    lines = table(scores).splitlines()
    assert lines[0] == "features: none"
    assert lines[1].split() == ["training", "held-out"]
    (swd,) = (line for line in lines if line.startswith("swd  "))
    assert [float(cell) for cell in swd.split()[1:]] == [
        pytest.approx(scores[part]["swd"], rel=1e-3) for part in ("training", "held-out")
    ]


def test_the_table_says_what_is_not_comparable(measured: Path) -> None:
    scores, _ = evaluate(evaluation_of(measured))
    assert "only kid" not in table(scores)
    scores["held-out"]["paintings"] -= 1
    assert table(scores).splitlines()[-1].startswith("The parts differ in size: only kid")


def test_scores_do_not_replace_the_curves_of_a_run(run: Run) -> None:
    folder = run(name="mine", max_images=8)
    events = {file: file.read_bytes() for file in folder.glob("events.*")}
    assert events
    with pytest.raises(UserError, match=r"out: .* is the folder of a run"):
        evaluate(evaluation_of(folder, out=str(folder), overwrite=True))
    assert {file: file.read_bytes() for file in folder.glob("events.*")} == events


def test_scores_are_replaced_only_if_asked_for(run: Run, tmp_path: Path) -> None:
    folder, scores = run(name="mine", max_images=8), tmp_path / "metrics.json"
    scores.write_text("mine")
    with pytest.raises(UserError, match=r"^out: .*metrics\.json exists already.* overwrite=true"):
        evaluate(evaluation_of(folder, out=str(tmp_path)))
    assert scores.read_text() == "mine"
    evaluate(evaluation_of(folder, out=str(tmp_path), overwrite=True))
    assert json.loads(scores.read_text())["images_seen"] == 8


def test_an_exported_network_is_refused_with_what_to_give_instead(run: Run, tmp_path: Path) -> None:
    exported = tmp_path / "mine.safetensors"
    export(ExportConfig(ckpt=str(run(name="mine", max_images=8)), out=str(exported)))
    message = r"^ckpt: .*mine\.safetensors is an exported generator, .*Give ckpt= the folder"
    for dataset in ({}, {"root": str(tmp_path)}):
        with pytest.raises(UserError, match=message):
            evaluate(evaluation_of(exported, dataset=dataset))


def test_a_checkpoint_must_be_named() -> None:
    with pytest.raises(UserError, match="ckpt=checkpoints/RUN"):
        evaluate(replace(evaluation_of(Path()), ckpt=None))


@pytest.mark.slow
def test_evaluate_py_prints_a_table_and_the_folder(measured: Path, tmp_path: Path) -> None:
    printed, _ = succeed(
        "evaluate.py", f"ckpt={measured}", "features=none", "num=16", "out=figures", cwd=tmp_path
    )
    assert printed.splitlines()[-1] == "figures"
    assert (tmp_path / "figures" / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        pytest.param("features=nowhere.pth", "nowhere.pth", marks=pytest.mark.slow),
        ("num=3", "num: 3 must be at least 16"),
        pytest.param(
            "dataset=folder",
            "dataset.root: a value is needed. Add dataset.root=PATH",
            marks=pytest.mark.slow,
        ),
        ("dataset.holdout=2", "dataset.holdout: 2 must be at least 0 and below 1."),
        ("holdout=0.5", "Did you mean dataset.holdout?"),
        ("dataset=fodler", "Did you mean 'folder'?"),
        ("fetures=none", "Did you mean features?"),
    ],
)
def test_mistakes_get_one_clear_line(
    measured: Path, tmp_path: Path, argument: str, message: str
) -> None:
    arguments = [f"ckpt={measured}", argument]
    if "features" not in argument:
        arguments.append("features=none")
    done = script("evaluate.py", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (measured / "evaluated").exists()


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"root": "nowhere"}, "dataset.root: there is no folder"),
        ({"holdout": 0.9}, "dataset.holdout: these are the paintings of the run, which held 0.5"),
        ({"artist": "x"}, "dataset.artist: only applies to dataset.source=huggingface"),
    ],
)
def test_a_dataset_that_cannot_be_measured_against_is_refused(
    measured: Path, dataset: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(evaluation_of(measured, dataset=dataset))
    assert not (measured / "evaluated").exists()


def test_a_conditional_run_is_measured_in_the_classes_of_its_seeds(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted: list[torch.Tensor] = []

    def watched(generator: torch.nn.Module, latents: Iterable[torch.Tensor]) -> torch.Tensor:
        painted.extend(latents)
        return paint(generator, painted)

    monkeypatch.setattr("artgan.measuring.paint", watched)
    evaluate(evaluation_of(run(name="told", model__conditional="true")))
    classes = draw_classes(0, 24, {"landscape": 20, "river": 20})
    assert torch.equal(torch.stack(painted)[:, 100:], classes)


def test_a_failing_disk_is_one_message(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run(name="mine", max_images=8)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")  # which names no file

    monkeypatch.setattr(SummaryWriter, "add_scalar", fail)
    with pytest.raises(UserError, match=r"cannot be written \(Input/output error\)"):
        evaluate(evaluation_of(folder))
