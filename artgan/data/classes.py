"""The classes of a set: the subfolders of its root."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from artgan.data.pack import Pack
from artgan.errors import UserError, printable


def count_classes(pack: Pack) -> dict[str, int]:
    """The names of the classes, sorted, and how many strips each has.

    The class of a painting is the first folder below the root on its path.

    Raises:
        UserError: there are paintings outside any subfolder, or fewer than two classes.
    """
    root = printable(str(pack.checkup.root))
    outside = sorted({file for file in pack.files if "/" not in file})
    if outside:
        raise UserError(
            f"model.conditional: {len(outside):,} paintings are in no subfolder of {root}, such as "
            f"{printable(outside[0])}. Give each class a subfolder, or leave model.conditional out."
        )
    counts = Counter(file.partition("/")[0] for file in pack.files)
    if len(counts) < 2:
        raise UserError(
            f"model.conditional: all paintings are in one subfolder of {root}, "
            f"{printable(min(counts))}. Give each of at least two classes a subfolder, or leave "
            "model.conditional out."
        )
    return dict(sorted(counts.items()))


def one_hot(files: Sequence[str], classes: Sequence[str]) -> NDArray[np.float32]:
    """The class of each file, one-hot float32 [N, K]; K is 0 for an unconditional model."""
    if not classes:
        return np.zeros((len(files), 0), np.float32)
    numbers = [classes.index(file.partition("/")[0]) for file in files]
    return np.eye(len(classes), dtype=np.float32)[numbers]
