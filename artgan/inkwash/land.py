"""Sky, mountains, river banks and water."""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from artgan.inkwash.brush import AXIS, COOL, INK, WARM, Sheet, dab, dots
from artgan.inkwash.noise import SIZE, TILE, Array, smooth, texture


def disc(x: float, y: float, radius: float, blur: float) -> Array:
    """A round wash, [256, 256] float32 in [0, 1]."""
    dx, dy = AXIS - x, (AXIS - y)[:, None]
    return 1 - smooth(radius - blur, radius + blur, np.sqrt(dx * dx + dy * dy))


def sky(sheet: Sheet) -> None:
    """A thin wash from above; now and then a red sun, or a moon left bare in its halo."""
    height = np.maximum(1 - AXIS / 170, 0)[:, None]
    cloud = sheet.patch("cloud")
    sheet.lay(INK, height * height * (0.02 + 0.13 * sheet.patch("drift") * cloud))
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


class Rock(NamedTuple):
    """A kind of mountain."""

    profile: Callable[[Array], Array]  #: rise over t in [-1, 1]: 1 at the summit, 0 at the feet
    slim: tuple[float, float]  #: range of the half width, in heights
    lean: tuple[float, float]  #: range of how far off the folds before it stand, in half widths
    rough: float  #: unevenness of the skyline, in heights


def _arch(t: Array) -> Array:
    return np.maximum(1 - t * t, 0)


def _gable(t: Array) -> Array:
    return np.maximum(1 - np.abs(t), 0)


HILL: Final = Rock(lambda t: _arch(t) * _arch(t), (0.6, 0.95), (0.4, 1.0), 0.05)
KARST: Final = Rock(lambda t: 1 - (1 - _arch(t)) * (1 - _arch(t)), (0.22, 0.4), (0.65, 1.15), 0.06)
CRAG: Final = Rock(lambda t: _gable(t) * (0.6 + 0.4 * _gable(t)), (0.4, 0.62), (0.2, 0.8), 0.1)
ROCKS: Final = (HILL, KARST, CRAG)


def silhouette(
    sheet: Sheet, rock: Rock, centre: float, width: float, height: float, foot: float
) -> Array:
    """Skyline of one peak with two shoulders: the row at each column, [256] float32."""
    t = AXIS - centre + sheet.wander(8, 16, 32) * (width * 0.24)
    skew = sheet.between(0.65, 1.35)
    t = np.where(t < 0, t / (width * skew), t / (width * (2 - skew)))
    inward = _gable(t)
    rise = rock.profile(t)
    for _ in range(2):
        shoulder = rock.profile((t - sheet.between(-0.6, 0.6)) / sheet.between(0.25, 0.5))
        shoulder = shoulder * sheet.between(0.45, 0.9) * np.minimum(2 * inward, 1)
        rise = np.maximum(rise, shoulder)
    if rock is CRAG:
        steps = rise * 5
        ledge = np.floor(steps)
        rise = 0.5 * rise + 0.1 * (ledge + smooth(0.25, 0.75, steps - ledge))
    rise = rise + rock.rough * sheet.wander(16, 32, 64) * np.minimum(4 * inward, 1)
    rise[1:-1] = (rise[2:] + 2 * rise[1:-1] + rise[:-2]) / 4
    return np.where(inward > 0, foot - height * rise, foot + SIZE).astype(np.float32)


def mass(
    sheet: Sheet, ridge: Array, near: float, foot: float, mist: float, apex: float, cun: str
) -> None:
    """Paint the land below a skyline: a dark edge, a wash that pales downwards, texture strokes.

    Args:
        ridge: [256] the skyline's row at each column.
        near: 0 in the far distance to 1 at the front; distance pales the ink and blurs the edge.
        foot: row at which the land has vanished in mist.
        mist: rows over which it vanishes.
        apex: column from which the texture strokes spread.
        cun: texture of the strokes: "hemp" long and falling, "axe" short, "drift" lying.
    """
    columns = np.flatnonzero(ridge < min(foot, SIZE))
    summit = float(ridge.min())
    top, bottom = max(int(summit) - 5, 0), min(int(foot), SIZE)
    if not len(columns) or bottom - top < 4:
        return
    left, right = int(columns[0]), int(columns[-1]) + 1
    slope = _difference(ridge, 1, 0.5, 12)
    flank = _difference(ridge, 5, sheet.light / 14, 1)
    pressure = np.maximum(0.5 + 0.5 * sheet.wander(16, 32)[left:right], 0)
    ridge, slope = ridge[left:right], slope[left:right]
    x, y = AXIS[left:right], AXIS[top:bottom, None]
    cloud, drift = (sheet.patch(name, bottom - top, right - left) for name in ("cloud", "drift"))

    # Depth under the skyline, at right angles to it; the paper's tooth frays the edge.
    ragged = (sheet.grain[top:bottom, left:right] - 0.5) * (1.8 - 0.6 * near)
    depth = (y - ridge) / np.sqrt(1 + slope * slope) + ragged
    blur = 1.6 - 1.2 * near
    inside = smooth(-blur, blur, depth)
    fade = inside * (1 - smooth(foot - 0.65 * mist, foot, y + 0.6 * mist * drift))
    sheet.cover(np.minimum(fade * 1.7, inside), top, left)

    depth = np.maximum(depth, 0)
    length = 12 + 20 * (1 - near) + 0.06 * (foot - summit)
    body = length / (length + depth)
    rim = np.clip(1 - depth / (1 + 3 * near * pressure), 0, 1)

    # The folds of a flank wind as they descend: its slope is read off to one side.
    winding = (cloud - 0.5) * np.minimum(depth * 1.2, 44)
    shade = 0.5 + 0.5 * flank[np.clip(x + winding, 0, SIZE - 1).astype(np.int32)]
    wash = np.maximum(0.06 + 0.1 * near + 0.9 * shade * shade + (cloud - 0.5) * near, 0) * body
    fan = (x + 0.6 * winding - apex) / (y - summit + 80)
    strokes = texture_strokes(cun, fan * 95 + (600 + 7 * apex), depth, cloud, shade)
    strokes = strokes * np.minimum(1.5 * cloud, 1) * (0.3 + 0.7 * body) * (0.35 + 0.65 * shade)

    tone = 0.18 + 0.52 * near + 0.28 * near * near
    ink = 0.26 * (1 - near) + wash + near * (0.6 * rim + 0.95 * strokes)
    sheet.lay(INK, np.minimum(tone * ink, 0.96) * fade, top, left)
    if sheet.mood == "mineral":
        sheet.lay(COOL, 0.68 * fade * (0.25 + 0.75 * body) * (0.55 + 0.6 * cloud), top, left)
        sheet.lay(WARM, 0.2 * fade * (1 - body), top, left)


def _difference(ridge: Array, reach: int, scale: float, limit: float) -> Array:
    """Scaled difference of the rows `reach` columns to the right and left, within ±limit."""
    difference = np.zeros(SIZE, np.float32)
    rise = (ridge[2 * reach :] - ridge[: -2 * reach]) * scale
    difference[reach:-reach] = np.clip(rise, -limit, limit)
    return difference


def texture_strokes(cun: str, across: Array, depth: Array, cloud: Array, shade: Array) -> Array:
    """Strokes that fall from the apex, spread with the flanks, and gather in the shade."""
    column = across.astype(np.int32) % TILE
    row = (depth * 0.7 + cloud * 60).astype(np.int32) % TILE
    return smooth(0.5, 0.95, texture(cun)[row, column] + 0.35 * (shade - 0.5))


def moss(sheet: Sheet, ridges: list[Array], near: float, floor: float) -> None:
    """Dots of moss and brushwood, in clumps along the ridges above row `floor`."""
    clumps = []
    for ridge in ridges:
        column = sheet.scatter(120, 0, SIZE - 1).astype(np.int32)
        column = column[(sheet.wander(16, 32)[column] > 0) & (ridge[column] < floor)]
        n = len(column)
        x = column + sheet.scatter(n, 0, 1)
        y = ridge[column] + sheet.scatter(n, -1.5, 4)
        radius = sheet.scatter(n, 0.3, 0.5 + 1.2 * near)
        clumps.append(dots(x, y, radius, sheet.scatter(n, 0.3, 1) * near))
    if near > 0.35:
        dab(sheet, *clumps)


def mountain(
    sheet: Sheet,
    rock: Rock,
    centre: float,
    height: float,
    foot: float,
    near: float,
    folds: int = 3,
    mist: float | None = None,
    girth: float = 1.0,
) -> Array:
    """A peak and the lesser folds in front of it; returns their common skyline, [256]."""
    width = girth * height * sheet.between(*rock.slim)
    mist = mist or height * sheet.between(0.3, 0.5)
    cun = "axe" if rock is CRAG and sheet.chance(0.5) else "hemp"
    ridges = [silhouette(sheet, rock, centre, width, height, foot)]
    mass(sheet, ridges[0], near, foot, mist, centre, cun)
    for i in range(folds):
        x = centre + width * sheet.between(*rock.lean) * (1 if i % 2 else -1) * sheet.light
        room = foot - float(ridges[0][min(max(int(x), 0), SIZE - 1)])
        rise = max(room, 0.35 * height) * sheet.between(0.45, 0.85) * (1 - 0.12 * i)
        foot += 0.03 * height
        ridges.append(silhouette(sheet, rock, x, width * sheet.between(0.4, 0.75), rise, foot))
        mass(sheet, ridges[-1], near, foot, mist, x, cun)
    moss(sheet, ridges, near, foot - mist)
    return np.minimum.reduce(ridges)


def far_range(sheet: Sheet, base: float, height: float, near: float) -> None:
    """A pale range across the whole sheet."""
    peaks = np.maximum(sheet.wander(4, 8) * 0.9 + 0.35, 0)
    ridge = base - height * (0.1 + peaks + 0.1 * sheet.wander(16, 32, 64))
    mass(sheet, ridge, near, base + 14, height * 0.7 + 12, SIZE / 2, "hemp")


def bank(sheet: Sheet, side: float, level: float, reach: float, rise: float, near: float) -> Array:
    """Low ground that runs in from one side and dips into the water; returns its skyline, [256]."""
    away = (AXIS if side < 0 else SIZE - AXIS) / reach
    inland = np.maximum(1 - away, 0)
    foot = level + 6 + 0.4 * rise
    swell = 1 - (1 - inland) * (1 - inland) * (1 - inland)
    rough = (1 + 0.16 * rise) * sheet.wander(8, 16, 32, 64) * np.minimum(3 * inland, 1)
    ridge = foot - (foot - level + rise * inland) * swell - rough
    ridge = np.where(away < 1, ridge, foot + SIZE).astype(np.float32)
    mass(sheet, ridge, near, foot, 6 + 0.5 * rise, SIZE * (0.5 + 0.2 * side), "drift")
    moss(sheet, [ridge], near, level)
    return ridge


def water(sheet: Sheet, level: int, shine: float) -> None:
    """Still water below row `level`, mirroring what is above with strength `shine`."""
    rows = SIZE - level
    depth = np.arange(rows, dtype=np.float32)[:, None]
    ripple = sheet.patch("ripple", rows)
    source = np.maximum(level - 1 - (depth * 1.1).astype(np.int32), 0)
    x = np.clip(AXIS + (ripple - 0.5) * (1.5 + depth * 0.16), 1, SIZE - 2).astype(np.int32)
    mirrored = sum(sheet.pigment[:, source, x + shift] for shift in (-1, 0, 1))
    fall = shine / 3 * np.maximum(1 - depth / (0.8 * rows + 20), 0) * (0.7 + 0.5 * ripple)
    sheet.pigment[:, level:] = mirrored * fall
    # Mist lies along the shore, wind roughens the water further out.
    veil = np.maximum(1 - np.abs(np.arange(-7, 8, dtype=np.float32)) / 8, 0)[:, None]
    sheet.cover(veil * sheet.patch("drift", 15) * 0.9, level - 7)
    wind = smooth(0.8, 1, ripple) * smooth(0.45, 0.9, sheet.patch("drift", rows))
    sheet.lay(INK, wind * 0.3, level)
