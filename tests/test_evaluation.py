import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.models import squeezenet1_0

from artgan.checkpoint import load_checkpoint
from artgan.config import EvaluateConfig
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


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.manual_seed(0)
    torch.save(squeezenet1_0(weights=None).state_dict(), path)
    return path


def settings(ckpt: Path, **chosen: object) -> EvaluateConfig:
    config = EvaluateConfig(
        ckpt=str(ckpt),
        root=None,
        holdout=None,
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
    with_some, _ = evaluate(settings(run(name="other"), holdout=0.5))
    assert with_some["held-out"]["paintings"] == 20


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
    evaluate(settings(measured, features=str(weights), holdout=0.4))
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
        ("root=nowhere", "no folder"),
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
