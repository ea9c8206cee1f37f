"""The floors of the house: each part imports only from the floors below it."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers import ROOT

# From the ground up. A part is a module of artgan, or a package with all its modules.
FLOORS = [
    ["errors", "memory", "values", "version"],
    ["device", "files", "options", "workers"],
    [
        *("cache", "checkpoint", "config", "download"),
        *("images", "inkwash", "networks", "sweep", "weights"),
    ],
    ["data", "events", "help", "metrics", "painter"],
    ["arguments", "comparison", "export", "latents", "measuring", "sampling", "style"],
    ["evaluation", "training"],
    ["__init__", "cli"],
    ["__main__"],
]
ONLY_IN = {"hydra": {"arguments", "cli", "config"}, "pytorch_lightning": {"training"}}
FLOOR = {part: number for number, floor in enumerate(FLOORS) for part in floor}
PACKAGE = ROOT / "artgan"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST_MODULE, LONGEST_FUNCTION = 350, 40


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_floors_below(path: Path) -> None:
    part = part_of(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "artgan":
            other = rest.split(".")[0]
            assert other == part or FLOOR[other] < FLOOR[part], name
        assert part in ONLY_IN.get(top, {part}), name


def test_no_two_modules_share_a_name() -> None:
    names = Counter(path.stem for path in MODULES if path.stem not in ("__init__", "__main__"))
    names.update(path.name for path in PACKAGE.rglob("*") if (path / "__init__.py").is_file())
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_are_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LONGEST_MODULE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body:
                length = (body[-1].end_lineno or 0) - body[0].lineno + 1
                assert length <= LONGEST_FUNCTION, (node.name, length)


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("*.py")))
def test_a_script_starts_without_torch(name: str) -> None:
    code = f"import sys; sys.argv = ['{name}', '--help']; import runpy; runpy.run_path('{name}', "
    code += "run_name='__main__'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_a_command_is_checked_without_torch() -> None:
    code = "import sys, artgan.training.start; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_sampling_needs_nothing_of_training() -> None:
    code = "import sys, artgan.sampling; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert not loaded & {"pytorch_lightning", "torchvision", "tensorboard", "requests", "av"}
