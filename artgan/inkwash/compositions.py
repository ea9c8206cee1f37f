"""Paints a whole set, or one painting from its number; the seven compositions."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from artgan.errors import UserError
from artgan.inkwash.brush import Sheet, mount
from artgan.inkwash.land import CRAG, KARST, ROCKS, bank, far_range, mountain, sky, water
from artgan.inkwash.noise import SIZE
from artgan.inkwash.things import bamboo, birds, boat, grove, pavilion, pine, plum, seal, tree
from artgan.workers import map_in_processes


def generate(
    folder: Path,
    count: int = 2000,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Paint a set into `folder`, as `inkwash-00000.png` and so on, on all cores.

    Args:
        folder: where to write the files.
        count: number of paintings.
        seed: names the set.
        progress: called with the number of paintings done, as they are finished.

    Raises:
        UserError: the process that paints one was killed repeatedly.
    """
    painted = map_in_processes(partial(_paint_file, folder, seed), list(range(count)))
    for index, file in enumerate(painted):
        if file is None:
            raise UserError(
                f"painting {index}: the process that paints it was killed repeatedly. Free some "
                "memory and start again."
            )
        if progress is not None:
            progress(index + 1)


def _paint_file(folder: Path, seed: int, index: int) -> Path:
    # zlib's run-length mode (3) costs a fifth of the time for files 4% larger.
    file = folder / f"inkwash-{index:05d}.png"
    Image.fromarray(paint(seed, index)).save(file, "PNG", compress_type=3)
    return file


def paint(seed: int, index: int) -> NDArray[np.uint8]:
    """Paint one landscape.

    Args:
        seed: names the set, ≥ 0.
        index: the painting's number in the set, ≥ 0.

    Returns:
        [256, 256, 3] uint8 RGB, the same bits on every machine.
    """
    sheet = Sheet(seed, index)
    sky(sheet)
    compose = sheet.pick(COMPOSITIONS)
    compose(sheet)
    if sheet.chance(0.45):
        birds(sheet, sheet.across(-0.6, 0.1), sheet.between(40, 90))
    seal(sheet)
    return mount(sheet)


def shore(sheet: Sheet, side: float, level: float, tall: float) -> None:
    """The near bank at one side, with a group of trees."""
    reach = sheet.between(110, 190)
    ridge = bank(sheet, side, level, reach, sheet.between(14, 30), 0.95)
    for _ in range(sheet.whole(2, 5)):
        away = reach * sheet.between(0.08, 0.6)
        x = away if side < 0 else SIZE - 1 - away
        tree(sheet, x, float(ridge[int(x)]) + 2, tall)


def high_distance(sheet: Sheet) -> None:
    """A great peak that fills the height, trees at its feet (gaoyuan)."""
    rock, height = sheet.pick(ROCKS), sheet.between(120, 150)
    far_range(sheet, sheet.between(90, 120), sheet.between(20, 45), 0.05)
    lesser = height * sheet.between(0.6, 0.8)
    mountain(sheet, rock, sheet.across(0.3, 0.6), lesser, 182, 0.3, 2)
    mountain(sheet, rock, sheet.across(-0.3, 0), height, 196, 0.62, 5)
    mountain(sheet, rock, sheet.across(-0.9, -0.5), height * sheet.between(0.3, 0.5), 214, 0.8)
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
    cliff = mountain(sheet, CRAG, sheet.across(0.95, 1.1), sheet.between(140, 200), 240, 0.8, 5)
    low = sheet.between(60, 85)
    front = mountain(sheet, CRAG, sheet.across(0.7, 0.9), low, 268, 1.0, 3, mist=24, girth=1.4)
    skyline = np.minimum(cliff, front)
    x = int(np.abs(skyline - sheet.between(140, 195)).argmin())
    lean = -sheet.side * sheet.between(0.3, 0.7)
    pine(sheet, x, float(skyline[x]) + 4, sheet.between(70, 95), lean)
    boat(sheet, sheet.across(-0.6, -0.2), sheet.between(190, 225), sheet.between(9, 13))


def gorge(sheet: Sheet) -> None:
    """A river between two walls of rock."""
    rock = sheet.pick((KARST, CRAG))
    far_range(sheet, sheet.between(110, 140), sheet.between(30, 60), 0.05)
    mountain(sheet, rock, sheet.across(-0.3, 0.3), sheet.between(70, 100), 165, 0.22, 2)
    for i, side in enumerate((1, -1)):
        height = sheet.between(120, 175) - 30 * i
        x = sheet.across(0.7 * side, 0.85 * side)
        mountain(sheet, rock, x, height, 200, 0.45 + 0.1 * i, 4, girth=1.2)
    water(sheet, 190, 0.45)
    for i, side in enumerate((-1, 1)):
        x, height = sheet.across(0.9 * side, 1.05 * side), sheet.between(85, 145)
        ridge = mountain(sheet, CRAG, x, height, 264, 0.8 + 0.15 * i, 4, girth=1.2)
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
        mountain(sheet, KARST, x, height, level + 14, 0.12 + 0.68 * near, 2, mist=22)
    water(sheet, level, 0.6)
    if sheet.chance(0.6):
        boat(sheet, sheet.across(-0.5, 0), sheet.between(level + 18, 232), sheet.between(10, 14))
    if sheet.chance(0.35):
        bamboo(sheet, sheet.across(0.75, 1))
    else:
        shore(sheet, sheet.side, 252, 60)


def cloud_sea(sheet: Sheet) -> None:
    """Peak behind peak rising out of mist; a pavilion on the nearest."""
    rock = sheet.pick(ROCKS)
    far_range(sheet, 80, sheet.between(15, 30), 0.04)
    for i in range(4):
        way = 1 if i % 2 else -1
        x, height = sheet.across(0.15 * way, 0.8 * way), sheet.between(45, 85)
        mountain(sheet, rock, x, height, 130 + 28 * i, 0.18 + 0.17 * i, girth=1.3)
    x, height = sheet.across(0.5, 0.85), sheet.between(65, 90)
    ridge = mountain(sheet, CRAG, x, height, 272, 0.95, 4, mist=24, girth=2.2)
    grove(sheet, ridge, x - 60, x + 60, 0.95, 16)
    if sheet.chance(0.6):
        pavilion(sheet, x, float(ridge[int(x)]) + 2, 13)


def foreground_branch(sheet: Sheet) -> None:
    """A plum branch or bamboo close at hand, a hill far across the water."""
    far_range(sheet, sheet.between(150, 170), sheet.between(30, 50), 0.06)
    mountain(sheet, sheet.pick(ROCKS), sheet.across(-0.6, 0), sheet.between(80, 130), 212, 0.5)
    water(sheet, 206, 0.4)
    if sheet.chance(0.5):
        boat(sheet, sheet.across(-0.6, 0), sheet.between(222, 236), sheet.between(9, 12))
    if sheet.chance(0.6):
        plum(sheet, sheet.across(1.03, 1.05), sheet.between(40, 120))
    else:
        bamboo(sheet, sheet.across(0.7, 0.95))


COMPOSITIONS: Final = (
    high_distance, level_distance, one_corner, gorge, karst_river, cloud_sea, foreground_branch
)  # fmt: skip
