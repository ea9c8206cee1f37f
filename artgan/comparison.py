"""Runs beside each other: ranked by how well they paint, and what their settings differ in."""

import json
import math
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from artgan.checkpoint import KEY, newest_checkpoint
from artgan.config import flattened, load_config
from artgan.data.report import STYLE
from artgan.errors import UserError, printable
from artgan.files import atomic_write, by_number
from artgan.options import MONITORS, ON_FEATURES, TrainConfig

PAGE = "comparison.html"
# Keys that say where a run is, not what it is.
PLACES = ("name", "resume", "output")
# Parts of the paintings as `metrics.json` names them, the one that tells most first.
PARTS = ("held-out", "paintings", "training")


class Basis(NamedTuple):
    """What a figure was measured with and against; figures compare only on the same.

    Attributes:
        figure: kid, fid or swd.
        part: held-out, training, or paintings where that is not known.
        paintings: how many of that part.
        dataset: name of their folder.
        key: of their pack.
        holdout: share of them that was held out.
        samples: how many there were.
        ema: painted by the averaged generator, or by the raw one.
        features: that the figure was taken on, or none.
    """

    figure: str
    part: str
    paintings: int
    dataset: str
    key: str
    holdout: float | None
    samples: int
    ema: bool
    features: str | None

    def __str__(self) -> str:
        features = f", features {self.features}" if self.features else ""
        raw = "" if self.ema else " of the raw generator"
        part = "" if self.part == "paintings" else f"{self.part} "
        holdout = f", holdout {self.holdout:g}" if self.holdout else ""
        return (
            f"{self.figure} against {self.paintings:,} {part}paintings of {self.dataset} "
            f"({self.key}{holdout}), {self.samples:,} samples{raw}{features}"
        )


@dataclass(frozen=True)
class Run:
    """What a run's folder tells.

    Attributes:
        folder: of the run.
        config: of the run.
        images_seen: at its newest checkpoint; 0 where there is none.
        seconds: of training until then.
        points: of each basis, the figure by images seen, in that order; infinite where it was no
            number.
        grid: its latest sample grid, or None.
    """

    folder: Path
    config: TrainConfig
    images_seen: int
    seconds: float
    points: dict[Basis, dict[int, float]]
    grid: Path | None

    def last(self, basis: Basis) -> float:
        """The latest figure."""
        return next(reversed(self.points[basis].values()))

    @property
    def speed(self) -> float:
        """Images in a second of training."""
        return self.images_seen / self.seconds if self.seconds else 0.0


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """Reads runs; what is no run is named on the screen and passed over, and files silently.

    Args:
        folders: of the runs.

    Raises:
        UserError: none of them is a run.
    """
    runs = []
    for folder in dict.fromkeys(folders):
        try:
            if not folder.is_file():  # checkpoints/* gives more than runs
                runs.append(_read_run(folder))
        except (UserError, OSError) as error:
            print(f"{printable(str(error))} Passed over.", file=sys.stderr)
    if not runs:
        raise UserError("None of these is a run. Name run folders, as in checkpoints/*")
    return runs


def _read_run(folder: Path) -> Run:
    config = load_config(folder)
    newest = newest_checkpoint(folder)
    try:
        progress = newest[1][KEY]["progress"] if newest else {}
        images_seen, seconds = progress.get("images_seen", 0), progress.get("seconds", 0.0)
    except (KeyError, AttributeError) as error:
        raise UserError(f"{folder}: its checkpoint says too little ({error!r}).") from error
    points: dict[Basis, dict[int, float]] = defaultdict(dict)
    for path in sorted(folder.glob("evaluated/*/metrics.json")):
        for basis, seen, value in _figures(path):
            points[basis][seen] = value
    ordered = {basis: dict(sorted(by_images.items())) for basis, by_images in points.items()}
    grid = next(reversed(by_number((folder / "samples").glob("images-*.png"))), None)
    return Run(folder, config, images_seen, seconds, ordered, grid)


def _figures(path: Path) -> list[tuple[Basis, int, float]]:
    """Basis, images seen and value of each figure in a `metrics.json`; none if it is damaged."""
    try:
        measured = json.loads(path.read_bytes())
        part = next(part for part in PARTS if part in measured)
        figures, dataset = measured[part], measured["dataset"]
        return [
            (
                Basis(
                    figure,
                    part,
                    int(figures["paintings"]),
                    str(dataset["root"]),
                    str(dataset["key"]),
                    dataset["holdout"],
                    int(measured["samples"]),
                    bool(measured["ema"]),
                    str(measured["features"]) if figure in ON_FEATURES else None,
                ),
                int(measured["images_seen"]),
                value if math.isfinite(value := float(figures[figure])) else math.inf,
            )
            for figure in MONITORS
            if figure in figures
        ]
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        print(f"{printable(str(path))}: is damaged. Passed over.", file=sys.stderr)
        return []


def last_metric(folder: Path, figure: str) -> float | None:
    """The latest figure that a run measured in training, held-out where it held paintings out.

    Args:
        folder: of the run.
        figure: kid, fid or swd.
    """
    # Those of evaluate.py have more in their folders' names.
    evaluated = by_number(folder.glob("evaluated/images-*"))
    measured = [one for one in evaluated if re.fullmatch(r"images-\d+", one.name)]
    figures = _figures(measured[-1] / "metrics.json") if measured else []
    return next((value for basis, _, value in figures if basis.figure == figure), None)


@dataclass(frozen=True)
class Group:
    """Runs that compare, the best first.

    Attributes:
        title: what they were measured with and against.
        runs: of the group.
        figures: that they are ranked by, as text.
    """

    title: str
    runs: list[Run]
    figures: list[str]


def ranking(runs: Sequence[Run], figure: str | None = None) -> list[Group]:
    """Ranks runs; figures on different bases are never ranked together.

    Args:
        runs: to be ranked.
        figure: kid, fid or swd; None takes the first of them that any run has.

    Returns:
        A group for each basis, that of most runs first; a run that was measured in several ways is
        in several. The last holds the runs without the figure, most images first.
    """
    found = {basis.figure for run in runs for basis in run.points}
    chosen = figure or next((name for name in MONITORS if name in found), "figure")
    by_basis: dict[Basis, list[Run]] = defaultdict(list)
    for run in runs:
        for basis in run.points:
            if basis.figure == chosen:
                by_basis[basis].append(run)
    groups = []
    for basis, members in sorted(by_basis.items(), key=lambda item: (-len(item[1]), str(item[0]))):
        best_first = sorted(members, key=lambda run: run.last(basis))
        figures = [_latest_and_best(run.points[basis]) for run in best_first]
        groups.append(Group(str(basis), best_first, figures))
    measured = {run.folder for group in groups for run in group.runs}
    rest = [run for run in runs if run.folder not in measured]
    if rest:
        rest.sort(key=lambda run: -run.images_seen)
        groups.append(Group(f"no {chosen} measured", rest, [""] * len(rest)))
    return groups


def _latest_and_best(points: dict[int, float]) -> str:
    latest, best = next(reversed(points)), min(points, key=points.__getitem__)
    earlier = f" (best {points[best]:.4g} at {best:,})" if points[best] < points[latest] else ""
    return f"{points[latest]:.4g}{earlier}"


def differences(runs: Sequence[Run]) -> dict[Path, str]:
    """For each run, by its folder, the settings in which it is not like all others, `key=value`."""
    settings = {run.folder: flattened(asdict(run.config)) for run in runs}
    common = set.intersection(*(set(map(_setting, own.items())) for own in settings.values()))
    return {
        folder: " ".join(
            text
            for text in map(_setting, own.items())
            if text not in common and text.partition("=")[0] not in PLACES
        )
        for folder, own in settings.items()
    }


def _setting(item: tuple[str, Any]) -> str:
    key, value = item
    return f"{key}={value}"


def table(groups: Sequence[Group], differences: dict[Path, str]) -> str:
    """The ranking for a person to read on a terminal.

    Args:
        groups: from `ranking`.
        differences: from `differences`.
    """
    lines = []
    for group in groups:
        rows = [["", "figure", "images", "images/s", "run", "differs in"]]
        for place, (run, figure) in enumerate(zip(group.runs, group.figures, strict=True), 1):
            facts = [f"{run.images_seen:,}", f"{run.speed:,.0f}", printable(str(run.folder))]
            rows.append([f"{place}", figure, *facts, printable(differences[run.folder])])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["", printable(group.title)]
        for row in rows:
            cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
    return "\n".join(lines[1:])


def write_page(groups: Sequence[Group], differences: dict[Path, str], path: Path) -> None:
    """Writes the ranking as a page that shows the latest sample grids side by side.

    The grids stay where they are and are linked from there, so that 200 runs make a small page.

    Args:
        groups: from `ranking`.
        differences: from `differences`.
        path: of the page.
    """
    sections = []
    for group in groups:
        cards = [
            _card(f"{place}. {run.folder.name}", figure, run, differences[run.folder], path)
            for place, (run, figure) in enumerate(zip(group.runs, group.figures, strict=True), 1)
        ]
        sections.append(f"<section><h2>{escape(group.title)}</h2>{''.join(cards)}</section>")
    page = TEMPLATE.format(style=STYLE + GRIDS, sections="".join(sections))
    with atomic_write(path) as file:
        file.write(page.encode("utf-8", errors="backslashreplace"))


def _card(title: str, figure: str, run: Run, difference: str, page: Path) -> str:
    picture = "no samples yet"
    if run.grid:
        address = quote(os.fsencode(os.path.relpath(run.grid, page.parent)))
        picture = f'<a href="{address}"><img src="{address}" loading="lazy" alt="samples"></a>'
    return (
        f'<div class="card"><h3><bdi>{escape(title)}</bdi></h3>'
        f"<p><strong>{figure}</strong></p>"
        f"<p>{run.images_seen:,} images, {run.speed:,.0f} images/s</p>"
        f"<p><code>{escape(difference)}</code></p>{picture}</div>"
    )


TEMPLATE = """<!doctype html>
<html lang="en"><head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Runs compared</title>
<style>{style}</style>
</head><body>
<h1>Runs compared</h1>
<p>The best first, each with its latest samples. Only runs of one list compare.</p>
{sections}
</body></html>
"""

GRIDS = """
.card img { width: 100%; max-height: none; margin-top: .5rem; }
"""
