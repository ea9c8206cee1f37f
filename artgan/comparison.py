"""The compare command: runs ranked by how well they paint, and how their settings differ."""

import json
import math
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from artgan.checkpoint import KEY, newest_checkpoint
from artgan.config import flattened, load_config
from artgan.data.report import write_html
from artgan.errors import UserError, printable
from artgan.files import by_number, refuse_to_replace
from artgan.metrics import PARTS, UNKNOWN
from artgan.options import MONITORS, ON_FEATURES, TrainConfig

PAGE = "comparison.html"
TEMPLATE = Path(__file__).with_name("comparison.html.jinja")
# Options that say where a run is, not what it is.
PLACES = ("name", "resume", "output")


class Basis(NamedTuple):
    """What a score was measured with and against; only scores on the same basis are comparable."""

    metric: str  # kid, fid or swd
    part: str  # held-out, training, or paintings where that is not known
    paintings: int  # how many of that part
    dataset: str  # name of their folder
    key: str  # of their pack
    holdout: float | None  # share of them that was held out
    samples: int
    ema: bool  # whether the averaged generator painted them, or the raw one
    features: str | None  # name of the feature network, if any

    def __str__(self) -> str:
        features = f", features {self.features}" if self.features else ""
        raw = "" if self.ema else " of the raw generator"
        part = "" if self.part == UNKNOWN else f"{self.part} "
        holdout = f", holdout {self.holdout:g}" if self.holdout else ""
        return (
            f"{self.metric} against {self.paintings:,} {part}paintings of {self.dataset} "
            f"({self.key}{holdout}), {self.samples:,} samples{raw}{features}"
        )


@dataclass(frozen=True)
class Run:
    """What a run's folder says."""

    folder: Path
    config: TrainConfig
    images_seen: int  # at its newest checkpoint, or 0
    seconds: float  # of training until then
    points: dict[Basis, dict[int, float]]  # scores by images seen, sorted; inf if not a number
    grid: Path | None  # its latest sample grid

    def last(self, basis: Basis) -> float:
        """The latest score."""
        return next(reversed(self.points[basis].values()))

    @property
    def speed(self) -> float:
        """Images in a second of training."""
        return self.images_seen / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Group:
    """Runs that are comparable, the best first: what they were measured with, and their scores."""

    title: str
    runs: list[Run]
    scores: list[str]


def compare(
    folders: list[Path], metric: str | None, out: str | None, overwrite: bool = False
) -> tuple[str, Path]:
    """Ranks runs, as a text and as a page with their samples side by side.

    Without a metric (kid, fid, swd) the first that any run has counts; without `out` the page goes
    beside the runs.

    Raises:
        UserError: none of them is a run, or the page `out` exists or cannot be written.
    """
    refuse_to_replace([Path(out)] if out else [], overwrite)
    runs = read_runs(folders)
    groups, different = ranking(runs, metric), differences(runs)
    beside = Path(os.path.commonpath([run.folder.absolute().parent for run in runs]))
    page = Path(out) if out else beside / PAGE
    write_page(groups, different, page)
    return table(groups, different), page


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """Reads runs; a folder that is not a run is named on the screen and skipped, files silently.

    Raises:
        UserError: none of them is a run.
    """
    runs = []
    for folder in dict.fromkeys(folders):
        try:
            if not folder.is_file():  # checkpoints/* gives more than runs
                runs.append(_read_run(folder))
        except (UserError, OSError) as error:
            print(f"{printable(str(error))} Skipped.", file=sys.stderr)
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
        raise UserError(f"{folder}: its checkpoint does not describe it ({error!r}).") from error
    points: dict[Basis, dict[int, float]] = defaultdict(dict)
    for path in sorted(folder.glob("evaluated/*/metrics.json")):
        for basis, seen, value in _scores(path):
            points[basis][seen] = value
    ordered = {basis: dict(sorted(by_images.items())) for basis, by_images in points.items()}
    grid = next(reversed(by_number((folder / "samples").glob("images-*.png"))), None)
    return Run(folder, config, images_seen, seconds, ordered, grid)


def _scores(path: Path) -> list[tuple[Basis, int, float]]:
    """Basis, images seen and value of each score in a `metrics.json`; none if it is damaged."""
    try:
        measured = json.loads(path.read_bytes())
        # Paintings that are held out are the most telling.
        part = next(part for part in (*reversed(PARTS), UNKNOWN) if part in measured)
        scores, dataset = measured[part], measured["dataset"]
        found = []
        for metric in (metric for metric in MONITORS if metric in scores):
            basis = Basis(
                metric,
                part,
                int(scores["paintings"]),
                str(dataset["root"]),
                str(dataset["key"]),
                dataset["holdout"],
                int(measured["samples"]),
                bool(measured["ema"]),
                str(measured["features"]) if metric in ON_FEATURES else None,
            )
            value = float(scores[metric])
            value = value if math.isfinite(value) else math.inf
            found.append((basis, int(measured["images_seen"]), value))
        return found
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        print(f"{printable(str(path))}: is damaged. Skipped.", file=sys.stderr)
        return []


def last_metric(folder: Path, metric: str) -> float | None:
    """The latest kid, fid or swd that a run measured in training, held-out if it held any out."""
    # Folders of `artgan evaluate` have more in their names.
    evaluated = by_number(folder.glob("evaluated/images-*"))
    measured = [one for one in evaluated if re.fullmatch(r"images-\d+", one.name)]
    scores = _scores(measured[-1] / "metrics.json") if measured else []
    return next((value for basis, _, value in scores if basis.metric == metric), None)


def ranking(runs: Sequence[Run], metric: str | None = None) -> list[Group]:
    """Ranks runs; scores on different bases are never ranked together.

    Returns:
        A group for each basis, that of most runs first; a run that was measured in several ways is
        in several. The last holds the runs without the metric, most images first.
    """
    found = {basis.metric for run in runs for basis in run.points}
    chosen = metric or next((name for name in MONITORS if name in found), "metric")
    by_basis: dict[Basis, list[Run]] = defaultdict(list)
    for run in runs:
        for basis in run.points:
            if basis.metric == chosen:
                by_basis[basis].append(run)
    groups = []
    for basis, members in sorted(by_basis.items(), key=lambda item: (-len(item[1]), str(item[0]))):
        best_first = sorted(members, key=lambda run: run.last(basis))
        scores = [_latest_and_best(run.points[basis]) for run in best_first]
        groups.append(Group(str(basis), best_first, scores))
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
    """For each run, by its folder, the settings in which it differs, `key=value`."""
    settings = {
        run.folder: [(key, str(value)) for key, value in flattened(asdict(run.config)).items()]
        for run in runs
    }
    common = set.intersection(*map(set, settings.values()))
    return {
        folder: " ".join(
            # The name alone of a file: a published page should not give away a user's folders.
            f"{key}={Path(value).name if Path(value).is_absolute() else value}"
            for key, value in own
            if (key, value) not in common and key not in PLACES
        )
        for folder, own in settings.items()
    }


def table(groups: Sequence[Group], different: dict[Path, str]) -> str:
    """The ranking as a text."""
    lines = []
    for group in groups:
        rows = [["", "score", "images", "images/s", "run", "differs in"]]
        for place, (run, score) in enumerate(zip(group.runs, group.scores, strict=True), 1):
            facts = [f"{run.images_seen:,}", f"{run.speed:,.0f}", printable(str(run.folder))]
            rows.append([f"{place}", score, *facts, printable(different[run.folder])])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["", printable(group.title)]
        for row in rows:
            cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
    return "\n".join(lines[1:])


def write_page(groups: Sequence[Group], different: dict[Path, str], path: Path) -> None:
    """Writes the ranking as a page that shows the latest sample grids side by side.

    The grids are linked, not copied, so that 200 runs make a small page.
    """
    shown = []
    for group in groups:
        cards: list[dict[str, Any]] = [
            {
                "name": run.folder.name,
                "score": score,
                "speed": f"{run.images_seen:,} images, {run.speed:,.0f} images/s",
                "difference": different[run.folder],
                "grid": run.grid and quote(os.fsencode(os.path.relpath(run.grid, path.parent))),
            }
            for run, score in zip(group.runs, group.scores, strict=True)
        ]
        shown.append((group.title, cards))
    write_html(TEMPLATE, path, groups=shown)
