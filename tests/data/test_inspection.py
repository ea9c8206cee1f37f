import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from artgan.data import inspection as doctor
from artgan.data.checkup import Box, Checkup, read_record
from artgan.data.decode import find_pictures
from artgan.data.inspection import _read, check_folder, examine

# Not from tests.helpers: with it, each process that is started here would import torch.
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(paintings: Path, tmp_path: Path) -> Path:
    ignore = shutil.ignore_patterns(".artgan")
    return Path(shutil.copytree(paintings, tmp_path / "mine", ignore=ignore))


def check(root: Path) -> Checkup:
    folder = root / ".artgan"
    return check_folder(root, folder, find_pictures(root), read_record(folder))


def test_a_file_is_described_as_it_is(tmp_path: Path) -> None:
    framed = Image.new("CMYK", (300, 200), (0, 0, 0, 255))
    framed.paste(Image.effect_noise((200, 120), 80).convert("CMYK"), (50, 40))
    framed.save(tmp_path / "a.tif")
    (facts,) = check(tmp_path).facts
    assert (facts.file, facts.format, facts.mode) == ("a.tif", "TIFF", "CMYK")
    assert (facts.width, facts.height, facts.reason) == (300, 200, None)
    assert facts.size == (tmp_path / "a.tif").stat().st_size
    assert facts.frame == (50, 40, 250, 160)
    assert facts.color == pytest.approx((51, 51, 51), abs=3)  # 128 on two fifths of the area


def test_what_was_found_is_found_again_in_the_record(root: Path) -> None:
    shutil.copy(min(root.rglob("*.jpg")), root / "copy.jpg")
    (root / "notes.txt").touch()
    (root / "torn.jpg").write_bytes(b"rubbish")
    found, recorded = check(root), read_record(root / ".artgan")
    assert (recorded.facts, recorded.duplicates) == (found.facts, found.duplicates)
    assert recorded.others == {".txt": 1}


def test_only_what_is_new_or_has_changed_is_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [facts.file for facts in check(root).facts]
    (root / names[3]).write_bytes(b"rubbish")
    read: list[str] = []

    def remember(path: Path) -> tuple[bytes, int]:
        read.append(path.relative_to(root).as_posix())
        return _read(path)

    monkeypatch.setattr(doctor, "_read", remember)
    assert [facts.file for facts in check(root).unusable] == [names[3]]
    assert read == [names[3]]


def width(image: Image.Image, frame: Box | None) -> int:
    return image.width


def fall(image: Image.Image, frame: Box | None) -> None:
    if image.size == (70, 70):
        os.kill(os.getpid(), signal.SIGKILL)


def test_several_processes_find_what_one_finds_in_the_same_order(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "torn.jpg").write_bytes(b"rubbish")
    names, _ = find_pictures(root)
    alone = list(examine(root, names, width))
    monkeypatch.setattr(doctor, "FEW", 1)
    assert list(examine(root, names, width)) == alone
    assert [facts.file for facts, _ in alone] == names


def test_a_file_that_ends_the_process_that_reads_it_is_named_and_not_tried_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.effect_noise((70, 70), 90).save(root / "fatal.png")
    names, _ = find_pictures(root)
    with monkeypatch.context() as patch:
        patch.setattr(doctor, "FEW", 1)
        patch.setattr(doctor, "_nothing", fall)
        before = check(root)
    assert [facts.file for facts in before.facts] == names
    assert [facts.file for facts in before.unusable] == ["fatal.png"]
    assert before.reasons == {"ended the process that read it": 1}
    assert check(root).unusable == before.unusable
    (root / "fatal.png").touch()
    assert not check(root).unusable


def test_a_change_while_a_file_is_read_is_noticed_the_next_time(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = root / check(root).facts[0].file
    other = root / check(root).facts[1].file
    first.write_bytes(b"x" * 5000)

    def overtaken(path: Path) -> tuple[bytes, int]:
        content, mtime_ns = _read(path)
        path.write_bytes(other.read_bytes()[:5000].ljust(5000, b"y"))
        return content, mtime_ns

    with monkeypatch.context() as patch:
        patch.setattr(doctor, "_read", overtaken)
        before = check(root).facts[0]
    assert check(root).facts[0].sha256 != before.sha256


def test_a_file_too_large_to_be_a_picture_is_not_read(root: Path) -> None:
    with (root / "big.tif").open("wb") as file:
        file.truncate(2**40)
    (facts,) = check(root).unusable
    assert facts.reason == "cannot be read: larger than 1 GiB"


def test_a_picture_of_one_colour_is_refused(root: Path) -> None:
    Image.new("RGB", (50, 50), (255, 0, 16)).save(root / "red.png")
    (facts,) = check(root).unusable
    assert facts.reason == "nothing but one colour, #ff0010"


def test_strange_files_are_listed_and_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "pipe.jpg")
    (root / "lost.jpg").symlink_to(root / "gone.jpg")
    (root / "ring.jpg").symlink_to(root / "ring.jpg")
    reasons = {facts.file: facts.reason for facts in check(root).unusable}
    assert reasons["lost.jpg"] == "cannot be read: a link that leads nowhere"
    assert set(reasons) == {"pipe.jpg", "lost.jpg", "ring.jpg"}


def test_names_in_any_script_and_in_none_are_carried_through(root: Path) -> None:
    source = min(root.rglob("*.jpg"))
    names = ["山水.jpg", "лес <b>.jpg", os.fsdecode(b"\xff\xfe.jpg"), "a\nb.jpg", "💐.jpg"]
    for name in names:
        shutil.copy(source, root / name)
    found = {facts.file for facts in check(root).facts}
    assert found >= set(names)
    assert {facts.file for facts in read_record(root / ".artgan").facts} == found


def test_the_summary_says_it_in_one_line(root: Path) -> None:
    shutil.copy(min(root.rglob("*.jpg")), root / "copy.jpg")
    (root / "a.jpg").write_bytes(b"rubbish")
    (root / "b.jpg").touch()
    (root / "c.jpg").write_bytes(b"rubbish")
    assert check(root).summary() == (
        f"{root}: 41 of 44 pictures can be used; 3 cannot (2 not a picture, 1 the file is empty); "
        "1 show what another shows."
    )


def test_the_command_tells_and_writes_a_report(root: Path) -> None:
    (root / "page.jpg").write_text("<html>")
    (root / os.fsdecode(b"\xff\n.jpg")).touch()
    command = [sys.executable, "-m", "artgan.data", str(root)]
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, cwd=ROOT, env=strict, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    assert said[0].startswith(f"{root}: 40 of 42 pictures can be used; 2 cannot (")
    assert said[1:] == [
        "  page.jpg: not a picture but a web page",
        r"  \udcff\n.jpg: the file is empty",
        f"Report: {root / '.artgan' / 'report.html'}",
    ]
    assert (root / ".artgan" / "report.html").is_file()


def test_the_command_names_a_folder_that_is_not_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "artgan.data", str(tmp_path / "gone")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "gone") in done.stderr
