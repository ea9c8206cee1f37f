import itertools
import math
import os
import pickle
import random
import resource
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from artgan.checkpoint import find_checkpoint, load_checkpoint, newest_checkpoint
from artgan.errors import UserError
from artgan.evaluation import evaluate
from artgan.sampling import load_painter
from tests.helpers import assert_same, evaluation_of, make_run

Run = Callable[..., Path]
LARGE = 10**11  # bytes, or numbers, more than any machine here holds


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_run(tmp_path) / "last.ckpt"


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A quarter of a gigabyte above what is taken already."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**28, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


class Call:
    """Unpickles as a call of any function, as an attacker would have it."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def refusal(path: Path) -> str:
    """What a person is told, in one line."""
    with pytest.raises(UserError) as raised:
        load_checkpoint(path)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def alter(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def zip_again(path: Path, compression: int = zipfile.ZIP_STORED, **more: bytes) -> None:
    """Writes the zip of a checkpoint anew, compressed, or with other entries added."""
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()} | more
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)


def test_a_checkpoint_describes_itself(run: Run) -> None:
    described = load_checkpoint(run(name="mine", max_images=8) / "last.ckpt")["artgan"]
    assert described["config"]["resolution"] == 32
    assert described["progress"]["images_seen"] == 8
    assert len(described["dataset_key"]) == 16


@pytest.mark.parametrize("form", ["zip", "bare pickle"])
def test_a_hostile_checkpoint_is_refused_and_runs_nothing(tmp_path: Path, form: str) -> None:
    path, proof = tmp_path / "evil.ckpt", tmp_path / "proof"
    content = {"artgan": {"format": 1}, "state_dict": Call(os.mkdir, str(proof))}
    if form == "zip":
        torch.save(content, path)
        message = "Nothing in it was run"
    else:
        path.write_bytes(pickle.dumps(content))
        message = "is torn, or not a checkpoint"
    assert message in refusal(path)
    assert not proof.exists()


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (Call(bytearray, LARGE), "Nothing in it was run"),
        (Call(Counter, "aab"), "Nothing in it was run"),
        (Call(torch.FloatTensor, LARGE), "Nothing in it was run"),
        (torch.zeros(1).to_sparse(), "Nothing in it was run"),
        (torch.zeros(LARGE, device="meta"), "Nothing in it was run"),
        (torch.zeros(1).expand(LARGE), "claims 400,000,000,000 bytes but has 4"),
        (torch.zeros(9).as_strided((LARGE, 3), (0, 3)), "claims 1,200,000,000,000 bytes"),
        (
            Call(
                torch._utils._rebuild_tensor_v2,
                torch.zeros(4)._typed_storage(),
                0,
                (LARGE,),
                (1,),
                False,
                OrderedDict(),
            ),
            "is damaged",
        ),
        (torch.zeros(2, dtype=torch.complex64), "is not a tensor of weights"),
        ([0.0], "is not a tensor of weights"),
        (torch.tensor([0, math.nan]), "holds numbers that are not finite"),
        (torch.tensor([-math.inf, 0]), "holds numbers that are not finite"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_weights_that_are_none_are_refused_before_they_take_memory(
    tmp_path: Path, weight: object, reason: str
) -> None:
    torch.save({"artgan": {"format": 1}, "state_dict": {"one": weight}}, tmp_path / "evil.ckpt")
    assert reason in refusal(tmp_path / "evil.ckpt")


def test_a_zip_bomb_is_refused_before_it_unpacks(checkpoint: Path) -> None:
    more = dict.fromkeys((f"last/data/{number}" for number in range(100, 104)), bytes(2**24))
    zip_again(checkpoint, zipfile.ZIP_DEFLATED, **more)
    assert checkpoint.stat().st_size < 2**20
    assert "declares more than it holds" in refusal(checkpoint)


def test_a_compressed_checkpoint_is_refused(checkpoint: Path) -> None:
    zip_again(checkpoint)
    load_checkpoint(checkpoint)
    with zipfile.ZipFile(checkpoint, "a") as file:
        file.writestr("last/more", b"!", zipfile.ZIP_DEFLATED)
    assert "is compressed" in refusal(checkpoint)


def test_entries_that_share_their_bytes_are_refused(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    for place in [content.index(b"PK\x01\x02"), content.rindex(b"PK\x01\x02")]:
        content[place + 20 : place + 28] = len(content).to_bytes(4, "little") * 2  # its two sizes
    checkpoint.write_bytes(content)
    assert "declares more than it holds" in refusal(checkpoint)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    "claim",
    [
        {"width": 10**6},
        {"width": 10**30},
        {"width": -8},
        {"width": 8.0},
        {"width": "8"},
        {"latent_dim": LARGE},
        {"latent_dim": None},
    ],
    ids=str,
)
def test_a_network_that_is_not_there_takes_no_memory(
    checkpoint: Path, claim: dict[str, object]
) -> None:
    alter(checkpoint, lambda content: content["artgan"]["config"]["model"].update(claim))
    with pytest.raises(UserError, match="its parts do not fit together"):
        load_painter(checkpoint)


@pytest.mark.parametrize("images", [-1, 10**400, "many", None, math.nan], ids=lambda x: str(x)[:9])
def test_images_seen_that_nobody_can_have_seen_are_refused(
    checkpoint: Path, images: object
) -> None:
    alter(checkpoint, lambda content: content["artgan"]["progress"].update(images_seen=images))
    with pytest.raises(UserError, match="its parts do not fit together"):
        load_painter(checkpoint)


@pytest.mark.parametrize("share", [0, 0.3, 0.999])
def test_a_truncated_checkpoint_is_refused(checkpoint: Path, share: float) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    assert "last.ckpt: is torn" in refusal(checkpoint).replace("damaged", "torn")


def test_another_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "hello")
    assert "is damaged" in refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {"weight": torch.zeros(2)}},
        {"state_dict": [], "artgan": {"format": 1}},
        {"state_dict": {}, "artgan": "of this format"},
        [torch.zeros(2)],
    ],
    ids=str,
)
def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    assert "was not written by artgan" in refusal(tmp_path / "other.ckpt")


def test_a_checkpoint_of_another_version_is_refused(checkpoint: Path) -> None:
    alter(checkpoint, lambda content: content["artgan"].update(format=99, version="9.9\n" * 9))
    assert r"artgan 9.9\n9.9\n9.9\n9.9\n in format 99; this version reads" in refusal(checkpoint)


def structure(path: Path) -> list[int]:
    """The places in a zip that are not the content of its entries."""
    size = path.stat().st_size
    content: set[int] = set()
    with zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            with file.open(entry) as opened:
                start = opened._fileobj._pos  # type: ignore[attr-defined]
            content |= set(range(start, start + entry.file_size))
    return [place for place in range(size) if place not in content]


def flip_bits(path: Path, places: list[int]) -> Counter[str]:
    """Counts how many flipped bits are noticed, and how many change nothing that is loaded."""
    whole, expected = bytearray(path.read_bytes()), torch.load(path, weights_only=True)
    counts: Counter[str] = Counter()
    for place, bit in zip(places, itertools.cycle(range(8))):
        whole[place] ^= 1 << bit
        path.write_bytes(whole)
        whole[place] ^= 1 << bit
        try:
            loaded = load_checkpoint(path)
        except UserError as error:
            assert len(str(error).splitlines()) == 1
            counts["noticed"] += 1
        else:
            assert_same(loaded, expected)
            counts["without effect"] += 1
    path.write_bytes(whole)
    return counts


def test_a_flipped_bit_is_noticed_wherever_it_has_an_effect(run: Run) -> None:
    """100 bits of a real checkpoint, half of them between the contents of the zip's entries."""
    path = run(name="mine", max_images=8) / "last.ckpt"
    drawn, between = random.Random(0), structure(path)
    counts = flip_bits(path, drawn.sample(range(path.stat().st_size), 50))
    print(counts)
    assert counts["noticed"] > 40
    print(flip_bits(path, drawn.sample(between, 50)))


@pytest.mark.weekly
def test_flipped_bits_over_a_whole_checkpoint(run: Run) -> None:
    """A bit of each byte between the contents of the zip's entries, and 3,000 over all."""
    path = run(name="mine", max_images=8) / "last.ckpt"
    between = structure(path)
    print(len(between), "bits between the contents:", flip_bits(path, between))
    over_all = random.Random(0).sample(range(path.stat().st_size), 3000)
    print("3,000 bits over all:", flip_bits(path, over_all))


def test_a_run_folder_means_its_newest_state(checkpoint: Path) -> None:
    assert find_checkpoint(checkpoint.parent) == checkpoint
    assert find_checkpoint(checkpoint) == checkpoint


def test_with_a_flipped_bit_the_newest_whole_checkpoint_is_taken_and_nothing_deleted(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(checkpoint.read_bytes())
    older, oldest = (checkpoint.with_name(f"images-00000000{n}.ckpt") for n in (4, 2))
    older.write_bytes(content)
    oldest.write_bytes(content)
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)

    newest = newest_checkpoint(checkpoint.parent)

    assert newest is not None
    assert newest[0] == older
    assert f"{checkpoint}: is damaged (Bad CRC-32" in capsys.readouterr().err
    assert sorted(checkpoint.parent.iterdir()) == [oldest, older, checkpoint]
    assert checkpoint.read_bytes() == content


def test_no_checkpoint_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"last\.ckpt is missing"):
        find_checkpoint(tmp_path)
    with pytest.raises(UserError, match="no such run folder or checkpoint"):
        find_checkpoint(tmp_path / "nowhere")


def poison(content: dict[str, Any]) -> None:
    content["state_dict"]["generator_ema.layers.0.weight"][0, 0] = math.nan


def widen(content: dict[str, Any]) -> None:
    content["state_dict"]["generator_ema.layers.0.weight"] = torch.zeros(1, 1, 4, 4)


def widen_moment(content: dict[str, Any]) -> None:
    content["optimizer_states"][0]["state"][0]["exp_avg"] = torch.zeros(7)


def forget_moments(content: dict[str, Any]) -> None:
    del content["optimizer_states"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [(poison, "holds numbers that are not finite"), (widen, "do not fit together")],
)
def test_sampling_and_measuring_refuse_the_same(
    checkpoint: Path, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    alter(checkpoint, change)
    with pytest.raises(UserError, match=reason):
        load_painter(checkpoint)
    with pytest.raises(UserError, match=reason):
        evaluate(evaluation_of(checkpoint))


def test_a_run_does_not_go_on_from_parts_that_do_not_fit(run: Run) -> None:
    folder = run(name="mine", max_images=8)
    whole = (folder / "last.ckpt").read_bytes()
    for change in (poison, widen, widen_moment, forget_moments):
        for path in folder.glob("*.ckpt"):
            path.write_bytes(whole)
            alter(path, change)
        with pytest.raises(UserError, match=r"not finite|\.ckpt: its parts do not fit together"):
            run(resume=folder, max_images=16)
