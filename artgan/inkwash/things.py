"""Trees, birds, a boat, a pavilion, and the painter's seal."""

import numpy as np

from artgan.inkwash.brush import WARM, Sheet, dab, dots, stroke
from artgan.inkwash.noise import SIZE, Array


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
        wood.append(stroke((px, py), (ex, ey), bend, (radius, thin), 0.95, steps))
        px, py, dx, dy = (v.repeat(2) for v in (ex, ey, dx, dy))
        turn = sheet.scatter(2 * n, 0.08, 0.85)
        turn[::2] *= -1
        dx, dy = dx - dy * turn, dy + dx * turn - 0.12
        radius, reach = thin, reach * 0.68
    return np.concatenate(wood), np.stack([px, py], axis=-1)


def foliage(sheet: Sheet, wood: Array, leaves: Array, sparse: int, dry: float = 0.0) -> None:
    """Leaves of ink; in autumn they are red, and only one of `sparse` is of ink."""
    if sheet.mood == "autumn":
        dab(sheet, wood, leaves[::sparse], dry=dry)
        dab(sheet, leaves, pigment=WARM)
    else:
        dab(sheet, wood, leaves, dry=dry)


def bare(sheet: Sheet, x: float, y: float, height: float) -> None:
    """A leafless winter tree."""
    wood, _ = grow(sheet, x, y, (sheet.between(-0.35, 0.35), -1), height, 7)
    dab(sheet, wood, dry=0.12)


def leafy(sheet: Sheet, x: float, y: float, height: float) -> None:
    """A broad-leaved tree with a dotted crown, red in autumn."""
    wood, tips = grow(sheet, x, y, (sheet.between(-0.35, 0.35), -1), height, 5)
    tx, ty = tips.repeat(8, axis=0).T
    n, spread = len(tx), 0.1 * height
    tx = tx + sheet.scatter(n, -spread, spread)
    ty = ty + sheet.scatter(n, -spread, spread)
    radius = sheet.scatter(n, 0.5, 0.6 + 0.018 * height)
    foliage(sheet, wood, dots(tx, ty, radius, sheet.scatter(n, 0.3, 0.9)), sparse=6, dry=0.1)


def willow(sheet: Sheet, x: float, y: float, height: float) -> None:
    """A tree with hanging twigs."""
    wood, tips = grow(sheet, x, y, (sheet.between(-0.4, 0.4), -1), height * 0.9, 5)
    tx, ty = tips.repeat(2, axis=0).T
    n = len(tx)
    ex = tx + sheet.scatter(n, -0.12, 0.12) * height
    ey = ty + sheet.scatter(n, 0.15, 0.5) * height
    twigs = stroke((tx, ty), (ex, ey), 0.06, (0.4, 0.2), sheet.scatter(n, 0.2, 0.6), 30)
    dab(sheet, wood, twigs, dry=0.12)


def pine(sheet: Sheet, x: float, y: float, height: float, lean: float | None = None) -> None:
    """A bent trunk that carries flat pads of needles."""
    if lean is None:
        lean = -sheet.side * sheet.between(-0.05, 0.35)
    bend, thick = sheet.between(-0.16, 0.16), (max(0.03 * height, 0.8), 0.5)
    trunk = stroke((x, y), (x + lean * height, y - height), bend, thick, 0.95, 60)
    parts = [trunk]
    count = sheet.whole(5, 8)
    for i in range(count):
        along, way = 0.4 + 0.6 * i / (count - 1), 1 if i % 2 else -1
        knot_x, knot_y = (float(v) for v in trunk[min(int(along * 60), 59), :2])
        pad_x = knot_x + height * sheet.between(0.16, 0.34) * (1.25 - along) * way
        pad_y = knot_y - height * sheet.between(-0.02, 0.07)
        bough = stroke((knot_x, knot_y), (pad_x, pad_y), 0.12 * way, (1, 0.5), 0.95, 16)

        wide = height * sheet.between(0.1, 0.17) * (1.3 - 0.5 * along)
        n = int(12 + wide * 2.2)
        off, tall = sheet.scatter(n, -1, 1), sheet.scatter(n, 0.03, 0.075) * height
        nx, ny = pad_x + off * wide, pad_y + off * off * wide * 0.25
        ny = ny + sheet.scatter(n, -0.02, 0.02) * height
        ink, tip = sheet.scatter(n, 0.5, 1), (nx + off * tall * 1.1, ny - tall)
        needles = stroke((nx, ny), tip, 0, (0.5, 0.25), ink, 5)
        parts += [bough, needles, dots(nx, ny - 0.4 * tall, 0.5 * tall + 0.4, 0.4)]
    dab(sheet, *parts)


def tree(sheet: Sheet, x: float, y: float, tall: float) -> None:
    """One of the trees that stand on a shore, in autumn a red one; about `tall` pixels high."""
    kinds = (leafy,) * 3 if sheet.mood == "autumn" else (leafy, bare, willow, pine)
    sheet.pick(kinds)(sheet, x, y, tall * sheet.between(0.6, 1.1))


def grove(sheet: Sheet, ridge: Array, low: float, high: float, ink: float, tall: float) -> None:
    """Distant trees on a ridge between columns: a stem each, and a crown of lying dots."""
    x = sheet.scatter(int((high - low) / (0.4 * tall)) + 2, low, high)
    x = x[(x > 0) & (x < SIZE)]
    foot = ridge[x.astype(np.int32)] + 1
    height = sheet.scatter(len(x), 0.5, 1.2) * tall
    stems = stroke((x, foot), (x, foot - height), 0.04, (0.5, 0.3), ink, 10)

    x, foot, height = x.repeat(9), foot.repeat(9), height.repeat(9)
    n = len(x)
    up = sheet.scatter(n, 0.25, 1.05)
    y = foot - up * height
    half = height * (0.34 - 0.27 * up) * sheet.scatter(n, 0.5, 1.2)
    left = x - half + sheet.scatter(n, -0.14, 0.14) * height
    right, thick = (left + 2 * half, y + 0.2 * half), (0.07 * tall, 0.03 * tall)
    crowns = stroke((left, y), right, -0.1, thick, sheet.scatter(n, 0.3, ink))
    foliage(sheet, stems, crowns, sparse=3)


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
    dab(sheet, dots(cx, cy, 0.5, 0.55))


def bamboo(sheet: Sheet, x: float) -> None:
    """Thin jointed stems, the pale one behind, with leaves in hanging sprays."""
    for tone in (0.4, 0.9, 0.95)[sheet.whole(0, 2) :]:
        foot, tip = x + sheet.between(-18, 18), x - sheet.side * sheet.between(10, 70)
        top, bow = sheet.between(-10, 70), -0.08 * sheet.side
        stem = stroke((foot, SIZE + 6), (tip, top), bow, (1.9, 0.6), tone, 320)
        joints = np.arange(320) % 30 <= 1

        kx, ky = stem[sheet.scatter(7, 70, 310).astype(np.int32), :2].T
        way = np.where(sheet.scatter(7, 0, 1) < 0.7, -sheet.side, sheet.side)
        ex, ey = kx + way * sheet.scatter(7, 10, 30), ky + sheet.scatter(7, -16, 2)
        twigs = stroke((kx, ky), (ex, ey), 0.1, (0.5, 0.3), tone, 40)

        lx, ly = ex.repeat(5) + sheet.scatter(35, -2, 2), ey.repeat(5) + sheet.scatter(35, -2, 2)
        aim, reach = sheet.scatter(35, -1, 1), sheet.scatter(35, 10, 21)
        dx, dy = aim * reach, (1 - 0.7 * np.abs(aim)) * reach
        ink = sheet.scatter(35, 0.7, 1) * tone
        belly = (lx + 0.4 * dx, ly + 0.4 * dy)  # the brush is pressed open here, then lifted
        pressed = stroke((lx, ly), belly, 0.03, (0.3, 1.4), ink)
        lifted = stroke(belly, (lx + dx, ly + dy), 0.03, (1.4, 0.1), ink, 12)
        dab(sheet, stem[~joints], twigs, pressed, lifted, dry=0.1)


def birds(sheet: Sheet, x: float, y: float) -> None:
    """A loose line of birds, far off."""
    n = sheet.whole(3, 9)
    bx = x + sheet.scatter(n, -24, 24)
    by = y + 0.3 * (bx - x) * sheet.light + sheet.scatter(n, -5, 5)
    span, lift = sheet.scatter(n, 2.5, 4.5), sheet.scatter(n, 0.5, 2)
    for way in (-1, 1):
        tip = (bx + way * span, by - lift)
        dab(sheet, stroke((bx, by), tip, -0.3 * way, (0.6, 0.2), 0.75))


def boat(sheet: Sheet, x: float, y: float, size: float) -> None:
    """A skiff with its boatman, and half the time a mat roof."""
    s, way = size, 1 if sheet.chance(0.5) else -1
    man, head, deck = x + 0.55 * way * s, y - 0.62 * s, y - 0.3 * s
    board, brim, roof = y - 0.12 * s, 0.22 * s, y - 0.2 * s
    pole = (man - 0.3 * way * s, y - s), (man + 0.5 * way * s, y + 0.3 * s)
    parts = [
        stroke((x - s, deck), (x + s, deck), 0.13, (0.7, 0.7), 0.95, 32),
        stroke((x - 0.8 * s, board), (x + 0.8 * s, board), 0.06, (1, 1), 0.8, 28),
        stroke((man, y - 0.15 * s), (man, head), 0, (0.13 * s, 0.07 * s), 0.9),
        stroke((man - brim, head), (man + brim, head), -0.2, (0.5, 0.5), 0.9),
        stroke(*pole, 0, (0.25, 0.25), 0.6, 28),
        stroke((x - 1.1 * s, y + 3), (x + 0.9 * s, y + 3), 0, (0.5, 0.2), 0.25, 24),
    ]
    if sheet.chance(0.5):
        left, right = x - (0.45 + 0.2 * way) * s, x + (0.45 - 0.2 * way) * s
        parts.append(stroke((left, roof), (right, roof), -0.4, (1, 1), 0.8, 24))
    dab(sheet, *parts)


def pavilion(sheet: Sheet, x: float, y: float, size: float) -> None:
    """Slender posts below two upturned roofs."""
    parts = [stroke((x - 0.6 * size, y), (x + 0.6 * size, y), 0, (0.5, 0.5), 0.8, 20)]
    for post in (-0.42, 0.0, 0.42):
        foot = x + post * size
        parts.append(stroke((foot, y - 0.6 * size), (foot, y), 0, (0.45, 0.45), 0.8, 12))
    for wide, up in ((0.75, 0.6), (0.5, 0.96)):
        top = y - up * size
        for way in (-1, 1):
            eave = (x + way * wide * size, top)
            parts += [
                stroke((x, top - 0.42 * size), eave, 0.14 * way, (1.3, 0.5), 0.95, 20),
                stroke((x, top - 0.1 * size), eave, 0.05 * way, (1.1, 0.4), 0.8, 16),
            ]
    dab(sheet, *parts)


def seal(sheet: Sheet) -> None:
    """The painter's seal, pale carving in worn cinnabar, where the paper is emptiest."""

    def crowd(spot: tuple[int, int]) -> float:
        x, y = spot
        around = sheet.pigment[:, y - 5 : y + 19, x - 5 : x + 17]
        return float(around.max()) + sheet.between(0, 0.3)

    x, y = min([(x, y) for x in (16, 226) for y in (60, 110, 160, 205, 226)], key=crowd)
    raised = sheet.scatter(42, 0, 1).reshape(7, 6) < 0.6
    raised[[0, -1]] = raised[:, [0, -1]] = True
    worn = 0.6 + 0.35 * sheet.grain[y : y + 14, x : x + 12]
    sheet.lay(WARM, worn * raised.repeat(2, axis=0).repeat(2, axis=1), y, x)
