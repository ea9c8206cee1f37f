"""Which recipe paints better after the same time: KID on held-out paintings, over minutes.

    python benchmarks/quality.py PATH FEATURES OUTPUT MINUTES --recipes dcgan "artgan model.r1=0"

PATH is a folder of paintings; they are linked into OUTPUT, so nothing is written to PATH. FEATURES
is what `features=` of `evaluate.py` takes. A recipe is a model with overrides of `train.py`, and
may have a name.

The speed of a machine varies, so time is counted in images. First, on an otherwise idle machine,
all recipes are trained in turns for a short time, which gives the images/s of each. Then each is
trained for the number of images that it would reach in MINUTES, whatever else runs on the machine.
A tenth of the paintings is held out. Every checkpoint is measured by `evaluate.py`.

Ctrl-C ends early. The same command continues where it stopped, and trains recipes or seeds that
were added. OUTPUT then has table.md, curves.png, grids.png and quality.json with the results so
far; `--status` only updates these. The output of the commands is written to log.txt.
"""

import argparse
import json
import math
import os
import platform
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from PIL import Image, ImageDraw, ImageFont

from artgan import __version__
from artgan.checkpoint import KEY, newest_checkpoint
from artgan.config import CONFIG_FILE
from artgan.data.decode import find_images
from artgan.data.folder import load_pack
from artgan.data.pack import FEWEST_PAINTINGS, Cut
from artgan.errors import UserError, plain_errors
from artgan.files import atomic_folder, atomic_write
from artgan.metrics.features import load_features

ROOT = Path(__file__).resolve().parent.parent
HOLDOUT = 0.1
ROUNDS = 3  # of the rates
GAP, LETTER = 8, 16  # pixels in grids.png
Rates = dict[str, float]  # images/s of each recipe, by its label


class Failed(Exception):
    """A command has failed. The message is the end of its output."""


@dataclass(frozen=True)
class Recipe:
    """What is trained.

    Attributes:
        label: its name in tables and plots.
        overrides: `key=value` of `train.py`, the model first.
    """

    label: str
    overrides: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Recipe":
        """Reads `MODEL key=value …`, or `LABEL=MODEL key=value …`."""
        first, *rest = shlex.split(text) or [""]
        label, _, model = first.rpartition("=")
        if not model:
            raise argparse.ArgumentTypeError(f"'{text}' names no model. Write dcgan or a=dcgan")
        return cls(label or " ".join([model, *rest]), (f"model={model}", *rest))

    @property
    def slug(self) -> str:
        return re.sub(r"[^\w.]+", "-", self.label)


@dataclass(frozen=True)
class Run:
    """A recipe trained with one seed; its state is read from its folder.

    Attributes:
        recipe: what is trained.
        seed: of the run.
        rate: images/s of the recipe.
        budget: images to train for.
        folder: of the run.
    """

    recipe: Recipe
    seed: int
    rate: float
    budget: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.recipe.label}, seed {self.seed}"

    @property
    def checkpoints(self) -> dict[int, Path]:
        """By images seen, from first to last."""
        return {_images(file): file for file in sorted(self.folder.glob("images-*.ckpt"))}

    @property
    def images(self) -> int:
        return max(self.checkpoints, default=0)

    @property
    def measured(self) -> dict[int, dict[str, Any]]:
        """The scores of each checkpoint from `evaluate.py`, by images seen."""
        files = sorted(self.folder.glob(f"evaluated/images-{'[0-9]' * 9}/metrics.json"))
        return {_images(file.parent): json.loads(file.read_bytes()) for file in files}

    @property
    def unmeasured(self) -> list[Path]:
        done = self.measured
        return [file for images, file in self.checkpoints.items() if images not in done]

    @property
    def last_kid(self) -> float | None:
        """KID on held-out paintings, once the run is trained and measured to its end."""
        measured = self.measured
        last = max(measured, default=0)
        return measured[last]["held-out"]["kid"] if last >= self.budget else None

    def minutes(self, images: int) -> float:
        return images / self.rate / 60


@dataclass(frozen=True)
class Study:
    """The arguments of the command; see its `--help`."""

    paintings: Path
    features: str
    output: Path
    minutes: float
    resolution: int
    seeds: list[int]
    recipes: list[Recipe]
    points: int
    num: int
    rate_seconds: int
    status: bool

    @property
    def settings(self) -> dict[str, Any]:
        """What must stay the same, so that all results in the output folder are comparable."""
        file = Path(self.features)
        return {
            "paintings": str(self.paintings.resolve()),
            "features": str(file.resolve()) if file.is_file() else self.features,
            "minutes": self.minutes,
            "resolution": self.resolution,
            "points": self.points,
            "num": self.num,
        }

    def runs(self, rates: Rates) -> list[Run]:
        """Seed by seed, so that recipes can be compared early."""
        return [
            Run(
                recipe,
                seed,
                rates[recipe.label],
                budget(rates[recipe.label], self.minutes),
                self.output / "runs" / f"{recipe.slug}-seed{seed}",
            )
            for seed in self.seeds
            for recipe in self.recipes
            if recipe.label in rates
        ]


def _images(file: Path) -> int:
    """The number in its name: images-000050048.ckpt"""
    return int(file.stem.removeprefix("images-"))


# Computed from rates and scores


def budget(rate: float, minutes: float) -> int:
    """Images that a recipe trains on in `minutes`."""
    return round(rate * minutes * 60)


def rates_of(rounds: list[Rates], base: str, base_rate: float | None = None) -> Rates:
    """The images/s of each recipe, from rounds in which all were trained in turns.

    Within a round the machine hardly changes, so a recipe's rate is the median of its ratios to the
    base recipe, times the base's rate.

    Args:
        rounds: images/s of the same recipes, including the base.
        base: label of the recipe that the others are compared with.
        base_rate: its rate, if known from earlier rounds; by default its median here.
    """
    if base_rate is None:
        base_rate = statistics.median(measured[base] for measured in rounds)
    return {
        label: base_rate * statistics.median(one[label] / one[base] for one in rounds)
        for label in rounds[0]
    }


def table(runs: list[Run]) -> str:
    """A row for each run, at its last measured checkpoint, as Markdown.

    Scores are on held-out paintings unless stated otherwise.
    """
    first = runs[0].recipe.label
    lines = [
        "| recipe | seed | images/s | images | KID held-out | KID training | FID | precision "
        f"| recall | SWD | originality ratio | KID relative to {first} |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    yardsticks = {run.seed: run.last_kid for run in runs if run.recipe.label == first}
    for run in runs:
        measured = run.measured
        last = max(measured, default=0)
        count = f"{last:,}" if last >= run.budget else f"{last:,} of {run.budget:,}"
        cells = [run.recipe.label, f"{run.seed}", f"{run.rate:,.1f}", count]
        if measured:
            unseen, seen = measured[last]["held-out"], measured[last]["training"]
            cells += [
                f"{unseen['kid']:.4g} ± {unseen['kid_std']:.2g}",
                *(f"{seen['kid']:.4g}", f"{unseen['fid']:.4g}"),
                *(f"{unseen['precision']:.3f}", f"{unseen['recall']:.3f}"),
                *(f"{unseen['swd']:.4g}", f"{measured[last]['originality']['ratio']:.3f}"),
            ]
        else:
            cells += [""] * 7
        kid, yardstick = run.last_kid, yardsticks.get(run.seed)
        cells.append(f"{kid / yardstick:.3f}" if kid is not None and yardstick else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(runs: list[Run]) -> str:
    """A row for each recipe: the KID of its finished runs, and ratios to the first recipe."""
    first = runs[0].recipe.label
    lines = [
        f"| recipe | images/s relative to {first} | finished seeds | KID held-out, mean (range) "
        f"| KID relative to {first}, same seeds |",
        "|---|---|---|---|---|",
    ]
    kids: dict[str, dict[int, float]] = {run.recipe.label: {} for run in runs}
    for run in runs:
        if (kid := run.last_kid) is not None:
            kids[run.recipe.label][run.seed] = kid
    rates = {run.recipe.label: run.rate for run in runs}
    for label, own in kids.items():
        cells = [label, f"{rates[label] / rates[first]:.3f}", f"{len(own)}", "", ""]
        if own:
            values = own.values()
            mean = statistics.mean(values)
            cells[3] = f"{mean:.4g} ({min(values):.4g} to {max(values):.4g})"
        if shared := own.keys() & kids[first].keys():
            one, other = (sum(of[seed] for seed in shared) for of in (own, kids[first]))
            cells[4] = f"{one / other:.3f}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# Plots and grids


def draw_curves(runs: list[Run], path: Path) -> None:
    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    labels = list(dict.fromkeys(run.recipe.label for run in runs))
    seeds = list(dict.fromkeys(run.seed for run in runs))
    features = ""
    for run in runs:
        if not (measured := run.measured):
            continue
        axes.plot(
            [run.minutes(images) for images in measured],
            [figures["held-out"]["kid"] for figures in measured.values()],
            color=f"C{labels.index(run.recipe.label)}",
            linestyle=("-", "--", ":", "-.")[seeds.index(run.seed) % 4],
            marker=".",
            label=run.name,
        )
        features = measured[max(measured)]["features"]
    axes.set_yscale("log")
    # By default an axis of less than a power of ten has no tick labels.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(left=0)
    axes.set_xlabel("minutes of training (images / measured images per second / 60)")
    axes.set_ylabel(f"KID on held-out paintings ({features})")
    axes.grid(alpha=0.3)
    # Below the axes, because there may be many runs with long names; as many columns as fit.
    columns = max(110 // (max(len(run.name) for run in runs) + 8), 1)
    figure.legend(loc="outside lower center", ncols=columns)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def draw_grids(runs: list[Run], path: Path) -> None:
    """The last grid of samples of each run: a column for each recipe, a row for each seed."""
    grids = [
        (run, max((run.folder / "samples").glob("images-*.png"), default=None)) for run in runs
    ]
    painted = [(run, grid, Image.open(grid)) for run, grid in grids if grid is not None]
    if not painted:
        return
    labels = list(dict.fromkeys(run.recipe.label for run, _, _ in painted))
    seeds = list(dict.fromkeys(run.seed for run, _, _ in painted))
    side = max(max(picture.size) for _, _, picture in painted) + GAP
    heading = 3 * LETTER + GAP  # two lines
    sheet = Image.new("RGB", (len(labels) * side, len(seeds) * (side + heading)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(LETTER)
    for run, grid, picture in painted:
        left, top = labels.index(run.recipe.label) * side, seeds.index(run.seed) * (side + heading)
        words = f"{run.name}, {run.minutes(_images(grid)):.3g} min"
        words = "\n".join(textwrap.wrap(words, width=2 * side // LETTER, max_lines=2))
        pen.multiline_text((left + 4, top + GAP), words, fill="black", font=font)
        sheet.paste(picture, (left, top + heading))
    with atomic_write(path) as file:
        sheet.save(file, "PNG")


# Work


def call(study: Study, name: str, *arguments: str) -> None:
    """Runs a script of artgan; its output is written to log.txt.

    Raises:
        Failed: it ended with an error.
    """
    log = study.output / "log.txt"
    with log.open("a") as printed:
        print(f"\n{time.strftime('%F %T')} {name} {shlex.join(arguments)}", file=printed)
        printed.flush()
        process = subprocess.Popen(
            [sys.executable, str(ROOT / name), *arguments],
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only this process, which passes it on once
        )
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)  # training then saves and ends
            process.wait()
            raise
    if code:
        last = log.read_text(errors="replace").splitlines()[-5:]
        raise Failed("\n".join(["", *last, f"(full log: {log})"]))


def train(study: Study, recipe: Recipe, *arguments: str) -> None:
    """A new run. Only what makes the comparison fair overrides the recipe."""
    call(
        study,
        "train.py",
        *("dataset=folder", f"dataset.root={study.output.resolve() / 'paintings'}"),
        *recipe.overrides,
        *(f"resolution={study.resolution}", f"dataset.holdout={HOLDOUT}", *arguments),
        "evaluate_every=null",  # its own measurements would be mistaken for those made here
    )


def link(study: Study) -> None:
    """Links the paintings, checks and packs them."""
    names, _ = find_images(study.paintings)
    root = study.output / "paintings"
    with atomic_folder(root) as folder:
        if folder is not None:  # not linked yet
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).symlink_to(study.paintings.resolve() / name)
    training, held_out = load_pack(root, Cut(study.resolution)).split(HOLDOUT)
    if len(held_out) < FEWEST_PAINTINGS:
        raise UserError(
            f"{study.paintings}: a tenth of these paintings is {len(held_out)}; at least "
            f"{FEWEST_PAINTINGS} are needed to measure against."
        )
    say(f"{len(training):,} paintings to train on, {len(held_out):,} held out")


def settle(study: Study) -> dict[str, Recipe]:
    """Refuses settings that are not comparable with those of the output folder.

    Returns:
        All recipes of that folder by label, including the new ones.
    """
    file = study.output / "settings.json"
    kept = _read(file, {"settings": study.settings, "recipes": {}})
    for key, value in study.settings.items():
        if kept["settings"][key] != value:
            raise UserError(
                f"{study.output}: was started with {key} {kept['settings'][key]}, not {value}. "
                "Give the same value, or another OUTPUT."
            )
    recipes = {
        label: Recipe(label, tuple(overrides)) for label, overrides in kept["recipes"].items()
    }
    for recipe in study.recipes:
        known = recipes.setdefault(recipe.label, recipe)
        if known != recipe:
            raise UserError(
                f"'{recipe.label}' is {' '.join(known.overrides)} in {study.output}, not "
                f"{' '.join(recipe.overrides)}. Give another label."
            )
    slugs = {recipe.slug for recipe in recipes.values()}
    if len(slugs) < len(recipes) or len(study.recipes) > len({one.label for one in study.recipes}):
        raise UserError("Two recipes have the same label, or nearly so. Give another one.")
    kept["recipes"] = {label: recipe.overrides for label, recipe in recipes.items()}
    _save(file, kept)
    return recipes


def measure_rates(study: Study, recipes: dict[str, Recipe]) -> Rates:
    """The images/s of each recipe; recipes added later are timed beside the very first one."""
    file = study.output / "rates.json"
    kept = _read(file, {"rates": {}, "ratios": {}, "rounds": []})
    rates: Rates = kept["rates"]
    base = next(iter(rates), study.recipes[0].label)
    missing = [recipe.label for recipe in study.recipes if recipe.label not in rates]
    if not missing or study.status:
        return rates
    group = list(dict.fromkeys([base, *missing]))
    while len(rounds := [one for one in kept["rounds"] if one.keys() == set(group)]) < ROUNDS:
        measured: Rates = {}
        # Back and forth, so that no recipe gains from a drift of the machine.
        for label in group if len(rounds) % 2 == 0 else reversed(group):
            trainings = (ROUNDS - len(rounds)) * len(group) - len(measured)
            minutes = trainings * study.rate_seconds / 60
            say(f"rate of {label}, round {len(rounds) + 1}; {minutes:.3g} min of rates left")
            measured[label] = _rate(study, recipes[label])
        say(", ".join(f"{label} {measured[label]:.1f} images/s" for label in group))
        kept["rounds"].append({label: measured[label] for label in group})
        _save(file, kept)
    rates |= rates_of(rounds, base, rates.get(base))
    kept["ratios"] = {label: rate / rates[base] for label, rate in rates.items()}
    _save(file, kept)
    return rates


def _rate(study: Study, recipe: Recipe) -> float:
    """The rate that `train.py` prints at the end, but not rounded."""
    with tempfile.TemporaryDirectory(dir=study.output, prefix="rate-") as scratch:
        train(study, recipe, f"max_time={study.rate_seconds}s", f"output={scratch}", "name=rate")
        newest = newest_checkpoint(Path(scratch) / "rate")
        assert newest is not None
        progress = newest[1][KEY]["progress"]
    return progress["images_seen"] / progress["seconds"]


def finish(study: Study, run: Run) -> None:
    """Trains a run to its end, from where it stopped if it did."""
    if run.images >= run.budget:
        return
    if (run.folder / CONFIG_FILE).exists():
        call(study, "train.py", f"resume={run.folder}")
    else:
        train(
            study,
            run.recipe,
            *(f"seed={run.seed}", f"max_images={run.budget}"),
            # Rounded up, so that the last one is at the end of the run.
            f"checkpoint.every={math.ceil(run.budget / study.points)}",
            # Keep all: each interruption adds one to those planned.
            "checkpoint.keep=1000000",
            *(f"output={run.folder.parent}", f"name={run.folder.name}"),
        )
    if run.images < run.budget:
        raise Failed(f"stopped at {run.images:,} images")


def measure(study: Study, checkpoint: Path) -> None:
    call(
        study,
        "evaluate.py",
        *(f"ckpt={checkpoint}", f"features={study.features}", f"num={study.num}"),
        f"out={checkpoint.parent / 'evaluated' / checkpoint.stem}",
    )


def work(study: Study, runs: list[Run]) -> int:
    """Trains and measures all runs.

    Returns:
        The number of failed runs.
    """
    failures = 0
    for run in runs:
        try:
            if run.images < run.budget:
                say(f"training {run.name}, {run.budget:,} images; {left(study, runs)}")
                finish(study, run)
        except Failed as failure:
            # A network that diverges is a result, and the other runs continue.
            say(f"training {run.name} failed: {failure}")
            failures += 1
        for checkpoint in run.unmeasured:
            say(f"measuring {run.name}, {checkpoint.stem}; {left(study, runs)}")
            measure(study, checkpoint)
            report(study, runs)
    return failures


def left(study: Study, runs: list[Run]) -> str:
    shares = [max(1 - run.images / run.budget, 0) for run in runs]
    count = sum(
        len(run.unmeasured) if share == 0 else max(study.points - len(run.measured), 1)
        for run, share in zip(runs, shares, strict=True)
    )
    return f"left: {sum(shares) * study.minutes:.3g} min of training, {count} measurements"


def report(study: Study, runs: list[Run]) -> str:
    """Writes tables, plots, grids and scores of the results so far.

    Returns:
        The tables.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "device": device,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "artgan": __version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    everything = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine,
        "settings": {
            key: Path(value).name if isinstance(value, str) else value
            for key, value in study.settings.items()
        },
        "rates": _read(study.output / "rates.json", {}),
        "runs": [
            {
                **asdict(run.recipe),
                **{"seed": run.seed, "images_per_second": run.rate, "budget": run.budget},
                "points": [
                    {"minutes": run.minutes(images), **figures}
                    for images, figures in run.measured.items()
                ],
            }
            for run in runs
        ],
    }
    _save(study.output / "quality.json", everything)
    opening = (
        f"{machine['processor']}, {machine['cores']} cores, {device}, Python {machine['python']}, "
        f"torch {machine['torch']}, {machine['date']}; {study.resolution} px, {study.minutes:g} "
        f"min a run, {study.num:,} samples, features {Path(study.features).stem}; scores on "
        "held-out paintings unless stated otherwise"
    )
    tables = "\n\n".join([opening, summary(runs), table(runs)])
    with atomic_write(study.output / "table.md") as file:
        file.write(tables.encode() + b"\n")
    draw_curves(runs, study.output / "curves.png")
    draw_grids(runs, study.output / "grids.png")
    return tables


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M')} {text}", file=sys.stderr, flush=True)


def _read(file: Path, otherwise: dict[str, Any]) -> dict[str, Any]:
    return json.loads(file.read_bytes()) if file.exists() else otherwise


def _save(file: Path, content: dict[str, Any]) -> None:
    with atomic_write(file) as out:
        out.write(json.dumps(content, indent=1, ensure_ascii=False).encode())


def main(study: Study) -> None:
    if study.features == "none":
        raise UserError("FEATURES: KID needs a network: inception, squeezenet, or a file.")
    for name, value, least in (
        ("MINUTES", study.minutes, 0.1),
        ("--points", study.points, 1),
        ("--num", study.num, FEWEST_PAINTINGS),
        ("--rate-seconds", study.rate_seconds, 1),
    ):
        if not value >= least:
            raise UserError(f"{name}: {value} is too little. Give at least {least}.")
    if not study.paintings.is_dir():
        raise UserError(f"PATH: there is no folder {study.paintings}.")
    recipes = settle(study)
    failures = 0
    if study.status:
        runs = study.runs(measure_rates(study, recipes))
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        load_features(study.features)  # downloaded, or found missing, before any work
        try:
            with FileLock(study.output / ".lock", timeout=0):
                link(study)
                runs = study.runs(measure_rates(study, recipes))
                failures = work(study, runs)
        except Timeout:
            raise UserError(f"{study.output}: in use. --status shows how far it is") from None
        except Failed as failure:
            raise UserError(str(failure).strip()) from None
    if not runs:
        raise UserError(f"{study.output}: no rates yet. Run the same command without --status.")
    print(report(study, runs))
    say(left(study, runs))
    if failures:
        raise UserError(f"{failures} of {len(runs)} runs failed. Run the same command to retry.")


def parse() -> Study:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("paintings", metavar="PATH", type=Path, help="folder of paintings, at least 155")
    add("features", metavar="FEATURES", help="inception, squeezenet, or a file of their weights")
    add("output", metavar="OUTPUT", type=Path, help="folder for all results")
    add("minutes", metavar="MINUTES", type=float, help="minutes of training per run")
    add("--resolution", type=int, default=64, help="side of the images in pixels [%(default)s]")
    add("--seeds", type=int, nargs="+", default=[0, 1], help="one run per seed [0 1]")
    add(
        "--recipes",
        type=Recipe.parse,
        nargs="+",
        default=[Recipe.parse("dcgan"), Recipe.parse("artgan")],
        help="each a quoted model and overrides, or name=model …; all are compared with the first "
        "[dcgan artgan]",
    )
    add("--points", type=int, default=8, help="checkpoints to measure per run [%(default)s]")
    add("--num", type=int, default=1000, help="samples to measure [%(default)s]")
    add(
        "--rate-seconds",
        type=int,
        default=120,
        help="seconds of each training that measures a rate, three per recipe [%(default)s]",
    )
    add("--status", action="store_true", help="only show what is done and what is left")
    return Study(**vars(parser.parse_args()))


if __name__ == "__main__":
    with plain_errors():
        main(parse())
