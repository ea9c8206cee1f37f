import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from artgan.data import inspection as doctor
from artgan.data.inspection import _read
from artgan.data.pack import Cut, Pack, load_pack, open_pack
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


def test_what_one_process_has_loaded_others_open_without_a_look_at_the_paintings(
    root: Path,
) -> None:
    loaded = load(root, crop="random")
    next(root.rglob("*.jpg")).unlink()
    opened = open_pack(root, Cut(32, "random"), loaded.key)
    assert (opened.key, opened.files) == (loaded.key, loaded.files)
    assert opened.checkup == loaded.checkup
    np.testing.assert_array_equal(opened.rows, loaded.rows)
    with pytest.raises(UserError, match=r"other paintings lie here, or none"):
        open_pack(root, Cut(32, "center"), loaded.key)


def test_a_square_can_lie_anywhere_along_its_painting(root: Path) -> None:
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


def test_only_one_of_the_same_paintings_is_kept_when_asked(root: Path) -> None:
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


def test_a_second_start_reads_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(root)
    written = {path: path.stat().st_mtime_ns for path in (root / ".artgan").glob("[!l]*")}

    def refuse(path: Path) -> tuple[bytes, int]:
        raise AssertionError(path)

    monkeypatch.setattr(doctor, "_read", refuse)
    second = load(root)
    assert second.key == first.key
    assert {path: path.stat().st_mtime_ns for path in (root / ".artgan").glob("[!l]*")} == written
    np.testing.assert_array_equal(second.rows, first.rows)


def test_a_copy_of_the_folder_has_the_same_key(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".artgan"), copy_function=shutil.copy)
    assert load(copy).key == load(root).key


@pytest.mark.parametrize("change", ["changed", "added", "removed"])
def test_another_content_is_another_pack_and_the_old_one_goes(root: Path, change: str) -> None:
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
    assert [path.stem for path in (root / ".artgan").glob("*.npy")] == [after.key]
    if change == "changed":
        assert middles(after)[0].std() < 10


def test_each_way_of_cutting_has_a_pack_of_its_own(root: Path) -> None:
    ways = [{}, {"resolution": 64}, {"crop": "random"}, {"crop": "tiles"}, {"border": "trim"}]
    ways.append({"deduplicate": True})
    keys = {load(root, **way).key for way in ways}  # type: ignore[arg-type]
    assert {path.stem for path in (root / ".artgan").glob("*.npy")} == keys
    assert len(keys) == 6


def test_a_file_that_cannot_be_used_is_left_out(root: Path) -> None:
    (root / "page.jpg").write_text("<html>")
    (root / "nothing.png").touch()
    pack = load(root)
    assert len(pack) == 40
    assert {facts.file: facts.reason for facts in pack.checkup.unusable} == {
        "page.jpg": "not a picture but a web page",
        "nothing.png": "the file is empty",
    }
    assert pack.report.is_file()
    assert (root / "page.jpg").read_text() == "<html>"


def test_a_file_that_cannot_be_used_makes_no_other_pack(root: Path) -> None:
    before = load(root)
    (root / "page.jpg").write_text("<html>")
    assert load(root).key == before.key


def test_a_thin_picture_is_no_larger_in_the_pack_than_others_may_be(root: Path) -> None:
    Image.effect_noise((60000, 16), 90).convert("RGB").save(root / "thin.png")
    pack = load(root, crop="random")
    assert pack.lengths[pack.files.index("thin.png")] == 16 * 32


def test_too_few_paintings_are_a_clear_error_that_leaves_no_pack(root: Path) -> None:
    for file in sorted(root.rglob("*.jpg"))[10:]:
        file.write_bytes(b"no picture")
    with pytest.raises(UserError, match="10 usable paintings; at least 16 are needed"):
        load(root)
    assert not list(root.rglob("*.npy"))
    assert not list(root.rglob("*.tmp"))


def test_a_file_that_could_not_be_read_is_tried_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = min(root.rglob("*.jpg"))

    def refuse(path: Path) -> tuple[bytes, int]:
        # Root may read anything, so the system's answer is what the test has to set.
        if path == broken:
            raise PermissionError(13, "Permission denied")
        return _read(path)

    with monkeypatch.context() as patch:
        patch.setattr(doctor, "_read", refuse)
        assert [facts.reason for facts in load(root).checkup.unusable] == [
            "cannot be read: Permission denied"
        ]
    assert len(load(root)) == 40


@pytest.mark.parametrize("what", ["array", "index", "files.json"])
def test_what_is_damaged_is_made_anew(root: Path, what: str) -> None:
    pack = load(root)
    whole = np.array(pack.rows)
    folder = root / ".artgan"
    path = {"array": folder / f"{pack.key}.npy", "index": folder / f"{pack.key}.json"}.get(
        what, folder / "files.json"
    )
    path.write_bytes(path.read_bytes()[:300])
    np.testing.assert_array_equal(load(root).rows, whole)


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_a_folder_without_pictures_is_a_clear_error(tmp_path: Path, what: str) -> None:
    root = tmp_path / what
    if what == "empty":
        root.mkdir()
    with pytest.raises(UserError, match=str(root)):
        load(root)


def test_a_read_only_folder_is_packed_elsewhere(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    # Root may write anywhere, so the answer of the system is what the test has to set.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    pack = load(root)
    assert Path("datasets/.packs") in pack.report.parents
    assert not (root / ".artgan").exists()


LOAD = """
import sys
from pathlib import Path
from artgan.data.pack import Cut, load_pack
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


@pytest.mark.parametrize("found", ["lock", ".*.tmp", "files.json", "report.html"])
def test_a_start_after_one_was_killed_makes_it_good(root: Path, found: str) -> None:
    process = loading(root)
    while process.poll() is None and not list((root / ".artgan").glob(found)):
        pass
    process.kill()
    process.communicate()
    (root / ".artgan" / ".half.npy.tmp").touch()
    assert len(load(root)) == 40
    assert not list((root / ".artgan").glob(".*.tmp"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell what is mapped")
def test_what_was_read_of_the_file_leaves_memory(root: Path) -> None:
    pack = load(root)

    def resident() -> int:
        """KiB of the pack in this process's memory."""
        lines = Path("/proc/self/smaps").read_text().splitlines()
        begin = next(i for i, line in enumerate(lines) if line.endswith(f"{pack.key}.npy"))
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


def test_what_shows_the_same_is_never_on_both_sides(root: Path) -> None:
    for path in sorted(root.rglob("*.jpg"))[:20]:
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    pack = load(root, crop="tiles")
    training, held_out = pack.split(0.5)
    seen = {name.replace("copy-", "") for name in training.files}
    assert not seen & {name.replace("copy-", "") for name in held_out.files}
    assert any(name.count("copy-") for name in held_out.files)
