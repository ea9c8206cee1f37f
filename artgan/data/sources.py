"""Where paintings come from: each source becomes a folder of images, and that a pack."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from artgan import inkwash
from artgan.data import hub
from artgan.data.archive import download_archives, unpack
from artgan.data.crop import MOST_TILES
from artgan.data.folder import FOLDER, load_pack, open_pack, refuse_file
from artgan.data.pack import Cut, Pack
from artgan.errors import UserError, counted, printable
from artgan.files import absolute, atomic_folder
from artgan.options import DatasetConfig

INKWASH_COUNT = 2000
# The options of each source that make it another set.
IDENTITY: dict[str, tuple[str, ...]] = {
    "folder": (),
    "inkwash": (),
    "archives": ("archives", "only"),
    "huggingface": ("repo", "split", "column", "label", *hub.FILTERS),
}
# Its other options. No option of one source applies to another.
ALSO = {"archives": ("address", "insecure"), "huggingface": ("streaming",)}
ORIGIN = "source.json"


def settle(dataset: DatasetConfig) -> None:
    """Makes the root an absolute path, and refuses options that only apply to another source.

    Raises:
        UserError: naming the option.
    """
    for source, keys in IDENTITY.items():
        for key in (*keys, *ALSO.get(source, ())):
            if source != dataset.source and getattr(dataset, key):
                raise UserError(
                    f"dataset.{key}: only applies to dataset.source={source}, not to "
                    f"{dataset.source}."
                )
    if dataset.source == "folder" and dataset.root is None:
        raise UserError("dataset.root: a value is needed. Add dataset.root=PATH")
    if dataset.source == "archives" and not (dataset.address and dataset.archives):
        raise UserError("dataset.archives: name at least one, and their URL (dataset.address).")
    if (dataset.address or "").lower().startswith("http:") and not dataset.insecure:
        raise UserError(
            f"dataset.address: {dataset.address} is not encrypted, so anyone on the way can change "
            "the files. Give it with https://, or allow it by dataset.insecure=true"
        )
    dataset.root = absolute(dataset.root or str(hub.default_root(dataset)))


def load_paintings(dataset: DatasetConfig, resolution: int) -> Pack:
    """Downloads or paints a settled dataset if it is not there yet, and packs it.

    Raises:
        UserError: the paintings are not available, or too few of them can be used.
    """
    assert dataset.root is not None
    root = Path(dataset.root)
    if dataset.source != "folder":
        _obtain(dataset, root)
    return load_pack(root, _cut(dataset, resolution))


def reload_paintings(dataset: DatasetConfig, resolution: int, key: str) -> Pack:
    """Opens the pack that another process has loaded, here or on a machine that shares the disk.

    Raises:
        UserError: it is not here.
    """
    assert dataset.root is not None
    return open_pack(Path(dataset.root), _cut(dataset, resolution), key)


def _cut(dataset: DatasetConfig, resolution: int) -> Cut:
    return Cut(resolution, dataset.crop, dataset.border, dataset.deduplicate)


def _obtain(dataset: DatasetConfig, root: Path) -> None:
    """Makes the folder of a named set, unless it is there; that of another set is refused."""
    wanted = {key: getattr(dataset, key) for key in ("source", *IDENTITY[dataset.source])}
    try:
        refuse_file(root, "dataset.root")
        is_filled = root.is_dir() and any(root.iterdir())
    except OSError as error:
        raise UserError(f"dataset.root: {root} cannot be read ({error.strerror}).") from error
    if is_filled:
        origin = wanted  # of a folder filled by hand, which is used as it is
        with suppress(OSError, TypeError, ValueError):
            origin = dict(json.loads((root / FOLDER / ORIGIN).read_bytes()))
        for key, value in wanted.items():
            if origin.get(key) != value:
                raise UserError(
                    f"{root}: holds paintings of another set ({key} {origin.get(key)}, not "
                    f"{value}). Give another folder by dataset.root=PATH, or remove this one."
                )
        return
    with atomic_folder(root) as folder:
        if folder is None:
            return
        if dataset.terms:
            print(f"{root.name}: {dataset.terms}", file=sys.stderr)
        origin = wanted | _fill(dataset, folder, root)
        (folder / FOLDER).mkdir()
        (folder / FOLDER / ORIGIN).write_text(json.dumps(origin, indent=1), "utf-8")


def _fill(dataset: DatasetConfig, folder: Path, root: Path) -> dict[str, Any]:
    """Writes the images of a named set into `folder`, and returns what else to record."""
    if dataset.source == "huggingface":
        return {"pictures": hub.export(dataset, folder)}
    if dataset.source == "archives":
        assert dataset.address is not None
        downloads = root.parent / "downloads" / root.name
        checksums = download_archives(
            dataset.address, dataset.archives, downloads, dataset.largest, dataset.insecure
        )
        unpack(list(checksums), folder, dataset.only)
        sums = {file.name: checksum for file, checksum in checksums.items()}
        return {"address": dataset.address, "sums": sums}
    with tqdm(
        total=INKWASH_COUNT, desc=f"Painting {root}", unit="img", leave=False, disable=None
    ) as bar:
        inkwash.generate(folder, INKWASH_COUNT, progress=lambda done: bar.update(done - bar.n))
    return {}


def announce(pack: Pack, crop: str, held_out: Pack, classes: dict[str, int]) -> None:
    """Prints what is in the folder, and what is made of it.

    Args:
        pack: the paintings to train on.
        crop: how they were cut.
        held_out: those that are not trained on.
        classes: names of the classes, and how many squares each has; empty without classes.
    """
    checkup = pack.checkup
    seen = checkup.unusable or checkup.duplicates
    more = f" More in {printable(str(pack.report))}" if seen else ""
    print(checkup.summary() + more, file=sys.stderr)
    side = f"{pack.resolution}×{pack.resolution} px"
    paintings = counted(len(set(pack.files)), "painting")
    rest = f"; {len(set(held_out.files)):,} are held out" if len(held_out) else ""
    if crop == "tiles":
        squares = (
            f"{counted(len(pack), 'square')} of {side}, at most {MOST_TILES} from one painting"
        )
        print(f"Training on {squares}: {paintings}{rest}", file=sys.stderr)
    else:
        print(f"Training on {paintings} at {side}{rest}", file=sys.stderr)
    if classes:
        each = (f"{printable(name)} ({number:,})" for name, number in classes.items())
        print(f"{len(classes)} classes: {', '.join(each)}", file=sys.stderr)
