import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from artgan.data import folder, inspection
from artgan.data.decode import Decoded, decode, find_images
from artgan.data.folder import check_folder
from artgan.data.inspection import Checkup, inspect_file, read_record
from artgan.errors import UserError


@pytest.fixture
def root(paintings: Path, tmp_path: Path) -> Path:
    ignore = shutil.ignore_patterns(".artgan")
    return Path(shutil.copytree(paintings, tmp_path / "mine", ignore=ignore))


def check(root: Path) -> Checkup:
    return check_folder(root)[0]


def test_a_file_is_described(tmp_path: Path) -> None:
    framed = Image.new("CMYK", (300, 200), (0, 0, 0, 255))
    framed.paste(Image.effect_noise((200, 120), 80).convert("CMYK"), (50, 40))
    framed.save(tmp_path / "a.tif")
    (facts,) = check(tmp_path).facts
    assert (facts.file, facts.format, facts.mode) == ("a.tif", "TIFF", "CMYK")
    assert (facts.width, facts.height, facts.reason) == (300, 200, None)
    assert facts.size == (tmp_path / "a.tif").stat().st_size
    assert facts.frame == (50, 40, 250, 160)
    assert facts.color == pytest.approx((51, 51, 51), abs=3)  # 128 on two fifths of the area


def test_the_record_holds_what_was_found(root: Path) -> None:
    shutil.copy(min(root.rglob("*.jpg")), root / "copy.jpg")
    (root / "notes.txt").touch()
    (root / "torn.jpg").write_bytes(b"rubbish")
    found, recorded = check(root), read_record(root / ".artgan")
    assert (recorded.facts, recorded.duplicates) == (found.facts, found.duplicates)
    assert recorded.others == {".txt": 1}


def test_only_files_that_are_new_or_have_changed_are_read(root: Path) -> None:
    names = [facts.file for facts in check(root).facts]
    for name in names[4:]:
        status = (root / name).stat()
        (root / name).write_bytes(bytes(status.st_size))  # would be refused, were it read
        os.utime(root / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    (root / names[3]).write_bytes(b"rubbish")
    (root / "new.jpg").write_bytes(b"rubbish")
    assert {facts.file for facts in check(root).unusable} == {names[3], "new.jpg"}


@pytest.fixture
def many(root: Path) -> Path:
    """161 files, enough to be read by several processes."""
    for file in list(root.rglob("*.jpg")):
        for number in range(3):
            shutil.copy(file, file.with_suffix(f".{number}.jpg"))
    (root / "torn.jpg").write_bytes(b"rubbish")
    return root


def test_several_processes_find_what_one_finds_in_the_same_order(many: Path) -> None:
    names, _ = find_images(many)
    alone = [inspect_file(many / name, name)[0] for name in names]
    assert check(many).facts == alone


def test_a_file_whose_process_is_killed_is_named_and_not_tried_again(
    many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, _ = find_images(many)
    fatal = names[70]

    def killed(function: Callable[[str], object], names: list[str]) -> Iterator[object]:
        return (None if name == fatal else function(name) for name in names)

    with monkeypatch.context() as patch:
        patch.setattr(folder, "map_in_processes", killed)
        before = check(many)
    assert [facts.file for facts in before.facts] == names
    assert before.reasons["killed the process that read it"] == 1
    assert fatal in {facts.file for facts in before.unusable}
    assert check(many).unusable == before.unusable
    (many / fatal).touch()
    assert [facts.file for facts in check(many).unusable] == ["torn.jpg"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("odd"), "cannot be inspected: ValueError: odd"),
        (MemoryError(), "too large for this machine's memory"),
    ],
)
def test_a_file_that_cannot_be_inspected_is_named_and_passed_over(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    Image.effect_noise((77, 60), 80).save(root / "odd.png")

    def find_frame(image: Image.Image) -> None:
        if image.size == (77, 60):
            raise error

    monkeypatch.setattr(inspection, "find_frame", find_frame)
    checkup = check(root)
    assert [(facts.file, facts.reason) for facts in checkup.unusable] == [("odd.png", reason)]
    assert len(checkup.usable) == 40


def test_pairs_too_dark_to_show_anything_are_checked(root: Path) -> None:
    soft = Image.radial_gradient("L").point(lambda level: level // 8)
    soft.save(root / "dark.png")
    soft.resize((192, 192)).save(root / "smaller.png")
    assert check(root).duplicates == [["dark.png", "smaller.png"]]


def test_a_change_while_a_file_is_read_is_noticed_the_next_time(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (root / facts.file for facts in check(root).facts[:2])
    shutil.copy(second, first)

    def overtaken(content: bytes) -> Decoded:
        if content == first.read_bytes() != second.read_bytes():
            first.write_bytes(second.read_bytes()[:500].ljust(len(content), b"y"))
        return decode(content)

    first.write_bytes(second.read_bytes() + bytes(1))
    with monkeypatch.context() as patch:
        patch.setattr(inspection, "decode", overtaken)
        before = check(root).facts[0]
    assert check(root).facts[0].sha256 != before.sha256


def test_a_file_too_large_to_be_an_image_is_not_read(root: Path) -> None:
    with (root / "big.tif").open("wb") as file:
        file.truncate(2**40)
    (facts,) = check(root).unusable
    assert facts.reason == "cannot be read: larger than 1 GiB"


def test_an_image_of_one_colour_is_refused(root: Path) -> None:
    Image.new("RGB", (50, 50), (255, 0, 16)).save(root / "red.png")
    (facts,) = check(root).unusable
    assert facts.reason == "only one colour, #ff0010"


def test_pipes_and_broken_links_are_listed_as_unusable(root: Path) -> None:
    os.mkfifo(root / "pipe.jpg")
    (root / "lost.jpg").symlink_to(root / "gone.jpg")
    (root / "ring.jpg").symlink_to(root / "ring.jpg")
    reasons = {facts.file: facts.reason for facts in check(root).unusable}
    assert reasons["lost.jpg"] == "cannot be read: a broken link"
    assert set(reasons) == {"pipe.jpg", "lost.jpg", "ring.jpg"}


def test_file_names_of_any_bytes_are_kept(root: Path) -> None:
    source = min(root.rglob("*.jpg"))
    names = ["山水.jpg", "лес <b>.jpg", os.fsdecode(b"\xff\xfe.jpg"), "a\nb.jpg", "💐.jpg"]
    for name in names:
        shutil.copy(source, root / name)
    found = {facts.file for facts in check(root).facts}
    assert found >= set(names)
    assert {facts.file for facts in read_record(root / ".artgan").facts} == found


def test_the_summary_is_one_line(root: Path) -> None:
    shutil.copy(min(root.rglob("*.jpg")), root / "copy.jpg")
    (root / "a.jpg").write_bytes(b"rubbish")
    (root / "b.jpg").touch()
    (root / "c.jpg").write_bytes(b"rubbish")
    assert check(root).summary() == (
        f"{root}: 41 of 44 images can be used; 3 cannot (2 not an image, 1 the file is empty); "
        "1 duplicate."
    )


@pytest.mark.parametrize("format", ["TIFF", "GIF", "PNG", "WEBP", "AVIF"])
def test_an_album_or_animation_is_named_with_its_pages(root: Path, format: str) -> None:
    pages = [Image.effect_noise((60, 50), 80).convert("RGB") for _ in range(20)]
    name = f"album.{format.lower()}"
    pages[0].save(root / name, format, save_all=True, append_images=pages[1:])
    checkup, report = check_folder(root)
    assert [(facts.file, facts.pages) for facts in checkup.many_paged] == [(name, 20)]
    assert checkup.summary().endswith("; 1 with several pages, of which the first is used.")
    described = json.loads(report.with_name("report.json").read_bytes())
    assert described["several_pages"] == [{"file": name, "pages": 20}]
    assert "<h2>Several pages</h2>" in report.read_text("utf-8")
    assert "60 × 50, 20 pages" in report.read_text("utf-8")
    assert read_record(root / ".artgan").many_paged == checkup.many_paged


def test_checking_a_folder_writes_a_report(root: Path) -> None:
    (root / "page.jpg").write_text("<html>")
    checkup, report = check_folder(root)
    assert [(facts.file, facts.reason) for facts in checkup.unusable] == [
        ("page.jpg", "not an image but a web page")
    ]
    assert report == root / ".artgan" / "report.html"
    assert report.is_file()


def test_checking_names_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"there is no folder {tmp_path / 'gone'}"):
        check_folder(tmp_path / "gone")
