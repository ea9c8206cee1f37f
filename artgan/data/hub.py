"""Datasets of the Hugging Face hub, written as a folder of image files like any other.

The library `datasets` downloads and reads them. It gives the bytes of each image file, as decoding
and encoding again would change the image.
"""

import difflib
import io
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import fsspec
from PIL import Image
from tqdm import tqdm

from artgan.data.decode import SUFFIXES
from artgan.errors import UserError
from artgan.files import is_full
from artgan.options import DatasetConfig

FILTERS = ("artist", "genre", "style")
# Formats whose ending is not Pillow's name for them in lower case.
ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2"}
TIMEOUT = 10  # seconds to wait for the hub
LONGEST_NAME = 60  # characters of a folder's name, which any disk accepts at 4 bytes each
SHOWN = 20  # of the names to choose from
LONGEST_REASON = 300  # characters of the library's own message


def default_root(dataset: DatasetConfig) -> Path:
    """Where the images are written unless `dataset.root` is given.

    Such as `datasets/wikiart-vincent-van-gogh` for one artist of `huggan/wikiart`. A UserError says
    that `dataset.repo` is missing.
    """
    chosen = [_plain(getattr(dataset, key) or "") for key in FILTERS]
    split = "" if dataset.split in (None, "train") else str(dataset.split)
    parts = [Path(_repo(dataset)).resolve().name, split, *chosen]
    return Path("datasets", _safe("-".join(filter(None, parts))))


def export(dataset: DatasetConfig, folder: Path) -> int:
    """Writes the chosen images of a Hugging Face dataset into a folder, and returns their number.

    Their bytes are those of the dataset, in files by class and row such as `realism/000123.jpg`.

    Raises:
        UserError: the library is missing, the dataset cannot be reached or read, it has no such
            split, column or class, or no image matches.
        OSError: the folder cannot be written.
    """
    written = missing = 0
    for name, content in _images(dataset):
        if not content:
            missing += 1
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        written += 1
    if missing:
        print(f"{dataset.repo}: {missing:,} rows without an image", file=sys.stderr)
    if not written:
        raise UserError(
            f"dataset.repo: no images of {dataset.repo} match. Check dataset.column, and give "
            f"fewer of {', '.join(f'dataset.{key}' for key in FILTERS)}."
        )
    return written


def _images(dataset: DatasetConfig) -> Iterator[tuple[str, bytes]]:
    """Yields name and bytes of each file to write; no bytes for a row without an image."""
    with _plain_errors(repo := _repo(dataset)):
        rows = _open(repo, dataset.split, dataset.streaming)
        features = rows.features
        columns = [name for name, feature in features.items() if _holds_images(feature)]
        column = _known("dataset.column", dataset.column, columns)
        label = dataset.label and _known("dataset.label", dataset.label, features)
        filters = {
            _known(f"dataset.{key}", key, features): _plain(name)
            for key in FILTERS
            if (name := getattr(dataset, key))
        }
        rows = rows.select_columns([*dict.fromkeys(filter(None, [column, label, *filters]))])
        for number, row in _chosen(rows, column, filters):
            content, ending = _file(row[column])
            folder = label and _class_name(features[label], row[label])
            yield (f"{_safe(folder)}/" if folder else "") + f"{number:06}{ending}", content


def _open(repo: str, split: str | None, streaming: bool) -> Any:
    """The rows of one split: a `Dataset`, or an `IterableDataset` if streamed."""
    try:
        import huggingface_hub

        # `import datasets` alone would also find the folder of that name in a checkout.
        from datasets import config, disable_progress_bars, load_dataset, load_from_disk, logging
    except ImportError as error:
        raise UserError(
            'dataset.source: huggingface needs one more package. pip install "artgan[huggingface]"'
            ', or in a checkout: pip install -e ".[huggingface]"'
        ) from error
    logging.set_verbosity_error()
    huggingface_hub.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()
    folder = Path(repo).absolute()
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        found = load_from_disk(str(folder))
    elif folder.is_dir():
        found = load_dataset(str(folder), streaming=streaming)
    else:
        if not config.HF_HUB_OFFLINE:
            # One short request first: the library itself would try for minutes.
            huggingface_hub.HfApi().dataset_info(repo, timeout=TIMEOUT)
        found = load_dataset(repo, streaming=streaming)
    splits = found if isinstance(found, dict) else {str(found.split or "train"): found}
    return splits[_known("dataset.split", split, splits)]


def _chosen(
    rows: Any, column: str, filters: dict[str, str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields number and content of each row with the classes of `filters`, in plain spelling."""
    from datasets import Dataset
    from datasets import Image as ImageFeature

    features = dict(rows.features)  # a plain one: the library rebuilds its own at each access
    seen: dict[str, set[str]] = {key: set() for key in filters}

    def fits(row: dict[str, Any]) -> bool:
        names = {key: _plain(_class_name(features[key], row[key])) for key in filters}
        for key, name in names.items():
            seen[key].add(name)
        return names == filters

    for key, name in filters.items():
        if names := getattr(features[key], "names", None):
            _known(f"dataset.{key}", name, map(_plain, names))
    undecoded = rows.cast_column(column, ImageFeature(decode=False))
    bar = partial(tqdm, desc="Exporting", unit="img", leave=False, disable=None)
    if isinstance(rows, Dataset):
        # Only the classes are read to choose, which is quick however large the images are.
        classes = rows.select_columns([*filters])[:]
        numbers = [n for n in range(len(rows)) if fits({key: classes[key][n] for key in filters})]
        yield from zip(numbers, bar(undecoded.select(numbers)), strict=True)
    else:
        split = (rows.info.splits or {}).get(str(rows.split))
        for number, row in enumerate(bar(undecoded, total=split and split.num_examples)):
            if fits(row):
                yield number, row
    for key, name in filters.items():
        _known(f"dataset.{key}", name, seen[key])


def _file(image: dict[str, Any] | None) -> tuple[bytes, str]:
    """The bytes of an image file, and the ending that fits them; no bytes without an image."""
    content, path = (image or {}).get("bytes"), (image or {}).get("path") or ""
    if not content and path:
        # The path or URL, of any kind, may lead nowhere.
        with suppress(Exception), fsspec.open(path, "rb") as file:
            content = file.read()
    content = content or b""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as opened:
            ending = ENDINGS.get(opened.format or "", f".{opened.format}".lower())
    except Exception:
        # Pillow raises almost anything on a damaged file; the inspection will say what is wrong.
        ending = PurePath(path).suffix.lower()
    return content if ending in SUFFIXES else b"", ending


def _holds_images(feature: Any) -> bool:
    """Whether a column may have images, or the bytes or paths of their files."""
    if isinstance(feature, dict):
        return {"bytes", "path"} <= feature.keys()
    kind = getattr(feature, "dtype", "")
    return kind.startswith("PIL.") or kind.removeprefix("large_") in ("string", "binary")


def _class_name(feature: Any, value: Any) -> str:
    """The name of a class; empty for a row without one, which may be written as -1."""
    names = getattr(feature, "names", None)
    if value is None or (names and value == -1):
        return ""
    return names[value] if names else str(value)


def _known(key: str, value: str | None, known: Iterable[str]) -> str:
    """The value of an option, if it is a known one; otherwise refused, with the nearest name."""
    names = sorted({*known} - {""})
    if value in names:
        return str(value)
    problem = "choose one of" if value is None else f"there is no '{value}' among"
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    near = difflib.get_close_matches(value or "", names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise UserError(f"{key}: {problem} {', '.join(names[:SHOWN])}{more}.{hint}")


def _plain(name: str) -> str:
    """One spelling for `Vincent van Gogh`, `vincent_van_gogh` and `vincent-van-gogh`."""
    return re.sub(r"[\s_-]+", "-", name.strip().casefold())


def _safe(name: str) -> str:
    """A folder name that every system accepts and shows."""
    replaced = re.sub(r'[\x00-\x1f/\\:*?"<>|]+', "-", name)
    replaced = replaced.removeprefix("__MACOSX")  # which is skipped like hidden folders
    return replaced.lstrip(". ")[:LONGEST_NAME].rstrip(". ") or "unnamed"


def _repo(dataset: DatasetConfig) -> str:
    if dataset.repo is None:
        raise UserError("dataset.repo: a value is needed. Add dataset.repo=NAME/NAME, or a folder.")
    return dataset.repo


@contextmanager
def _plain_errors(repo: str) -> Iterator[None]:
    """Turns whatever the library, or one below it, raises into one message."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # No list of exceptions is complete: those of the network, the hub, pyarrow, fsspec, ...
        cause: BaseException | None = error
        while cause is not None and not is_full(cause):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise UserError(
                "The disk is full where the Hugging Face library keeps its downloads. Free some "
                "space, give another folder by HF_HOME=PATH, or add dataset.streaming=true."
            ) from error
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
        raise UserError(
            f"dataset.repo: {repo} cannot be read ({reason}). It must be a folder here, or a name "
            "on the Hugging Face hub: check the name and the connection. A private or gated one "
            "needs `hf auth login`; HF_HUB_OFFLINE=1 uses earlier downloads; dataset=folder "
            "dataset.root=PATH takes any folder of images."
        ) from error
