"""The sheet of paper, the brush that sets ink on it, and the light that shows the painting."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from artgan.inkwash.noise import SIZE, TILE, Array, Dice, lines, middles, smooth, texture

INK, COOL, WARM = range(3)  #: the pigments: black ink, a mineral blue or green, cinnabar

#: RGB of each pigment at full strength, several to choose from
PALETTES: Final = {
    INK: ((26, 27, 33), (34, 29, 26), (22, 24, 26)),
    COOL: ((45, 115, 120), (52, 98, 138), (70, 122, 92)),
    WARM: ((196, 62, 42), (186, 48, 48), (204, 72, 58)),
}
NEW_PAPER: Final = (247, 243, 234)
OLD_PAPER: Final = (236, 224, 198)

MOODS: Final = ("ink",) * 13 + ("mineral",) * 3 + ("autumn",) * 2 + ("dawn",) * 2
AXIS: Final = middles(SIZE)  #: the middle of each column, or row
REACH: Final = 10  #: pixels from its middle that a dab may cover
MARGIN: Final = 24  #: pixels beyond the sheet that a dab may touch

Numbers = Array | float
Pair = tuple[Numbers, Numbers]


class Sheet(Dice):
    """A sheet of paper being painted on, and the dice and the plan of its painting.

    Attributes:
        pigment: [3, 256, 256] float32 in [0, 1], density of INK, COOL and WARM.
        grain: [256, 256] float32 in [0, 1), tooth of the paper, which breaks edges and dry strokes.
        side: -1 or 1, the side (left, right) that has the weight of the composition.
        light: -1 or 1, the flank of the mountains that is in shade.
        mood: what colour, if any, is added to the ink.
    """

    def __init__(self, seed: int, index: int) -> None:
        super().__init__(seed, index)
        self.pigment = np.zeros((3, SIZE, SIZE), np.float32)
        self.grain = self.patch("grain")
        self.side = 1.0 if self.chance(0.5) else -1.0
        self.light = 1.0 if self.chance(0.5) else -1.0
        self.mood = self.pick(MOODS)

    def across(self, low: float, high: float) -> float:
        """A column: 0 is the middle, 1 the edge on the weighty side, -1 the other edge."""
        return SIZE / 2 * (1 + self.side * self.between(low, high))

    def wander(self, *cells: int) -> Array:
        """A random line, [256] float32 around 0, of one octave for each number of knots."""
        total = np.zeros(SIZE, np.float32)
        for n in cells:
            row, start = self.whole(0, 64), self.whole(0, TILE - SIZE)
            total = total + lines(n)[row, start : start + SIZE] * (cells[0] / n)
        return total

    def patch(self, name: str, rows: int = SIZE, columns: int = SIZE) -> Array:
        """A random piece of a texture, [rows, columns] float32 in [0, 1)."""
        top, left = self.whole(0, TILE - rows), self.whole(0, TILE - columns)
        return texture(name)[top : top + rows, left : left + columns]

    def lay(self, pigment: int, amount: Array, top: int = 0, left: int = 0) -> None:
        """Glaze a pigment over what is there; `amount` in [0, 1]."""
        rows, columns = amount.shape
        under = self.pigment[pigment, top : top + rows, left : left + columns]
        under += amount - under * amount

    def cover(self, amount: Array, top: int = 0, left: int = 0) -> None:
        """Give the paper back its white, like land or mist in front of other things."""
        rows, columns = amount.shape
        self.pigment[:, top : top + rows, left : left + columns] *= 1 - amount


def stroke(
    start: Pair, end: Pair, bend: Numbers, radius: Pair, ink: Numbers, steps: int = 8
) -> Array:
    """Bowed strokes as rows of dabs, [steps * n, 4] float32.

    Args:
        start, end: x and y in pixels; as bend and ink, each [n] or one number for all strokes.
        bend: height of the bow, in lengths of the stroke; above 0 it bows clockwise.
        radius: pixels at the start and at the end.
        ink: in [0, 1].
        steps: dabs to a stroke.
    """
    x0, y0, x1, y1 = (np.array(v, np.float32, ndmin=1) for v in (*start, *end))
    t = (middles(steps) / steps)[:, None]
    dx, dy = x1 - x0, y1 - y0
    bow = 4 * t * (1 - t) * bend
    x = x0 + dx * t - dy * bow
    y = y0 + dy * t + dx * bow
    return dots(x, y, radius[0] + (radius[1] - radius[0]) * t, ink)


def dots(x: Array, y: Array, radius: Numbers, ink: Numbers) -> Array:
    """Single dabs, [n, 4] float32 of x, y, radius in pixels, ink in [0, 1]."""
    dabs = np.empty((*x.shape, 4), np.float32)
    for column, values in enumerate((x, y, radius, ink)):
        dabs[..., column] = values
    return dabs.reshape(-1, 4)


def dab(sheet: Sheet, *dabs: Array, pigment: int = INK, dry: float = 0.0) -> None:
    """Set dabs on the sheet; where they overlap the darker one shows, as in a single wet stroke.

    Args:
        dabs: each [n, 4]: x, y, radius in pixels, ink in [0, 1].
        dry: 0 a full brush; above, the share of the paper's tooth that a dry one skips.
    """
    x, y, radius, ink = np.concatenate(dabs).T
    if not len(x):
        return
    # The layer is wider than the sheet, for dabs over its edge.
    x = np.clip(x, -MARGIN / 2, SIZE + MARGIN / 2) + MARGIN
    y = np.clip(y, -MARGIN / 2, SIZE + MARGIN / 2) + MARGIN
    layer = np.zeros((SIZE + 2 * MARGIN, SIZE + 2 * MARGIN), np.float32)
    reach = np.clip(np.floor(radius + 1.5), 1, REACH)
    for n in range(1, int(reach.max()) + 1):
        which = np.flatnonzero(reach == n)[:, None, None]
        offset = np.arange(-n, n + 1)
        column = x[which].astype(np.int64) + offset
        row = y[which].astype(np.int64) + offset[:, None]
        dx, dy = column + 0.5 - x[which], row + 0.5 - y[which]
        amount = np.clip(radius[which] + 0.5 - np.sqrt(dx * dx + dy * dy), 0, 1) * ink[which]
        place = (row * len(layer) + column).ravel()  # maximum.at is far faster along one axis
        np.maximum.at(layer.reshape(-1), place, amount.astype(np.float32).ravel())
    # Only the rows that were touched are laid down.
    top = max(int(y.min()) - REACH - MARGIN, 0)
    bottom = max(int(y.max()) + REACH + 1 - MARGIN, 0)
    film = np.minimum(layer[MARGIN:-MARGIN, MARGIN:-MARGIN][top:bottom], 0.98)
    if dry:
        film = film * smooth(dry - 0.3, dry, sheet.grain[top:bottom])
    sheet.lay(pigment, film, top)


def mount(sheet: Sheet) -> NDArray[np.uint8]:
    """Send light through the pigments onto warm paper: [256, 256, 3] uint8 RGB."""
    square = (AXIS / (SIZE / 2) - 1) * (AXIS / (SIZE / 2) - 1)
    edge = square * square + (square * square)[:, None]
    silk = np.floor((sheet.patch("silk") - 0.5) * 6)
    stain = sheet.patch("cloud")
    age = sheet.between(0, 1)
    colours = [sheet.pick(PALETTES[pigment]) for pigment in (INK, COOL, WARM)]
    films = np.minimum(sheet.pigment * (1 + 0.24 * (sheet.grain - 0.5)), 1)
    image = np.empty((SIZE, SIZE, 3), np.uint8)
    for channel, (new, old) in enumerate(zip(NEW_PAPER, OLD_PAPER, strict=True)):
        # Age, worn edges and stains take more of the blue than of the red.
        light = new + (old - new) * age - edge * (6 + 3 * channel) - stain * (1 + 2 * channel)
        for film, colour in zip(films, colours, strict=True):
            light = light * (1 - film * (1 - colour[channel] / 255))
        image[..., channel] = np.clip(np.floor(light) + silk, 0, 255)
    return image
