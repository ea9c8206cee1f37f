import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artgan.data.pack import Pack, load_pack
from artgan.errors import UserError


@pytest.fixture
def root(paintings: Path, tmp_path: Path) -> Path:
    ignore = shutil.ignore_patterns(".artgan")
    return Path(shutil.copytree(paintings, tmp_path / "mine", ignore=ignore))


def load(root: Path, resolution: int = 32) -> Pack:
    return load_pack(root, resolution, fallback=root.parent / "fallback")


def test_paintings_are_resized_and_cut_in_the_order_of_their_names(root: Path) -> None:
    pack = load(root)
    assert pack.paintings.shape == (40, 3, 32, 32)
    assert pack.paintings.dtype == np.uint8
    assert pack.files == sorted(pack.files)
    with Image.open(root / pack.files[7]) as image:
        expected = image.resize((40, 32), Image.Resampling.BILINEAR).crop((4, 0, 36, 32))
    np.testing.assert_array_equal(pack.paintings[7].transpose(1, 2, 0), np.asarray(expected))


def test_a_second_start_decodes_nothing(root: Path) -> None:
    first = load(root)
    written = first.path.stat().st_mtime_ns
    second = load(root)
    assert second.key == first.key
    assert second.path.stat().st_mtime_ns == written
    np.testing.assert_array_equal(second.paintings, first.paintings)


def test_a_copy_of_the_folder_has_the_same_key(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".artgan"), copy_function=shutil.copy)
    assert load(copy).key == load(root).key


@pytest.mark.parametrize("change", ["changed", "added", "removed", "resolution"])
def test_another_content_or_resolution_is_another_pack(root: Path, change: str) -> None:
    before = load(root)
    file = root / before.files[0]
    if change == "changed":
        Image.new("RGB", (64, 64), "red").save(file)
    elif change == "added":
        shutil.copy(file, root / "new.jpg")
    elif change == "removed":
        file.unlink()
    after = load(root, 64 if change == "resolution" else 32)
    assert after.key != before.key
    if change == "changed":
        assert after.paintings[0, 0].min() > 200


def test_a_file_that_cannot_be_used_is_listed_with_its_reason(root: Path) -> None:
    (root / "page.jpg").write_text("<html>")
    (root / "nothing.png").touch()
    pack = load(root)
    assert len(pack.paintings) == 40
    assert {skipped.file: skipped.reason for skipped in pack.skipped} == {
        "page.jpg": "not a picture",
        "nothing.png": "the file is empty",
    }
    listed = json.loads(pack.path.with_suffix(".json").read_text())["skipped"]
    assert [entry["file"] for entry in listed] == ["nothing.png", "page.jpg"]


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
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        # Root may read anything, so the system's answer is what the test has to set.
        if path == broken:
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        assert [skipped.reason for skipped in load(root).skipped] == [
            "cannot be read: Permission denied"
        ]
    assert len(load(root).paintings) == 40


def test_a_damaged_pack_is_made_anew(root: Path) -> None:
    pack = load(root)
    whole = np.array(pack.paintings)
    pack.path.write_bytes(pack.path.read_bytes()[:1000])
    np.testing.assert_array_equal(load(root).paintings, whole)


@pytest.mark.parametrize("record", ["files.json", "index"])
def test_a_damaged_record_is_made_anew(root: Path, record: str) -> None:
    pack = load(root)
    path = pack.path.with_suffix(".json") if record == "index" else pack.path.parent / record
    path.write_text("[")
    assert load(root).files == pack.files


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
    # Root may write anywhere, so the answer of the system is what the test has to set.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    pack = load(root)
    assert root.parent / "fallback" in pack.path.parents
    assert not (root / ".artgan").exists()
