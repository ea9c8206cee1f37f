"""The arithmetic of benchmarks/quality.py; what it measures is for the benchmark itself."""

import json
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.blind import interval
from benchmarks.quality import Recipe, Run, budget, rates_of, summary, table


def run_of(folder: Path, label: str, seed: int, rate: float, kids: dict[int, float]) -> Run:
    """A run of six seconds, measured after so many images with these KIDs."""
    run = Run(Recipe.parse(label), seed, rate, budget(rate, 0.1), folder / f"{label}{seed}")
    for images, kid in kids.items():
        unseen = {"kid": kid, "kid_std": 0.01, "fid": 200, "precision": 0.5, "recall": 0.25}
        figures = {
            "features": "squeezenet",
            "held-out": {**unseen, "swd": 150},
            "training": {"kid": kid / 2},
            "originality": {"ratio": 0.9},
        }
        file = run.folder / "evaluated" / f"images-{images:09}" / "metrics.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(figures))
    return run


@pytest.mark.parametrize(
    ("text", "label", "overrides", "slug"),
    [
        ("dcgan", "dcgan", ("model=dcgan",), "dcgan"),
        (
            "artgan model.r1=0",
            "artgan model.r1=0",
            ("model=artgan", "model.r1=0"),
            "artgan-model.r1-0",
        ),
        ("small=dcgan model.width=16", "small", ("model=dcgan", "model.width=16"), "small"),
    ],
)
def test_a_recipe_is_a_model_and_overrides(
    text: str, label: str, overrides: tuple[str, ...], slug: str
) -> None:
    recipe = Recipe.parse(text)
    assert (recipe.label, recipe.overrides, recipe.slug) == (label, overrides, slug)


def test_a_drift_of_the_machine_is_in_no_ratio() -> None:
    rounds = [{"one": rate, "other": rate / 4} for rate in (100.0, 50.0, 80.0)]
    assert rates_of(rounds, "one") == {"one": 80, "other": 20}
    # Added later on a machine that has become slower: at the rate that the first had.
    assert rates_of([{"one": 40.0, "new": 20.0}], "one", 80)["new"] == 40
    assert budget(20, 1.5) == 1800


def test_recipes_compare_at_the_end_of_the_same_seeds_only(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path, "dcgan", 0, 100, {300: 3, 600: 2}),
        run_of(tmp_path, "artgan", 0, 50, {150: 2, 300: 1}),
        run_of(tmp_path, "dcgan", 1, 100, {300: 3}),
        run_of(tmp_path, "artgan", 1, 50, {300: 5}),
    ]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(runs).splitlines()]
    assert len({len(row) for row in rows}) == 1
    figures = ["0.5", "200", "0.500", "0.250", "150", "0.900"]
    assert rows[3] == ["artgan", "0", "50.0", "300", "1 ± 0.01", *figures, "0.500"]
    assert rows[4][:5] == ["dcgan", "1", "100.0", "300 of 600", "3 ± 0.01"]
    assert [row[-1] for row in rows[2:]] == ["1.000", "0.500", "", ""]
    assert summary(runs).splitlines()[2:] == [
        "| dcgan | 1.000 | 1 | 2 (2 to 2) | 1.000 |",
        "| artgan | 0.500 | 2 | 3 (1 to 5) | 0.500 |",
    ]


def test_devices_compare_at_one_batch_for_all_and_at_one_for_each() -> None:
    compared = scaling.cases("cpu", 2, 64)
    assert list(compared.values()) == [
        ["batch_size=64"],
        ["batch_size=64", "trainer.strategy=ddp"],
        ["batch_size=64", "trainer.devices=2"],
        ["batch_size=128", "trainer.devices=2"],
    ]
    on_one_gpu = scaling.cases("gpu", 1, 64).values()
    assert ["batch_size=64", "trainer.cuda_graph=false"] in on_one_gpu
    assert not any("trainer.devices" in " ".join(added) for added in on_one_gpu)
    assert scaling.table({"one": [100, 120, 80], "two": [150, 160, 155]}).splitlines()[2:] == [
        "| one | 100 | 1.00 |",
        "| two | 155 | 1.55 |",
    ]


def test_the_share_of_wins_has_wilsons_interval() -> None:
    assert interval(15, 20) == pytest.approx((0.5313, 0.8881), abs=1e-4)
    assert interval(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)
