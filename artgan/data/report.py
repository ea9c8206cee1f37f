"""A page about a folder of paintings, to be read before a GAN is trained on them."""

import base64
import colorsys
import contextlib
import io
import json
import math
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from heapq import nlargest, nsmallest
from html import escape
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from artgan.data.checkup import Checkup, Facts
from artgan.data.scan import UnusableImage, decode
from artgan.files import atomic_write

PAGE = "report.html"

T = TypeVar("T")
Thumbnails = Mapping[str, str | None]

# How much is shown: at most 370 thumbnails of 5 kB, so that the page opens anywhere.
SHEET = 60
EXTREMES = 6
BORDERED = 18
KINDS, FILES_OF_A_KIND = 10, 12
GROUPS, FILES_OF_A_GROUP = 40, 4
ROWS = 12
THUMBNAIL_BYTES = 5000
THUMBNAIL_AREA = 160 * 160
THUMBNAIL_SIDE = 480
PALETTE_COLUMNS, PALETTE_ROWS = 48, 8

# The classes of the histograms. Shapes count how often a picture exceeds one of `RATIOS`.
SIDES = {
    0: "below 64",
    64: "64 to 127",
    128: "128 to 255",
    256: "256 to 511",
    512: "512 to 1023",
    1024: "1024 and more",
}
RATIOS = (1.25, 2, 4)
SHAPES = {
    -3: "taller than 1:4",
    -2: "1:4 to 1:2",
    -1: "1:2 to 4:5",
    0: "nearly square",
    1: "5:4 to 2:1",
    2: "2:1 to 4:1",
    3: "wider than 4:1",
}
LIGHTNESS = {tenth: f"{10 * tenth} to {10 * tenth + 10} %" for tenth in range(10)}


def write_report(checkup: Checkup, folder: Path) -> Path:
    """Writes what a checkup found as a page, for a person, and `report.json`, for programs.

    The page needs no network and stays below 3 MB; it shows examples where there are many. The
    JSON file is complete. It holds, counting usable pictures unless said otherwise:

        root, date              the folder, and when the report was written, in ISO 8601
        pictures, usable        how many picture files there are, and how many can be used
        unusable                [{file, reason}] of all others
        reasons                 {kind of reason: count}
        duplicates, superfluous [[file to keep, file, ...]]; how many files are not kept
        bordered                [{file, frame}] of those with a plain border: left, top, right,
                                bottom of what lies within, in pixels
        classes, formats, modes {name: count}; a class is a first-level folder, "" the root itself
        others                  {ending: count} of files that are no pictures
        short_side              [smallest, median, largest] in pixels; null without pictures
        short_sides             {range in pixels: count}
        smaller_than            {pixels: count}, by the short side
        tall, wide, shapes      count beyond 1:2, beyond 2:1; {range of width:height: count}
        tallest, widest         [{file, width, height}], the most extreme first
        lightness               {range of the mean lightness: count}

    Args:
        checkup: of a folder, whose files are read again for the thumbnails; what has vanished in
            the meantime is shown as a blank.
        folder: where to write; made if missing.

    Returns:
        The path of the page.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    figures = _figures(checkup)
    with atomic_write(folder / "report.json") as file:
        file.write(json.dumps(figures, indent=1).encode())
    page = folder / PAGE
    with atomic_write(page) as file:
        # File names may hold bytes that are no text; Python carries them as lone surrogates.
        file.write(_page(checkup, figures).encode("utf-8", errors="backslashreplace"))
    return page


def _figures(checkup: Checkup) -> dict[str, Any]:
    usable, unusable = checkup.usable, checkup.unusable
    sides = [min(facts.width, facts.height) for facts in usable]
    shapes = [_shape(facts) for facts in usable]
    tall, wide = _extremes(usable)
    return {
        "root": str(checkup.root),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "pictures": len(checkup.facts),
        "usable": len(usable),
        "unusable": [{"file": facts.file, "reason": facts.reason} for facts in unusable],
        "reasons": _counted(_kind(facts) for facts in unusable),
        "duplicates": checkup.duplicates,
        "superfluous": len(checkup.superfluous),
        "bordered": [{"file": facts.file, "frame": facts.frame} for facts in usable if facts.frame],
        "classes": _counted(facts.file.rpartition("/")[0].partition("/")[0] for facts in usable),
        "formats": _counted(facts.format or "unknown" for facts in usable),
        "modes": _counted(facts.mode or "unknown" for facts in usable),
        "others": _counted(checkup.others),
        "short_side": np.quantile(sides, (0, 0.5, 1)).tolist() if sides else None,
        "short_sides": _histogram(SIDES, (max(s for s in SIDES if s <= side) for side in sides)),
        "smaller_than": {limit: sum(side < limit for side in sides) for limit in (64, 128, 256)},
        "tall": sum(shape <= -2 for shape in shapes),
        "wide": sum(shape >= 2 for shape in shapes),
        "shapes": _histogram(SHAPES, shapes),
        "tallest": [_measured(facts) for facts in tall],
        "widest": [_measured(facts) for facts in wide],
        "lightness": _histogram(LIGHTNESS, (_tenth(facts.color) for facts in usable)),
    }


def _counted(names: Iterable[str] | Mapping[str, int]) -> dict[str, int]:
    """How often each name occurs, the most frequent first."""
    return dict(Counter(names).most_common())


def _histogram(labels: Mapping[int, str], values: Iterable[int]) -> dict[str, int]:
    counts = Counter(values)
    return {label: counts[value] for value, label in labels.items()}


def _kind(facts: Facts) -> str:
    """The reason without its details: `too small` of `too small: 8×200 pixels`."""
    return re.split("[:,]", facts.reason or "")[0]


def _shape(facts: Facts) -> int:
    """Which of `SHAPES` a picture has; turned by a quarter, it would have the opposite."""
    wide = sum(facts.width > ratio * facts.height for ratio in RATIOS)
    return wide - sum(facts.height > ratio * facts.width for ratio in RATIOS)


def _extremes(usable: Sequence[Facts]) -> tuple[list[Facts], list[Facts]]:
    """The tallest and the widest pictures, the most extreme first."""
    tall = nsmallest(EXTREMES, usable, key=lambda facts: facts.width / facts.height)
    wide = nlargest(EXTREMES, usable, key=lambda facts: facts.width / facts.height)
    return [f for f in tall if f.height > f.width], [f for f in wide if f.width > f.height]


def _lightness(color: tuple[int, int, int]) -> float:
    """Brightness as the eye weighs it, 0 to 1 (Rec. 601 luma)."""
    red, green, blue = color
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def _tenth(color: tuple[int, int, int]) -> int:
    return min(int(10 * _lightness(color)), 9)


def _measured(facts: Facts) -> dict[str, Any]:
    return {"file": facts.file, "width": facts.width, "height": facts.height}


def _evenly(items: Sequence[T], count: int) -> list[T]:
    """At most `count` items, spread over all of them."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _thumbnails(root: Path, shown: Iterable[Facts]) -> Thumbnails:
    """Thumbnails by file name, as addresses that hold the picture; None where nothing shows."""
    files = list(dict.fromkeys(facts.file for facts in shown))
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as threads:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # long scrolls are large
        return dict(zip(files, threads.map(_thumbnail, map(root.joinpath, files)), strict=True))


def _thumbnail(path: Path) -> str | None:
    try:
        # A pipe of that name would be waited for without end.
        image = _open(path.read_bytes() if path.is_file() else b"")
    except Exception:  # on damaged files, Pillow's decoders raise what they like
        return None
    scale = math.sqrt(THUMBNAIL_AREA / (image.width * image.height))
    scale = min(scale, THUMBNAIL_SIDE / max(image.size), 1)
    width, height = (max(1, round(scale * side)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
    for quality in (80, 60, 40, 20, 10):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        if file.tell() <= THUMBNAIL_BYTES:
            break
    return _address(file, "jpeg")


def _open(content: bytes) -> Image.Image:
    """Decodes a picture, or what there is of it, in RGB."""
    try:
        return decode(content).image
    except UnusableImage:
        with Image.open(io.BytesIO(content)) as image:
            with contextlib.suppress(Exception):
                image.load()
            # Without tiles left to read, Pillow gives what it has. Its switch for truncated images
            # would act on every thread of the process.
            image.tile = []
            return ImageOps.exif_transpose(image).convert("RGB")


def _address(file: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _palette(colors: Sequence[tuple[int, int, int]]) -> str:
    """Mean colours as a picture: hues from left to right, in each column from light to dark."""
    by_hue = sorted(colors, key=lambda color: colorsys.rgb_to_hsv(*color)[0])
    columns = min(PALETTE_COLUMNS, math.ceil(len(colors) / PALETTE_ROWS))
    cells = np.zeros((PALETTE_ROWS, columns, 3), np.uint8)
    for column in range(columns):
        first, last = (len(colors) * edge // columns for edge in (column, column + 1))
        shades = sorted(by_hue[first:last], key=_lightness, reverse=True)
        for row in range(PALETTE_ROWS):
            cells[row, column] = shades[row * len(shades) // PALETTE_ROWS]
    file = io.BytesIO()
    Image.fromarray(cells).save(file, "PNG")
    return _address(file, "png")


# What follows makes HTML. All that comes from a file or its name goes through `_text`.


def _page(checkup: Checkup, figures: Mapping[str, Any]) -> str:
    root, usable = checkup.root, checkup.usable
    findings = _findings(figures)
    clauses = [
        f"{figures['usable']:,} of {_number(figures['pictures'], 'picture')} are usable",
        *(f"{count:,} {what}" for count, what, _ in findings),
    ]
    sections = [
        _sheet(root, usable),
        _contents(figures),
        _sizes(root, usable, figures),
        _colors(usable, figures) if usable else "",
        _borders(root, usable),
        _unusable(root, checkup.unusable),
        _duplicates(checkup),
    ]
    return TEMPLATE.format(
        style=STYLE,
        title=_text(root.resolve().name),
        root=_text(str(root)),
        date=figures["date"][:16].replace("T", " "),
        summary="; ".join(clauses) + ".",
        findings="".join(
            f"<li><b>{count:,}</b> <strong>{what}</strong><p>{advice}</p></li>"
            for count, what, advice in findings
        ),
        sections="".join(sections),
    )


def _findings(figures: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    """How many files there is something to say about, what it is, and what may be done."""
    smaller = figures["smaller_than"]
    findings = [
        (
            len(figures["unusable"]),
            "cannot be used",
            "Training passes over them; they stay where they are. The reasons are below.",
        ),
        (
            figures["superfluous"],
            f"more than needed in {_number(len(figures['duplicates']), 'group')} of duplicates",
            "What is there twice is learnt twice. <code>dataset.deduplicate=true</code> drops all "
            "but one of each group.",
        ),
        (
            len(figures["bordered"]),
            "with a plain border",
            "A GAN learns to paint mounts as well. <code>dataset.border=trim</code> takes them "
            "off first.",
        ),
        (
            figures["wide"] + figures["tall"],
            f"longer than 2:1 ({figures['wide']:,} wide, {figures['tall']:,} tall)",
            "The square in the middle is less than half of them. <code>dataset.crop=tiles</code> "
            "cuts several squares from a long scroll.",
        ),
        (
            smaller[256],
            "smaller than 256&nbsp;px",
            "They would be enlarged, and so blurred, at <code>resolution=256</code>; "
            f"{smaller[128]:,} at 128, and {smaller[64]:,} at 64.",
        ),
    ]
    return [finding for finding in findings if finding[0]]


def _sheet(root: Path, usable: Sequence[Facts]) -> str:
    sample = _evenly(usable, SHEET)
    thumbnails = _thumbnails(root, sample)
    pictures = "".join(_picture(facts, thumbnails) for facts in sample)
    lead = f"{len(sample)} of {len(usable):,}, spread evenly over the folder."
    return _section("The paintings", lead, f'<div class="sheet">{pictures}</div>')


def _contents(figures: Mapping[str, Any]) -> str:
    return _section(
        "What there is",
        "Usable pictures, and other files, which were passed over.",
        _columns(
            _bars("Classes", figures["classes"], "(no subfolder)"),
            _bars("Formats", figures["formats"]),
            _bars("Colour modes", figures["modes"]),
            _bars("Other files", figures["others"], "(no ending)"),
        ),
    )


def _sizes(root: Path, usable: Sequence[Facts], figures: Mapping[str, Any]) -> str:
    tall, wide = _extremes(usable)
    thumbnails = _thumbnails(root, [*tall, *wide])
    smaller = [f"{count:,} below {limit} px" for limit, count in figures["smaller_than"].items()]
    return _section(
        "Sizes and shapes",
        f"By the short side, {', '.join(smaller)}; training enlarges what is below its resolution.",
        _columns(
            _bars("Short side in pixels", figures["short_sides"]),
            _bars("Width to height", figures["shapes"]),
        ),
        '<div class="extremes">',
        "<h3>The widest</h3>" if wide else "",
        _gallery(_figure(facts, thumbnails) for facts in wide),
        "<h3>The tallest</h3>" if tall else "",
        _gallery(_figure(facts, thumbnails) for facts in tall),
        "</div>",
    )


def _colors(usable: Sequence[Facts], figures: Mapping[str, Any]) -> str:
    palette = _palette([facts.color for facts in usable])
    return _section(
        "Colours",
        "The mean colour of every picture: hues side by side, light above dark.",
        f'<img class="palette" src="{palette}" alt="palette">',
        _columns(_bars("Lightness", figures["lightness"])),
    )


def _borders(root: Path, usable: Sequence[Facts]) -> str:
    bordered = [facts for facts in usable if facts.frame]
    if not bordered:
        return _section("Plain borders", "None.")
    sample = _evenly(bordered, BORDERED)
    thumbnails = _thumbnails(root, sample)
    return _section(
        "Plain borders",
        f"Around {_number(len(bordered), 'picture')}, {len(bordered) / len(usable):.1%} of all. "
        "The outline shows what <code>dataset.border=trim</code> keeps.",
        _gallery(_figure(facts, thumbnails, _outline(facts)) for facts in sample),
        _more(len(bordered) - len(sample)),
    )


def _outline(facts: Facts) -> str:
    left, top, right, bottom = facts.frame or (0, 0, 0, 0)
    return (
        f'<i style="left:{left / facts.width:.2%};top:{top / facts.height:.2%};'
        f'width:{(right - left) / facts.width:.2%};height:{(bottom - top) / facts.height:.2%}"></i>'
    )


def _unusable(root: Path, unusable: Sequence[Facts]) -> str:
    if not unusable:
        return _section("Cannot be used", "None.")
    kinds: defaultdict[str, list[Facts]] = defaultdict(list)
    for facts in unusable:
        kinds[_kind(facts)].append(facts)
    largest = sorted(kinds.values(), key=len, reverse=True)
    listed = [kind[:FILES_OF_A_KIND] for kind in largest[:KINDS]]
    thumbnails = _thumbnails(root, chain.from_iterable(listed))
    tables = [
        f'<h3>{_text(_kind(kind[0]))} <small>{len(kind):,}</small></h3><table class="files">'
        + "".join(_refusal(facts, thumbnails) for facts in few)
        + f"</table>{_more(len(kind) - len(few))}"
        for few, kind in zip(listed, largest, strict=False)
    ]
    rest = _more(sum(map(len, largest[KINDS:])), " for other reasons")
    return _section("Cannot be used", "By reason, with what can be seen of them.", *tables, rest)


def _refusal(facts: Facts, thumbnails: Thumbnails) -> str:
    return (
        f"<tr><td>{_picture(facts, thumbnails)}</td><td><bdi>{_text(facts.file)}</bdi></td>"
        f"<td>{_text(facts.reason or '')}</td></tr>"
    )


def _duplicates(checkup: Checkup) -> str:
    if not checkup.duplicates:
        return _section("Duplicates", "None.")
    by_name = checkup.facts_by_name
    largest = sorted(checkup.duplicates, key=len, reverse=True)[:GROUPS]
    groups = [[by_name[file] for file in group[:FILES_OF_A_GROUP]] for group in largest]
    thumbnails = _thumbnails(checkup.root, chain.from_iterable(groups))
    galleries = [
        _gallery(
            _figure(facts, thumbnails, "" if index else "<em>&nbsp;kept&nbsp;</em>")
            for index, facts in enumerate(group)
        )
        + _more(len(whole) - len(group))
        for group, whole in zip(groups, largest, strict=True)
    ]
    return _section(
        "Duplicates",
        "Files that show the same, side by side. <code>dataset.deduplicate=true</code> keeps "
        "the first of each group.",
        f'<div class="groups"><div>{"</div><div>".join(galleries)}</div></div>',
        _more(len(checkup.duplicates) - len(groups), " groups"),
    )


def _section(title: str, lead: str, *parts: str) -> str:
    return f"<section><h2>{title}</h2><p>{lead}</p>{''.join(parts)}</section>"


def _columns(*parts: str) -> str:
    return f'<div class="columns">{"".join(parts)}</div>'


def _bars(title: str, counts: Mapping[str, int], nameless: str = "") -> str:
    """A table of counts with a bar for each; empty if there are none."""
    if not counts:
        return ""
    most = max(*counts.values(), 1)
    rows = [
        f"<tr><th><bdi>{_text(name or nameless)}</bdi></th>"
        f'<td><i style="width:{count / most:.1%}"></i></td><td>{count:,}</td></tr>'
        for name, count in list(counts.items())[:ROWS]
    ]
    rest = _more(len(counts) - len(rows))
    return f'<div><h3>{title}</h3><table class="bars">{"".join(rows)}</table>{rest}</div>'


def _gallery(figures: Iterable[str]) -> str:
    return f'<div class="gallery">{"".join(figures)}</div>'


def _figure(facts: Facts, thumbnails: Thumbnails, overlay: str = "") -> str:
    name = _text(facts.file).replace("/", "/<wbr>")
    return (
        f"<figure><div>{_picture(facts, thumbnails)}{overlay}</div><figcaption>"
        f"<bdi>{name}</bdi><br>{facts.width:,} × {facts.height:,}</figcaption></figure>"
    )


def _picture(facts: Facts, thumbnails: Thumbnails) -> str:
    name = _text(facts.file)
    address = thumbnails[facts.file]
    if address is None:
        return f'<span title="{name}">no picture</span>'
    return f'<img src="{address}" alt="{name}" title="{name}">'


def _text(text: str) -> str:
    """Escaped text; what is overly long is cut in the middle, as names differ at their ends."""
    return escape(text if len(text) <= 200 else f"{text[:80]} … {text[-100:]}")


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _more(count: int, what: str = "") -> str:
    if count < 1:
        return ""
    return f'<p>and {count:,} more{what}, see <a href="report.json">report.json</a></p>'


TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1><bdi>{title}</bdi></h1>
<p><bdi>{root}</bdi>, {date}</p>
<p>{summary}</p>
<ul>{findings}</ul>
</header>
{sections}
</body>
</html>
"""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #faf8f4; --card: #fff; --ink: #2a2622; --soft: #736c63; --line: #e3ddd2; --seal: #a8402d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #181614; --card: #23201d; --ink: #ebe5dc; --soft: #a39b90; --line: #393430;
    --seal: #dd7a61;
  }
}
* { box-sizing: border-box; }
body {
  max-width: 70rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; overflow-wrap: anywhere;
  background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif;
}
h1, h2, li b { font-family: Georgia, "Noto Serif", serif; font-weight: 400; line-height: 1.2; }
h1, h2 { margin: 0; }
h2 { font-size: 1.6rem; }
h3 { font-size: .9rem; margin: 1.5rem 0 .5rem; }
p { margin: .25rem 0 1rem; }
a, li b { color: var(--seal); }
small, section p, header li p, figcaption, td { color: var(--soft); }
code { color: var(--ink); font-size: .875em; }
section { margin-top: 2.5rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
ul, .columns, .groups { display: grid; gap: .75rem; margin: 0; padding: 0; list-style: none; }
ul { grid-template-columns: repeat(auto-fit, minmax(min(12.5rem, 100%), 1fr)); }
li, .groups > div { background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
li, .groups > div { padding: .75rem; }
li b { display: block; font-size: 1.8rem; }
li p { font-size: .875rem; margin: .5rem 0 0; }
.columns { grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 0 3rem; }
table { border-collapse: collapse; font-size: .875rem; width: 100%; }
th, td { font-weight: 400; text-align: left; padding: .2rem .75rem .2rem 0; }
.bars th { min-width: 8rem; }
.bars td:nth-child(2) { width: 100%; }
.bars td:last-child { padding: 0; text-align: right; white-space: nowrap; }
.bars i { display: block; height: .75rem; background: var(--seal); border-radius: 2px; }
.files td { border-top: 1px solid var(--line); }
.files { table-layout: fixed; }
.files td:first-child { width: 6rem; }
.files img { display: block; max-width: 5rem; max-height: 3rem; }
.sheet, .gallery { display: flex; flex-wrap: wrap; gap: .5rem; }
.sheet img { height: 7rem; max-width: 100%; flex: auto; object-fit: cover; }
.sheet::after { content: ""; flex: 1000; }
.gallery { gap: 1rem; margin-bottom: 1rem; }
.groups { grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }
.groups .gallery { display: grid; grid-template-columns: 1fr 1fr; margin: 0; }
figure { margin: 0; min-width: 9rem; max-width: 100%; }
.groups figure { min-width: 0; }
figure div { position: relative; width: fit-content; }
figure img { display: block; max-width: 100%; max-height: 9rem; }
.extremes img { max-height: 20rem; }
figure i { position: absolute; outline: 2px solid var(--seal); }
figure em { position: absolute; left: 0; bottom: 0; background: var(--seal); color: var(--paper); }
figcaption, figure em { font: .75rem/1.4 system-ui, sans-serif; }
figcaption { contain: inline-size; margin-top: .25rem; }
.palette { width: 100%; height: 8rem; image-rendering: pixelated; border-radius: 6px; }
"""
