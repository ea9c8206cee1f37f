"""Any command line is carried out, or refused in one line before any work."""

import gc
import os
import re
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from artgan import cli, download, inkwash
from artgan.config import choices_of, options_of
from artgan.data import sources
from artgan.options import SCHEMAS
from tests.helpers import small_arguments

SECONDS = 60  # after which a command is taken to hang
LONG = "x" * 5000
# Not the value of any option, or of few.
ODD = r"""
nan inf -inf NaN 1e400 -1 -0 1.5 1e-400 0x10 1_000 .5 1. 00 0b1 1e 1e5 -1e308 on yes None null ???
true abc 山水 😀 é %s {} [] [[]] [1,2] [a,[b]] {a:1} {a: (( )) ( ) [ ] { } ' " '' "" 'x "x \ / a=b
== =,= , 1,2 a,b,c range(1,3) choice(a,b) glob(*) sort(3,1) interval(0,1) int(3) float(nan) str([])
${seed} ${nothing} ${oc.env:HOME} ${now:} ${ $ $$ ~ ~x + ++x @ # ! & | ; * ? < > . .. ../x -m --help
--x -- - _ : a:b k:v \n %00 json_str(1) 99999999999999999999999999
""".split()  # noqa: SIM905
WEIRD = st.one_of(
    st.sampled_from([*ODD, "", " ", "a b", " 1", "1 ", "\t", "\x1b[0m", LONG]),
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=8),
)
# Right values that a type does not list, or where most right numbers would take too long.
RIGHT: dict[str, list[object]] = {
    "dataset": ["folder"],
    "dataset.source": ["folder", "inkwash", "archives"],
    "dataset.root": ["nowhere", "new/folder", "null"],
    "dataset.address": ["http://127.0.0.1:1", "https://127.0.0.1:1", "ftp://x", "null"],
    "dataset.archives": ["[a.zip]", "[../a.zip]", "[]"],
    "dataset.only": ["[landscape]", "[]"],
    "dataset.repo": ["null"],
    "dataset.default_max_time": ["1s", "soon"],
    "model": ["dcgan", "artgan"],
    "model.width": [1, 2, 4],
    "model.latent_dim": [1, 2, 100],
    "model.augment": ["[]", "[cutout]", "[color,translation]", "[cutout,cutout]", "[blur]"],
    "resolution": [32, 64],
    "batch_size": [1, 2, 8],
    "max_images": [1, 8, 24],
    "max_time": ["1s", "1h", "0s", "soon", "99999999999999h", "null"],
    "name": ["mine", "山水", "a b", "..", "a/b", LONG],
    "resume": ["nowhere", ".", "null"],
    "output": ["here", "a/b", "山 水", "/dev/null/x", "/proc/x"],
    "evaluate.features": ["none", "nowhere.pth"],
    "evaluate.num": [16, 20],
    "trainer.devices": [1, 1000003],
    "trainer.strategy": ["auto"],
    "ckpt": ["nowhere", ".", "null"],
    "features": ["none", "nowhere.pth"],
    "num": [1, 2, 16],
    "classes": ["[]", "[river]", "[a,b]"],
    "out": ["here", "山 水", "/dev/null/x", "null", LONG],
    "interpolate": [0, 1, 2],
    "frames": [1, 2],
    "length": [1, 1.5],
    "from_image": ["nowhere.png", ".", "null"],
    "device": ["auto", "cpu", "cuda"],
    "content": ["[nowhere.png]", "nowhere.png", "{a:1}", "[]", "null"],
    "style": ["photo.png", "[photo.png,photo.png]", "nowhere", "null"],
    "size": [16, 32, 48],
    "style_size": [16, 32, 48],
    "weights": ["[1]", "[1,2]", "[-1,1]", "[]"],
    "mask": ["photo.png", "[photo.png,photo.png]", "null"],
    "tile": [128, 4096],
    "weights_dir": ["nowhere"],
    "method": ["gatys", "magenta"],
    "preset": ["best"],
    "init": ["content", "noise", "photo.png", "nowhere.png"],
    "tensorboard": ["events", "null"],
    "backbone": ["random"],
    "content_layers": ["[relu4_2]", "[relu9_9]", "[]"],
    "style_layers": ["[relu1_1]", "[relu1_1,relu2_1,relu3_1,relu4_1,relu5_1]", "[x]"],
    "style_layer_weights": ["[1]", "[5,4,3,2,1]"],
    "iterations": [1, 2],
    "first_size": [16, 32],
}
# For these, some odd values are right, and lead to all files of this machine, or take long.
SEARCHED = {"dataset.root", "output", "out", "ckpt", "resume", "from_image"}
SEARCHED |= {"content", "style", "mask", "init", "weights_dir", "tensorboard"}
COSTLY = {key for key, right in RIGHT.items() if isinstance(right[0], int)} | {"length"}


FIRST = ["ckpt=/a/b-c/d_1.ckpt", "+out='x'", "out=null"]
PARSED = {
    "train": [*small_arguments(Path("/a/b-c/d_1")), "+name=null", "dataset.only=[a,1.5]"],
    "sample": FIRST,
    "evaluate": FIRST,
    "export": FIRST,
    "stylize": ["content=[a.jpg,/b-c/d_1.png]", "style=x.png", "weights=[1,0.5]", "out=null"],
}


class Outcome(NamedTuple):
    code: int
    printed: str
    files: list[str]


def values(command: str, key: str) -> st.SearchStrategy[str]:
    """Right values of an option, those at its bounds and beyond them, and odd ones."""
    info = options_of(SCHEMAS[command])[key]
    drawn: list[object] = list(RIGHT.get(key, []))
    limits: list[Any] = list((info.json_schema_extra or {}).values())  # type: ignore[union-attr]
    if key not in RIGHT:
        drawn += choices_of(info.annotation)
        drawn += [1, 2, 1e-6, 0.5, "null", 10**30, 1e300, *limits] if limits else []
    drawn += [limit - 1 for limit in limits]
    if info.annotation is bool:
        drawn += ["true", "false"]
    odd = WEIRD
    if key in SEARCHED:
        odd = WEIRD.filter(lambda value: not {"/", "~", ".."} & set(re.split(r"(/|~|\.\.)", value)))
    if key in COSTLY:
        odd = WEIRD.filter(lambda value: not any(map(str.isdigit, value)) and value != "null")
    right = st.sampled_from([str(value) for value in drawn or ["x"]])
    return st.one_of(right, right, right, odd)


def command_lines(command: str) -> st.SearchStrategy[list[str]]:
    """One to three arguments, a few of them of options that do not exist."""
    names = options_of(SCHEMAS[command])
    nested = {key.rpartition(".")[0] for key in names}
    keys = sorted(key for key in names if key not in nested or key in RIGHT)

    def override(key: str) -> st.SearchStrategy[str]:
        right = values(command, key).map(lambda value: f"{key}={value}")
        signs = st.sampled_from([*[""] * 9, "+", "++", "~"])
        return st.tuples(signs, right).map("".join)

    mistyped = st.tuples(st.sampled_from(keys), WEIRD).map(lambda two: f"{two[0]}x={two[1]}")
    flags = st.sampled_from(["--lr", "--out=x", "-o", "-c", "--resume", "--", "--batch-size"])
    one = st.one_of(st.sampled_from(keys).flatmap(override), mistyped, WEIRD, flags)
    usual = st.sampled_from(keys).flatmap(override)
    return st.lists(st.one_of(usual, usual, usual, one), min_size=1, max_size=3)


def forked(work: Callable[[], object], case: Path) -> Outcome:
    """Runs a command in a child of this process, in a folder of its own."""
    cwd = case / "user" / "here"
    cwd.mkdir(parents=True)
    printed = case / "printed"
    child = os.fork()
    if not child:
        _become(work, cwd, printed)
    _, status = os.waitpid(child, 0)
    files = [str(path.relative_to(case)) for path in cwd.parent.rglob("*") if path.is_file()]
    return Outcome(os.waitstatus_to_exitcode(status), printed.read_text(errors="replace"), files)


def _become(work: Callable[[], object], cwd: Path, printed: Path) -> NoReturn:
    code = 0
    try:
        signal.alarm(SECONDS)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir(cwd)
        work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 99
    except BaseException:
        traceback.print_exc()
        code = 99
    finally:
        sys.stderr.flush()
        os._exit(code)


def fuzz(command: str, base: list[str], cases: int, tmp_path: Path) -> None:
    """Draws command lines, the same ones each time, and runs each."""
    counts: Counter[int] = Counter()
    faults: list[str] = []

    @settings(
        max_examples=cases,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(command_lines(command))
    def one(arguments: list[str]) -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path) as case:
            outcome = forked(partial(started, command, [*base, *arguments]), Path(case))
        counts[outcome.code] += 1
        if fault := fault_of(outcome):
            faults.append(f"{fault}: {arguments}: {outcome}")

    one()
    print(f"{command}: {sum(counts.values())} command lines, exit codes {dict(counts)}")
    assert not faults, "\n".join(faults)
    assert counts[0] and counts[1]


def started(command: str, arguments: list[str]) -> None:
    """Does what `artgan` does with these arguments."""
    sys.argv[:] = ["artgan", command, *arguments]
    cli.main()


def fault_of(outcome: Outcome) -> str | None:
    """What a user must never see."""
    if "Traceback" in outcome.printed:
        return "traceback"
    if outcome.code not in (0, 1, 2):
        return "hang or crash"
    if outcome.code == 0 or "not finite" in outcome.printed:
        return None  # it was carried out, as far as possible
    if outcome.files:
        return "files before a refusal"
    lines = [line for line in outcome.printed.splitlines() if "images can be used" not in line]
    return None if len(lines) == 1 else "not one line"


@pytest.fixture(scope="module", autouse=True)
def cheap() -> Iterator[None]:
    """No waiting, little painting; imports and Hydra's parser are warm before any child."""
    import artgan.evaluation
    import artgan.export
    import artgan.training.run  # noqa: F401

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "BACKOFF", 0.0)
        patch.setattr(sources, "INKWASH_COUNT", 16)
        with pytest.MonkeyPatch.context() as idle:
            for command, arguments in PARSED.items():
                idle.setitem(cli.RUN, command, lambda config, given: None)
                idle.setattr(sys, "argv", ["artgan"])
                cli.launch(command, arguments)
        gc.freeze()  # or each child would copy all that its garbage collection touches
        yield
        gc.unfreeze()


@pytest.fixture
def ckpt(run: Callable[..., Path]) -> str:
    return f"ckpt={run(name='mine', max_images=8, model__conditional='true')}"


@pytest.mark.parametrize("key", ["name", "output", "resume", "dataset.root", "ckpt", "from_image"])
def test_a_name_beyond_all_lengths_is_refused(paintings: Path, tmp_path: Path, key: str) -> None:
    of_sample = key in ("ckpt", "from_image")
    base = [] if of_sample else small_arguments(paintings)
    work = partial(started, "sample" if of_sample else "train", [*base, f"{key}={LONG}"])
    outcome = forked(work, tmp_path / "case")
    assert outcome.code == 1
    assert fault_of(outcome) is None


SHARES = [pytest.param(10, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.weekly)]


@pytest.mark.parametrize("share", SHARES)
def test_trainings_are_carried_out_or_refused(paintings: Path, tmp_path: Path, share: int) -> None:
    """1,000 command lines, or a share of them."""
    base = [*small_arguments(paintings), "max_images=8", "evaluate.features=none"]
    fuzz("train", [*base, "evaluate.num=16"], 1000 // share, tmp_path)


@pytest.mark.parametrize("share", SHARES)
def test_samples_exports_and_measurements_are_carried_out_or_refused(
    ckpt: str, tmp_path: Path, share: int
) -> None:
    """200 command lines of each of three commands, or a share of them."""
    fuzz("sample", [ckpt, "num=1"], 200 // share, tmp_path)
    fuzz("export", [ckpt], 200 // share, tmp_path)
    fuzz("evaluate", [ckpt, "features=none", "num=16"], 200 // share, tmp_path)


@pytest.mark.parametrize("share", SHARES)
def test_photos_are_repainted_or_refused(tmp_path: Path, share: int) -> None:
    """200 command lines of method=gatys with a network of random weights, or a share of them."""
    import artgan.style.gatys  # noqa: F401

    photo = tmp_path / "photo.png"
    Image.fromarray(inkwash.paint(0, 0)).resize((48, 32)).save(photo)
    base = [f"content={photo}", f"style={photo}", "method=gatys", "backbone=random"]
    fuzz("stylize", [*base, "size=32", "iterations=1", "device=cpu"], 200 // share, tmp_path)
