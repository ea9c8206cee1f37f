import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from artgan.data.folder import load_pack, open_pack
from artgan.data.pack import Cut, Pack
from artgan.errors import UserError
from tests.helpers import ROOT, environment


@pytest.fixture
def root(paintings: Path, tmp_path: Path) -> Path:
    ignore = shutil.ignore_patterns(".artgan")
    return Path(shutil.copytree(paintings, tmp_path / "mine", ignore=ignore))


def load(root: Path, resolution: int = 32, **how: object) -> Pack:
    return load_pack(root, Cut(resolution, **how))  # type: ignore[arg-type]


def middles(pack: Pack) -> np.ndarray:
    return pack.squares(np.arange(len(pack)), np.full(len(pack), 0.5))


def test_paintings_are_resized_and_cut_in_the_order_of_their_names(root: Path) -> None:
    pack = load(root)
    assert (len(pack), pack.resolution, pack.rows.dtype) == (40, 32, np.uint8)
    assert pack.files == sorted(pack.files)
    with Image.open(root / pack.files[7]) as image:
        expected = image.resize((40, 32), Image.Resampling.BILINEAR).crop((4, 0, 36, 32))
    np.testing.assert_array_equal(middles(pack)[7], np.asarray(expected))


def test_a_pack_that_one_process_has_loaded_is_opened_by_others_without_a_check(
    root: Path,
) -> None:
    loaded = load(root, crop="random")
    next(root.rglob("*.jpg")).unlink()
    opened = open_pack(root, Cut(32, "random"), loaded.key)
    assert (opened.key, opened.files) == (loaded.key, loaded.files)
    assert opened.checkup == loaded.checkup
    np.testing.assert_array_equal(opened.rows, loaded.rows)
    with pytest.raises(UserError, match="this folder is missing, or has other paintings"):
        open_pack(root, Cut(32, "center"), loaded.key)


def test_a_square_can_be_anywhere_along_its_painting(root: Path) -> None:
    pack = load(root, crop="random")
    numbers = np.full(9, 7)
    with Image.open(root / pack.files[7]) as image:
        whole = np.asarray(image.resize((40, 32), Image.Resampling.BILINEAR))
    squares = pack.squares(numbers, np.arange(9) / 9)
    for shift, square in enumerate(squares):
        np.testing.assert_array_equal(square, whole[:, shift : shift + 32])


def test_standing_paintings_are_cut_along_their_height(root: Path) -> None:
    for file in root.rglob("*.jpg"):
        with Image.open(file) as image:
            image.transpose(Image.Transpose.ROTATE_90).save(file.with_suffix(".png"))
        file.unlink()
    pack = load(root, crop="random")
    with Image.open(root / pack.files[7]) as image:
        whole = np.asarray(image.resize((32, 40), Image.Resampling.BILINEAR))
    (square,) = pack.squares(np.array([7]), np.array([0.99]))
    np.testing.assert_array_equal(square, whole[8:])


def test_a_scroll_becomes_several_squares_of_one_painting(root: Path) -> None:
    scroll = Image.effect_noise((400, 100), 60).convert("RGB")
    scroll.save(root / "scroll.png")
    pack = load(root, crop="tiles")
    assert pack.files.count("scroll.png") == 5
    assert len(pack) == 45


def test_plain_borders_are_trimmed_when_asked(root: Path) -> None:
    noise = Image.effect_noise((100, 100), 90).convert("RGB")
    framed = Image.new("RGB", (140, 140), "black")
    framed.paste(noise, (20, 20))
    framed.save(root / "framed.png")
    kept, trimmed = load(root), load(root, border="trim")
    assert middles(kept)[kept.files.index("framed.png"), 0].max() < 10
    expected = np.asarray(noise.resize((32, 32), Image.Resampling.BILINEAR))
    square = middles(trimmed)[trimmed.files.index("framed.png")]
    np.testing.assert_array_equal(square, expected)


def test_only_one_of_several_duplicates_is_used_when_asked(root: Path) -> None:
    first = load(root).files[0]
    shutil.copy(root / first, root / "zz copy.jpg")
    with Image.open(root / first) as image:
        image.resize((200, 160)).save(root / "zz larger.png")
    assert len(load(root)) == 42
    pack = load(root, deduplicate=True)
    assert pack.checkup.duplicates == [["zz larger.png", first, "zz copy.jpg"]]
    assert len(pack) == 40
    with Image.open(root / "zz larger.png") as image:
        expected = image.resize((40, 32), Image.Resampling.BILINEAR).crop((4, 0, 36, 32))
    np.testing.assert_array_equal(middles(pack)[-1], np.asarray(expected))


def test_a_second_start_reads_no_painting_and_writes_nothing(root: Path) -> None:
    first = load(root)
    written = {path: path.stat().st_mtime_ns for path in (root / ".artgan").glob("[!l]*")}
    for file in root.rglob("*.jpg"):
        status = file.stat()
        file.write_bytes(bytes(status.st_size))  # would be refused, were it read
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = load(root)
    assert second.key == first.key
    assert {path: path.stat().st_mtime_ns for path in (root / ".artgan").glob("[!l]*")} == written
    np.testing.assert_array_equal(second.rows, first.rows)


def test_files_that_were_only_touched_need_no_other_pack(root: Path) -> None:
    first = load(root)
    path = root / ".artgan" / f"{first.key}.pack"
    written = path.stat().st_mtime_ns
    for file in root.rglob("*.jpg"):
        file.touch()
    assert load(root).key == first.key
    assert path.stat().st_mtime_ns == written


def test_a_folder_to_which_one_painting_was_added_is_packed_in_the_order_of_names(
    root: Path,
) -> None:
    load(root, crop="tiles")
    Image.effect_noise((300, 100), 60).convert("RGB").save(root / "landscape" / "000 new.png")
    added = load(root, crop="tiles")
    shutil.rmtree(root / ".artgan")
    fresh = load(root, crop="tiles")
    assert (added.key, added.files) == (fresh.key, fresh.files)
    np.testing.assert_array_equal(middles(added), middles(fresh))


def test_packs_of_earlier_versions_are_replaced_with_a_message(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = root / ".artgan"
    folder.mkdir()
    for name in ("files.json", "0123456789abcdef.npy", "0123456789abcdef.json"):
        (folder / name).write_bytes(b"of another format")
    pack = load(root)
    assert capsys.readouterr().err == (
        f"{root}: was packed by an earlier version of artgan; packing it again\n"
    )
    assert {path.name for path in folder.iterdir()} == {
        *("lock", "files.cache", "report.html", "report.json", f"{pack.key}.pack")
    }
    load(root)
    assert not capsys.readouterr().err


def test_a_copy_of_the_folder_has_the_same_key(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".artgan"), copy_function=shutil.copy)
    assert load(copy).key == load(root).key


@pytest.mark.parametrize("change", ["changed", "added", "removed"])
def test_other_contents_make_another_pack_and_remove_the_old_one(root: Path, change: str) -> None:
    before = load(root)
    file = root / before.files[0]
    if change == "changed":
        Image.effect_noise((64, 64), 5).convert("RGB").save(file)
    elif change == "added":
        shutil.copy(file, root / "new.jpg")
    elif change == "removed":
        file.unlink()
    after = load(root)
    assert after.key != before.key
    assert [path.stem for path in (root / ".artgan").glob("*.pack")] == [after.key]
    if change == "changed":
        assert middles(after)[0].std() < 10


def test_each_way_of_cutting_has_a_pack_of_its_own(root: Path) -> None:
    ways = [{}, {"resolution": 64}, {"crop": "random"}, {"crop": "tiles"}, {"border": "trim"}]
    ways.append({"deduplicate": True})
    keys = {load(root, **way).key for way in ways}  # type: ignore[arg-type]
    assert {path.stem for path in (root / ".artgan").glob("*.pack")} == keys
    assert len(keys) == 6


def test_a_file_that_cannot_be_used_is_left_out(root: Path) -> None:
    (root / "page.jpg").write_text("<html>")
    (root / "nothing.png").touch()
    pack = load(root)
    assert len(pack) == 40
    assert {facts.file: facts.reason for facts in pack.checkup.unusable} == {
        "page.jpg": "not an image but a web page",
        "nothing.png": "the file is empty",
    }
    assert pack.report.is_file()
    assert (root / "page.jpg").read_text() == "<html>"


def test_a_file_that_cannot_be_used_does_not_change_the_key(root: Path) -> None:
    before = load(root)
    (root / "page.jpg").write_text("<html>")
    assert load(root).key == before.key


def test_a_thin_image_takes_at_most_16_squares_of_the_pack(root: Path) -> None:
    Image.effect_noise((60000, 16), 90).convert("RGB").save(root / "thin.png")
    pack = load(root, crop="random")
    assert pack.lengths[pack.files.index("thin.png")] == 16 * 32


def test_too_few_paintings_are_a_clear_error_that_leaves_no_pack(root: Path) -> None:
    for file in sorted(root.rglob("*.jpg"))[10:]:
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match="10 usable paintings; at least 16 are needed"):
        load(root)
    assert not list(root.rglob("*.pack"))
    assert not list(root.rglob("*.tmp"))


def test_three_long_scrolls_are_enough_for_tiles(tmp_path: Path) -> None:
    for number in range(3):
        scroll = Image.effect_noise((1600, 100), 20 + 20 * number)
        scroll.save(tmp_path / f"{number}.png")
    with pytest.raises(UserError, match=r": 3 usable .* needed\. dataset\.crop=tiles cuts several"):
        load(tmp_path)
    pack = load(tmp_path, crop="tiles")
    assert len(pack) == 36
    trained, held = pack.split(0.3)
    assert (len(trained), len(held)) == (24, 12)
    with pytest.raises(UserError, match=r"dataset\.holdout: 0\.7 leaves 12 of 36 to train on"):
        pack.split(0.7)
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes(b"")
    message = r"12 squares from 1 usable painting; at least 16 are needed\. 1 file cannot"
    with pytest.raises(UserError, match=message):
        load(tmp_path, crop="tiles")


@pytest.mark.parametrize("what", ["pack", "cache"])
def test_a_damaged_pack_or_record_is_made_again(root: Path, what: str) -> None:
    pack = load(root)
    whole = np.array(pack.rows)
    (path,) = (root / ".artgan").glob(f"*.{what}")
    path.write_bytes(path.read_bytes()[:300])
    np.testing.assert_array_equal(load(root).rows, whole)


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_a_folder_without_images_is_a_clear_error(tmp_path: Path, what: str) -> None:
    root = tmp_path / what
    if what == "empty":
        root.mkdir()
    with pytest.raises(UserError, match=str(root)):
        load(root)


def test_a_read_only_folder_is_packed_elsewhere(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    # Root may write anywhere, so the test sets the system's answer.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    pack = load(root)
    assert Path("datasets/.packs") in pack.report.parents
    assert not (root / ".artgan").exists()


LOAD = """
import sys
from pathlib import Path
from artgan.data.folder import load_pack
from artgan.data.pack import Cut
print(load_pack(Path(sys.argv[1]), Cut(32)).rows.sum())
"""


def loading(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LOAD, str(root)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_that_start_at_once_share_one_pack(root: Path) -> None:
    (root / ".artgan").mkdir()
    with FileLock(root / ".artgan" / "lock"):
        both = [loading(root), loading(root)]
        for process in both:
            assert process.stderr is not None
            assert "another process is preparing it; waiting" in process.stderr.readline()
    sums = {process.communicate(timeout=60)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert sums == {f"{load(root).rows.sum()}\n"}


@pytest.mark.parametrize("found", ["lock", ".*.tmp", "files.cache", "report.html"])
def test_a_start_repairs_what_a_killed_one_left(root: Path, found: str) -> None:
    process = loading(root)
    while process.poll() is None and not list((root / ".artgan").glob(found)):
        pass
    process.kill()
    process.communicate()
    (root / ".artgan" / ".half.pack.tmp").touch()
    assert len(load(root)) == 40
    assert not list((root / ".artgan").glob(".*.tmp"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_forgetting_frees_the_memory_of_what_was_read(root: Path) -> None:
    pack = load(root)

    def resident() -> int:
        """KiB of the pack in this process's memory."""
        lines = Path("/proc/self/smaps").read_text().splitlines()
        begin = next(i for i, line in enumerate(lines) if line.endswith(f"{pack.key}.pack"))
        return next(int(line.split()[1]) for line in lines[begin:] if line.startswith("Rss:"))

    before = middles(pack)
    assert resident() > 0
    pack.forget_read()
    assert resident() == 0
    np.testing.assert_array_equal(middles(pack), before)


def test_a_share_of_the_paintings_is_held_out(root: Path) -> None:
    pack = load(root)
    training, held_out = pack.split(0.25)
    assert (len(training), len(held_out)) == (30, 10)
    assert sorted(training.files + held_out.files) == pack.files
    assert load(root).split(0.25)[1].files == held_out.files
    whole = dict(zip(pack.files, middles(pack), strict=True))
    for part in (training, held_out):
        for file, square in zip(part.files, middles(part), strict=True):
            np.testing.assert_array_equal(square, whole[file])


def test_holding_out_too_many_is_a_clear_error(root: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.holdout: 0\.7 leaves 12 of 40 .* at least 16"):
        load(root).split(0.7)


def test_nothing_is_held_out_unless_asked(root: Path) -> None:
    training, held_out = load(root).split(0.0)
    assert (len(training), len(held_out)) == (40, 0)


def test_duplicates_are_never_on_both_sides(root: Path) -> None:
    for path in sorted(root.rglob("*.jpg"))[:20]:
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    pack = load(root, crop="tiles")
    training, held_out = pack.split(0.5)
    seen = {name.replace("copy-", "") for name in training.files}
    assert not seen & {name.replace("copy-", "") for name in held_out.files}
    assert any(name.count("copy-") for name in held_out.files)
