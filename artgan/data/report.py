"""A page about a folder of paintings, to be read before a GAN is trained on them."""

import base64
import colorsys
import contextlib
import io
import json
import math
import os
import warnings
from bisect import bisect, bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, ImageOps

from artgan.data.decode import FORMATS, UnusableImage, decode
from artgan.data.inspection import Checkup, Facts
from artgan.files import atomic_write

T = TypeVar("T")

REPORT = "report.html"
TEMPLATE = Path(__file__).with_name("report.html.jinja")
STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")

# How much is shown: at most 258 thumbnails of about 5 kB, so that the page opens anywhere.
SHEET, EXTREMES, BORDERED = 60, 6, 18
REASONS, FILES_OF_A_REASON = 8, 6
GROUPS, FILES_OF_A_GROUP = 30, 4
ROWS = 12
THUMBNAIL_SIDE, THUMBNAIL_LENGTH = 160, 480  # pixels of a square one; at most of any other
THUMBNAIL_QUALITY = 60

# The bins of the histograms, and the limits between them.
SIDE_LIMITS = (64, 128, 256, 512, 1024)
SIDES = ("below 64", "64 to 127", "128 to 255", "256 to 511", "512 to 1023", "1024 and more")
RATIOS = (1.25, 2, 4)
TALL = ("taller than 1:4", "1:4 to 1:2", "1:2 to 4:5")
WIDE = ("5:4 to 2:1", "2:1 to 4:1", "wider than 4:1")
SHAPES = (*TALL, "nearly square", *WIDE)


def write_report(checkup: Checkup, folder: Path) -> Path:
    """Writes what a checkup found as a page, for a person, and `report.json`, for programs.

    The page needs no network and stays below 5 MB; it shows examples where there are many. The
    JSON file is complete. It counts usable images unless said otherwise:

        root, date              the folder, and when the report was written, in ISO 8601
        pictures, usable        how many image files there are, and how many can be used
        unusable                [{file, reason}] of all others
        reasons                 {kind of reason: count} of those
        duplicates, superfluous [[file to keep, file, ...]]; how many files are not kept
        bordered                [{file, frame}] of those with a plain border: left, top, right,
                                bottom of what is inside, in pixels
        several_pages           [{file, pages}] of albums and animations: only the first is used
        classes, formats, modes {name: count}; a class is a first-level folder, "" the root itself
        others                  {ending: count} of other files; "linked folder" counts those,
                                which are not searched
        short_sides, small      {range in pixels: count}; count below 256
        shapes, tall, wide      {range of width:height: count}; count beyond 1:2, beyond 2:1

    Files are read again for the thumbnails; one that has vanished in the meantime is a blank.
    """
    facts = _counts(checkup)
    with atomic_write(folder / "report.json") as file:
        file.write(json.dumps(facts, indent=1).encode())
    write_html(TEMPLATE, folder / REPORT, **_shown(checkup, facts))
    return folder / REPORT


def write_html(template: Path, path: Path, **values: Any) -> None:
    """Renders a template in artgan's style and writes the page; UserError if it cannot."""
    # Imported only when a page is written: most commands write none.
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": "{:,}".format, "shorten": _shorten, "inset": _inset}
    page = environment.get_template(template.name).render(style=Markup(STYLE), **values)
    with atomic_write(path) as file:
        # File names may hold bytes that are no text; Python carries them as lone surrogates.
        file.write(page.encode("utf-8", errors="backslashreplace"))


def _counts(checkup: Checkup) -> dict[str, Any]:
    usable, unusable = checkup.usable, checkup.unusable
    sides = [min(facts.width, facts.height) for facts in usable]
    return {
        "root": str(checkup.root),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "pictures": len(checkup.facts),
        "usable": len(usable),
        "unusable": [{"file": facts.file, "reason": facts.reason} for facts in unusable],
        "reasons": checkup.reasons,
        "duplicates": checkup.duplicates,
        "superfluous": len(checkup.superfluous),
        "bordered": [{"file": facts.file, "frame": facts.frame} for facts in usable if facts.frame],
        "several_pages": [
            {"file": facts.file, "pages": facts.pages} for facts in checkup.many_paged
        ],
        "classes": _counted(facts.file.rpartition("/")[0].partition("/")[0] for facts in usable),
        "formats": _counted(facts.format or "unknown" for facts in usable),
        "modes": _counted(facts.mode or "unknown" for facts in usable),
        "others": _counted(checkup.others),
        "short_sides": _histogram(SIDES, (SIDES[bisect(SIDE_LIMITS, side)] for side in sides)),
        "small": sum(side < 256 for side in sides),
        "shapes": _histogram(SHAPES, map(_shape, usable)),
        "tall": sum(facts.height > 2 * facts.width for facts in usable),
        "wide": sum(facts.width > 2 * facts.height for facts in usable),
    }


def _counted(names: Iterable[str] | Mapping[str, int]) -> dict[str, int]:
    """How often each name occurs, the most frequent first."""
    return dict(Counter(names).most_common())


def _histogram(bins: Iterable[str], values: Iterable[str]) -> dict[str, int]:
    counts = Counter(values)
    return {name: counts[name] for name in bins}


def _shape(facts: Facts) -> str:
    """Which of `SHAPES` an image has; turned by 90°, it would have the opposite."""
    wide = bisect_left(RATIOS, facts.width / facts.height)
    tall = bisect_left(RATIOS, facts.height / facts.width)
    return SHAPES[len(RATIOS) + wide - tall]


def _shown(checkup: Checkup, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows."""
    root, usable = checkup.root, checkup.usable
    by_name = {facts.file: facts for facts in checkup.facts}
    by_reason: defaultdict[str, list[Facts]] = defaultdict(list)
    for entry in checkup.unusable:
        by_reason[entry.kind_of_reason].append(entry)
    by_shape = sorted(usable, key=lambda facts: facts.width / facts.height)
    wide = [facts for facts in reversed(by_shape) if facts.width > facts.height]
    tall = [facts for facts in by_shape if facts.width < facts.height]
    return {
        "title": root.resolve().name,
        "facts": facts,
        "rows": ROWS,
        "sheet": _gallery(root, usable, SHEET),
        "widest": _gallery(root, wide[:EXTREMES], EXTREMES),
        "tallest": _gallery(root, tall[:EXTREMES], EXTREMES),
        "palette": _palette([facts.color for facts in usable]),
        "bordered": _gallery(root, [facts for facts in usable if facts.frame], BORDERED),
        "several": _gallery(root, checkup.many_paged, BORDERED),
        "reasons": [  # the most frequent ones
            (kind, count, _gallery(root, by_reason[kind], FILES_OF_A_REASON))
            for kind, count in [*checkup.reasons.items()][:REASONS]
        ],
        "groups": [  # the largest ones
            (len(group), _gallery(root, [by_name[file] for file in group], FILES_OF_A_GROUP))
            for group in sorted(checkup.duplicates, key=len, reverse=True)[:GROUPS]
        ],
    }


def _palette(colors: Sequence[tuple[int, int, int]]) -> Iterable[tuple[int, int, int]]:
    """Colours in columns: hues from left to right, in each column from light to dark."""
    by_hue = sorted(_evenly(colors, 48 * 8), key=lambda color: colorsys.rgb_to_hsv(*color)[0])
    columns = [by_hue[first : first + 8] for first in range(0, len(by_hue), 8)]
    return chain.from_iterable(sorted(column, key=sum, reverse=True) for column in columns)


def _gallery(
    root: Path, images: Sequence[Facts], limit: int
) -> tuple[list[tuple[Facts, str | None]], int]:
    """Some images, evenly spread, with thumbnails; and how many more there are."""
    shown = _evenly(images, limit)
    # Pillow warns of long scrolls, which are large, and of damage, which is named already.
    ignored = warnings.catch_warnings(action="ignore")
    with ignored, ThreadPoolExecutor(os.cpu_count()) as threads:
        thumbnails = threads.map(_thumbnail, [root / facts.file for facts in shown])
        return list(zip(shown, thumbnails, strict=True)), len(images) - limit


def _thumbnail(path: Path) -> str | None:
    """The image as a data URL; None if nothing of it can be shown."""
    try:
        # Reading a pipe would never end.
        image = _open(path.read_bytes() if path.is_file() else b"")
        length = THUMBNAIL_SIDE * math.sqrt(max(image.size) / min(image.size))
        image.thumbnail((min(length, THUMBNAIL_LENGTH),) * 2)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=THUMBNAIL_QUALITY)
    except Exception:  # Pillow's decoders raise anything on damaged files
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _open(content: bytes) -> Image.Image:
    """Decodes an image, or what there is of it, in RGB."""
    try:
        return decode(content).image
    except UnusableImage:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        with contextlib.suppress(Exception):
            image.load()
        # Without tiles left to read, Pillow gives what it has. Its switch for truncated images
        # would act on every thread of the process.
        image.tile = []
        return ImageOps.exif_transpose(image).convert("RGB")


def _evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count` items, spread over all of them, the first one always."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _shorten(text: str) -> str:
    """Very long text is cut in the middle, as names differ at their ends."""
    return text if len(text) <= 200 else f"{text[:80]} … {text[-100:]}"


def _inset(facts: Facts) -> str:
    """CSS `inset` of what is inside the plain border."""
    left, top, right, bottom = facts.frame or (0, 0, 0, 0)
    width, height = facts.width, facts.height
    sides = top / height, 1 - right / width, 1 - bottom / height, left / width
    return " ".join(f"{side:.2%}" for side in sides)
