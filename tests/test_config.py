"""Configurations from Python and from files."""

from pathlib import Path

import pytest
import yaml

from artgan.config import CONFIGS, compose, load_config, options_only_for, save_config, typed
from artgan.errors import UserError
from artgan.options import DatasetConfig, TrainConfig
from artgan.values import seconds


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("0.5h", 1800)]
)
def test_times_are_read_with_their_unit(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["10", "", "0m", "-5m", "5m1h", "soon", "1.2.3s"])
def test_another_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="90s, 10m, 2h or 1h30m"):
        seconds(text)


def test_a_configuration_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    given = {"dataset": "folder", "dataset.root": "山水", "max_time": "10m", "name": "1e3"}
    config = compose("train", given)
    save_config(config, tmp_path)
    assert load_config(tmp_path) == config


def test_a_run_of_an_older_version_without_some_options_is_read(tmp_path: Path) -> None:
    config = compose("train", {"model": "dcgan", "model.width": 8})
    save_config(config, tmp_path)
    old = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del old["trainer"]["cuda_graph"], old["dataset"]["crop"], old["model"]["beta2"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    assert load_config(tmp_path) == config


def test_a_folder_without_a_run_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run here"):
        load_config(tmp_path)


def test_a_damaged_configuration_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: [")
    with pytest.raises(UserError, match=r"config\.yaml: cannot be read"):
        load_config(tmp_path)
    (tmp_path / "config.yaml").write_text("seeds: 3")
    with pytest.raises(UserError, match=r"config\.yaml: seeds: .* Did you mean seed\?"):
        load_config(tmp_path)


def test_options_from_python_are_those_of_the_command_line() -> None:
    config = compose("stylize", {"content": "a", "style": ["b"], "method": "gatys", "size": 99})
    assert (config.method, config.size, config.preset) == ("gatys", 99, "best")
    assert compose("stylize", {"content": "a", "style": "b", "preset": "keras"}).losses == "keras"
    with pytest.raises(UserError, match=r"strenth: .* Did you mean strength\?"):
        compose("stylize", {"content": "a", "style": "b", "strenth": 1})
    with pytest.raises(UserError, match="content: a value is needed"):
        compose("stylize", {"style": "b"})


def test_a_preset_sets_only_what_its_method_reads() -> None:
    gatys = options_only_for("gatys")
    for path in (CONFIGS / "preset").glob("*.yaml"):
        assert yaml.safe_load(path.read_text()).keys() <= gatys
    assert options_only_for("magenta") == {"strength"}


def test_plain_values_take_their_types() -> None:
    config = typed(TrainConfig, {"name": 2026, "trainer": {"precision": 32}, "seed": "3"})
    assert (config.name, config.trainer.precision, config.seed) == ("2026", "32", 3)
    with pytest.raises(UserError, match="file: holdout: 1 must be at least 0 and below 1"):
        typed(DatasetConfig, {"holdout": 1}, "file")
