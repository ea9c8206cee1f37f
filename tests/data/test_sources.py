"""Named sets, from a URL to a folder, or a message if they are not available."""

import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from artgan.config import CONFIGS
from artgan.data.sources import load_paintings, settle
from artgan.errors import UserError
from artgan.options import DatasetConfig, TrainConfig
from tests.helpers import ON_CPU, SMALL, script, serving, succeed

Configure = Callable[..., TrainConfig]


def git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def web(paintings: Path, tmp_path: Path) -> Iterator[str]:
    """A server with a zip like that of the article, with the copies that a Mac adds."""
    folder = tmp_path / "web"
    folder.mkdir()
    with ZipFile(folder / "data.zip", "w") as archive:
        archive.writestr("data/.DS_Store", b"rubbish")
        for file in sorted(paintings.rglob("*.jpg")):
            archive.write(file, f"data/{file.name}")
            archive.writestr(f"__MACOSX/data/._{file.name}", b"rubbish")
    with serving(folder) as address:
        yield address


@pytest.fixture
def named(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., DatasetConfig]:
    """The configuration of a named set, for a user in `tmp_path`."""
    monkeypatch.chdir(tmp_path)

    def named(name: str, **keys: object) -> DatasetConfig:
        config = configure(dataset=name, dataset__root=f"datasets/{name}").dataset
        for key, value in ({"insecure": True} | keys).items():
            setattr(config, key, value)
        settle(config)
        return config

    return named


def test_a_named_set_is_downloaded_verified_unpacked_and_packed(
    web: str, named: Callable[..., DatasetConfig], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    content = (tmp_path / "web" / "data.zip").read_bytes()
    archives = [f"{git_blob(content)} data.zip"]
    pack = load_paintings(named("chinese_art", address=web, archives=archives), 32)
    assert len(pack) == 40
    root = tmp_path / "datasets" / "chinese_art"
    assert sorted(path.name for path in root.iterdir() if path.is_file()) == pack.files
    assert json.loads((root / ".artgan" / "source.json").read_text()) == {
        "source": "archives",
        "address": web,
        "archives": archives,
        "only": [],
        "sums": {"data.zip": f"git-blob-sha1:{git_blob(content)}"},
    }
    assert "for personal and academic use only" in capsys.readouterr().err


def test_another_archive_than_the_published_one_is_refused(
    web: str, named: Callable[..., DatasetConfig], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="5add8eb438b40d96f95c3dcbaeefa9fe39d9dfcc"):
        load_paintings(named("chinese_art", address=web), 32)
    assert not (tmp_path / "datasets" / "chinese_art").exists()


def test_without_a_network_the_message_names_url_file_and_alternative(
    named: Callable[..., DatasetConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artgan.download.ATTEMPTS", 1)
    with pytest.raises(UserError) as error:
        load_paintings(named("chinese_art", address="http://127.0.0.1:1/x"), 32)
    message = str(error.value)
    assert "http://127.0.0.1:1/x/data.zip" in message
    assert f"{tmp_path / 'datasets' / 'downloads' / 'chinese_art' / 'data.zip'}" in message
    assert "dataset.root=PATH" in message


def test_an_archive_put_there_by_hand_is_used(
    web: str, named: Callable[..., DatasetConfig], tmp_path: Path
) -> None:
    downloads = tmp_path / "datasets" / "downloads" / "chinese_art"
    downloads.mkdir(parents=True)
    content = (tmp_path / "web" / "data.zip").read_bytes()
    (downloads / "data.zip").write_bytes(content)
    archives = [f"{git_blob(content)} data.zip"]
    dataset = named("chinese_art", address="http://127.0.0.1:1", archives=archives)
    assert len(load_paintings(dataset, 32)) == 40


@pytest.mark.parametrize("source", ["folder", "inkwash"])
def test_a_file_in_place_of_a_folder_says_what_to_do(source: Any, tmp_path: Path) -> None:
    def refusal(file: Path) -> str:
        with pytest.raises(UserError) as error:
            load_paintings(DatasetConfig(source=source, root=str(file)), 32)
        return str(error.value)

    archive, image, other = (tmp_path / name for name in ("my set.zip", "a.jpg", "a.txt"))
    with ZipFile(archive, "w") as file:
        file.writestr("a/b.jpg", "x")
    image.touch()
    other.touch()
    command, last = refusal(archive).splitlines()
    assert command.startswith(f"dataset.root: {archive} is a zip archive. Unpack it by: python -m ")
    _, *words = shlex.split(command.partition(" by: ")[2])
    subprocess.run([sys.executable, *words], check=True)
    assert Path(shlex.split(last)[2], "a", "b.jpg").read_text() == "x"
    assert refusal(image) == (
        f"dataset.root: {image} is one image. Give the folder of your paintings, such as {tmp_path}"
    )
    assert f"{other} is a file, not a folder" in refusal(other)


def test_a_folder_without_images_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "a.zip").touch()
    with pytest.raises(UserError, match=r"no images .*, but 1 \.zip\. .*does not unpack archives"):
        load_paintings(DatasetConfig(source="folder", root=str(tmp_path)), 32)


def test_a_folder_of_another_set_is_refused(
    web: str, named: Callable[..., DatasetConfig], tmp_path: Path
) -> None:
    load_paintings(named("chinese_art", address=web, archives=["data.zip"]), 32)
    with pytest.raises(UserError, match="holds paintings of another set"):
        load_paintings(named("monet", root="datasets/chinese_art"), 32)


def test_a_set_from_a_mirror_is_the_same_set(
    web: str, named: Callable[..., DatasetConfig], tmp_path: Path
) -> None:
    first = load_paintings(named("monet", address=web, archives=["data.zip"], only=[]), 32)
    elsewhere = named("monet", address="http://127.0.0.1:1", archives=["data.zip"], only=[])
    assert load_paintings(elsewhere, 32).key == first.key


def test_a_set_without_archives_is_refused(named: Callable[..., DatasetConfig]) -> None:
    with pytest.raises(UserError, match=r"dataset\.archives: name at least one"):
        named("chinese_art", archives=[])


def test_a_folder_that_was_filled_by_hand_is_used_as_it_is(
    named: Callable[..., DatasetConfig], paintings: Path, tmp_path: Path
) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "chinese_art").symlink_to(paintings)
    assert len(load_paintings(named("chinese_art"), 32)) == 40


def test_of_sets_with_photos_only_the_paintings_are_used(
    named: Callable[..., DatasetConfig], paintings: Path, tmp_path: Path
) -> None:
    (tmp_path / "web").mkdir()
    with ZipFile(tmp_path / "web" / "monet2photo.zip", "w") as archive:
        for number, file in enumerate(sorted(paintings.rglob("*.jpg"))):
            folder = ("trainA", "testA", "trainB", "testB")[number % 4]
            archive.write(file, f"monet2photo/{folder}/{file.name}")
    with serving(tmp_path / "web") as address:
        pack = load_paintings(named("monet", address=address), 32)
    assert len(pack) == 20
    assert {Path(file).parent.name for file in pack.files} == {"trainA", "testA"}
    origin = json.loads((tmp_path / "datasets/monet/.artgan/source.json").read_text())
    content = (tmp_path / "web" / "monet2photo.zip").read_bytes()
    assert origin["sums"] == {"monet2photo.zip": f"sha256:{hashlib.sha256(content).hexdigest()}"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("artist", "hokusai"), ("address", "http://x"), ("repo", "a/b"), ("streaming", True)],
)
def test_options_of_another_source_are_refused(configure: Configure, key: str, value: str) -> None:
    config = configure(**{f"dataset__{key}": value}).dataset
    with pytest.raises(UserError, match=f"dataset.{key}: only applies to .*, not to folder"):
        settle(config)


@pytest.mark.parametrize(
    "path", sorted((CONFIGS / "dataset").glob("[!_]*.yaml")), ids=lambda p: p.stem
)
def test_every_named_set_can_be_configured(configure: Configure, path: Path) -> None:
    needed = {"huggingface": {"dataset__repo": "a/b"}}.get(path.stem, {})
    config = configure(dataset=path.stem, dataset__root=None, **needed).dataset
    if config.source != "huggingface":
        config.root = "x"
    settle(config)
    assert config.root is not None
    assert Path(config.root).is_absolute()


@pytest.mark.parametrize("address", ["http://example.org/sets", "HTTP://example.org"])
def test_an_address_without_encryption_is_refused_unless_allowed(
    configure: Configure, address: str
) -> None:
    config = configure(dataset="chinese_art", dataset__root="x", dataset__address=address).dataset
    with pytest.raises(UserError, match=r"dataset.address: .* not encrypted.*dataset\.insecure=tr"):
        settle(config)
    config.insecure = True
    settle(config)


@pytest.mark.slow
def test_the_article_s_command_works_from_the_first_byte_to_the_samples(
    web: str, tmp_path: Path
) -> None:
    content = (tmp_path / "web" / "data.zip").read_bytes()
    arguments = [f"{key}={value}" for key, value in {**SMALL, **ON_CPU}.items()]
    arguments += [f"dataset.address={web}", "dataset.insecure=true"]
    arguments += [f"dataset.archives=['{git_blob(content)} data.zip']"]
    _, messages = succeed(
        "train.py", "dataset=chinese_art", *arguments, "epochs=2", "name=art", cwd=tmp_path
    )
    assert "Training on 40 paintings at 32×32 px" in messages
    assert (tmp_path / "checkpoints" / "art" / "last.ckpt").is_file()
    succeed("sample.py", "ckpt=checkpoints/art", "num=4", cwd=tmp_path)


def test_a_set_that_cannot_be_downloaded_leaves_no_run(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    with serving(tmp_path / "web") as address:
        where = [f"dataset.address={address}", "dataset.insecure=true"]
        done = script("train.py", "dataset=chinese_art", *where, cwd=tmp_path)
    assert done.returncode == 1
    assert "data.zip: cannot be downloaded (the server answers 404 Not Found)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "checkpoints").exists()
