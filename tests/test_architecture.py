"""Who may import whom, as CONTRIBUTING.md says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

LEAVES = {"errors", "files"}
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "memory": set(),
    "device": {*LEAVES, "memory"},
    "sweep": LEAVES,
    "config": {*LEAVES, "sweep"},
    "checkpoint": LEAVES,
    "pictures": LEAVES,
    "events": {*LEAVES, "config"},
    "networks": set(),
    "data": {*LEAVES, "config"},
    "sampling": {*LEAVES, "device", "config", "checkpoint", "pictures", "networks", "data"},
    "export": {*LEAVES, "config", "checkpoint", "sampling"},
    "weights": {*LEAVES, "checkpoint", "data"},
    "metrics": {*LEAVES, "device", "data", "weights"},
    "style": {
        *LEAVES,
        "device",
        "config",
        "checkpoint",
        "pictures",
        "networks",
        "data",
        "sampling",
        "weights",
        "memory",
        "events",
    },
    "evaluation": {
        *LEAVES,
        "device",
        "config",
        "checkpoint",
        "pictures",
        "events",
        "data",
        "sampling",
        "metrics",
    },
    "comparison": {*LEAVES, "config", "checkpoint", "data"},
    "training": {
        *LEAVES,
        "memory",
        "config",
        "checkpoint",
        "pictures",
        "networks",
        "data",
        "sampling",
        "metrics",
        "evaluation",
        "events",
    },
}
ONLY_IN = {"hydra": {"config"}, "pytorch_lightning": {"training"}}


def parts() -> dict[Path, str]:
    """Each file of the package, and the part that it belongs to."""
    package = ROOT / "artgan"
    files = {path: path.relative_to(package).parts[0] for path in package.rglob("*.py")}
    return {path: part.removesuffix(".py") for path, part in files.items() if part != "__init__.py"}


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", parts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_each_part_imports_only_what_it_may(path: Path) -> None:
    part = parts()[path]
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "artgan" and rest != "__version__":
            assert rest.split(".")[0] in MAY_IMPORT[part] | {part}, name
        assert part in ONLY_IN.get(top, {part}), name


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("*.py")))
def test_a_script_starts_without_torch(name: str) -> None:
    code = f"import sys; sys.argv = ['{name}', '--help']; import runpy; runpy.run_path('{name}', "
    code += "run_name='__main__'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_a_command_is_settled_without_torch() -> None:
    code = "import sys, artgan.training.folder; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_painting_needs_nothing_of_training() -> None:
    code = "import sys, artgan.sampling; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert not loaded & {"pytorch_lightning", "torchvision", "tensorboard", "requests", "imageio"}
