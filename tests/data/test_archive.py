import hashlib
import random
import shutil
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import pytest

from artgan.data import archive
from artgan.data.archive import download_archives, unpack
from artgan.errors import UserError
from artgan.files import atomic_folder
from tests.helpers import serving

IMAGE = random.Random(0).randbytes(5_000)  # nothing is decoded here, so any bytes will do


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty folder."""
    root = tmp_path / "set"
    root.mkdir()
    return root


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Writes a zip of entries, each given by name or as a ZipInfo."""

    def make(*entries: str | ZipInfo, name: str = "one.zip", content: bytes = IMAGE) -> Path:
        with ZipFile(tmp_path / name, "w") as file:
            for entry in entries:
                file.writestr(entry, b"" if str(entry).endswith("/") else content)
        return tmp_path / name

    return make


def tree(root: Path) -> set[str]:
    """The files below a folder."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def refusal(archive: Path, root: Path, only: list[str] | None = None) -> str:
    """The message of the refusal."""
    with pytest.raises(UserError) as raised:
        unpack([archive], root, only or [])
    assert str(raised.value).startswith(f"{archive}: ")
    return str(raised.value)


def entry(name: str, mode: int) -> ZipInfo:
    info = ZipInfo(name)
    info.external_attr = mode << 16
    return info


def test_images_are_unpacked_byte_for_byte(make: Callable[..., Path], root: Path) -> None:
    unpack([make("a.jpg", "b.PNG")], root, [])
    assert tree(root) == {"a.jpg", "b.PNG"}
    assert (root / "a.jpg").read_bytes() == IMAGE


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
def test_a_top_folder_shared_by_all_images_is_dropped(
    make: Callable[..., Path], root: Path, names: list[str], expected: set[str]
) -> None:
    unpack([make(*names)], root, [])
    assert tree(root) == expected


@pytest.mark.parametrize(
    "name", ["a.txt", ".DS_Store", "._a.jpg", "__MACOSX/a.jpg", ".thumbs/a.jpg", "a", "x.zip"]
)
def test_other_files_are_skipped(make: Callable[..., Path], root: Path, name: str) -> None:
    unpack([make("a.jpg", "b/b.jpg", name)], root, [])
    assert tree(root) == {"a.jpg", "b/b.jpg"}


def test_only_the_named_folders_are_unpacked(make: Callable[..., Path], root: Path) -> None:
    names = ["m/trainA/1.jpg", "m/trainB/1.jpg", "m/testA/2.jpg", "m/trainA.jpg", "m/x/testA/3.jpg"]
    unpack([make(*names)], root, ["trainA", "testA"])
    assert tree(root) == {"trainA/1.jpg", "testA/2.jpg", "x/testA/3.jpg"}


def test_each_archive_gets_its_own_folder(make: Callable[..., Path], root: Path) -> None:
    archives = [make("1.jpg", name="Met-1.zip"), make("Harvard/1.jpg", name="Harvard.zip")]
    unpack(archives, root, [])
    assert tree(root) == {"Met-1/1.jpg", "Harvard/1.jpg"}


def test_two_archives_of_one_name_never_overwrite_each_other(
    make: Callable[..., Path], root: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    archives = [make("1.jpg"), make("1.jpg", name="other/one.zip")]
    with pytest.raises(FileExistsError):
        unpack(archives, root, [])


def test_nothing_is_unpacked_from_any_archive_if_one_is_refused(
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


def test_a_duplicate_name_is_refused(make: Callable[..., Path], root: Path) -> None:
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
    assert "'b.jpg' overlaps another entry" in refusal(file, root)


def test_an_entry_with_more_than_it_declares_is_refused(
    make: Callable[..., Path], root: Path
) -> None:
    file = make("a.jpg")
    change_directory(file, put(24, len(IMAGE) - 1, 4))
    assert "'a.jpg' cannot be read (Bad CRC-32" in refusal(file, root)


def test_an_entry_is_never_written_beyond_what_it_declares(
    make: Callable[..., Path], root: Path
) -> None:
    bomb = ZipInfo("a.jpg")
    bomb.compress_type = ZIP_DEFLATED
    file = make(bomb, content=bytes(5_000_000))
    change_directory(file, put(24, 1000, 4))
    refusal(file, root)
    assert sum(path.stat().st_size for path in root.rglob("*.jpg")) <= 1000


def test_a_bomb_is_refused(make: Callable[..., Path], root: Path) -> None:
    bomb = ZipInfo("a.bmp")
    bomb.compress_type = ZIP_DEFLATED
    assert "unpacks to 2,000,000 bytes" in refusal(make(bomb, content=bytes(2_000_000)), root)


def test_a_declared_size_beyond_the_limit_is_refused(
    make: Callable[..., Path], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "LARGEST_TOTAL", 2 * len(IMAGE) - 1)
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
    with pytest.raises(UserError, match=r"the images take 0.00 GB, and 0.00 GB are free"):
        unpack([make("a.jpg", content=bytes(100_000))], disk, [])
    assert tree(disk) == set()


def test_a_disk_that_fills_up_is_one_message_and_is_left_empty(
    make: Callable[..., Path], small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("64k")
    # Each takes a whole page of 4 kB, so the sizes alone do not show that the disk is too small.
    file = make(*(f"{number}.jpg" for number in range(40)), content=IMAGE[:100])
    with pytest.raises(UserError, match="the disk is full"), atomic_folder(disk / "set") as folder:
        assert folder
        unpack([file], folder, [])
    assert {path.name for path in disk.iterdir()} <= {".set.lock"}


def test_damage_in_an_image_is_found(make: Callable[..., Path], root: Path) -> None:
    file = make("a.jpg", "b.jpg")
    content = bytearray(file.read_bytes())
    content[len(IMAGE) + 200] ^= 1
    file.write_bytes(content)
    assert "'b.jpg' cannot be read (Bad CRC-32" in refusal(file, root)


@pytest.mark.parametrize("keep", [0, 100, 5_000, -1])
def test_a_torn_zip_is_refused(make: Callable[..., Path], root: Path, keep: int) -> None:
    file = make("a.jpg", "b.jpg")
    file.write_bytes(file.read_bytes()[:keep])
    assert "not a whole zip archive" in refusal(file, root)


def test_any_damaged_byte_is_one_message_or_harmless(make: Callable[..., Path], root: Path) -> None:
    file = make("a.jpg", "b.jpg", content=IMAGE[:20])
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
            # A name or an ending may have changed; the bytes of an image may not.
            pictures = [path for path in folder.rglob("*") if path.is_file()]
            assert pictures
            assert {path.read_bytes() for path in pictures} == {IMAGE[:20]}


def mutated(whole: bytes, drawn: random.Random) -> bytes:
    """A zip with one or two faults, as of an accident or an attacker."""
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


def test_a_mutated_archive_gives_the_right_images_or_one_message(
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
            # Names may have changed and images be lost, but none may have changed.
            assert files
            assert Counter(files) <= Counter(pictures.values())
        shutil.rmtree(target)
        assert tree(tmp_path) == {"one.zip"}
    print(f"{unpacked} of 400 unpacked")
    assert 20 < unpacked < 380


def test_an_archive_without_images_is_refused(make: Callable[..., Path], root: Path) -> None:
    assert "no images" in refusal(make("a.txt"), root)
    assert "no images below trainA or testA" in refusal(
        make("a.jpg"), root, only=["trainA", "testA"]
    )


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def download(tmp_path: Path) -> Iterator[Callable[[str], dict[Path, str]]]:
    """Downloads an archive from the folder `web`."""
    (tmp_path / "web" / "Met").mkdir(parents=True)
    with serving(tmp_path / "web") as address:
        yield lambda entry: download_archives(address + "/", [entry], tmp_path / "set", 1, True)


@pytest.mark.parametrize("name", ["data.zip", "Met/Met-1.zip"])
def test_an_archive_is_downloaded_and_verified_by_its_published_checksum(
    download: Callable[[str], dict[Path, str]], tmp_path: Path, name: str
) -> None:
    (tmp_path / "web" / name).write_bytes(IMAGE)
    checksum = f"git-blob-sha1:{git_blob(IMAGE)}"
    assert download(f"{git_blob(IMAGE)} {name}") == {tmp_path / "set" / name: checksum}
    assert (tmp_path / "set" / name).read_bytes() == IMAGE
    with pytest.raises(UserError, match=rf"{git_blob(IMAGE)}, expected {'0' * 40}"):
        download(f"{'0' * 40} {name}")


@pytest.mark.parametrize(
    "name", ["../x.zip", "a/../../x.zip", "/x.zip", r"a\x.zip", "C:x.zip", "x"]
)
def test_a_name_that_leads_out_of_the_folder_is_refused(
    download: Callable[[str], dict[Path, str]], name: str
) -> None:
    with pytest.raises(UserError) as error:
        download(name)
    assert str(error.value).startswith(f"dataset.archives: {name!r}")


def test_an_archive_without_a_published_checksum_is_read_through(
    download: Callable[[str], dict[Path, str]], make: Callable[..., Path], tmp_path: Path
) -> None:
    content = make("a.jpg", "b.jpg", name="web/data.zip").read_bytes()
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert download("data.zip") == {tmp_path / "set" / "data.zip": checksum}


@pytest.mark.parametrize("what", ["damaged", "page"])
def test_without_a_published_checksum_a_damaged_archive_or_a_page_is_refused(
    download: Callable[[str], dict[Path, str]], make: Callable[..., Path], tmp_path: Path, what: str
) -> None:
    file = make("a.jpg", "b.jpg", name="web/data.zip")
    content = bytearray(file.read_bytes())
    content[len(IMAGE) + 200] ^= 1
    file.write_bytes(content if what == "damaged" else b"<html>Please log in</html>")
    message = {"damaged": "'b.jpg' cannot be read .Bad CRC-32", "page": "looks like an HTML page"}
    with pytest.raises(UserError, match=message[what]):
        download("data.zip")
    assert [path for path in (tmp_path / "set").iterdir() if path.suffix != ".lock"] == []
