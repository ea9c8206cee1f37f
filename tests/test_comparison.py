import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image

from artgan.comparison import (
    Group,
    compare,
    differences,
    last_metric,
    ranking,
    read_runs,
    table,
    write_page,
)
from artgan.config import save_config
from artgan.errors import UserError
from artgan.evaluation import evaluate
from artgan.options import TrainConfig
from tests.helpers import evaluation_of, succeed

Make = Callable[..., Path]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The folder of the runs."""
    return tmp_path / "runs"


@pytest.fixture
def make(configure: Callable[..., TrainConfig], runs: Path) -> Make:
    """Makes the folder of a run that has not begun, with these settings."""
    plain = configure()

    def make(name: str, width: int = 4, augment: tuple[str, ...] = (), seed: int = 0) -> Path:
        model = replace(plain.model, width=width, augment=list(augment))
        (runs / name).mkdir(parents=True)
        save_config(replace(plain, name=name, model=model, seed=seed), runs / name)
        return runs / name

    return make


def measured(folder: Path, images_seen: int, part: str = "held-out", **changed: Any) -> None:
    """Writes a `metrics.json` as measuring does, with scores of one part."""
    scores = {"swd": 100.0, "paintings": 50} | changed.pop("scores", {})
    dataset = {"root": "monet", "key": "k", "holdout": 0.1, "crop": "center"}
    whole = {
        "checkpoint": None,
        "images_seen": images_seen,
        "seed": 0,
        "ema": True,
        "dataset": dataset | changed.pop("dataset", {}),
        "samples": 1000,
        "features": "squeezenet-1",
        part: scores,
    }
    path = folder / "evaluated" / f"images-{images_seen:09d}{changed.pop('suffix', '')}"
    path.mkdir(parents=True)
    (path / "metrics.json").write_text(json.dumps(whole | changed))


def names(groups: list[Group]) -> list[list[str]]:
    return [[run.folder.name for run in group.runs] for group in groups]


def test_real_runs_are_ranked_with_what_they_are(run: Callable[..., Path], tmp_path: Path) -> None:
    small = {"dataset__holdout": 0.5, "evaluate__features": "none", "evaluate__num": 16}
    narrow = run(name="narrow", evaluate_every=32, **small)
    wide = run(name="wide", evaluate_every=32, model__width=8, **small)
    runs = read_runs([narrow, wide])
    (group,) = ranking(runs)
    swd = {path: last_metric(path, "swd") for path in (narrow, wide)}
    assert [run.folder for run in group.runs] == sorted(swd, key=swd.__getitem__)  # type: ignore[arg-type]
    assert re.fullmatch(r"swd against 16 held-out paintings of .* 16 samples", group.title)
    assert [run.images_seen for run in runs] == [64, 64]
    assert all(run.speed > 0 for run in runs)
    assert differences(runs) == {narrow: "model.width=4", wide: "model.width=8"}
    assert all(run.grid and run.grid.name == "images-000000064.png" for run in runs)

    # What evaluate.py measures in the same way is the same point, and otherwise a list of its own.
    evaluate(evaluation_of(wide / "last.ckpt", num=16, seed=1_000_000))
    assert ranking(read_runs([narrow, wide])) == [group]
    evaluate(evaluation_of(wide / "last.ckpt", num=17, seed=1_000_000))
    assert names(ranking(read_runs([narrow, wide])))[1] == ["wide"]


def test_the_latest_score_ranks_and_a_better_one_is_shown(make: Make, runs: Path) -> None:
    for name, early, late in (("a", 1.0, 5.0), ("b", 6.0, 2.0), ("c", 4.0, 4.0)):
        folder = make(name)
        measured(folder, 2_000, scores={"kid": late})
        measured(folder, 1_000, scores={"kid": early})
    (group,) = ranking(read_runs(sorted(runs.iterdir())))
    assert names([group]) == [["b", "c", "a"]]
    assert group.scores == ["2", "4", "5 (best 1 at 1,000)"]


@pytest.mark.parametrize(
    "other",
    [
        {"features": "inception-1"},
        {"samples": 999},
        {"ema": False},
        {"dataset": {"key": "other"}},
        {"dataset": {"holdout": 0.2}},
        {"scores": {"kid": 0.1, "paintings": 49}},
        {"part": "training"},
        {"part": "paintings"},
    ],
    ids=str,
)
def test_what_is_not_comparable_is_not_ranked_together(
    make: Make, runs: Path, other: dict[str, Any]
) -> None:
    make("d")
    for name, changed in (("a", {}), ("b", other), ("c", {})):
        measured(make(name), 1_000, **{"scores": {"kid": 0.5}} | changed)
    groups = ranking(read_runs(sorted(runs.iterdir())))
    if "scores" not in other:
        assert [group.scores for group in groups] == [["0.5", "0.5"], ["0.5"], [""]]
    assert names(groups) == [["a", "c"], ["b"], ["d"]]
    assert len({group.title for group in groups}) == 3


def test_what_needs_no_features_compares_across_them(make: Make, runs: Path) -> None:
    measured(make("a"), 1_000, scores={"kid": 1.0, "swd": 3.0})
    measured(make("b"), 1_000, features=None, scores={"swd": 2.0})
    make("c")
    found = read_runs(sorted(runs.iterdir()))
    assert names(ranking(found)) == [["a"], ["b", "c"]]  # kid, that only one has
    assert names(ranking(found, "swd")) == [["b", "a"], ["c"]]
    assert ranking(found, "fid")[0].title == "no fid measured"


def test_held_out_paintings_count_before_those_trained_on(make: Make) -> None:
    folder = make("a")
    measured(folder, 1_000, scores={"kid": 0.5}, training={"kid": 0.1, "paintings": 450})
    (group,) = ranking(read_runs([folder]))
    assert group.scores == ["0.5"]
    assert last_metric(folder, "kid") == 0.5


def test_a_score_that_is_not_a_number_is_the_last(make: Make, runs: Path) -> None:
    for name, value in (("a", float("nan")), ("b", 3.0)):
        measured(make(name), 1_000, scores={"kid": value})
    (group,) = ranking(read_runs(sorted(runs.iterdir())))
    assert names([group]) == [["b", "a"]]


def test_the_metric_of_a_search_is_the_run_s_own_and_its_latest(make: Make) -> None:
    folder = make("a")
    assert last_metric(folder, "kid") is None
    measured(folder, 1_000, scores={"kid": 1.0})
    measured(folder, 2_000, scores={"kid": 2.0})
    measured(folder, 3_000, suffix="-inception-2000", scores={"kid": 3.0})
    assert (last_metric(folder, "kid"), last_metric(folder, "swd")) == (2.0, 100.0)
    assert last_metric(folder, "fid") is None


@pytest.mark.parametrize(
    "content", ['{"images_seen": 1', "[]", '{"held-out": 3}', '{"held-out": {"kid": "x"}}', "\0"]
)
def test_a_damaged_score_is_named_and_skipped(
    make: Make, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make("a")
    measured(folder, 1_000, scores={"kid": 1.0})
    torn = folder / "evaluated" / "images-000002000" / "metrics.json"
    torn.parent.mkdir()
    torn.write_text(content)
    (group,) = ranking(read_runs([folder]))
    assert group.scores == ["1"]
    assert capsys.readouterr().err == f"{torn}: is damaged. Skipped.\n"


def test_what_is_not_a_run_is_named_and_skipped(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make("a")
    (tmp_path / "README.md").touch()
    (tmp_path / "empty").mkdir()
    torn = make("torn")
    (torn / "last.ckpt").write_bytes(b"PK")
    others = [tmp_path / "README.md", tmp_path / "empty", tmp_path / "gone", torn]
    others.append(tmp_path / ("a" * 300))
    assert [run.folder for run in read_runs([*others, folder, folder])] == [folder]
    printed = capsys.readouterr().err.splitlines()
    assert printed == [
        f"{tmp_path / 'empty'}: there is no run here (config.yaml is missing). Skipped.",
        f"{tmp_path / 'gone'}: there is no run here (config.yaml is missing). Skipped.",
        f"{torn / 'last.ckpt'}: is torn, or not a checkpoint. Skipped.",
        f"[Errno 36] File name too long: '{tmp_path / ('a' * 300)}' Skipped.",
    ]
    with pytest.raises(UserError, match="None of these is a run"):
        read_runs(others)


def test_one_run_differs_in_nothing(make: Make) -> None:
    runs = read_runs([make("a")])
    assert differences(runs) == {runs[0].folder: ""}
    assert names(ranking(runs)) == [["a"]]


def test_only_what_differs_is_shown(make: Make) -> None:
    runs = read_runs([make("a", seed=1), make("b", seed=2, augment=("cutout",)), make("c", seed=2)])
    assert list(differences(runs).values()) == [
        "model.augment=[] seed=1",
        "model.augment=['cutout'] seed=2",
        "model.augment=[] seed=2",
    ]


def test_of_paintings_elsewhere_only_the_folders_name_is_shown(
    configure: Callable[..., TrainConfig], runs: Path
) -> None:
    for user in ("jane doe", "john"):
        (runs / user).mkdir(parents=True)
        save_config(configure(dataset__root=f"/home/{user}/monet"), runs / user)
    found = read_runs(sorted(runs.iterdir()))
    assert set(differences(found).values()) == {"dataset.root=monet"}


def test_the_page_links_the_latest_grids(make: Make, tmp_path: Path) -> None:
    strange = "it's <b> 100% #1?"
    folder = make(strange)
    measured(folder, 1_000, scores={"kid": 0.5})
    (folder / "samples").mkdir()
    for name in ("images-000000000.png", "images-000001000.png", "paintings.png"):
        Image.new("RGB", (8, 8)).save(folder / "samples" / name)
    runs = read_runs([folder, make("none")])
    page = tmp_path / "elsewhere" / "page.html"
    write_page(ranking(runs), differences(runs), page)
    text = page.read_text()
    (address,) = re.findall(r'<img src="(.*?)"', text)
    shown = page.parent / unquote(address)
    assert shown.resolve() == (folder / "samples" / "images-000001000.png").resolve()
    assert "1. it&#39;s &lt;b&gt; 100% #1?" in text
    assert "no samples yet" in text
    assert "http" not in text


def test_the_terminal_shows_a_line_for_each_run(make: Make, runs: Path) -> None:
    for seed, kid in ((1, 0.25), (2, 0.5)):
        measured(make(f"seed{seed}", seed=seed), 1_000, scores={"kid": kid})
    found = read_runs(sorted(runs.iterdir(), reverse=True))
    title, header, *lines = table(ranking(found), differences(found)).splitlines()
    assert title.startswith("kid against 50 held-out paintings of monet (k, holdout 0.1)")
    assert header.split() == ["score", "images", "images/s", "run", "differs", "in"]
    assert [line.split() for line in lines] == [
        ["1", "0.25", "0", "0", str(runs / "seed1"), "seed=1"],
        ["2", "0.5", "0", "0", str(runs / "seed2"), "seed=2"],
    ]


@pytest.mark.slow
def test_the_command_prints_the_ranking_and_the_page(make: Make, runs: Path) -> None:
    for name in ("a", "b"):
        measured(make(name), 1_000, scores={"kid": 0.5})
    # What the shell makes of checkpoints/* is more than runs, the second time the page, too.
    (runs / "README.md").touch()
    (runs / "comparison.html").touch()
    output, messages = succeed("compare.py", *sorted(runs.iterdir()), cwd=runs)
    assert output.splitlines()[0].startswith("kid against 50 held-out paintings of monet")
    assert output.splitlines()[-1] == f"Side by side: {runs / 'comparison.html'}"
    assert "1. a" in (runs / "comparison.html").read_text()
    assert messages == ""


def test_a_page_is_replaced_only_if_asked_for(make: Make, tmp_path: Path) -> None:
    run = make("one")
    page = tmp_path / "page.html"
    page.write_text("mine")
    with pytest.raises(UserError, match=r"page\.html exists already.* overwrite=true"):
        compare([run], None, str(page))
    assert page.read_text() == "mine"
    compare([run], None, str(page), overwrite=True)
    assert page.read_text() != "mine"
