import random
import shutil
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import pytest

from artgan.data import archive
from artgan.data.archive import UnusableArchive, check_archive, unpack
from artgan.errors import UserError
from artgan.files import atomic_folder

PICTURE = random.Random(0).randbytes(5_000)  # nothing is decoded here, so any bytes are a picture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty folder."""
    root = tmp_path / "set"
    root.mkdir()
    return root


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Writes a zip of entries that are given by name, or with all that ZipInfo can say."""

    def make(*entries: str | ZipInfo, name: str = "one.zip", content: bytes = PICTURE) -> Path:
        with ZipFile(tmp_path / name, "w") as file:
            for entry in entries:
                file.writestr(entry, b"" if str(entry).endswith("/") else content)
        return tmp_path / name

    return make


def tree(root: Path) -> set[str]:
    """The files below a folder."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def refusal(archive: Path, root: Path, only: list[str] | None = None) -> str:
    """What a person is told."""
    with pytest.raises(UserError) as raised:
        unpack([archive], root, only or [])
    assert str(raised.value).startswith(f"{archive}: ")
    return str(raised.value)


def entry(name: str, mode: int) -> ZipInfo:
    info = ZipInfo(name)
    info.external_attr = mode << 16
    return info


def test_pictures_come_out_byte_for_byte(make: Callable[..., Path], root: Path) -> None:
    unpack([make("a.jpg", "b.PNG")], root, [])
    assert tree(root) == {"a.jpg", "b.PNG"}
    assert (root / "a.jpg").read_bytes() == PICTURE


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["data/", "data/1.jpg", "data/2.jpg"], {"1.jpg", "2.jpg"}),
        (["set/ink/1.jpg", "set/oil/1.jpg"], {"ink/1.jpg", "oil/1.jpg"}),
        (["set/ink/1.jpg", "set/ink/2.jpg"], {"ink/1.jpg", "ink/2.jpg"}),
        (["set/1.jpg", "2.jpg"], {"set/1.jpg", "2.jpg"}),
        (["ink/1.jpg", "oil/1.jpg"], {"ink/1.jpg", "oil/1.jpg"}),
        (["set/1.jpg", "README.txt", "__MACOSX/set/._1.jpg"], {"1.jpg"}),
        (["./set//1.jpg"], {"1.jpg"}),
        (["山水.jpg"], {"山水.jpg"}),
    ],
)
def test_a_top_folder_shared_by_all_pictures_is_left_out(
    make: Callable[..., Path], root: Path, names: list[str], expected: set[str]
) -> None:
    unpack([make(*names)], root, [])
    assert tree(root) == expected


@pytest.mark.parametrize(
    "name", ["a.txt", ".DS_Store", "._a.jpg", "__MACOSX/a.jpg", ".thumbs/a.jpg", "a", "x.zip"]
)
def test_what_is_no_picture_is_passed_over(
    make: Callable[..., Path], root: Path, name: str
) -> None:
    unpack([make("a.jpg", "b/b.jpg", name)], root, [])
    assert tree(root) == {"a.jpg", "b/b.jpg"}


def test_only_the_folders_that_are_named_are_taken(make: Callable[..., Path], root: Path) -> None:
    names = ["m/trainA/1.jpg", "m/trainB/1.jpg", "m/testA/2.jpg", "m/trainA.jpg", "m/x/testA/3.jpg"]
    unpack([make(*names)], root, ["trainA", "testA"])
    assert tree(root) == {"trainA/1.jpg", "testA/2.jpg", "x/testA/3.jpg"}


def test_several_archives_come_into_a_folder_each(make: Callable[..., Path], root: Path) -> None:
    archives = [make("1.jpg", name="Met-1.zip"), make("Harvard/1.jpg", name="Harvard.zip")]
    unpack(archives, root, [])
    assert tree(root) == {"Met-1/1.jpg", "Harvard/1.jpg"}


def test_two_archives_of_one_name_never_overwrite(
    make: Callable[..., Path], root: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    archives = [make("1.jpg"), make("1.jpg", name="other/one.zip")]
    with pytest.raises(FileExistsError):
        unpack(archives, root, [])


def test_nothing_is_written_of_any_archive_where_one_is_refused(
    make: Callable[..., Path], root: Path
) -> None:
    archives = [make("1.jpg"), make("../1.jpg", name="two.zip")]
    with pytest.raises(UserError, match=r"two\.zip"):
        unpack(archives, root, [])
    assert tree(root) == set()


NUL = ZipInfo("a.jpg")
NUL.filename = "a\0.jpg"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("../a.jpg", "out of the folder"),
        ("a/../../a.jpg", "out of the folder"),
        ("../a.txt", "out of the folder"),
        ("/a.jpg", "out of the folder"),
        ("C:a.jpg", "out of the folder"),
        (r"a\..\a.jpg", "out of the folder"),
        ("a\n.jpg", "control characters"),
        (NUL, "control characters"),
        ("a\x9b.jpg", "control characters"),
        (entry("a.jpg", stat.S_IFLNK | 0o777), "link or device"),
        (entry("a/", stat.S_IFLNK | 0o777), "link or device"),
        (entry("a.jpg", stat.S_IFIFO), "link or device"),
        (entry("a.jpg", stat.S_IFDIR), "link or device"),
        ("OK.JPG", "clashes"),
        ("OK.jpg/a.jpg", "clashes"),
    ],
    ids=lambda value: repr(getattr(value, "filename", value)),
)
def test_an_entry_that_is_not_safe_refuses_the_archive(
    make: Callable[..., Path], root: Path, bad: str | ZipInfo, reason: str
) -> None:
    said = refusal(make("ok.jpg", bad), root)
    assert reason in said
    named = "ok.jpg" if bad == "OK.jpg/a.jpg" else getattr(bad, "filename", bad)
    assert repr(named) in said
    assert tree(root) == set()


def test_names_that_differ_only_in_their_unicode_form_are_refused(
    make: Callable[..., Path], root: Path
) -> None:
    forms = [unicodedata.normalize(form, "Gemälde.jpg") for form in ("NFC", "NFD")]
    assert "clashes" in refusal(make(*forms), root)


def test_a_name_that_is_there_twice_is_refused(make: Callable[..., Path], root: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        file = make("a.jpg", "a.jpg")
    assert "clashes" in refusal(file, root)


def change_directory(file: Path, change: Callable[[bytearray, int], None]) -> None:
    """Alters the last entry of a zip's central directory, which begins at the given offset."""
    content = bytearray(file.read_bytes())
    change(content, content.rindex(b"PK\x01\x02"))
    file.write_bytes(content)


def put(at: int, value: int, size: int) -> Callable[[bytearray, int], None]:
    def change(content: bytearray, start: int) -> None:
        content[start + at : start + at + size] = value.to_bytes(size, "little")

    return change


def test_an_encrypted_entry_is_refused(make: Callable[..., Path], root: Path) -> None:
    file = make("a.jpg")
    change_directory(file, put(8, 1, 2))
    assert "'a.jpg' is encrypted" in refusal(file, root)


def test_an_unknown_compression_is_refused(make: Callable[..., Path], root: Path) -> None:
    file = make("a.jpg")
    change_directory(file, put(10, 9, 2))
    assert "'a.jpg' cannot be read (That compression method" in refusal(file, root)


def test_entries_that_share_bytes_are_refused(make: Callable[..., Path], root: Path) -> None:
    file = make("a.jpg", "b.jpg")
    change_directory(file, put(42, 100, 4))
    assert "'b.jpg' lies within another entry" in refusal(file, root)


def test_an_entry_with_more_than_it_declares_is_refused(
    make: Callable[..., Path], root: Path
) -> None:
    file = make("a.jpg")
    change_directory(file, put(24, len(PICTURE) - 1, 4))
    assert "'a.jpg' cannot be read (Bad CRC-32" in refusal(file, root)


def test_an_entry_is_never_read_beyond_what_it_declares(make: Callable[..., Path]) -> None:
    bomb = ZipInfo("a.jpg")
    bomb.compress_type = ZIP_DEFLATED
    file = make(bomb, content=bytes(5_000_000))
    change_directory(file, put(24, 1000, 4))
    with ZipFile(file) as opened, pytest.raises(UnusableArchive):
        for block in archive._blocks(opened, opened.infolist()[0]):
            assert len(block) <= 1000


def test_a_bomb_is_refused(make: Callable[..., Path], root: Path) -> None:
    bomb = ZipInfo("a.bmp")
    bomb.compress_type = ZIP_DEFLATED
    assert "unpacks to 2,000,000 bytes" in refusal(make(bomb, content=bytes(2_000_000)), root)


def test_a_declared_size_beyond_all_bounds_is_refused(
    make: Callable[..., Path], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "LARGEST_TOTAL", 2 * len(PICTURE) - 1)
    assert "unpacks to 10,000 bytes" in refusal(make("a.jpg", "b.jpg"), root)


def test_too_many_entries_are_refused(
    make: Callable[..., Path], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MOST_ENTRIES", 2)
    assert "3 entries, more than 2" in refusal(make("a.jpg", "b.jpg", "c.txt"), root)


def test_more_than_the_disk_has_free_is_refused(
    make: Callable[..., Path], small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("64k")
    with pytest.raises(UserError, match=r"the pictures take 0.00 GB, and 0.00 GB are free"):
        unpack([make("a.jpg", content=bytes(100_000))], disk, [])
    assert tree(disk) == set()


def test_a_disk_that_runs_full_is_one_message_and_is_left_empty(
    make: Callable[..., Path], small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("64k")
    # Each of them takes a whole page of 4 kB, so that their sizes alone do not tell.
    file = make(*(f"{number}.jpg" for number in range(40)), content=PICTURE[:100])
    with pytest.raises(UserError, match="the disk is full"), atomic_folder(disk / "set") as folder:
        assert folder
        unpack([file], folder, [])
    assert {path.name for path in disk.iterdir()} <= {".set.lock"}


def test_damage_in_a_picture_is_found(make: Callable[..., Path], root: Path) -> None:
    file = make("a.jpg", "b.jpg")
    content = bytearray(file.read_bytes())
    content[len(PICTURE) + 200] ^= 1
    file.write_bytes(content)
    assert "'b.jpg' cannot be read (Bad CRC-32" in refusal(file, root)


@pytest.mark.parametrize("keep", [0, 100, 5_000, -1])
def test_a_torn_zip_is_refused(make: Callable[..., Path], root: Path, keep: int) -> None:
    file = make("a.jpg", "b.jpg")
    file.write_bytes(file.read_bytes()[:keep])
    assert "no whole zip archive" in refusal(file, root)


def test_any_damaged_byte_is_one_message_or_harms_nothing(
    make: Callable[..., Path], root: Path
) -> None:
    file = make("a.jpg", "b.jpg", content=PICTURE[:20])
    whole = file.read_bytes()
    for position in range(len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        folder = root.with_name(f"{root.name}-{position}")
        folder.mkdir(parents=True)
        try:
            unpack([file], folder, [])
        except UserError as error:
            assert str(error)
        else:
            # A name or an ending may be another one now; a picture's bytes may not.
            pictures = [path for path in folder.rglob("*") if path.is_file()]
            assert pictures
            assert {path.read_bytes() for path in pictures} == {PICTURE[:20]}


def mutated(whole: bytes, drawn: random.Random) -> bytes:
    """A zip with one or two things wrong that an accident or an attacker may do to it."""
    content = bytearray(whole)
    for _ in range(drawn.randint(1, 2)):
        place = drawn.randrange(len(content))
        headers = [
            place
            for mark in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")
            for place in range(len(content))
            if content.startswith(mark, place)
        ] or [place]
        header = drawn.choice(headers)
        directory = max(content.find(b"PK\x01\x02"), 0)
        kind = drawn.randrange(8)
        if kind == 0:
            content[place] ^= 1 << drawn.randrange(8)
        elif kind == 1:
            del content[place:]
        elif kind == 2:
            del content[place : place + drawn.randint(1, 40)]
        elif kind == 3:
            content[place:place] = drawn.randbytes(drawn.randint(1, 40))
        elif kind == 4:
            content += content[directory:]  # a second central directory
        elif kind == 5:  # a field of a header: a size, a length, an offset
            at, size = header + drawn.randrange(4, 46), drawn.choice([2, 4])
            value = drawn.choice(
                [0, 1, 0xFFFF, 2**31, 2**32 - 1, len(content), drawn.randrange(999)]
            )
            content[at : at + size] = (value % 256**size).to_bytes(size, "little")
        elif kind == 6:  # a name, everywhere or only in the directory
            start = drawn.choice([0, directory])
            trick = drawn.choice([b"../../x.jpg", b"/tmp/xx.jpg", b"C:\\xxx.jpg", b"ink/../.jpg"])
            content[start:] = content[start:].replace(b"ink/one.jpg", trick)
        else:
            content[place:place] = whole  # an archive within the archive
        content = content or bytearray(b"P")
    return bytes(content)


def test_whatever_is_done_to_an_archive_its_right_pictures_come_or_one_message(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    """400 mutations."""
    drawn = random.Random(0)
    pictures = {name: drawn.randbytes(60) for name in ("ink/one.jpg", "ink/two.jpg", "oil/1.png")}
    with ZipFile(tmp_path / "one.zip", "w") as file:
        for name, content in pictures.items():
            file.writestr(name, content, ZIP_DEFLATED if name == "oil/1.png" else None)
    whole, target = (tmp_path / "one.zip").read_bytes(), tmp_path / "a" / "b" / "set"
    unpacked = 0
    for _ in range(400):
        (tmp_path / "one.zip").write_bytes(mutated(whole, drawn))
        target.mkdir(parents=True)
        try:
            unpack([tmp_path / "one.zip"], target, [])
        except UserError as error:
            assert len(str(error).splitlines()) == 1
        else:
            unpacked += 1
            files = [path.read_bytes() for path in target.rglob("*") if path.is_file()]
            # Names may have become others, and pictures no pictures; no picture became another.
            assert files
            assert Counter(files) <= Counter(pictures.values())
        shutil.rmtree(target)
        assert tree(tmp_path) == {"one.zip"}
    print(f"{unpacked} of 400 unpacked")
    assert 20 < unpacked < 380


def test_an_archive_without_pictures_is_refused(make: Callable[..., Path], root: Path) -> None:
    assert "no pictures" in refusal(make("a.txt"), root)
    assert "no pictures below trainA or testA" in refusal(
        make("a.jpg"), root, only=["trainA", "testA"]
    )


def test_checking_an_archive_reads_all_of_it_and_writes_nothing(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    file = make("a.jpg", "b.jpg")
    before = set(tmp_path.iterdir())
    check_archive(file)
    assert set(tmp_path.iterdir()) == before
    content = bytearray(file.read_bytes())
    content[len(PICTURE) + 200] ^= 1
    file.write_bytes(content)
    with pytest.raises(UnusableArchive, match="Bad CRC-32"):
        check_archive(file)
