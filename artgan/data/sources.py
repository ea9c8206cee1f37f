"""Where paintings come from: each source ends as a folder of pictures, and that as a pack."""

import sys
from pathlib import Path

from tqdm import tqdm

from artgan.config import DatasetConfig
from artgan.data import inkwash
from artgan.data.pack import Pack, load_pack
from artgan.errors import UserError

INKWASH_COUNT = 2000
SHOWN_REASONS = 5


def load_paintings(dataset: DatasetConfig, resolution: int) -> Pack:
    """Fetches or paints the dataset where it is not there yet, and packs it at `resolution`.

    Raises:
        UserError: the folder is missing or holds too few usable paintings.
    """
    root = Path(dataset.root).expanduser()
    if dataset.source == "inkwash" and not root.exists():
        with tqdm(
            total=INKWASH_COUNT, desc=f"Painting {root}", unit="img", leave=False, disable=None
        ) as bar:
            try:
                inkwash.generate(
                    root, INKWASH_COUNT, progress=lambda done: bar.update(done - bar.n)
                )
            except OSError as error:
                raise UserError(
                    f"dataset.root: the built-in paintings cannot be written to {root} "
                    f"({error.strerror or error}). Give another folder, or free some space."
                ) from error
    return load_pack(root, resolution, fallback=Path("datasets/.packs"))


def report(dataset: DatasetConfig, pack: Pack) -> None:
    """Says on the screen how many paintings there are, and which files were skipped and why.

    The whole list lies beside the pack.
    """
    root = dataset.root
    height, width = pack.paintings.shape[2:]
    print(f"{root}: {len(pack.paintings):,} paintings at {width}×{height} px", file=sys.stderr)
    if not pack.skipped:
        return
    print(
        f"{root}: {len(pack.skipped):,} files cannot be used; all of them are listed in "
        f"{pack.path.with_suffix('.json')}",
        file=sys.stderr,
    )
    for entry in pack.skipped[:SHOWN_REASONS]:
        print(f"  {entry.file}: {entry.reason}", file=sys.stderr)
