"""Chinese ink-wash landscapes, painted procedurally: the data set that is always at hand.

A picture is laid down as a painter would: sky, far ranges, nearer mountains with mist at their
feet, water, trees, a boat, the seal. A `Sheet` holds how much of three pigments lies at each point;
only at the end is light sent through them onto the paper (`mount`).

The pixels of `paint(seed, index)` are the same on every machine, so a checkpoint or a benchmark may
name this set by its seed alone. IEEE 754 rounds + - * / and sqrt exactly, and numpy applies them
one at a time; it makes no such promise for sin, exp, pow or a matrix product, whose last bits
change with the processor's vector units, nor for a sum, whose order may. So curves here are
polynomials, directions are unit vectors, randomness is uniform PCG64 bits, and Pillow, which fills
polygons in floating point, only writes the file. A test holds us to this.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE: Final = 256  #: pixels along either side of a picture
INK, COOL, WARM = range(3)  #: the pigments: black ink, a mineral blue or green, cinnabar

TILE: Final = 512  #: side of the periodic textures
UNIT: Final = 1 / (1 << 53)  #: turns 53 random bits into a number in [0, 1)
MARGIN: Final = 24  #: pixels beyond the sheet that a stroke may reach into

T = TypeVar("T")
Array = NDArray[np.floating[Any]]
Numbers = Array | float
Kind = Literal["hill", "karst", "crag"]
KINDS: Final[tuple[Kind, ...]] = ("hill", "karst", "crag")
MOODS: Final = ("ink",) * 13 + ("mineral",) * 3 + ("autumn",) * 2 + ("dawn",) * 2
AXIS: Final = np.arange(SIZE, dtype=np.float32) + np.float32(0.5)


def paint(seed: int, index: int) -> NDArray[np.uint8]:
    """Paint one landscape.

    Args:
        seed: names the set, ≥ 0.
        index: the picture's number in the set, ≥ 0.

    Returns:
        [256, 256, 3] uint8 RGB, the same bits on every machine.
    """
    sheet = Sheet(seed, index)
    sky(sheet)
    sheet.pick(SCENES)(sheet)
    if sheet.chance(0.45):
        birds(sheet, sheet.across(-0.6, 0.1), sheet.between(40, 90))
    seal(sheet)
    return mount(sheet)


def generate(
    folder: Path,
    count: int = 2000,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Paint a whole set into `folder`, as `inkwash-00000.png` and so on, on all cores.

    The folder appears complete or not at all. Should another process finish the same folder
    first, its pictures stay: they are the same.

    Args:
        folder: where the set will lie; its parents are made.
        count: number of pictures.
        seed: names the set.
        progress: called with the number of pictures done, as they are finished.

    Raises:
        FileExistsError: `folder` is already there.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} already exists; remove it to paint the set again")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}-", suffix=".partial", dir=folder.parent
    ) as scratch:
        painted = Path(scratch) / folder.name
        painted.mkdir()
        _paint_all(painted, count, seed, progress or (lambda done: None))
        _sync(painted)
        try:
            painted.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    _sync(folder.parent)


def _paint_all(folder: Path, count: int, seed: int, progress: Callable[[int], None]) -> None:
    # Ctrl-C reaches the whole process group: the workers leave it to us to end the work.
    pool = ProcessPoolExecutor(
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        work = partial(_paint_file, folder, seed)
        for done, _ in enumerate(pool.map(work, range(count), chunksize=8), start=1):
            progress(done)
    finally:
        pool.shutdown(cancel_futures=True)


def _paint_file(folder: Path, seed: int, index: int) -> None:
    with (folder / f"inkwash-{index:05d}.png").open("wb") as file:
        Image.fromarray(paint(seed, index)).save(file, "PNG", compress_level=1, compress_type=3)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make the folder's entries outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- Curves and textures --------------------------------------------------------------------------


def smooth(low: float, high: float, x: Array) -> Array:
    """Step softly from 0 at `low` to 1 at `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def spline(knots: Array, size: int) -> Array:
    """Periodic cubic B-spline through the last axis, [..., k] to [..., size]; k divides size."""
    gap = size // knots.shape[-1]
    t = (np.arange(gap, dtype=np.float32) + np.float32(0.5)) / gap
    s = 1 - t
    weights = (s * s * s, 4 - 3 * t * t * (2 - t), 4 - 3 * s * s * (2 - s), t * t * t)
    total = np.zeros((*knots.shape, gap), np.float32)
    for shift, weight in enumerate(weights):
        total = total + np.roll(knots, -shift, axis=-1)[..., None] * (weight / 6)
    return total.reshape(*knots.shape[:-1], size)


class Dice:
    """Random numbers from the raw bits of PCG64, which numpy promises never to change.

    What `np.random.Generator` makes of those bits it may change from release to release.
    """

    def __init__(self, *key: int) -> None:
        self.bits = np.random.PCG64(list(key))

    def scatter(self, count: int, low: float, high: float) -> Array:
        """Independent numbers between low and high, [count] float32."""
        unit = (self.bits.random_raw(count) >> np.uint64(11)) * UNIT
        return (low + (high - low) * unit).astype(np.float32)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * ((self.bits.random_raw() >> 11) * UNIT)

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high, high left out."""
        return low + self.bits.random_raw() % (high - low)

    def chance(self, share: float) -> bool:
        return self.between(0, 1) < share

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.whole(0, len(choices))]


@cache
def lines(cells: int) -> Array:
    """64 smooth random lines, [64, 512] in [-1, 1], with `cells` knots to a picture's width."""
    knots = cells * TILE // SIZE
    return spline(Dice(cells).scatter(64 * knots, -1, 1).reshape(64, knots), TILE)


#: The octaves of each texture: (knots down, knots across, weight). More knots across than down
#: give streaks that fall, the reverse gives streaks that lie.
OCTAVES: Final = {
    "cloud": ((4, 4, 1.0), (8, 8, 0.6), (16, 16, 0.35), (32, 32, 0.2), (64, 64, 0.1)),
    "drift": ((8, 2, 1.0), (16, 4, 0.7), (32, 8, 0.4), (64, 16, 0.2)),
    "ripple": ((128, 8, 1.0), (256, 16, 0.6)),
    "hemp": ((8, 128, 1.0), (16, 256, 0.8), (4, 32, 0.8)),
    "axe": ((32, 64, 1.0), (64, 128, 0.7), (8, 16, 0.8)),
    "grain": ((256, 256, 1.0), (128, 128, 0.8), (64, 64, 0.4)),
    "silk": ((32, 256, 1.0), (256, 32, 1.0), (128, 128, 0.5), (512, 512, 0.25)),
}


@cache
def texture(name: str) -> Array:
    """A periodic texture, [512, 512] in [0, 1), every value equally frequent.

    As the values are ranks, a threshold of 0.8 means a fifth of the surface in every texture.
    """
    dice = Dice(*name.encode())
    field = np.zeros((TILE, TILE), np.float32)
    for down, across, weight in OCTAVES[name]:
        knots = dice.scatter(down * across, 0, 1).reshape(down, across)
        field = field + spline(spline(knots, TILE).T, TILE).T * weight
    ranks = np.empty(TILE * TILE, np.float32)
    ranks[np.argsort(field, axis=None, kind="stable")] = np.arange(TILE * TILE) / (TILE * TILE)
    return ranks.reshape(TILE, TILE)


class Sheet(Dice):
    """A sheet of paper being painted on, and the dice and the plan of its painting.

    Attributes:
        pigment: [3, 256, 256] float32 in [0, 1], density of INK, COOL and WARM.
        grain: [256, 256] float32 in [0, 1), tooth of the paper, which breaks edges and dry strokes.
        side: -1 or 1, the side (left, right) on which the weight of the composition lies.
        light: -1 or 1, the flank of the mountains that lies in shade.
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
        """A random line, [256] around 0, of one octave for each number of knots."""
        total = np.zeros(SIZE, np.float32)
        for n in cells:
            row, start = self.whole(0, 64), self.whole(0, TILE - SIZE)
            total = total + lines(n)[row, start : start + SIZE] * (cells[0] / n)
        return total

    def patch(self, name: str, rows: int = SIZE, cols: int = SIZE) -> Array:
        """A random piece of a texture, [rows, cols] in [0, 1)."""
        top, left = self.whole(0, TILE - rows), self.whole(0, TILE - cols)
        return texture(name)[top : top + rows, left : left + cols]

    def lay(self, pigment: int, amount: Array, top: int = 0, left: int = 0) -> None:
        """Glaze a pigment over what is there; `amount` in [0, 1]."""
        rows, cols = amount.shape
        under = self.pigment[pigment, top : top + rows, left : left + cols]
        under += amount - under * amount

    def cover(self, amount: Array, top: int = 0, left: int = 0) -> None:
        """Give the paper back its white, as land or mist does that stands before other things."""
        rows, cols = amount.shape
        self.pigment[:, top : top + rows, left : left + cols] *= 1 - amount


# --- Land -----------------------------------------------------------------------------------------


def profile(kind: Kind, t: Array) -> Array:
    """Rise of a bare peak over t in [-1, 1]: 1 at the summit, 0 at its feet."""
    round_ = np.maximum(1 - t * t, 0)
    if kind == "hill":
        return round_ * round_
    if kind == "karst":
        return 1 - (1 - round_) * (1 - round_)
    slant = np.maximum(1 - np.abs(t), 0)
    return slant * (0.6 + 0.4 * slant)


def silhouette(
    sheet: Sheet, kind: Kind, centre: float, width: float, height: float, foot: float
) -> Array:
    """Skyline of one peak with two shoulders: the row at each column, [256]."""
    t = AXIS - centre + sheet.wander(8, 16, 32) * (width * 0.24)
    skew = sheet.between(0.65, 1.35)
    t = np.where(t < 0, t / (width * skew), t / (width * (2 - skew)))
    rise = np.maximum(1 - np.abs(t), 0)
    shape = profile(kind, t)
    for _ in range(2):
        shoulder = profile(kind, (t - sheet.between(-0.6, 0.6)) / sheet.between(0.25, 0.5))
        shoulder = shoulder * sheet.between(0.45, 0.9) * np.minimum(2 * rise, 1)
        shape = np.maximum(shape, shoulder)
    if kind == "crag":  # ledges
        step = shape * 5
        ledge = np.floor(step)
        shape = 0.5 * shape + 0.1 * (ledge + smooth(0.25, 0.75, step - ledge))
    rough = {"hill": 0.05, "karst": 0.06, "crag": 0.1}[kind]
    shape = shape + rough * sheet.wander(16, 32, 64) * np.minimum(4 * rise, 1)
    shape[1:-1] = (shape[2:] + 2 * shape[1:-1] + shape[:-2]) / 4
    return np.where(rise > 0, foot - height * shape, foot + SIZE).astype(np.float32)


def mass(
    sheet: Sheet, ridge: Array, near: float, foot: float, mist: float, apex: float, cun: str
) -> None:
    """Paint the land below a skyline: a dark edge, a wash that pales downwards, texture strokes.

    Args:
        ridge: [256] the skyline's row at each column.
        near: 0 in the far distance to 1 at the front; air between pales the ink and blurs the edge.
        foot: row at which the land has drowned in mist.
        mist: rows over which it drowns.
        apex: column from which the texture strokes spread.
        cun: texture of the strokes: "hemp" long and falling, "axe" short, "drift" lying.
    """
    columns = np.flatnonzero(ridge < min(foot, SIZE))
    top, bottom = max(int(ridge.min()) - 5, 0), min(int(foot), SIZE)
    if not len(columns) or bottom - top < 4:
        return
    left, right = int(columns[0]), int(columns[-1]) + 1
    slope, flank = np.zeros(SIZE, np.float32), np.zeros(SIZE, np.float32)
    slope[1:-1] = np.clip((ridge[2:] - ridge[:-2]) / 2, -12, 12)
    flank[5:-5] = np.clip((ridge[10:] - ridge[:-10]) * (sheet.light / 14), -1, 1)
    pressure = np.maximum(0.5 + 0.5 * sheet.wander(16, 32)[left:right], 0)
    summit, ridge, slope = float(ridge.min()), ridge[left:right], slope[left:right]
    x, y = AXIS[left:right], AXIS[top:bottom, None]
    cloud = sheet.patch("cloud", bottom - top, right - left)
    drift = sheet.patch("drift", bottom - top, right - left)

    # Depth under the skyline, at right angles to it; the paper's tooth frays the edge.
    ragged = (sheet.grain[top:bottom, left:right] - 0.5) * (1.8 - 0.6 * near)
    deep = (y - ridge) / np.sqrt(1 + slope * slope) + ragged
    blur = 1.6 - 1.2 * near
    inside = smooth(-blur, blur, deep)
    fade = inside * (1 - smooth(foot - 0.65 * mist, foot, y + 0.6 * mist * drift))
    sheet.cover(np.minimum(fade * 1.7, inside), top, left)

    deep = np.maximum(deep, 0)
    length = 12 + 20 * (1 - near) + 0.06 * (foot - summit)
    body = length / (length + deep)
    rim = np.clip(1 - deep / (1 + 3 * near * pressure), 0, 1)
    # The folds of a flank wind as they come down: look its slope up off to one side.
    winding = (cloud - 0.5) * np.minimum(deep * 1.2, 44)
    shade = 0.5 + 0.5 * flank[np.clip(x + winding, 0, SIZE - 1).astype(np.int32)]
    wash = np.maximum(0.06 + 0.1 * near + 0.9 * shade * shade + (cloud - 0.5) * near, 0) * body
    # Texture strokes fall from the apex and spread with the flanks.
    fan = (x + 0.6 * winding - apex) / (y - summit + 80)
    across = (fan * 95 + (600 + 7 * apex)).astype(np.int32) % TILE
    down = (deep * 0.7 + cloud * 60).astype(np.int32) % TILE
    strokes = smooth(0.5, 0.95, texture(cun)[down, across] + 0.35 * (shade - 0.5))
    strokes = strokes * np.minimum(1.5 * cloud, 1) * (0.3 + 0.7 * body) * (0.35 + 0.65 * shade)
    tone = 0.18 + 0.52 * near + 0.28 * near * near
    ink = 0.26 * (1 - near) + wash + near * (0.6 * rim + 0.95 * strokes)
    sheet.lay(INK, np.minimum(tone * ink, 0.96) * fade, top, left)
    if sheet.mood == "mineral":
        sheet.lay(COOL, 0.68 * fade * (0.25 + 0.75 * body) * (0.55 + 0.6 * cloud), top, left)
        sheet.lay(WARM, 0.2 * fade * (1 - body), top, left)


def mountain(
    sheet: Sheet,
    kind: Kind,
    centre: float,
    height: float,
    foot: float,
    near: float,
    folds: int = 3,
    mist: float | None = None,
    girth: float = 1.0,
) -> Array:
    """A peak and the lesser folds that lean before it; returns their common skyline, [256]."""
    slim = {"hill": (0.6, 0.95), "karst": (0.22, 0.4), "crag": (0.4, 0.62)}[kind]
    lean = {"hill": (0.4, 1.0), "karst": (0.65, 1.15), "crag": (0.2, 0.8)}[kind]
    width = girth * height * sheet.between(*slim)
    mist = mist or height * sheet.between(0.3, 0.5)
    cun = "axe" if kind == "crag" and sheet.chance(0.5) else "hemp"
    ridges = [silhouette(sheet, kind, centre, width, height, foot)]
    mass(sheet, ridges[0], near, foot, mist, centre, cun)
    for i in range(folds):
        at = centre + width * sheet.between(*lean) * (1 if i % 2 else -1) * sheet.light
        room = foot - float(ridges[0][min(max(int(at), 0), SIZE - 1)])
        rise = max(room, 0.35 * height) * sheet.between(0.45, 0.85) * (1 - 0.12 * i)
        foot += 0.03 * height
        ridges.append(silhouette(sheet, kind, at, width * sheet.between(0.4, 0.75), rise, foot))
        mass(sheet, ridges[-1], near, foot, mist, at, cun)
    moss(sheet, ridges, near, foot - mist)
    skyline = ridges[0]
    for ridge in ridges[1:]:
        skyline = np.minimum(skyline, ridge)
    return skyline


def far_range(sheet: Sheet, base: float, height: float, near: float) -> None:
    """A pale range across the whole sheet."""
    peaks = np.maximum(sheet.wander(4, 8) * 0.9 + 0.35, 0)
    ridge = base - height * (0.1 + peaks + 0.1 * sheet.wander(16, 32, 64))
    mass(sheet, ridge, near, base + 14, height * 0.7 + 12, SIZE / 2, "hemp")


def bank(sheet: Sheet, side: float, level: float, reach: float, rise: float, near: float) -> Array:
    """Low ground that runs in from one side and dips into the water; returns its skyline, [256]."""
    away = (AXIS if side < 0 else SIZE - AXIS) / reach
    inland, foot = np.maximum(1 - away, 0), level + 6 + 0.4 * rise
    swell = 1 - (1 - inland) * (1 - inland) * (1 - inland)
    rough = (1 + 0.16 * rise) * sheet.wander(8, 16, 32, 64) * np.minimum(3 * inland, 1)
    ridge = foot - (foot - level + rise * inland) * swell - rough
    ridge = np.where(away < 1, ridge, foot + SIZE).astype(np.float32)
    mass(sheet, ridge, near, foot, 6 + 0.5 * rise, SIZE * (0.5 + 0.2 * side), "drift")
    moss(sheet, [ridge], near, level)
    return ridge


# --- Brush ----------------------------------------------------------------------------------------


def stroke(
    x0: Numbers, y0: Numbers, x1: Numbers, y1: Numbers,
    bend: Numbers, radius: tuple[float, float], ink: Numbers, steps: int = 8,
) -> Array:  # fmt: skip
    """Bowed strokes as rows of dabs, [n * steps, 4] of x, y, radius, ink in [0, 1].

    Args:
        x0, y0, x1, y1: where they start and end; as bend and ink, [n] or one number for all.
        bend: height of the bow, in lengths of the stroke; above 0 it bows clockwise.
        radius: pixels at the start and at the end.
    """
    ends = [np.atleast_1d(np.asarray(v, np.float32)) for v in (x0, y0, x1, y1)]
    t = ((np.arange(steps, dtype=np.float32) + np.float32(0.5)) / steps)[:, None]
    dx, dy, bow = ends[2] - ends[0], ends[3] - ends[1], 4 * t * (1 - t) * bend
    x, y = ends[0] + dx * t - dy * bow, ends[1] + dy * t + dx * bow
    return dots(x, y, radius[0] + (radius[1] - radius[0]) * t + 0 * x, ink + 0 * x)


def dots(x: Array, y: Array, radius: Array, ink: Array) -> Array:
    """Single dabs, [n, 4]."""
    return np.stack([v.ravel() for v in (x, y, radius, ink)], axis=-1).astype(np.float32)


def dab(sheet: Sheet, *dabs: Array, pigment: int = INK, dry: float = 0.0) -> None:
    """Set dabs on the sheet; where they overlap the darker one shows, as in a single wet stroke.

    Args:
        dabs: each [n, 4]: x, y, radius in pixels, ink in [0, 1].
        dry: 0 a full brush; above, the share of the paper's tooth that a dry one skips.
    """
    x, y, radius, ink = np.concatenate(dabs).T
    if not len(x):
        return
    x = np.clip(x, -MARGIN / 2, SIZE + MARGIN / 2) + MARGIN
    y = np.clip(y, -MARGIN / 2, SIZE + MARGIN / 2) + MARGIN
    wide, bottom = SIZE + 2 * MARGIN, int(y.max()) + 11
    top = min(int(y.min()) - 10, SIZE + MARGIN)
    layer = np.zeros((bottom - top) * wide, np.float32)
    reach = np.floor(np.clip(radius, 0.1, 9) + 1.5).astype(np.int64)
    for n in range(1, int(reach.max()) + 1):
        which = np.flatnonzero(reach == n)[:, None, None]
        offset = np.arange(-n, n + 1)
        column = x[which].astype(np.int64) + offset
        row = y[which].astype(np.int64) + offset[:, None]
        dx, dy = column + 0.5 - x[which], row + 0.5 - y[which]
        amount = np.clip(radius[which] + 0.5 - np.sqrt(dx * dx + dy * dy), 0, 1) * ink[which]
        amount = amount.astype(np.float32)
        np.maximum.at(layer, ((row - top) * wide + column).ravel(), amount.ravel())
    first, last = max(top, MARGIN), min(bottom, SIZE + MARGIN)
    plane = np.minimum(layer.reshape(-1, wide)[first - top : last - top, MARGIN:-MARGIN], 0.98)
    if dry:
        plane = plane * smooth(dry - 0.3, dry, sheet.grain[first - MARGIN : last - MARGIN])
    sheet.lay(pigment, plane, first - MARGIN)


def moss(sheet: Sheet, ridges: list[Array], near: float, floor: float) -> None:
    """Dots of moss and brushwood, in clumps along the ridges above row `floor`."""
    parts = []
    for ridge in ridges:
        at = sheet.scatter(120, 0, SIZE - 1).astype(np.int32)
        at = at[(sheet.wander(16, 32)[at] > 0) & (ridge[at] < floor)]
        x, y = at + sheet.scatter(len(at), 0, 1), ridge[at] + sheet.scatter(len(at), -1.5, 4)
        radius = sheet.scatter(len(at), 0.3, 0.5 + 1.2 * near)
        parts.append(dots(x, y, radius, sheet.scatter(len(at), 0.3, 1) * near))
    if near > 0.35:
        dab(sheet, *parts)


# --- Trees ----------------------------------------------------------------------------------------


def grow(
    sheet: Sheet, x: float, y: float, heading: tuple[float, float], length: float, levels: int
) -> tuple[Array, Array]:
    """Wood that forks level by level: its dabs [n, 4] and the twigs' ends [2**levels, 2]."""
    start: list[Array] = [np.array([v], np.float32) for v in (x, y, *heading)]
    px, py, dx, dy = start
    radius, reach, wood = max(length * 0.024, 0.7), length * 0.36, []
    for _ in range(levels):
        n = len(px)
        scale = reach * sheet.scatter(n, 0.7, 1.2) / np.sqrt(dx * dx + dy * dy)
        ex, ey, thin = px + dx * scale, py + dy * scale, max(radius * 0.66, 0.3)
        bend, steps = sheet.scatter(n, -0.16, 0.16), max(int(reach / 0.9), 3)
        wood.append(stroke(px, py, ex, ey, bend, (radius, thin), 0.95, steps))
        px, py, dx, dy = (v.repeat(2) for v in (ex, ey, dx, dy))
        turn = sheet.scatter(2 * n, 0.08, 0.85)
        turn[::2] *= -1
        dx, dy = dx - dy * turn, dy + dx * turn - 0.12
        radius, reach = thin, reach * 0.68
    return np.concatenate(wood), np.stack([px, py], axis=-1)


def bare(sheet: Sheet, x: float, y: float, height: float) -> None:
    """A leafless winter tree."""
    wood, _ = grow(sheet, x, y, (sheet.between(-0.35, 0.35), -1), height, 7)
    dab(sheet, wood, dry=0.12)


def leafy(sheet: Sheet, x: float, y: float, height: float) -> None:
    """A broad-leaved tree with a dotted crown, red in autumn."""
    wood, tips = grow(sheet, x, y, (sheet.between(-0.35, 0.35), -1), height, 5)
    tx, ty = tips.repeat(8, axis=0).T
    n, spread = len(tx), 0.1 * height
    tx, ty = tx + sheet.scatter(n, -spread, spread), ty + sheet.scatter(n, -spread, spread)
    radius, ink = sheet.scatter(n, 0.5, 0.6 + 0.018 * height), sheet.scatter(n, 0.3, 0.9)
    leaves = dots(tx, ty, radius, ink)
    red = sheet.mood == "autumn"
    dab(sheet, wood, leaves[:: 6 if red else 1], dry=0.1)
    if red:
        dab(sheet, leaves, pigment=WARM)


def willow(sheet: Sheet, x: float, y: float, height: float) -> None:
    """A tree with hanging twigs."""
    wood, tips = grow(sheet, x, y, (sheet.between(-0.4, 0.4), -1), height * 0.9, 5)
    tx, ty = tips.repeat(2, axis=0).T
    n = len(tx)
    ex = tx + sheet.scatter(n, -0.12, 0.12) * height
    ey = ty + sheet.scatter(n, 0.15, 0.5) * height
    twigs = stroke(tx, ty, ex, ey, 0.06, (0.4, 0.2), sheet.scatter(n, 0.2, 0.6), 30)
    dab(sheet, wood, twigs, dry=0.12)


def pine(sheet: Sheet, x: float, y: float, height: float, lean: float | None = None) -> None:
    """A bent trunk that carries flat pads of needles."""
    lean = -sheet.side * sheet.between(-0.05, 0.35) if lean is None else lean
    bend = sheet.between(-0.16, 0.16)
    thick = (max(0.03 * height, 0.8), 0.5)
    trunk = stroke(x, y, x + lean * height, y - height, bend, thick, 0.95, 60)
    parts = [trunk]
    count = sheet.whole(5, 8)
    for i in range(count):
        f, way = 0.4 + 0.6 * i / (count - 1), 1 if i % 2 else -1
        knot_x, knot_y = (float(v) for v in trunk[min(int(f * 60), 59), :2])
        pad_x = knot_x + height * sheet.between(0.16, 0.34) * (1.25 - f) * way
        pad_y = knot_y - height * sheet.between(-0.02, 0.07)
        parts.append(stroke(knot_x, knot_y, pad_x, pad_y, 0.12 * way, (1, 0.5), 0.95, 16))
        wide = height * sheet.between(0.1, 0.17) * (1.3 - 0.5 * f)
        n = int(12 + wide * 2.2)
        off, tall = sheet.scatter(n, -1, 1), sheet.scatter(n, 0.03, 0.075) * height
        nx, ny = pad_x + off * wide, pad_y + off * off * wide * 0.25
        ny = ny + sheet.scatter(n, -0.02, 0.02) * height
        ink = sheet.scatter(n, 0.5, 1)
        parts.append(stroke(nx, ny, nx + off * tall * 1.1, ny - tall, 0, (0.5, 0.25), ink, 5))
        parts.append(dots(nx, ny - 0.4 * tall, 0.5 * tall + 0.4, 0.4 + 0 * nx))
    dab(sheet, *parts)


def grove(sheet: Sheet, ridge: Array, low: float, high: float, ink: float, tall: float) -> None:
    """Distant trees on a ridge between columns: a stem each, and a crown of lying dots."""
    at = sheet.scatter(int((high - low) / (0.4 * tall)) + 2, low, high)
    at = at[(at > 0) & (at < SIZE)]
    foot = ridge[at.astype(np.int32)] + 1
    height = sheet.scatter(len(at), 0.5, 1.2) * tall
    stems = stroke(at, foot, at, foot - height, 0.04, (0.5, 0.3), ink, 10)
    x, h, n = at.repeat(9), height.repeat(9), 9 * len(at)
    up = sheet.scatter(n, 0.25, 1.05)
    y = foot.repeat(9) - up * h
    half = h * (0.34 - 0.27 * up) * sheet.scatter(n, 0.5, 1.2)
    left = x - half + sheet.scatter(n, -0.14, 0.14) * h
    thick, tone = (0.07 * tall, 0.03 * tall), sheet.scatter(n, 0.3, ink)
    crowns = stroke(left, y, left + 2 * half, y + 0.2 * half, -0.1, thick, tone)
    red = sheet.mood == "autumn"
    dab(sheet, stems, crowns[:: 3 if red else 1])
    if red:
        dab(sheet, crowns, pigment=WARM)


def plum(sheet: Sheet, x: float, y: float) -> None:
    """A blossoming plum branch that reaches in from one side."""
    heading = (-sheet.side, sheet.between(-0.3, 0.4))
    wood, tips = grow(sheet, x, y, heading, sheet.between(150, 190), 6)
    dab(sheet, wood, dry=0.1)
    twigs = np.concatenate([tips, wood[wood[:, 2] < 1.6, :2]])
    some = sheet.scatter(70, 0, len(twigs) - 1).astype(np.int32)
    cx, cy = twigs[some].T + sheet.scatter(70, -2, 2)
    tone, petals = sheet.scatter(70, 0.25, 0.75), []
    for dx, dy in ((0, -1.8), (1.7, -0.5), (1.1, 1.5), (-1.1, 1.5), (-1.7, -0.5)):
        petals.append(dots(cx + dx, cy + dy, sheet.scatter(70, 1.0, 1.7), tone))
    dab(sheet, *petals, pigment=WARM)
    dab(sheet, dots(cx, cy, 0.5 + 0 * cx, 0.55 + 0 * cx))


def bamboo(sheet: Sheet, x: float) -> None:
    """Thin jointed stems, the pale one behind, with leaves in hanging sprays."""
    for tone in (0.4, 0.9, 0.95)[sheet.whole(0, 2) :]:
        foot, tip = x + sheet.between(-18, 18), x - sheet.side * sheet.between(10, 70)
        bow, top = -0.08 * sheet.side, sheet.between(-10, 70)
        stem = stroke(foot, SIZE + 6, tip, top, bow, (1.9, 0.6), tone, 320)
        kx, ky = stem[sheet.scatter(7, 70, 310).astype(np.int32), :2].T
        way = np.where(sheet.scatter(7, 0, 1) < 0.7, -sheet.side, sheet.side)
        ex, ey = kx + way * sheet.scatter(7, 10, 30), ky + sheet.scatter(7, -16, 2)
        parts = [stem[np.arange(320) % 30 > 1], stroke(kx, ky, ex, ey, 0.1, (0.5, 0.3), tone, 40)]
        lx, ly = ex.repeat(5) + sheet.scatter(35, -2, 2), ey.repeat(5) + sheet.scatter(35, -2, 2)
        aim, reach = sheet.scatter(35, -1, 1), sheet.scatter(35, 10, 21)
        dx, dy = aim * reach, (1 - 0.7 * np.abs(aim)) * reach
        ink = sheet.scatter(35, 0.7, 1) * tone
        mx, my = lx + 0.4 * dx, ly + 0.4 * dy  # the brush is pressed open here, then lifted
        parts.append(stroke(lx, ly, mx, my, 0.03, (0.3, 1.4), ink))
        parts.append(stroke(mx, my, lx + dx, ly + dy, 0.03, (1.4, 0.1), ink, 12))
        dab(sheet, *parts, dry=0.1)


# --- Sky, water and what people leave there -------------------------------------------------------


def disc(x: float, y: float, radius: float, blur: float) -> Array:
    """A round wash, [256, 256]."""
    dx, dy = AXIS - x, (AXIS - y)[:, None]
    return 1 - smooth(radius - blur, radius + blur, np.sqrt(dx * dx + dy * dy))


def sky(sheet: Sheet) -> None:
    """A thin wash from above; now and then a red sun, or a moon left bare in its halo."""
    high, cloud = np.maximum(1 - AXIS / 170, 0)[:, None], sheet.patch("cloud")
    sheet.lay(INK, high * high * (0.02 + 0.13 * sheet.patch("drift") * cloud))
    lamp, radius = sheet.between(0, 1), sheet.between(7, 12)
    x, y = sheet.across(-0.75, -0.15), sheet.between(24, 46)
    if sheet.mood == "dawn":
        glow = (smooth(10, 110, AXIS) * (1 - smooth(110, 190, AXIS)))[:, None]
        sheet.lay(WARM, sheet.between(0.1, 0.24) * glow * (0.4 + 0.8 * sheet.patch("drift")))
    if lamp < 0.2 or sheet.mood == "dawn":
        sheet.lay(WARM, disc(x, y, radius, 0.9) * (0.7 + 0.25 * cloud))
    elif lamp < 0.5:
        sheet.lay(INK, disc(x, y, radius * 3.5, radius * 3) * (0.08 + 0.08 * cloud))
        sheet.cover(disc(x, y, radius, 0.8))


def water(sheet: Sheet, level: int, shine: float) -> None:
    """Still water below row `level`, mirroring what stands above with strength `shine`."""
    rows = SIZE - level
    depth, ripple = np.arange(rows, dtype=np.float32)[:, None], sheet.patch("ripple", rows)
    source = np.maximum(level - 1 - (depth * 1.1).astype(np.int32), 0)
    x = np.clip(AXIS + (ripple - 0.5) * (1.5 + depth * 0.16), 1, SIZE - 2).astype(np.int32)
    mirrored = np.zeros((3, rows, SIZE), np.float32)
    for shift in (-1, 0, 1):
        mirrored = mirrored + sheet.pigment[:, source, x + shift]
    fall = shine / 3 * np.maximum(1 - depth / (0.8 * rows + 20), 0) * (0.7 + 0.5 * ripple)
    sheet.pigment[:, level:] = mirrored * fall
    veil = np.maximum(1 - np.abs(np.arange(-7, 8, dtype=np.float32)) / 8, 0)[:, None]
    sheet.cover(veil * sheet.patch("drift", 15) * 0.9, level - 7)
    wind = smooth(0.8, 1, ripple) * smooth(0.45, 0.9, sheet.patch("drift", rows))
    sheet.lay(INK, wind * 0.3, level)


def birds(sheet: Sheet, x: float, y: float) -> None:
    """A loose line of birds, far off."""
    n = sheet.whole(3, 9)
    bx = x + sheet.scatter(n, -24, 24)
    by = y + 0.3 * (bx - x) * sheet.light + sheet.scatter(n, -5, 5)
    span, lift = sheet.scatter(n, 2.5, 4.5), sheet.scatter(n, 0.5, 2)
    for way in (-1, 1):
        dab(sheet, stroke(bx, by, bx + way * span, by - lift, -0.3 * way, (0.6, 0.2), 0.75))


def boat(sheet: Sheet, x: float, y: float, size: float) -> None:
    """A skiff with its boatman, and half the time a mat roof."""
    s, way = size, 1 if sheet.chance(0.5) else -1
    man, head = x + 0.55 * way * s, y - 0.62 * s
    pole = (man - 0.3 * way * s, y - s, man + 0.5 * way * s, y + 0.3 * s)
    parts = [
        stroke(x - s, y - 0.3 * s, x + s, y - 0.3 * s, 0.13, (0.7, 0.7), 0.95, 32),
        stroke(x - 0.8 * s, y - 0.12 * s, x + 0.8 * s, y - 0.12 * s, 0.06, (1, 1), 0.8, 28),
        stroke(man, y - 0.15 * s, man, head, 0, (0.13 * s, 0.07 * s), 0.9),
        stroke(man - 0.22 * s, head, man + 0.22 * s, head, -0.2, (0.5, 0.5), 0.9),
        stroke(*pole, 0, (0.25, 0.25), 0.6, 28),
        stroke(x - 1.1 * s, y + 3, x + 0.9 * s, y + 3, 0, (0.5, 0.2), 0.25, 24),
    ]
    if sheet.chance(0.5):
        left, right = x - (0.45 + 0.2 * way) * s, x + (0.45 - 0.2 * way) * s
        parts.append(stroke(left, y - 0.2 * s, right, y - 0.2 * s, -0.4, (1, 1), 0.8, 24))
    dab(sheet, *parts)


def pavilion(sheet: Sheet, x: float, y: float, size: float) -> None:
    """Slender posts below two upturned roofs."""
    parts = [stroke(x - 0.6 * size, y, x + 0.6 * size, y, 0, (0.5, 0.5), 0.8, 20)]
    for post in (-0.42, 0.0, 0.42):
        foot = x + post * size
        parts.append(stroke(foot, y - 0.6 * size, foot, y, 0, (0.45, 0.45), 0.8, 12))
    for wide, up in ((0.75, 0.6), (0.5, 0.96)):
        for way in (-1, 1):
            eave, top = x + way * wide * size, y - up * size
            parts.append(stroke(x, top - 0.42 * size, eave, top, 0.14 * way, (1.3, 0.5), 0.95, 20))
            parts.append(stroke(x, top - 0.1 * size, eave, top, 0.05 * way, (1.1, 0.4), 0.8, 16))
    dab(sheet, *parts)


def seal(sheet: Sheet) -> None:
    """The painter's seal, pale carving in worn cinnabar, where the paper is emptiest."""
    spots = [(x, y) for x in (16, 226) for y in (60, 110, 160, 205, 226)]
    crowd = [
        float(sheet.pigment[:, y - 5 : y + 19, x - 5 : x + 17].max()) + sheet.between(0, 0.3)
        for x, y in spots
    ]
    x, y = spots[crowd.index(min(crowd))]
    raised = sheet.scatter(42, 0, 1).reshape(7, 6) < 0.6
    raised[[0, -1]] = raised[:, [0, -1]] = True
    worn = 0.6 + 0.35 * sheet.grain[y : y + 14, x : x + 12]
    sheet.lay(WARM, worn * raised.repeat(2, axis=0).repeat(2, axis=1), y, x)


# --- Compositions ---------------------------------------------------------------------------------


def shore(sheet: Sheet, side: float, level: float, tall: float) -> None:
    """The near bank at one side, with a group of trees."""
    reach = sheet.between(110, 190)
    ridge = bank(sheet, side, level, reach, sheet.between(14, 30), 0.95)
    trees = (leafy,) * 3 if sheet.mood == "autumn" else (leafy, bare, willow, pine)
    for _ in range(sheet.whole(2, 5)):
        away = reach * sheet.between(0.08, 0.6)
        x = away if side < 0 else SIZE - 1 - away
        sheet.pick(trees)(sheet, x, float(ridge[int(x)]) + 2, tall * sheet.between(0.6, 1.1))


def high_distance(sheet: Sheet) -> None:
    """A great peak that fills the height, trees at its feet (gaoyuan)."""
    kind, height = sheet.pick(KINDS), sheet.between(120, 150)
    far_range(sheet, sheet.between(90, 120), sheet.between(20, 45), 0.05)
    lesser = height * sheet.between(0.6, 0.8)
    mountain(sheet, kind, sheet.across(0.3, 0.6), lesser, 182, 0.3, 2)
    mountain(sheet, kind, sheet.across(-0.3, 0), height, 196, 0.62, 5)
    mountain(sheet, kind, sheet.across(-0.9, -0.5), height * sheet.between(0.3, 0.5), 214, 0.8)
    water(sheet, 212, 0.35)
    shore(sheet, sheet.side, 246, 60)


def level_distance(sheet: Sheet) -> None:
    """A wide river between low spits of land (pingyuan)."""
    for i in range(3):
        far_range(sheet, 92 + 14 * i, sheet.between(20, 55) - 6 * i, 0.06 + 0.14 * i)
    water(sheet, 128, 0.3)
    for i, side in enumerate((-sheet.side, sheet.side)):
        level, near = 132 + 22 * i + sheet.between(0, 8), 0.3 + 0.25 * i
        ridge = bank(sheet, side, level, sheet.between(90, 200), sheet.between(6, 14), near)
        middle = 128 + 68 * side
        grove(sheet, ridge, middle - 50, middle + 50, 0.4 + 0.2 * i, 9 + 5 * i)
    boat(sheet, sheet.across(-0.55, -0.15), sheet.between(178, 215), sheet.between(10, 14))
    shore(sheet, sheet.side, sheet.between(228, 246), 95)


def one_corner(sheet: Sheet) -> None:
    """All weight in one corner: a cliff, a leaning pine, and emptiness (Ma Yuan's manner)."""
    sheet.light = -sheet.side  # the cliff turns its dark flank to the emptiness
    far_range(sheet, sheet.between(120, 150), sheet.between(25, 60), 0.12)
    cliff = mountain(sheet, "crag", sheet.across(0.95, 1.1), sheet.between(140, 200), 240, 0.8, 5)
    low = sheet.between(60, 85)
    front = mountain(sheet, "crag", sheet.across(0.7, 0.9), low, 268, 1.0, 3, mist=24, girth=1.4)
    skyline = np.minimum(cliff, front)
    x = int(np.abs(skyline - sheet.between(140, 195)).argmin())
    lean = -sheet.side * sheet.between(0.3, 0.7)
    pine(sheet, x, float(skyline[x]) + 4, sheet.between(70, 95), lean)
    boat(sheet, sheet.across(-0.6, -0.2), sheet.between(190, 225), sheet.between(9, 13))


def gorge(sheet: Sheet) -> None:
    """A river between two walls of rock."""
    kind = sheet.pick(KINDS[1:])
    far_range(sheet, sheet.between(110, 140), sheet.between(30, 60), 0.05)
    mountain(sheet, kind, sheet.across(-0.3, 0.3), sheet.between(70, 100), 165, 0.22, 2)
    for i, side in enumerate((1, -1)):
        height = sheet.between(120, 175) - 30 * i
        x = sheet.across(0.7 * side, 0.85 * side)
        mountain(sheet, kind, x, height, 200, 0.45 + 0.1 * i, 4, girth=1.2)
    water(sheet, 190, 0.45)
    for i, side in enumerate((-1, 1)):
        x, height = sheet.across(0.9 * side, 1.05 * side), sheet.between(85, 145)
        ridge = mountain(sheet, "crag", x, height, 264, 0.8 + 0.15 * i, 4, girth=1.2)
        grove(sheet, ridge, x - 40, x + 40, 0.9, 14)
    boat(sheet, sheet.across(-0.2, 0.2), sheet.between(208, 232), sheet.between(8, 12))


def karst_river(sheet: Sheet) -> None:
    """Steep limestone towers mirrored in still water, as along the Li river."""
    far_range(sheet, 150, sheet.between(20, 40), 0.05)
    level, count = sheet.whole(172, 196), sheet.whole(4, 8)
    for i in range(count):
        near = i / (count - 1)
        x = sheet.across(0.1, 1) if i % 2 else sheet.across(-1, -0.1)
        x = SIZE / 2 + (x - SIZE / 2) * (0.5 + 0.5 * near)
        height = sheet.between(40, 85) + 45 * near
        mountain(sheet, "karst", x, height, level + 14, 0.12 + 0.68 * near, 2, mist=22)
    water(sheet, level, 0.6)
    if sheet.chance(0.6):
        boat(sheet, sheet.across(-0.5, 0), sheet.between(level + 18, 232), sheet.between(10, 14))
    if sheet.chance(0.35):
        bamboo(sheet, sheet.across(0.75, 1))
    else:
        shore(sheet, sheet.side, 252, 60)


def cloud_sea(sheet: Sheet) -> None:
    """Peak behind peak rising out of mist; a pavilion on the nearest."""
    kind = sheet.pick(KINDS)
    far_range(sheet, 80, sheet.between(15, 30), 0.04)
    for i in range(4):
        way = 1 if i % 2 else -1
        x, height = sheet.across(0.15 * way, 0.8 * way), sheet.between(45, 85)
        mountain(sheet, kind, x, height, 130 + 28 * i, 0.18 + 0.17 * i, girth=1.3)
    x, height = sheet.across(0.5, 0.85), sheet.between(65, 90)
    ridge = mountain(sheet, "crag", x, height, 272, 0.95, 4, mist=24, girth=2.2)
    grove(sheet, ridge, x - 60, x + 60, 0.95, 16)
    if sheet.chance(0.6):
        pavilion(sheet, x, float(ridge[int(x)]) + 2, 13)


def foreground_branch(sheet: Sheet) -> None:
    """A plum branch or bamboo close at hand, a hill far across the water."""
    far_range(sheet, sheet.between(150, 170), sheet.between(30, 50), 0.06)
    mountain(sheet, sheet.pick(KINDS), sheet.across(-0.6, 0), sheet.between(80, 130), 212, 0.5)
    water(sheet, 206, 0.4)
    if sheet.chance(0.5):
        boat(sheet, sheet.across(-0.6, 0), sheet.between(222, 236), sheet.between(9, 12))
    if sheet.chance(0.6):
        plum(sheet, sheet.across(1.03, 1.05), sheet.between(40, 120))
    else:
        bamboo(sheet, sheet.across(0.7, 0.95))


SCENES: Final[tuple[Callable[[Sheet], None], ...]] = (
    high_distance, level_distance, one_corner, gorge, karst_river, cloud_sea, foreground_branch
)  # fmt: skip

#: RGB of each pigment at full strength, several to choose from
PALETTES: Final = {
    INK: ((26, 27, 33), (34, 29, 26), (22, 24, 26)),
    COOL: ((45, 115, 120), (52, 98, 138), (70, 122, 92)),
    WARM: ((196, 62, 42), (186, 48, 48), (204, 72, 58)),
}


def mount(sheet: Sheet) -> NDArray[np.uint8]:
    """Send light through the pigments onto warm paper: [256, 256, 3] uint8 RGB."""
    square = (AXIS / (SIZE / 2) - 1) * (AXIS / (SIZE / 2) - 1)
    edge = square * square + (square * square)[:, None]
    silk = np.floor((sheet.patch("silk") - 0.5) * 6)
    stain, tooth = sheet.patch("cloud"), 1 + 0.24 * (sheet.grain - 0.5)
    age = sheet.between(0, 1)
    inks = [sheet.pick(PALETTES[p]) for p in (INK, COOL, WARM)]
    layers = np.minimum(sheet.pigment * tooth, 1)
    picture = np.empty((SIZE, SIZE, 3), np.uint8)
    for channel, (new, old) in enumerate(((247, 236), (243, 224), (234, 198))):
        light = new + (old - new) * age - edge * (6 + 3 * channel) - stain * (1 + 2 * channel)
        for layer, ink in zip(layers, inks, strict=True):
            light = light * (1 - layer * (1 - ink[channel] / 255))
        picture[..., channel] = np.clip(np.floor(light) + silk, 0, 255)
    return picture
