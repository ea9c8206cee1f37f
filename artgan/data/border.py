"""Finding the plain mount or frame around a painting, and never its empty paper.

Blank paper, mist and sky are composition: they fade into ink, or ink reaches into them in places.
A mount ends in a straight edge along its whole side. So a plain margin counts only together with
such an edge; when in doubt, the mount is kept.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from artgan.data.decode import SMALLEST_SIDE

Lines = NDArray[np.int16]  # [3, line, block] 0 to 255, the outermost line first

LONG_SIDE = 512  # pixels; larger images are reduced first
BLOCKS = 64  # means that represent a line, so that silk and JPEG noise do not matter
ROUNDS = 4  # a black frame, a white mount, a strip of brocade, and one to spare
DEEPEST = 0.45  # share of a side that one round may remove
SMALLEST_SHARE = 1 / 8  # of the area, which must remain
NOISIEST = 24  # grey levels by which a mount may differ from its colour
BLUR = 3  # lines over which an edge may spread
RINGING = 9  # lines before an edge that JPEG disturbs: a block, and the one where it begins


def find_frame(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Finds the part inside a plain border: a mount, a margin, a frame, or several nested.

    Returns left, top, right, bottom in pixels of an upright RGB image; above 512 pixels a little
    too tight rather than too wide. At least 16 pixels a side and an eighth of the area remain. None
    if there is no border, or on no side one of at least two pixels and 1 %.
    """
    factor = -(-max(image.size) // LONG_SIDE)
    small = image.reduce(factor) if factor > 1 else image
    border, inside = np.zeros(4, int), small
    for _ in range(ROUNDS):
        deeper = border + _plain_border(inside)
        inside = small.crop((*deeper[:2].tolist(), *(small.size - deeper[2:]).tolist()))
        too_small = inside.width * inside.height < SMALLEST_SHARE * small.width * small.height
        too_small |= (min(inside.size) - 2) * factor < SMALLEST_SIDE
        if too_small or (deeper == border).all():
            break
        border = deeper
    # In a reduced image, the line that contains the edge is part mount.
    border = (border + (border > 0) * (factor > 1)) * factor
    if not (border >= np.maximum(2, 0.01 * np.array(image.size * 2))).any():
        return None
    left, top, right, bottom = border.tolist()
    return left, top, image.width - right, image.height - bottom


def _plain_border(image: Image.Image) -> list[int]:
    """Pixels of plain border at left, top, right, bottom."""
    across = np.asarray(image.resize((image.width, BLOCKS), Image.Resampling.BOX))
    down = np.asarray(image.resize((BLOCKS, image.height), Image.Resampling.BOX))
    columns = np.array(across.transpose(2, 1, 0), np.int16, order="C")
    rows = np.array(down.transpose(2, 0, 1), np.int16, order="C")
    sides = [columns, rows, columns[:, ::-1], rows[:, ::-1]]
    sides = [side[:, : int(DEEPEST * side.shape[1]) + 1] for side in sides]

    plain = [_plain_lines(side) for side in sides]
    while True:
        # An edge runs only between the borders of the two neighbouring sides.
        inner = [round(BLOCKS * lines / n) for lines, n in zip(plain, image.size * 2, strict=True)]
        spans = [slice(inner[1 - i % 2], BLOCKS - inner[3 - i % 2]) for i in range(4)]
        edges = [plain[i] and _lines_before_edge(sides[i], spans[i]) for i in range(4)]
        # Plain without an edge is empty paper, along which the neighbours' edges must continue.
        kept = [edge and lines for edge, lines in zip(edges, plain, strict=True)]
        if kept == plain:
            return edges
        plain = kept


def _plain_lines(lines: Lines) -> int:
    """How many lines, from the outside, show only the colour of the first two."""
    noise = _worst(_off_color(lines[:, :2])).max()
    if noise > NOISIEST:
        return 0
    far = _worst(_off_color(lines)) > 4 + 1.5 * noise
    return int(far.argmax()) if far.any() else len(far) - 1


def _lines_before_edge(lines: Lines, span: slice) -> int:
    """How many lines are outside a straight edge along the blocks of `span`; 0 without one."""
    off = _off_color(lines)
    line = np.arange(2, len(off))
    before = np.maximum(line - BLUR, 0)
    step = np.minimum(off[line], np.abs(lines[:, line] - lines[:, before]).max(axis=0))
    noise = np.maximum.accumulate(_worst(off))[np.maximum(line - RINGING, 1)]
    # A wash that darkens steadily has no edge: a step must stand out from the slope before it.
    run, means = np.maximum(before, 1), lines.mean(axis=2)
    slope = np.abs(means[:, run] - means[:, :1]).max(axis=0) / run
    needed = 4 + 1.5 * noise + BLUR * slope
    straight = (step[:, span] > needed[:, None]).mean(axis=1) >= 0.9
    found = straight & (noise <= NOISIEST)
    return int(line[found.argmax()]) if found.any() else 0


def _off_color(lines: Lines) -> Lines:
    """How far each block is from the colour of the first two lines, in the worst channel."""
    outermost = np.sort(lines[:, :2].reshape(3, -1), axis=1)
    return np.abs(lines - outermost[:, outermost.shape[1] // 2, None, None]).max(axis=0)


def _worst(off: Lines) -> Lines:
    """The worst block of each line but for three, which may be a watermark."""
    return np.partition(off, -4, axis=1)[:, -4]
