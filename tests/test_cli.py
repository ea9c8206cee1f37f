"""What a command line comes to: a configuration, or one line that says what is wrong."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from artgan import __version__, cli
from artgan.config import compose, options_of
from artgan.device import pick_device
from artgan.help import help_text, overview
from artgan.options import SCHEMAS, TrainConfig
from tests.helpers import ROOT

Launch = Callable[..., tuple[list[Any], str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Launch:
    """Composes a command line: the configurations of its jobs, and its message."""

    def command(name: str, *arguments: str) -> tuple[list[Any], str]:
        jobs: list[Any] = []
        monkeypatch.setitem(cli.RUN, name, lambda config, _: jobs.append(config))
        monkeypatch.setattr(sys, "argv", ["artgan", name, *arguments])
        try:
            cli.main()
        except SystemExit as end:
            assert end.code == 1
        return jobs, capsys.readouterr().err.strip()

    return command


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("model.widht=3", "model.widht: there is no such option. Did you mean model.width?"),
        ("width=3", "Did you mean model.width?"),
        ("+width=3", "Did you mean model.width?"),
        ("keep=3", "Did you mean checkpoint.keep?"),
        ("lr=1e-3", "Did you mean model.learning_rate?"),
        ("size=64", "Did you mean resolution?"),
        ("batch=8", "Did you mean batch_size?"),
        ("steps=8", "Did you mean max_images?"),
        ("gpus=2", "Did you mean trainer.devices?"),
        ("--lr=0.1", "--lr=0.1: options are written as key=value. Write model.learning_rate=0.1"),
        ("--resume", "Write resume=VALUE"),
        ("model.lr=3", "Did you mean model.learning_rate?"),
        ("--workers=4", "--workers=4: there is no such flag. See artgan train --help"),
        ("-n=mine", "-n=mine: options are written as key=value. Write name=mine"),
        ("--batch-size=8", "Write batch_size=8"),
        ("--out=x", "Write output=x"),
        ("dataset=inkwsh", "Did you mean 'inkwash'?"),
        ("dataset=_cyclegan", "dataset: '_cyclegan' is none of"),
        ("dataset.crop=centre", "dataset.crop: 'centre' is none of center, random, tiles."),
        ("model.width=wide", "model.width: 'wide' is not a whole number."),
        ("model.width=1.5", "model.width: '1.5' is not a whole number."),
        ("model.width=0", "model.width: 0 must be at least 1 and at most 4,096."),
        ("model.beta1=1", "model.beta1: 1 must be at least 0 and below 1."),
        ("model.learning_rate=nan", "model.learning_rate: nan is not a finite number."),
        ("model.learning_rate=inf", "model.learning_rate: inf is not a finite number."),
        ("resolution=100", "'100' is none of 32, 64, 128, 256, 512. The nearest is 128."),
        ("resolution=500", "'500' is none of 32, 64, 128, 256, 512. The nearest is 512."),
        ("max_images=10m", "max_images: '10m' is not a whole number."),
        ("max_images=1.0005k", "max_images: '1000.5' is not a whole number."),
        ("trainer.devices=all", "trainer.devices: 'all' is not a whole number."),
        ("trainer.precision=16", "trainer.precision: '16' is none of auto, 32, bf16."),
        ("dataset.flip=maybe", "dataset.flip: 'maybe' is neither true nor false."),
        ("model.augment=cutout", "model.augment: is a list. Write its items in brackets"),
        ("max_time=10", "max_time: '10' is not a time. Write it as 90s, 10m, 2h or 1h30m."),
        ("~seed", "seed: cannot be removed."),
        ("=3", "'=3' cannot be read as key=value. Name an option, as in seed=3"),
        ("+=3", "'+=3' cannot be read as key=value."),
        ("a b=3", "'a b=3' cannot be read as key=value."),
        ("seed=1,2", "seed: '1,2' is not a whole number."),
        ("output=", "output: is empty."),
        ("output=${nothing}", "output: Interpolation key 'nothing' not found"),
    ],
)
def test_a_mistake_is_refused_before_any_work(command: Launch, argument: str, message: str) -> None:
    jobs, printed = command("train", argument)
    assert jobs == []
    assert message in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "stylize",
            ["-c", "my photo.jpg", "-s", "monet.jpg", "-o", "out.png"],
            "-c: options are written as key=value. "
            "Write content='my photo.jpg' style=monet.jpg out=out.png",
        ),
        ("sample", ["-n", "9", "-o", "x", "seed=3"], "-n: .* Write num=9 out=x"),
        ("stylize", ["--animation", "--gallery"], "Write animation=VALUE gallery=VALUE"),
        ("sample", ["--ema", "ckpt=x"], "Write ema=VALUE"),
        ("train", ["--workers", "4"], "--workers: there is no such flag."),
        ("train", ["my", "paintings"], "'paintings' cannot be read. .* needs quotes around it."),
        (
            "train",
            ["dataset.root=my", "own", "paintings"],
            "'own' cannot be read: dataset",
        ),
        ("stylize", ["-s", "monet.jpg"], "Write style=monet.jpg"),
        ("stylize", ["-o", "out.png"], "Write out=out.png"),
        ("sample", ["--out", "x"], "Write out=x"),
        ("sample", ["one", "two"], "'two' cannot be read. Write key=value, as in"),
        ("tarin", [], "'tarin' is none of train, sample"),
        ("check", ["dataset.root=x"], "dataset.root: there is no such option. Did you mean root?"),
        ("compare", ["=3"], "'=3' cannot be read as key=value. Name an option, as in out=FILE"),
        ("check", ["=3"], "'=3' cannot be read as key=value. Name an option, as in root=PATH"),
        ("compare", ["by=kidd"], "by: 'kidd' is none of kid, fid, swd. Did you mean 'kid'?"),
    ],
)
def test_what_other_programs_take_is_answered_with_the_right_option(
    command: Launch, name: str, arguments: list[str], message: str
) -> None:
    jobs, printed = command(name, *arguments)
    assert jobs == []
    assert re.search(message, printed)
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize("given", ["{}", "root={}"])
def test_a_check_names_the_option_that_it_has(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["artgan", "check", given.format(tmp_path / "gone")])
    with pytest.raises(SystemExit):
        cli.main()
    message = f"root: there is no folder {tmp_path / 'gone'}. Give the folder of your paintings.\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("given", "count"), [("1e6", 1_000_000), ("10k", 10_000), ("1.1k", 1100), ("2M", 2_000_000)]
)
def test_counts_may_be_given_in_thousands(command: Launch, given: str, count: int) -> None:
    (config,), _ = command("train", f"max_images={given}", f"checkpoint.every={given}")
    assert (config.max_images, config.checkpoint.every) == (count, count)


def test_a_gpu_has_one_name_in_every_command(command: Launch) -> None:
    for name in ("gpu", "cuda"):
        assert command("sample", "run", f"device={name}")[0][0].device == "gpu"
        (config,), _ = command("train", f"trainer.accelerator={name}")
        assert config.trainer.accelerator == "gpu"
    assert pick_device("gpu") == pick_device("cuda") == "cuda"


def test_devices_may_be_all_gpus(command: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    (config,), _ = command("train", "trainer.devices=auto")
    assert config.trainer.devices == 3
    (config,), _ = command("train", "trainer.devices=auto", "trainer.accelerator=cpu")
    assert config.trainer.devices == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert command("train", "trainer.devices=auto")[0][0].trainer.devices == 1


def test_the_plain_model_is_the_recipe_of_the_article(command: Launch) -> None:
    ((config,), _) = command("train", "model=dcgan", "dataset=folder", "dataset.root=x")
    assert (config.resolution, config.batch_size, config.model.width) == (64, 64, 64)
    assert (config.model.latent_dim, config.model.learning_rate) == (100, 2e-4)
    assert (config.model.beta1, config.model.beta2) == (0.5, 0.999)
    assert (config.model.loss, config.model.normalization, config.model.augment) == (
        "bce",
        "batch",
        [],
    )


def test_a_recipe_brings_its_batch_size_and_the_command_line_wins(command: Launch) -> None:
    (config,), _ = command("train")
    assert (config.dataset.source, config.dataset.default_max_time) == ("inkwash", "4m")
    assert (config.batch_size, config.model.width) == (16, 32)
    model = config.model
    assert (model.loss, model.normalization, model.minibatch_std) == ("rpgan", "none", True)
    assert (model.r1, model.r2, model.penalty_every) == (0.05, 0.05, 8)
    assert (model.augment, model.augment_target) == (["translation", "cutout"], None)
    assert (model.learning_rate, model.learning_rate_final) == (5e-4, 0.1)
    assert (model.beta1, model.beta2) == (0, 0.99)
    (config,), _ = command("train", "batch_size=64", "model.width=48")
    assert (config.batch_size, config.model.width) == (64, 48)


@pytest.mark.parametrize("root", ["dataset.root", "++dataset.root"])
def test_a_root_alone_means_a_folder(command: Launch, root: str) -> None:
    (config,), _ = command("train", f"{root}=mine")
    assert (config.dataset.source, config.dataset.root) == ("folder", "mine")
    assert (config.dataset.default_epochs, config.dataset.default_max_time) == (650, None)
    (config,), _ = command("train", f"{root}=mine", "dataset=inkwash")
    assert (config.dataset.source, config.dataset.default_max_time) == ("inkwash", "4m")
    (config,), _ = command("train", f"{root}=null")
    assert config.dataset.source == "inkwash"
    assert compose("train", {"dataset.root": "mine"}).dataset.source == "folder"
    # A resumed run keeps its dataset, whose folder may have been moved.
    (config,), _ = command("train", "resume=run", f"{root}=moved")
    assert config.dataset.source == "inkwash"


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/data/马远 (2)",
            "a,b",
            "it's",
            "a=b",
            "C:[x]",
            "it's (x)",
            "a: b",
            "[x]",
            "C:\\",
            r"a\'",
        ),
        *("2024_01", "1e3", "1.10", "007", "0x1F", "true", "Yes", "inf", "nan", "int(5)", "a  b"),
    ],
)
def test_any_path_can_be_given(command: Launch, path: str) -> None:
    (config,), _ = command("train", "dataset=folder", f"dataset.root={path}")
    assert config.dataset.root == path
    if "=" not in path:
        (config,), _ = command("train", path)
        assert (config.dataset.source, config.dataset.root) == ("folder", path)


def test_arguments_without_a_key_have_their_places(command: Launch) -> None:
    assert command("sample", "checkpoints/a b", "num=3")[0][0].ckpt == "checkpoints/a b"
    assert command("compare", "one", "two, three", "by=swd")[0][0].runs == ["one", "two, three"]
    (config,), _ = command("stylize", "photo.jpg", "painting.jpg", "strength=0.5")
    assert (config.content, config.style) == ("photo.jpg", "painting.jpg")
    assert command("check", "1e3")[0][0].root == "1e3"


def test_any_names_can_be_given_as_a_list(command: Launch) -> None:
    (config,), _ = command("train", "x", "dataset.only=[山水, it's, Ming 画, 1e3, 2024_01, 'a, b']")
    assert config.dataset.only == ["山水", "it's", "Ming 画", "1e3", "2024_01", "a, b"]
    assert command("train", "x", "dataset.only=[]")[0][0].dataset.only == []
    (config,), _ = command("stylize", "content=[1.10,true]", "style=1_0", "mask=null")
    assert (config.content, config.style, config.mask) == (["1.10", "true"], "1_0", None)


def test_names_of_a_sweep_stay_as_typed(command: Launch, tmp_path: Path) -> None:
    jobs, _ = command("train", f"output={tmp_path}", "-m", "name=1e3,2024_01,1.10", "seed=1")
    assert [job.name for job in jobs] == ["1e3", "2024_01", "1.10"]
    jobs, _ = command("train", f"output={tmp_path}", "-m", "model.augment=[cutout],[color,cutout]")
    assert [job.model.augment for job in jobs] == [["cutout"], ["color", "cutout"]]


@pytest.mark.parametrize(
    "given",
    [
        ("train", "dataset.root"),
        ("train", "weights_dir"),
        ("train", "resume"),
        ("train", "output"),
        ("train", "evaluate.features"),
        ("sample", "ckpt"),
        ("sample", "out"),
        ("sample", "from_image"),
        ("evaluate", "ckpt"),
        ("evaluate", "dataset.root"),
        ("evaluate", "features"),
        ("evaluate", "out"),
        ("compare", "out"),
        ("export", "ckpt"),
        ("export", "out"),
        ("stylize", "out"),
        ("stylize", "tensorboard"),
        ("stylize", "weights_dir"),
        ("check", "root"),
    ],
)
def test_a_tilde_is_the_user_s_folder_in_every_path(
    command: Launch, given: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/wang")
    name, key = given
    needed = ["photo", "painting"] if name == "stylize" else []
    (found,), _ = command(name, *needed, f"{key}=~/a b")
    for part in key.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == "/home/wang/a b"


def test_a_tilde_without_a_key_is_the_user_s_folder(
    command: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command("compare", "~/a", "~/b")[0][0].runs == [f"{tmp_path}/a", f"{tmp_path}/b"]
    assert command("train", "~/a")[0][0].dataset.root == f"{tmp_path}/a"
    monkeypatch.chdir(tmp_path)
    command("train", "-m", "output=~/runs", "seed=1,2")
    assert not (tmp_path / "~").exists()
    assert list((tmp_path / "runs" / ".sweeps").iterdir())


def test_the_dataset_of_an_evaluation_is_the_run_s_but_for_what_is_given(command: Launch) -> None:
    assert command("evaluate", "run")[0][0].dataset == {}
    assert command("evaluate", "run", "dataset.root=x")[0][0].dataset == {"root": "x"}
    (config,), _ = command("evaluate", "run", "dataset=monet")
    assert config.dataset["root"] == "datasets/monet"
    assert config.dataset["crop"] == "center"


def test_a_multirun_is_one_job_for_each_combination(command: Launch, tmp_path: Path) -> None:
    jobs, _ = command("train", f"output={tmp_path}", "-m", "model.width=32,64", "seed=0,1")
    assert [(job.model.width, job.seed) for job in jobs] == [(32, 0), (32, 1), (64, 0), (64, 1)]


def test_a_multirun_finishes_the_others_when_one_fails(command: Launch, tmp_path: Path) -> None:
    jobs, printed = command("train", "-m", f"output={tmp_path}/a b", "model.width=0,64")
    assert [job.model.width for job in jobs] == [64]
    assert printed.splitlines()[0] == "1 of 2 jobs failed:"
    assert "  #0 model.width=0: model.width: 0 must be" in printed
    assert "model.width: 0 must be at least 1 and at most 4,096." in printed


def test_a_folder_of_one_s_own_configurations_can_be_added(command: Launch, tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "woodcuts.yaml").write_text("source: folder\nroot: here\n")
    (config,), _ = command("train", "--config-dir", str(tmp_path), "dataset=woodcuts")
    assert config.dataset.root == "here"
    (config,), _ = command("train", f"--config-dir={tmp_path}", "dataset=woodcuts")
    assert config.dataset.root == "here"
    jobs, printed = command("train", "--config-dir", str(tmp_path), "dataset=woodcut")
    assert not jobs
    assert "Did you mean 'woodcuts'?" in printed
    jobs, printed = command("train", "--config-dir")
    assert not jobs
    assert printed == "--config-dir: no folder given. Write --config-dir FOLDER"


@pytest.mark.parametrize("name", SCHEMAS)
def test_help_explains_every_option_with_its_default(name: str) -> None:
    text = help_text(name, "all")
    names = options_of(SCHEMAS[name])
    for key in names:
        if not any(other.startswith(key + ".") for other in names):
            assert f"\n  {key} " in text, key
    assert overview().count(f"artgan {name} ") == 1


@pytest.mark.parametrize("name", SCHEMAS)
def test_help_fits_a_screen(name: str) -> None:
    assert len(help_text(name).splitlines()) <= 40
    assert max(map(len, help_text(name).splitlines())) <= 100


def test_help_on_a_group_explains_its_choices() -> None:
    text = help_text("train", "model")
    assert "model=artgan " in text
    assert "model.width " in text
    assert "\n  seed " not in text


@pytest.mark.parametrize(
    "start", [["-m", "artgan"], [str(ROOT / "train.py")], [str(ROOT / "stylize.py")]]
)
def test_every_door_answers_without_torch(start: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *start, "--help"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "artgan" in done.stdout


@pytest.mark.parametrize("words", [["paintings"], ["dataset=monet"], []])
def test_help_is_given_whatever_else_was_typed(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["artgan", "train", *words, "--help"])
    cli.main()
    assert capsys.readouterr().out == help_text("train") + "\n"


@pytest.mark.parametrize("words", [[], ["train"], ["sample", "run"]])
def test_the_version_is_printed(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["artgan", *words, "--version"])
    cli.main()
    assert capsys.readouterr().out == f"artgan {__version__}\n"


def test_options_reach_the_work_as_they_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setitem(cli.RUN, "train", lambda config, command: seen.append((config, command)))
    cli.launch("train", ["resume=a b", "max_images=int(5)", "dataset.root=it's (x)"])
    config, command = seen[0]
    assert isinstance(config, TrainConfig)
    assert command.given == {"resume": "a b", "max_images": 5, "dataset.root": "it's (x)"}
