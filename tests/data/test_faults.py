"""What can go wrong with a folder of paintings and its cache, made to go wrong."""

import io
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from artgan.data import inspection
from artgan.data.decode import FORMATS, Decoded, decode
from artgan.data.folder import load_pack
from artgan.data.inspection import Facts, inspect_file, read_record
from artgan.data.pack import Cut, Pack, is_whole
from artgan.errors import UserError

pillow_heif.register_heif_opener()
# Nothing of tests.helpers: with it, the processes that are started here would import torch.
ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534


@pytest.fixture
def root(paintings: Path, tmp_path: Path) -> Path:
    ignore = shutil.ignore_patterns(".artgan")
    return Path(shutil.copytree(paintings, tmp_path / "mine", ignore=ignore))


def load(root: Path, resolution: int = 32) -> Pack:
    return load_pack(root, Cut(resolution))


def flipped(content: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(content)
    damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def left_over(folder: Path) -> list[str]:
    """Packs, and files that are not whole."""
    return [path.name for path in folder.rglob("*") if path.suffix in (".pack", ".tmp")]


def test_each_flipped_bit_of_a_pack_is_noticed_or_harmless(root: Path) -> None:
    pack = load(root)
    file = root / ".artgan" / f"{pack.key}.pack"
    whole, chance = file.read_bytes(), random.Random(0)
    noticed = 0
    for _ in range(200):
        file.write_bytes(flipped(whole, chance))
        if is_whole(file):  # a bit that no reader uses, such as one of a date
            np.testing.assert_array_equal(load(root).rows, pack.rows)
        else:
            noticed += 1
    print(f"{noticed} of 200 flipped bits noticed")
    assert noticed > 190


def test_each_flipped_bit_of_the_record_is_noticed_or_harmless(root: Path) -> None:
    described = load(root).checkup.facts
    file = root / ".artgan" / "files.cache"
    whole, chance = file.read_bytes(), random.Random(0)
    noticed = 0
    for _ in range(100):
        file.write_bytes(flipped(whole, chance))
        found = read_record(root / ".artgan").facts
        assert found in ([], described)
        noticed += not found
    print(f"{noticed} of 100 flipped bits noticed")
    assert noticed > 90


def test_a_damaged_pack_is_named_and_made_again_under_the_same_key(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = load(root)
    rows = np.array(pack.rows)
    file = root / ".artgan" / f"{pack.key}.pack"
    file.write_bytes(flipped(file.read_bytes(), random.Random(0)))
    capsys.readouterr()
    again = load(root)
    message = f"{file}: damaged; making it again from the paintings\n"
    assert capsys.readouterr().err == message
    assert again.key == pack.key
    np.testing.assert_array_equal(again.rows, rows)
    load(root)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("room", [0, 100_000, 600_000])
def test_a_disk_that_is_full_while_packing_is_one_message_and_nothing_is_lost(
    paintings: Path, small_disk: Callable[[str], Path], room: int
) -> None:
    disk = small_disk("4m")
    root = disk / "mine"
    shutil.copytree(paintings, root, ignore=shutil.ignore_patterns(".artgan"))
    before = {path: path.read_bytes() for path in root.rglob("*.jpg")}
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - room))
    with pytest.raises(UserError, match="the disk is full"):
        load(root, 64)
    assert not left_over(disk)
    assert {path: path.read_bytes() for path in root.rglob("*.jpg")} == before
    filler.unlink()
    assert len(load(root, 64)) == 40


def test_a_file_that_may_not_grow_while_packing_is_one_message(root: Path) -> None:
    """The sibling of the full disk that needs no root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot be written \(File too large\)"):
            load(root, 64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not left_over(root)
    assert len(load(root, 64)) == 40


def test_a_folder_that_became_read_only_is_packed_elsewhere(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(root)
    monkeypatch.chdir(tmp_path)
    if subprocess.run(["mount", "--bind", root, root], capture_output=True).returncode:
        pytest.skip("mounting needs root; tests/data/test_pack.py has a sibling")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
        after = load(root)
    finally:
        subprocess.run(["umount", "-l", root], check=True)
    assert after.report.parts[:2] == ("datasets", ".packs")
    assert after.key == before.key
    np.testing.assert_array_equal(after.rows, before.rows)


def test_files_that_vanish_or_change_during_packing_are_named_and_skipped(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(root.rglob("*.jpg"))
    gone, torn, other = files[-3:]

    def meddling(content: bytes) -> Decoded:
        if gone.exists():
            gone.unlink()
            torn.write_bytes(torn.read_bytes()[:900])
            shutil.copy(files[1], other)
        return decode(content)

    with monkeypatch.context() as patch:
        patch.setattr(inspection, "decode", meddling)
        pack = load(root)
    reasons = {root / facts.file: str(facts.reason) for facts in pack.checkup.unusable}
    assert reasons.keys() == {gone, torn}
    assert reasons[gone] == "cannot be read: No such file or directory"
    assert reasons[torn].startswith("damaged")
    assert len(pack) == 38
    square = pack.squares(np.array([1, 37]), np.full(2, 0.5))
    np.testing.assert_array_equal(square[0], square[1])
    assert load(root).key == pack.key


@pytest.fixture
def unprivileged(paintings: Path) -> Iterator[Path]:
    """A folder of paintings of a user for whom permissions count, as whom the test runs."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "mine"
        shutil.copytree(paintings, folder, ignore=shutil.ignore_patterns(".artgan"))
        if os.geteuid() != 0:
            yield folder
            return
        for path in (Path(scratch), folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            os.seteuid(0)


def test_unreadable_files_are_named_and_tried_again(unprivileged: Path) -> None:
    closed, *_ = sorted((unprivileged / "river").iterdir())
    closed.chmod(0)
    (unprivileged / "landscape").chmod(0)
    pack = load(unprivileged)
    assert {facts.file: facts.reason for facts in pack.checkup.unusable} == {
        "landscape": "cannot be read: not a file, or a folder that may not be searched",
        closed.relative_to(unprivileged).as_posix(): "cannot be read: Permission denied",
    }
    assert len(pack) == 19
    closed.chmod(0o600)
    (unprivileged / "landscape").chmod(0o700)
    assert len(load(unprivileged)) == 40


LOAD = """
import sys
from pathlib import Path
from artgan.data.folder import load_pack
from artgan.data.pack import Cut

if __name__ == "__main__":
    pack = load_pack(Path(sys.argv[1]), Cut(32))
    print(len(pack), pack.key, len(pack.checkup.unusable))
"""


@pytest.fixture
def many(root: Path) -> Path:
    """200 paintings, enough to be read by several processes."""
    for file in list(root.rglob("*.jpg")):
        with Image.open(file) as image:
            for number in range(1, 5):
                image.resize((1000 + number, 800)).save(file.with_suffix(f".{number}.jpg"))
    return root


@pytest.fixture
def loading(tmp_path: Path) -> Callable[[Path], subprocess.Popen[str]]:
    script = tmp_path / "load.py"
    script.write_text(LOAD)

    def start(root: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, script, root],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def children(pid: int) -> list[int]:
    """The worker processes of a process."""
    started = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in status.with_name("cmdline").read_bytes():
                started.append(int(status.parent.name))
        except OSError:
            continue  # it has just ended
    return started


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="other systems do not tell whose child is whose"
)
def test_a_killed_process_costs_no_painting(
    many: Path, loading: Callable[[Path], subprocess.Popen[str]]
) -> None:
    """Two processes killed, at random, while 200 paintings are packed."""
    process, chance = loading(many), random.Random(0)
    for _ in range(2):
        while len(found := children(process.pid)) < (os.cpu_count() or 1):
            assert process.poll() is None
        time.sleep(chance.random())
        os.kill(chance.choice(found), signal.SIGKILL)
    printed, errors = process.communicate(timeout=300)
    assert (printed.split(), errors) == (["200", load(many).key, "0"], "")


@pytest.mark.slow
def test_a_start_that_waits_for_one_that_is_killed_goes_on(
    many: Path, loading: Callable[[Path], subprocess.Popen[str]]
) -> None:
    first = loading(many)
    while not (many / ".artgan" / "lock").exists():
        assert first.poll() is None
    second = loading(many)
    assert second.stderr is not None
    assert second.stderr.readline() == f"{many}: another process is preparing it; waiting\n"
    assert first.poll() is None
    first.kill()
    printed, errors = second.communicate(timeout=300)
    assert (printed.split()[0], errors) == ("200", "")
    first.communicate(timeout=30)  # which ends with the processes that it started


def encoded(format: str, image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


SMALL = Image.effect_noise((40, 30), 90).convert("RGB")


def bomb(format: str) -> bytes:
    """A small file that says it holds more than 1.6 billion pixels."""
    side = 40_000
    if format == "PNG":
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        pixels = zlib.compress(bytes(10**6))
        parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + parts
    if format == "PPM":
        return b"P6 %d %d 255\n" % (side, side) + bytes(100)
    content = encoded(format, SMALL)
    sizes = {
        "JPEG": (">HH", 30, 40),
        "GIF": ("<HH", 40, 30),
        "BMP": ("<ii", 40, 30),
        "TGA": ("<HH", 40, 30),
        "JPEG2000": (">II", 30, 40),
    }
    layout, *old = sizes[format]
    assert struct.pack(layout, *old) in content
    return content.replace(struct.pack(layout, *old), struct.pack(layout, side, side))


def described(folder: Path, name: str, content: bytes) -> Facts:
    (folder / name).write_bytes(content)
    return inspect_file(folder / name, name)[0]


@pytest.mark.parametrize("format", ["PNG", "PPM", "JPEG", "GIF", "BMP", "TGA", "JPEG2000"])
def test_an_image_that_would_fill_the_memory_is_refused(tmp_path: Path, format: str) -> None:
    facts = described(tmp_path, "bomb.png", bomb(format))
    assert facts.reason == "more pixels than is safe to decode"


def test_a_program_named_like_an_image_is_not_run(tmp_path: Path) -> None:
    endless = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n{} loop\n"
    assert described(tmp_path, "a.jpg", endless).reason == "not an image"


def test_a_tiff_whose_pages_lead_back_to_the_first_is_its_first(tmp_path: Path) -> None:
    content = bytearray(encoded("TIFF", SMALL))
    (first,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * entries, first)
    facts = described(tmp_path, "ring.tif", bytes(content))
    assert (facts.reason, facts.width, facts.height) == (None, 40, 30)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_only_the_first_frame_of_a_long_animation_is_decoded(tmp_path: Path, format: str) -> None:
    frames = [SMALL.rotate(number) for number in range(50)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:], loop=0)
    facts = described(tmp_path, "long.png", buffer.getvalue())
    assert (facts.reason, facts.width, facts.height) == (None, 40, 30)


def test_sockets_devices_and_folders_named_like_images_are_refused(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, tempfile.TemporaryDirectory() as short:
        listening.bind(f"{short}/s")
        Path(f"{short}/s").rename(root / "socket.jpg")
        (root / "zero.jpg").symlink_to("/dev/zero")
        (root / "folder.png").mkdir()
        shutil.copy(min(root.rglob("*.jpg")), root / "folder.png" / "inside.jpg")
        pack = load(root)
    assert {facts.file for facts in pack.checkup.unusable} == {"socket.jpg", "zero.jpg"}
    assert "folder.png/inside.jpg" in pack.files


def test_a_single_painting_is_too_few(tmp_path: Path) -> None:
    SMALL.save(tmp_path / "one.png")
    with pytest.raises(UserError, match="1 usable painting; at least 16 are needed"):
        load(tmp_path)


def survive(folder: Path, seed: int, count: int) -> None:
    """Damages the first bytes of files, which tell sizes and places: each is described in time."""
    chance = random.Random(seed)
    wholes = [encoded(format, SMALL) for format in FORMATS]
    usable, slowest = 0, 0.0
    for number in range(count):
        damaged = bytearray(wholes[number % len(wholes)])
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(min(200, len(damaged)))] = chance.choice((0, 1, 127, 255))
        began = time.process_time()
        facts = described(folder, f"{number}.png", bytes(damaged))
        slowest = max(slowest, time.process_time() - began)
        assert facts.reason != "", number
        usable += facts.reason is None
    print(
        f"{count} damaged files: {usable} usable, {count - usable} with a reason; {slowest:.2f} s"
    )
    assert 0 < usable < count
    assert slowest < 10


def test_files_with_damaged_headers_are_usable_or_have_a_reason(tmp_path: Path) -> None:
    survive(tmp_path, seed=0, count=330)


@pytest.mark.slow
def test_five_thousand_files_with_damaged_headers_are_usable_or_have_a_reason(
    tmp_path: Path,
) -> None:
    survive(tmp_path, seed=1, count=5000)
