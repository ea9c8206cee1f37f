"""Datasets that the library itself wrote are exported, or refused with one message."""

import io
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from artgan.data import hub
from artgan.data.decode import find_images
from artgan.errors import UserError
from artgan.options import DatasetConfig

ARTISTS = ["claude-monet", "vincent-van-gogh", "hokusai"]
STYLES = ["Realism", "Op/Art"]
GENRES = ["portrait", "still life", "portrait", "still life", None, "portrait"]
# Artist, style, format; the third work has no image, the fourth no style.
WORKS = [
    (0, 0, "JPEG"),
    (1, 1, "PNG"),
    (1, 0, None),
    (0, -1, "WEBP"),
    (1, 1, "JPEG"),
    (0, 0, "GIF"),
]


def encoded(number: int, format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (number * 20, 0, 0)).save(buffer, format)
    return buffer.getvalue()


IMAGES = [format and encoded(number, format) for number, (*_, format) in enumerate(WORKS)]


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, with its cache in the test's own folder."""
    # For `datasets` alone, the folder of that name in a checkout would do.
    pytest.importorskip("datasets.load", reason="needs artgan[huggingface]")
    library = sys.modules["datasets"]
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    library.disable_progress_bars()
    return library


@pytest.fixture
def works(datasets: Any) -> Any:
    """Six works as a `Dataset`."""
    features = datasets.Features(
        image=datasets.Image(),
        artist=datasets.ClassLabel(names=ARTISTS),
        style=datasets.ClassLabel(names=STYLES),
        genre=datasets.Value("string"),
    )
    columns = {
        "image": [content and {"bytes": content, "path": None} for content in IMAGES],
        "artist": [artist for artist, _, _ in WORKS],
        "style": [style for _, style, _ in WORKS],
        "genre": GENRES,
    }
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture
def parquet(works: Any, tmp_path: Path) -> Path:
    """A folder of parquet files, as on the hub: splits train and test."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    works.to_parquet(folder / "train-00000-of-00001.parquet")
    works.select([5]).to_parquet(folder / "test-00000-of-00001.parquet")
    return folder


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., dict[str, bytes]]:
    """Exports, and returns the image files, name → content."""

    def export(**keys: Any) -> dict[str, bytes]:
        root = tmp_path / "pictures"
        root.mkdir()
        count = hub.export(wanted(**keys), root)
        files = [path for path in root.rglob("*") if path.is_file()]
        assert len(find_images(root)[0]) == len(files) == count
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}

    return export


def wanted(**keys: Any) -> DatasetConfig:
    common = {"source": "huggingface", "split": "train", "column": "image", "streaming": False}
    nothing = dict.fromkeys(["repo", "label", "artist", "genre", "style"])
    return DatasetConfig(**{**common, **nothing, **keys})


def some(*names: str) -> dict[str, bytes]:
    """The works of these names, as they should be exported."""
    return {name: IMAGES[int(Path(name).stem)] or b"" for name in names}


@pytest.mark.parametrize("form", ["dataset", "dataset dict", "parquet", "parquet streamed"])
def test_the_bytes_of_the_dataset_are_written_by_class_and_row(
    form: str, datasets: Any, works: Any, parquet: Path, tmp_path: Path, export: Any
) -> None:
    saved = tmp_path / "saved"
    if form == "dataset":
        works.save_to_disk(saved)
    elif form == "dataset dict":
        datasets.DatasetDict(test=works.select([5]), train=works).save_to_disk(saved)
    repo = saved if saved.exists() else parquet

    files = export(repo=str(repo), label="style", streaming=form.endswith("streamed"))

    assert files == some(
        "000003.webp",
        "Op-Art/000001.png",
        "Op-Art/000004.jpg",
        "Realism/000000.jpg",
        "Realism/000005.gif",
    )


def test_another_split_is_taken_by_its_name(parquet: Path, export: Any) -> None:
    assert export(repo=str(parquet), split="test") == {"000000.gif": IMAGES[5]}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_images_is_read_from_its_files(
    streaming: bool, datasets: Any, tmp_path: Path, export: Any
) -> None:
    for name in ("river/one.png", "lake/two.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        (tmp_path / "images" / name).write_bytes(encoded(len(name), "PNG"))
    files = export(repo=str(tmp_path / "images"), label="label", streaming=streaming)
    assert sorted(Path(name).parent.name for name in files) == ["lake", "river"]
    assert files[next(name for name in files if "lake" in name)] == encoded(12, "PNG")


@pytest.mark.parametrize("column", ["bytes", "path", "both"])
@pytest.mark.parametrize("streaming", [False, True])
def test_plain_columns_of_bytes_or_paths_hold_images_too(
    column: str, streaming: bool, datasets: Any, tmp_path: Path, export: Any
) -> None:
    content, file = encoded(1, "PNG"), tmp_path / "picture"
    file.write_bytes(content)
    both = {"bytes": content, "path": None}
    rows = {"bytes": [content, None], "path": [str(file), f"{file}-is-missing"]}
    repo = tmp_path / "repo"
    repo.mkdir()
    table = datasets.Dataset.from_dict({**rows, "both": [both, None]})
    table.to_parquet(repo / "train.parquet")
    assert export(repo=str(repo), column=column, streaming=streaming) == {"000000.png": content}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"artist": "vincent-van-gogh"}, ["000001.png", "000004.jpg"]),
        ({"artist": "Vincent van Gogh"}, ["000001.png", "000004.jpg"]),
        ({"artist": "vincent_van_gogh"}, ["000001.png", "000004.jpg"]),
        ({"style": "op/art", "artist": "vincent-van-gogh"}, ["000001.png", "000004.jpg"]),
        ({"genre": "Still_Life"}, ["000001.png", "000003.webp"]),
        ({"genre": "portrait", "style": "realism"}, ["000000.jpg", "000005.gif"]),
    ],
)
def test_only_works_of_the_chosen_classes_are_written_under_their_row_numbers(
    filters: dict[str, str], names: list[str], streaming: bool, parquet: Path, export: Any
) -> None:
    assert export(repo=str(parquet), streaming=streaming, **filters) == some(*names)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"split": "trian"}, "dataset.split: there is no 'trian' among test, train."
                             " Did you mean 'train'?"),
        ({"split": None}, "dataset.split: choose one of test, train."),
        ({"column": "img"}, "dataset.column: there is no 'img' among genre, image."
                            " Did you mean 'image'?"),
        ({"column": "style"}, "dataset.column: there is no 'style' among genre, image."),
        ({"column": None}, "dataset.column: choose one of genre, image."),
        ({"label": "styles"}, "dataset.label: there is no 'styles' among artist, genre, image,"
                              " style. Did you mean 'style'?"),
        ({"artist": "Vincent van Go"}, "dataset.artist: there is no 'vincent-van-go' among"
         " claude-monet, hokusai, vincent-van-gogh. Did you mean 'vincent-van-gogh'?"),
        ({"artist": "monet"}, "Did you mean 'claude-monet'?"),
        ({"genre": "still"}, "dataset.genre: there is no 'still' among portrait, still-life."
                             " Did you mean 'still-life'?"),
        ({"artist": "hokusai"}, "dataset.artist: there is no 'hokusai' among claude-monet,"
                                " vincent-van-gogh."),
        ({"artist": "claude-monet", "style": "op/art"}, "fewer of dataset.artist,"),
        ({"column": "genre"}, "Check dataset.column"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_refused_with_the_nearest_one(
    keys: dict[str, Any], message: str, streaming: bool, parquet: Path, export: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        export(repo=str(parquet), streaming=streaming, **keys)
    assert message in str(error.value)
    assert list((tmp_path / "pictures").iterdir()) == []


def test_a_column_to_filter_by_must_be_there(
    datasets: Any, works: Any, tmp_path: Path, export: Any
) -> None:
    works.remove_columns("artist").save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match="there is no 'artist' among genre, image, style"):
        export(repo=str(tmp_path / "saved"), artist="hokusai")


def test_of_many_names_only_the_first_are_listed(
    datasets: Any, works: Any, tmp_path: Path, export: Any
) -> None:
    names = [f"artist {number:03}" for number in range(129)]
    many = works.cast_column("artist", datasets.ClassLabel(names=names))
    many.save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError) as error:
        export(repo=str(tmp_path / "saved"), artist="artist-1000")
    assert "artist-019 and 109 more. Did you mean 'artist-100'?" in str(error.value)


def test_the_ending_fits_the_content_and_what_cannot_be_opened_is_left_as_it_is(
    datasets: Any, tmp_path: Path, export: Any
) -> None:
    pictures = [(encoded(1, "JPEG"), "a.png"), (b"torn", "b.JPG"), (b"text", "c.txt"), (b"", None)]
    rows = {"image": [{"bytes": content, "path": path} for content, path in pictures]}
    features = datasets.Features(image=datasets.Image())
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    files = export(repo=str(tmp_path / "saved"))
    assert files == {"000000.jpg": encoded(1, "JPEG"), "000001.jpg": b"torn"}


def test_any_class_becomes_a_folder_inside_the_root_that_is_not_hidden(
    datasets: Any, tmp_path: Path, export: Any
) -> None:
    classes = ["../../up", ".hidden", "..", "/", "风" * 300, "a\x00b\n", "C:\\x", "ends.", None]
    rows = {"image": [{"bytes": encoded(1, "PNG"), "path": None}] * 9, "class": classes}
    features = datasets.Features(image=datasets.Image())
    features["class"] = datasets.Value("string")
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    folders = [
        Path(name).parent.name for name in export(repo=str(tmp_path / "saved"), label="class")
    ]
    assert sorted(folders) == sorted(
        ["-..-up", "hidden", "unnamed", "-", "风" * 60, "a-b-", "C-x", "ends", ""]
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_without_an_image_are_counted(
    streaming: bool, parquet: Path, export: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    export(repo=str(parquet), streaming=streaming)
    assert capsys.readouterr().err == f"{parquet}: 1 rows without an image\n"


def test_a_full_disk_of_the_library_is_one_message_that_names_hf_home(
    parquet: Path, export: Any, small_disk: Callable[[str], Path], datasets: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(small_disk("4k")))
    with pytest.raises(UserError, match=r"The disk is full.*HF_HOME=PATH"):
        export(repo=str(parquet))


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_out_of_reach_is_one_message(
    offline: bool, datasets: Any, export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing listens at port 9: the same answer with a network and without.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    with pytest.raises(UserError) as error:
        export(repo="huggan/wikiart")
    assert str(error.value).startswith("dataset.repo: huggan/wikiart cannot be read (Connect")
    assert "HF_HUB_OFFLINE=1" in str(error.value)
    assert "dataset=folder dataset.root=PATH" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("code", "reason"),
    [("RepoNotFound", "RepositoryNotFoundError"), ("GatedRepo", "GatedRepoError")],
)
def test_a_dataset_that_the_hub_refuses_is_refused_with_its_reason(
    code: str, reason: str, datasets: Any, export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.send_header("X-Error-Code", code)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        with pytest.raises(UserError) as error:
            export(repo="some/works")
        server.shutdown()
    assert str(error.value).startswith(f"dataset.repo: some/works cannot be read ({reason}: 403")
    assert "hf auth login" in str(error.value)


def test_a_path_to_nothing_is_refused(datasets: Any, export: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere cannot be read .* must be a folder here"):
        export(repo=str(tmp_path / "nowhere"))


def test_code_that_comes_with_a_dataset_is_never_run(
    datasets: Any, export: Any, tmp_path: Path
) -> None:
    (tmp_path / "works").mkdir()
    code = f"open({str(tmp_path / 'was-run')!r}, 'w')"
    (tmp_path / "works/works.py").write_text(code, encoding="utf-8")
    with pytest.raises(UserError, match="scripts are no longer supported"):
        export(repo=str(tmp_path / "works"))
    assert not (tmp_path / "was-run").exists()


# In a checkout the folder datasets/ passes for a module of that name, without content.
@pytest.mark.parametrize("module", [None, ModuleType("datasets")], ids=["none", "folder"])
def test_without_the_library_the_message_names_the_command_to_install_it(
    module: ModuleType | None, export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", module)
    with pytest.raises(UserError) as error:
        export(repo="huggan/wikiart")
    assert 'pip install "artgan[huggingface]"' in str(error.value)
    assert 'pip install -e ".[huggingface]"' in str(error.value)


@pytest.mark.parametrize(
    ("keys", "root"),
    [
        ({"repo": "huggan/wikiart"}, "datasets/wikiart"),
        ({"repo": "huggan/wikiart", "split": "test"}, "datasets/wikiart-test"),
        ({"repo": "huggan/wikiart", "split": None}, "datasets/wikiart"),
        (
            {"repo": "huggan/wikiart", "style": "Art_Nouveau", "artist": "Alphonse Mucha"},
            "datasets/wikiart-alphonse-mucha-art-nouveau",
        ),
        ({"repo": "/some/where/Scrolls/", "genre": "a/b"}, "datasets/Scrolls-a-b"),
        ({"repo": "x/.hidden", "genre": "g" * 300}, "datasets/hidden-" + "g" * 53),
    ],
)
def test_the_folder_is_named_after_what_is_chosen(keys: dict[str, Any], root: str) -> None:
    assert hub.default_root(wanted(**keys)) == Path(root)


def test_a_dataset_must_be_named() -> None:
    with pytest.raises(UserError, match=r"dataset\.repo: a value is needed"):
        hub.default_root(wanted())
