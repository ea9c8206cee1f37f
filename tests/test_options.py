import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from artgan.errors import UserError
from artgan.options import (
    CONFIGS,
    Command,
    EvaluateConfig,
    ExportConfig,
    SampleConfig,
    TrainConfig,
    _keys,
    documented_keys,
    help_text,
    launch,
    load_config,
    save_config,
    seconds,
)

Launch = Callable[..., tuple[list[TrainConfig], str]]


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Launch:
    """Composes a `train.py` command line: the configurations of its jobs, and its message."""

    def command(*arguments: str) -> tuple[list[TrainConfig], str]:
        # In files: each job of a multirun is a process of its own.
        composed = tmp_path_factory.mktemp("composed")
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])

        def collect(config: TrainConfig, command: Command) -> None:
            (composed / f"{command.job_number or 0}").write_bytes(pickle.dumps(config))

        try:
            launch(TrainConfig, "train", collect)
        except SystemExit as end:
            assert end.code == 1
        jobs = [pickle.loads(path.read_bytes()) for path in sorted(composed.iterdir())]
        return jobs, capsys.readouterr().err.strip()

    return command


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("model.widht=3", "'model.widht' is not an option. Did you mean 'model.width'?"),
        ("width=3", "Did you mean 'model.width'?"),
        ("+width=3", "Did you mean 'model.width'?"),
        ("keep=3", "Did you mean 'checkpoint.keep'?"),
        ("dataset=inkwsh", "Did you mean 'inkwash'?"),
        ("dataset=_common", "dataset: '_common' is none of"),
        ("dataset.crop=centre", "dataset.crop: 'centre' is none of center, random, tiles."),
        ("model.width=wide", "model.width: Value 'wide'"),
        ("model.width=0", "model.width: 0 must be at least 1 and at most 4,096."),
        ("model.beta1=1", "model.beta1: 1.0 must be at least 0 and below 1."),
        ("model.learning_rate=nan", "model.learning_rate: nan"),
        ("model.learning_rate=inf", "model.learning_rate: inf"),
        ("resolution=100", "resolution: '100' is none of 32, 64, 128, 256."),
        ("trainer.precision=16", "trainer.precision: '16' is none of auto, 32, bf16."),
        ("dataset.flip=maybe", "dataset.flip: Value 'maybe'"),
        ("model.augment=cutout", "model.augment: is a list. Write its parts in brackets"),
        ("dataset=folder", "dataset.root: a value is needed."),
        ("resolution", "'resolution' cannot be read. Write key=value."),
        ("~seed", "seed: cannot be taken away."),
        ("seed=1,2", "seed: Value '1,2'"),
        ("output=", "output: is empty."),
        ("output=${nothing}", "output: Interpolation key 'nothing' not found"),
    ],
)
def test_a_mistake_is_refused_before_any_work(command: Launch, argument: str, message: str) -> None:
    jobs, said = command(argument)
    assert jobs == []
    assert message in said
    assert len(said.splitlines()) == 1


def test_the_plain_model_is_the_recipe_of_the_article(command: Launch) -> None:
    (config,), _ = command("model=dcgan", "dataset=folder", "dataset.root=x")
    assert (config.resolution, config.batch_size, config.model.width) == (64, 64, 64)
    assert (config.model.latent_dim, config.model.learning_rate) == (100, 2e-4)
    assert (config.model.beta1, config.model.beta2) == (0.5, 0.999)
    assert (config.model.loss, config.model.normalization, config.model.augment) == (
        "bce",
        "batch",
        [],
    )


def test_a_recipe_brings_its_batch_size_and_the_command_line_wins(command: Launch) -> None:
    (config,), _ = command()
    assert (config.dataset.source, config.dataset.default_max_time) == ("inkwash", "4m")
    assert (config.batch_size, config.model.width) == (16, 32)
    model = config.model
    assert (model.loss, model.normalization, model.minibatch_std) == ("rpgan", "none", True)
    assert (model.r1, model.r2, model.penalty_every) == (0.05, 0.05, 8)
    assert (model.augment, model.augment_target) == (["translation", "cutout"], None)
    assert (model.learning_rate, model.learning_rate_final) == (5e-4, 0.1)
    assert (model.beta1, model.beta2) == (0, 0.99)
    (config,), _ = command("batch_size=64", "model.width=48")
    assert (config.batch_size, config.model.width) == (64, 48)


@pytest.mark.parametrize("path", ["/data/马远 (2)", "a,b", "it's", "a=b", "C:[x]"])
def test_any_path_can_be_given(command: Launch, path: str) -> None:
    (config,), _ = command("dataset=folder", f"dataset.root={path}")
    assert config.dataset.root == path


def test_any_names_can_be_given_as_a_list(command: Launch) -> None:
    (config,), _ = command("dataset=folder", "dataset.root=x", "dataset.only=[山水, it's, Ming 画]")
    assert config.dataset.only == ["山水", "it's", "Ming 画"]


def test_a_multirun_is_one_job_for_each_combination(command: Launch, tmp_path: Path) -> None:
    jobs, _ = command(f"output={tmp_path}", "-m", "model.width=32,64", "seed=0,1")
    assert [(job.model.width, job.seed) for job in jobs] == [(32, 0), (32, 1), (64, 0), (64, 1)]


def test_a_multirun_finishes_the_others_when_one_fails(command: Launch, tmp_path: Path) -> None:
    jobs, said = command("-m", f"output={tmp_path}", "model.width=0,64")
    assert [job.model.width for job in jobs] == [64]
    assert "model.width: 0 must be at least 1 and at most 4,096." in said


def test_a_configuration_is_read_back_as_it_was_written(command: Launch, tmp_path: Path) -> None:
    (config,), _ = command("dataset=folder", "dataset.root=山水", "max_time=10m")
    save_config(config, tmp_path)
    assert load_config(tmp_path) == config
    assert load_config(tmp_path, ["checkpoint.keep=9"]).checkpoint.keep == 9


def test_a_folder_without_a_run_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run lies here"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("0.5h", 1800)]
)
def test_times_are_read_with_their_unit(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["10", "", "0m", "-5m", "5m1h", "soon", "1.2.3s"])
def test_another_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="90s, 10m, 2h or 1h30m"):
        seconds(text)


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        (TrainConfig, "train"),
        (SampleConfig, "sample"),
        (EvaluateConfig, "evaluate"),
        (ExportConfig, "export"),
    ],
    ids=["train", "sample", "evaluate", "export"],
)
def test_help_explains_every_key_with_its_default(schema: type, name: str) -> None:
    text = help_text(schema, name)
    for key in _keys(schema):
        if any(other.startswith(key + ".") for other in _keys(schema)):
            continue
        (line, *_) = [line for line in text.splitlines() if line.split()[:1] == [key]]
        assert len(line.split()) > 2, f"{key} has no explanation"
        assert line.endswith("]")


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_key_of_every_file_is_explained(path: Path) -> None:
    for key, _, explanation in documented_keys(path):
        assert explanation, key


def test_a_run_of_a_version_without_some_keys_can_go_on(
    configure: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = configure(model__width=8)
    save_config(config, tmp_path)
    old = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del old["trainer"]["cuda_graph"], old["dataset"]["crop"], old["model"]["beta2"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    assert load_config(tmp_path) == config
