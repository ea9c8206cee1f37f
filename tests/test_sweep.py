"""What is noted of a sweep's failed jobs, and reported at its end."""

from pathlib import Path

import pytest

from artgan.errors import UserError
from artgan.sweep import Sweep, note_failure


def test_failures_are_reported_in_order_with_what_is_special_about_each_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = Sweep([f"output={tmp_path}/a b", "seed=1"])
    with pytest.raises(SystemExit) as end, sweep.reported_failures():
        for number in (10, 2, 3):
            (sweep.folder / str(number)).mkdir(parents=True)
        note_failure(sweep.folder / "10", ["seed=1", "model.width=0"], "too\nsmall")
        note_failure(sweep.folder / "2", ["seed=1"], "gone")
    assert end.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        "2 of 3 jobs failed:",
        "  #2: gone",
        "  #10 model.width=0: too small",
    ]


def test_failures_are_reported_when_a_sweep_is_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = Sweep([f"hydra.sweep.dir={tmp_path}"])
    assert sweep.overrides == [f"hydra.sweep.dir='{tmp_path}'"]
    with pytest.raises(KeyboardInterrupt), sweep.reported_failures():
        note_failure(tmp_path / "0", [], "first")
        raise KeyboardInterrupt
    assert "#0: first" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["{}='~/some runs'", "{}=~/some runs"])
def test_the_folder_of_a_sweep_may_be_in_the_user_s_own(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Sweep([given.format("hydra.sweep.dir")]).folder == tmp_path / "some runs"
    assert Sweep([given.format("output")]).folder.parents[1] == tmp_path / "some runs"


def test_a_sweep_without_failures_prints_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Sweep([f"output={tmp_path}"]).reported_failures():
        pass
    assert capsys.readouterr().err == ""


def test_a_search_needs_a_metric() -> None:
    with pytest.raises(UserError, match=r"a search needs a metric to minimise.*evaluate_every="):
        Sweep(["hydra/sweeper=optuna"])
    Sweep(["hydra/sweeper=optuna", "checkpoint.monitor=swd"])
