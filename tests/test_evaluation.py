import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from artgan.checkpoint import load_checkpoint
from artgan.config import DatasetConfig, EvaluateConfig
from artgan.errors import UserError
from artgan.evaluation import evaluate, table
from artgan.metrics.features import Features
from artgan.sampling import draw_classes, paint
from tests.helpers import script, succeed

Run = Callable[..., Path]


@pytest.fixture
def measured(run: Run) -> Path:
    """A run that has set half of its 40 paintings aside."""
    return run(name="measured", dataset__holdout=0.5)


def settings(ckpt: Path, **chosen: object) -> EvaluateConfig:
    config = EvaluateConfig(
        ckpt=str(ckpt),
        dataset=DatasetConfig(),  # the run's own
        features="none",
        num=24,
        seed=0,
        ema=True,
        out=None,
        device="cpu",
    )
    for key, value in chosen.items():
        setattr(config, key, value)
    return config


def test_a_run_is_measured_against_what_it_has_and_has_not_seen(
    measured: Path, weights: Path
) -> None:
    figures, folder = evaluate(settings(measured, features=str(weights)))
    assert folder == measured / "evaluated" / "images-000000064"
    assert json.loads((folder / "metrics.json").read_text()) == figures
    assert figures["features"].startswith("squeezenet1_0-")
    for part in ("training", "held-out"):
        assert figures[part]["paintings"] == 20
        names = ("fid", "kid", "kid_std", "precision", "recall", "swd", "swd/32", "swd/16")
        assert all(isinstance(figures[part][name], float) for name in names)
    with Image.open(folder / "nearest.png") as sheet:
        assert sheet.size == (16 * 34 + 2, 2 * 34 + 2)


def test_without_features_the_other_figures_still_come(measured: Path) -> None:
    figures, _ = evaluate(settings(measured))
    assert figures["features"] is None
    assert "kid" not in figures["training"]
    assert {"swd", "similarity of the paintings"} <= set(figures["training"])
    assert {"ratio", "near"} <= set(figures["originality"])


def test_the_same_call_gives_the_same_figures(measured: Path, weights: Path) -> None:
    first, _ = evaluate(settings(measured, features=str(weights)))
    second, _ = evaluate(settings(measured, features=str(weights)))
    assert first == second


def test_held_out_paintings_are_not_trained_on(run: Run, measured: Path) -> None:
    whole = run(name="whole")
    keys = [load_checkpoint(one / "last.ckpt")["state_dict"] for one in (measured, whole)]
    name = "discriminator.layers.0.weight"
    assert not torch.equal(keys[0][name], keys[1][name])


def test_a_run_without_held_out_paintings_is_measured_on_its_own(run: Run) -> None:
    figures, _ = evaluate(settings(run(name="whole")))
    assert figures["training"]["paintings"] == 24
    assert "held-out" not in figures
    with_some, _ = evaluate(settings(run(name="other"), dataset=DatasetConfig(holdout=0.5)))
    assert with_some["held-out"]["paintings"] == 20


def test_too_few_held_out_paintings_are_told_of(
    measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, _ = evaluate(settings(measured, dataset=DatasetConfig(holdout=0.3)))
    assert "held-out" not in figures
    assert figures["training"]["paintings"] == 24
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "held out" in line)
    assert line.startswith("Only 12 paintings are held out, too few to measure against")


def test_another_dataset_is_measured_against_whole(
    measured: Path, paintings: Path, tmp_path: Path
) -> None:
    river = shutil.copytree(paintings / "river", tmp_path / "river")
    arguments = ["features=none", "num=40", "dataset=folder", f"dataset.root={river}"]
    succeed("evaluate.py", f"ckpt={measured}", "out=figures", *arguments, cwd=tmp_path)
    figures = json.loads((tmp_path / "figures" / "metrics.json").read_text())
    # Nothing is held out, as it is in the run's own dataset.
    assert figures["training"]["paintings"] == 20
    assert "held-out" not in figures


def test_a_key_of_the_dataset_alone_replaces_that_of_the_run(
    measured: Path, paintings: Path, tmp_path: Path
) -> None:
    river = shutil.copytree(paintings / "river", tmp_path / "a (b), 河")
    shutil.copytree(paintings / "landscape", river / "more")
    arguments = ["features=none", "num=40", f"dataset.root={river}"]
    succeed("evaluate.py", f"ckpt={measured}", "out=figures", *arguments, cwd=tmp_path)
    figures = json.loads((tmp_path / "figures" / "metrics.json").read_text())
    assert [figures[part]["paintings"] for part in ("training", "held-out")] == [20, 20]


def test_features_of_the_paintings_are_kept_and_those_of_other_pixels_are_not_taken(
    measured: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    compute = Features.__call__

    def counting(self: Features, images: torch.Tensor, progress: str | None = None) -> torch.Tensor:
        computed.append(len(images))
        return compute(self, images, progress)

    monkeypatch.setattr(Features, "__call__", counting)
    first, _ = evaluate(settings(measured, features=str(weights), out=str(measured / "a")))
    computed.clear()
    again, _ = evaluate(settings(measured, features=str(weights), out=str(measured / "b")))
    assert computed == [24]  # the samples alone
    assert first["training"] == again["training"]
    computed.clear()
    evaluate(settings(measured, features=str(weights), dataset=DatasetConfig(holdout=0.4)))
    assert computed == [24, 16, 24]  # other paintings on both sides, and the samples


def test_the_table_names_each_figure_with_its_parts(measured: Path) -> None:
    figures, _ = evaluate(settings(measured))
    lines = table(figures).splitlines()
    assert lines[0] == "features: none"
    assert lines[1].split() == ["training", "held-out"]
    (swd,) = (line for line in lines if line.startswith("swd  "))
    assert [float(cell) for cell in swd.split()[1:]] == [
        pytest.approx(figures[part]["swd"], rel=1e-3) for part in ("training", "held-out")
    ]


def test_a_checkpoint_must_be_named() -> None:
    with pytest.raises(UserError, match="ckpt=checkpoints/RUN"):
        evaluate(replace(settings(Path()), ckpt=None))


def test_evaluate_py_prints_a_table_and_where_the_rest_lies(measured: Path, tmp_path: Path) -> None:
    printed, _ = succeed(
        "evaluate.py", f"ckpt={measured}", "features=none", "num=16", "out=figures", cwd=tmp_path
    )
    assert printed.splitlines()[-1] == "figures"
    assert (tmp_path / "figures" / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("features=nowhere.pth", "nowhere.pth"),
        ("num=3", "num: 3 must be at least 16"),
        ("dataset.root=nowhere", "dataset.root: there is no folder"),
        ("dataset=folder", "dataset.root: a value is needed. Add dataset.root=… to the command."),
        ("dataset.holdout=2", "dataset.holdout: 2.0 must be at least 0 and below 1."),
        ("dataset.holdout=0.9", "dataset.holdout: 0.9 leaves 4 of 40 paintings"),
        ("dataset.artist=x", "dataset.artist: means nothing to source folder"),
        ("holdout=0.5", "Did you mean 'dataset.holdout'?"),
        ("dataset=fodler", "Did you mean 'folder'?"),
        ("fetures=none", "Did you mean 'features'?"),
    ],
)
def test_mistakes_get_one_clear_line(
    measured: Path, tmp_path: Path, argument: str, said: str
) -> None:
    arguments = [f"ckpt={measured}", argument]
    if "features" not in argument:
        arguments.append("features=none")
    done = script("evaluate.py", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (measured / "evaluated").exists()


def test_a_conditional_run_is_measured_in_the_classes_of_its_seeds(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted: list[torch.Tensor] = []

    def watched(generator: torch.nn.Module, latents: Iterable[torch.Tensor]) -> torch.Tensor:
        painted.extend(latents)
        return paint(generator, painted)

    monkeypatch.setattr("artgan.evaluation.paint", watched)
    evaluate(settings(run(name="told", model__conditional="true")))
    classes = draw_classes(0, 24, {"landscape": 20, "river": 20})
    assert torch.equal(torch.stack(painted)[:, 100:], classes)
