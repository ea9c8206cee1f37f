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
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from html import escape
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, ImageOps

from artgan.data.checkup import REPORT, Checkup, Facts
from artgan.data.decode import UnusableImage, decode
from artgan.files import atomic_write

T = TypeVar("T")

# How much is shown: at most 258 thumbnails of about 5 kB, so that the page opens anywhere.
SHEET, EXTREMES, BORDERED = 60, 6, 18
REASONS, FILES_OF_A_REASON = 8, 6
GROUPS, FILES_OF_A_GROUP = 30, 4
ROWS = 12
THUMBNAIL_SIDE, THUMBNAIL_LENGTH = 160, 480  # pixels of a square one; at most of any other
THUMBNAIL_QUALITY = 60

# The classes of the histograms, and the limits between them.
SIDE_LIMITS = (64, 128, 256, 512, 1024)
SIDES = ("below 64", "64 to 127", "128 to 255", "256 to 511", "512 to 1023", "1024 and more")
RATIOS = (1.25, 2, 4)
TALL = ("taller than 1:4", "1:4 to 1:2", "1:2 to 4:5")
WIDE = ("5:4 to 2:1", "2:1 to 4:1", "wider than 4:1")
SHAPES = (*TALL, "nearly square", *WIDE)


def write_report(checkup: Checkup, folder: Path) -> Path:
    """Writes what a checkup found as a page, for a person, and `report.json`, for programs.

    The page needs no network and stays below 5 MB; it shows examples where there are many. The
    JSON file is complete. It holds, counting usable pictures unless said otherwise:

        root, date              the folder, and when the report was written, in ISO 8601
        pictures, usable        how many picture files there are, and how many can be used
        unusable                [{file, reason}] of all others
        reasons                 {kind of reason: count} of those
        duplicates, superfluous [[file to keep, file, ...]]; how many files are not kept
        bordered                [{file, frame}] of those with a plain border: left, top, right,
                                bottom of what lies within, in pixels
        classes, formats, modes {name: count}; a class is a first-level folder, "" the root itself
        others                  {ending: count} of files that are no pictures, and how often there
                                is a "linked folder", which is not searched
        short_sides, small      {range in pixels: count}; count below 256
        shapes, tall, wide      {range of width:height: count}; count beyond 1:2, beyond 2:1

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
    with atomic_write(folder / REPORT) as file:
        # File names may hold bytes that are no text; Python carries them as lone surrogates.
        file.write(_page(checkup, figures).encode("utf-8", errors="backslashreplace"))
    return folder / REPORT


def _figures(checkup: Checkup) -> dict[str, Any]:
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


def _histogram(classes: Iterable[str], values: Iterable[str]) -> dict[str, int]:
    counts = Counter(values)
    return {name: counts[name] for name in classes}


def _shape(facts: Facts) -> str:
    """Which of `SHAPES` a picture has; turned by a quarter, it would have the opposite."""
    wide = bisect_left(RATIOS, facts.width / facts.height)
    tall = bisect_left(RATIOS, facts.height / facts.width)
    return SHAPES[len(RATIOS) + wide - tall]


# What follows makes HTML. All that comes from a file or its name goes through `_text`.


def _page(checkup: Checkup, figures: Mapping[str, Any]) -> str:
    root, usable = checkup.root, checkup.usable
    bordered = [facts for facts in usable if facts.frame]
    by_shape = sorted(usable, key=lambda facts: facts.width / facts.height)
    wide = [facts for facts in reversed(by_shape) if facts.width > facts.height]
    tall = [facts for facts in by_shape if facts.width < facts.height]
    return TEMPLATE.format(
        style=STYLE,
        title=_text(root.resolve().name),
        root=_text(str(root)),
        figures=figures,
        unusable=len(checkup.unusable),
        bordered=len(bordered),
        long=figures["wide"] + figures["tall"],
        sheet=_gallery(root, usable, SHEET),
        classes=_bars("Classes", figures["classes"], "(no subfolder)"),
        formats=_bars("Formats", figures["formats"]),
        modes=_bars("Colour modes", figures["modes"]),
        others=_bars("Passed over", figures["others"], "(no ending)"),
        short_sides=_bars("Short side in pixels", figures["short_sides"]),
        shapes=_bars("Width to height", figures["shapes"]),
        widest=_gallery(root, wide[:EXTREMES], EXTREMES),
        tallest=_gallery(root, tall[:EXTREMES], EXTREMES),
        palette=_palette([facts.color for facts in usable]),
        borders=_gallery(root, bordered, BORDERED, _outline),
        reasons=_reasons(checkup),
        groups=_groups(checkup),
    )


def _reasons(checkup: Checkup) -> str:
    """The unusable pictures, those of the most frequent kind of reason first."""
    reasons = checkup.reasons
    pictures: defaultdict[str, list[Facts]] = defaultdict(list)
    for facts in checkup.unusable:
        # One kind may begin like another: "not a picture", "not a picture but a web page".
        kind = max(filter((facts.reason or "").startswith, reasons), key=len)
        pictures[kind].append(facts)
    cards = [
        f'<div class="card"><h3>{_text(kind)} <small>{reasons[kind]:,}</small></h3>'
        f"{_gallery(checkup.root, pictures[kind], FILES_OF_A_REASON)}</div>"
        for kind in list(reasons)[:REASONS]
    ]
    return "".join(cards) + _more(len(reasons) - REASONS, " reasons") or NONE


def _groups(checkup: Checkup) -> str:
    """The duplicates, those of the largest group first."""
    by_name = checkup.facts_by_name
    cards = []
    for group in sorted(checkup.duplicates, key=len, reverse=True)[:GROUPS]:
        pictures = [by_name[file] for file in group]
        mark = {pictures[0]: "<em>kept</em>"}.get
        gallery = _gallery(checkup.root, pictures, FILES_OF_A_GROUP, mark)
        cards.append(f'<div class="card"><h3>{len(group)} files</h3>{gallery}</div>')
    return "".join(cards) + _more(len(checkup.duplicates) - GROUPS, " groups") or NONE


def _bars(title: str, counts: Mapping[str, int], nameless: str = "") -> str:
    """A table of counts with a bar for each."""
    most = max([1, *counts.values()])
    rows = [
        f"<tr><th><bdi>{_text(name or nameless)}</bdi></th>"
        f'<td><i style="width:{count / most:.1%}"></i></td><td>{count:,}</td></tr>'
        for name, count in list(counts.items())[:ROWS]
    ]
    table = f"<table>{''.join(rows)}</table>{_more(len(counts) - ROWS)}" if rows else NONE
    return f'<div class="bars"><h3>{title}</h3>{table}</div>'


def _palette(colors: Sequence[tuple[int, int, int]]) -> str:
    """Colours in columns: hues from left to right, in each column from light to dark."""
    by_hue = sorted(_evenly(colors, 48 * 8), key=lambda color: colorsys.rgb_to_hsv(*color)[0])
    columns = [by_hue[first : first + 8] for first in range(0, len(by_hue), 8)]
    by_lightness = chain.from_iterable(sorted(column, key=sum, reverse=True) for column in columns)
    swatches = [f'<i style="background:rgb{color}"></i>' for color in by_lightness]
    return f'<div class="palette">{"".join(swatches)}</div>'


def _gallery(
    root: Path,
    pictures: Sequence[Facts],
    limit: int,
    overlay: Callable[[Facts], str | None] = lambda facts: None,
) -> str:
    """Thumbnails of some pictures, evenly spread, the first among them."""
    shown = _evenly(pictures, limit)
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as threads:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # long scrolls are large
        thumbnails = threads.map(_thumbnail, [root / facts.file for facts in shown])
        figures = "".join(map(_figure, shown, thumbnails, map(overlay, shown)))
    rest = _more(len(pictures) - limit)
    return f'<div class="gallery">{figures}</div>{rest}' if shown else NONE


def _figure(facts: Facts, thumbnail: str | None, overlay: str | None) -> str:
    name = _text(facts.file)
    image = f'<img src="{thumbnail}" alt="{name}" title="{name}">' if thumbnail else "no picture"
    caption = _text(facts.reason or f"{facts.width:,} × {facts.height:,}")
    return (
        f"<figure><div>{image}{overlay or ''}</div>"
        f"<figcaption><bdi>{name}</bdi><br>{caption}</figcaption></figure>"
    )


def _outline(facts: Facts) -> str:
    left, top, right, bottom = facts.frame or (0, 0, 0, 0)
    return (
        f'<i style="inset:{top / facts.height:.2%} {1 - right / facts.width:.2%} '
        f'{1 - bottom / facts.height:.2%} {left / facts.width:.2%}"></i>'
    )


def _thumbnail(path: Path) -> str | None:
    """The picture as an address that holds it; None where nothing can be seen."""
    try:
        # A pipe of that name would be waited for without end.
        image = _open(path.read_bytes() if path.is_file() else b"")
    except Exception:  # on damaged files, Pillow's decoders raise what they like
        return None
    length = THUMBNAIL_SIDE * math.sqrt(max(image.size) / min(image.size))
    image.thumbnail((min(length, THUMBNAIL_LENGTH),) * 2)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=THUMBNAIL_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _open(content: bytes) -> Image.Image:
    """Decodes a picture, or what there is of it, in RGB."""
    try:
        return decode(content).image
    except UnusableImage:
        image = Image.open(io.BytesIO(content))
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


def _text(text: str) -> str:
    """Escaped text; what is overly long is cut in the middle, as names differ at their ends."""
    return escape(text if len(text) <= 200 else f"{text[:80]} … {text[-100:]}")


def _more(count: int, what: str = "") -> str:
    return f"<p>and {count:,} more{what}</p>" if count > 0 else ""


NONE = "<p>None.</p>"

TEMPLATE = """<!doctype html>
<html lang="en"><head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head><body>
<h1><bdi>{title}</bdi></h1>
<p><bdi>{root}</bdi>, {figures[date]:.10}</p>
<p>{figures[usable]:,} of {figures[pictures]:,} pictures can be used. All figures, and the names of
all files with something to say about, are in <a href="report.json">report.json</a>.</p>
<ul>
<li data-count="{unusable}"><b>{unusable:,}</b> <strong>cannot be used</strong>
<p>Training passes over them; they stay where they are. The reasons are below.</p></li>
<li data-count="{figures[superfluous]}"><b>{figures[superfluous]:,}</b>
<strong>show what another shows</strong>
<p>What is there twice is learnt twice. <code>dataset.deduplicate=true</code> keeps one.</p></li>
<li data-count="{bordered}"><b>{bordered:,}</b> <strong>with a plain border</strong>
<p>A GAN learns to paint mounts, too. <code>dataset.border=trim</code> takes them off.</p></li>
<li data-count="{long}"><b>{long:,}</b>
<strong>longer than 2:1 ({figures[wide]:,} wide, {figures[tall]:,} tall)</strong>
<p>A square shows less than half of them. <code>dataset.crop=tiles</code> cuts several.</p></li>
<li data-count="{figures[small]}"><b>{figures[small]:,}</b> <strong>smaller than 256 px</strong>
<p>They would be enlarged, and so blurred, at <code>resolution=256</code>.</p></li>
</ul>
<section class="sheet"><h2>The paintings</h2><p>Spread evenly over the folder.</p>
{sheet}</section>
<section><h2>What there is</h2><p>The usable pictures, and what was passed over.</p>
{classes}{formats}{modes}{others}</section>
<section><h2>Sizes and shapes</h2><p>Training enlarges what is below its resolution.</p>
{short_sides}{shapes}
<div class="extremes"><h3>The widest</h3>{widest}<h3>The tallest</h3>{tallest}</div></section>
<section><h2>Colours</h2><p>Mean colours: hues side by side, light above dark.</p>
{palette}</section>
<section><h2>Plain borders</h2><p>Outlined: what <code>dataset.border=trim</code> keeps.</p>
{borders}</section>
<section><h2>Cannot be used</h2><p>By reason, with what can be seen of them.</p>
{reasons}</section>
<section><h2>Duplicates</h2><p><code>dataset.deduplicate=true</code> keeps one of a group.</p>
{groups}</section>
</body></html>
"""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #faf8f4; --card: #fff; --ink: #2a2622; --soft: #736c63; --line: #e3ddd2; --seal: #a8402d;
}
@media (prefers-color-scheme: dark) {
  :root { --paper: #181614; --card: #23201d; --ink: #ebe5dc; --soft: #a39b90; }
  :root { --line: #393430; --seal: #dd7a61; }
}
* { box-sizing: border-box; margin: 0; padding: 0; font-weight: 400; }
body {
  max-width: 70rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; overflow-wrap: anywhere;
  background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif;
}
h1, h2, li b { font-family: Georgia, "Noto Serif", serif; line-height: 1.2; }
h2 { font-size: 1.6rem; }
h3, strong { font-weight: 600; }
h3, table, li p { font-size: .875rem; }
a, li b { color: var(--seal); }
small, section p, li p, figure, td { color: var(--soft); }
code { color: var(--ink); font-size: .875em; }
ul, section { display: grid; gap: .75rem; list-style: none; }
ul { margin-top: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(12.5rem, 100%), 1fr)); }
section { margin-top: 2.5rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
section { grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }
section > * { grid-column: 1 / -1; min-width: 0; }
section > .bars, section > .card { grid-column: auto; }
h2 + p { margin: -.5rem 0 .25rem; }
li, .card { background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
li, .card { padding: .75rem; }
li[data-count="0"] { display: none; }
li b { display: block; font-size: 1.8rem; }
li p { margin-top: .5rem; }
.bars { padding: 0 1.5rem .75rem 0; }
table { border-collapse: collapse; width: 100%; }
th { min-width: 8rem; padding: .2rem .75rem .2rem 0; text-align: left; }
td:nth-child(2) { width: 100%; }
td:last-child { padding-left: .75rem; text-align: right; white-space: nowrap; }
td i { display: block; height: .75rem; background: var(--seal); border-radius: 2px; }
.palette { display: grid; grid: repeat(8, 1rem) / auto-flow 1fr; }
.gallery { display: flex; flex-wrap: wrap; gap: 1rem; margin: .5rem 0 .75rem; }
figure { min-width: 9rem; max-width: 100%; font-size: .75rem; line-height: 1.4; }
figure div { position: relative; width: fit-content; }
figcaption { contain: inline-size; margin-top: .25rem; }
img { display: block; max-width: 100%; max-height: 9rem; }
figure i { position: absolute; outline: 2px solid var(--seal); }
figure em { position: absolute; inset: auto auto 0 0; padding: 0 .25rem; font-style: normal; }
figure em { background: var(--seal); color: var(--paper); }
.extremes img { max-height: 20rem; }
.card .gallery { display: grid; grid-template-columns: 1fr 1fr; }
.card figure { min-width: 0; }
.sheet :is(figure, figure div) { display: contents; }
.sheet figcaption { display: none; }
.sheet .gallery { gap: .5rem; }
.sheet .gallery::after { content: ""; flex: 1000; }
.sheet img { height: 7rem; flex: auto; object-fit: cover; }
"""
