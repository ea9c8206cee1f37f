import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from artgan.errors import UserError
from artgan.workers import map_in_processes

# Nothing of tests.helpers: with it, each process that is started here would import torch.
ROOT = Path(__file__).resolve().parents[1]
NAMES = [str(number) for number in range(40)]
LARGE = bytes(1_000_000)  # more than a pipe holds


def long(name: str) -> str:
    return name + "!" * 10_000


def touch(path: str) -> str:
    Path(path).touch()
    return long(path)


def die(name: str) -> str:
    if name in ("7", "8"):
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def always_die(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(path: str) -> str:
    """Kills its process if there is no such file yet, which it makes."""
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return path
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def large(path: str) -> tuple[int, bytes]:
    """The number of this process, and more than a pipe holds."""
    Path(path).touch()
    return os.getpid(), LARGE


def divide(name: str) -> float:
    return 1 / int(name)


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import posixpath\n"
        "from artgan.workers import map_in_processes\n"
        "print(*map_in_processes(posixpath.basename, ['a/b', 'c/d']))\n"
    )
    command = [sys.executable, str(script)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "b d\n", "")


def test_results_come_in_order() -> None:
    assert list(map_in_processes(long, NAMES)) == [long(name) for name in NAMES]


def test_results_are_not_computed_far_ahead(tmp_path: Path) -> None:
    paths = [str(tmp_path / str(number)) for number in range(300 * (os.cpu_count() or 1))]
    results = map_in_processes(touch, paths)
    assert next(results) == long(paths[0])
    while len(done := list(tmp_path.iterdir())) < 17:  # a second batch has begun
        time.sleep(0.01)
    time.sleep(0.5)  # for a mistake to show: without a limit, all would be done soon
    assert len(done) <= len(list(tmp_path.iterdir())) < len(paths)
    assert list(results) == [long(path) for path in paths[1:]]


def test_only_items_that_kill_their_process_repeatedly_are_skipped() -> None:
    expected = [None if name in ("7", "8") else name for name in NAMES]
    assert list(map_in_processes(die, NAMES)) == expected


def test_a_process_that_is_killed_once_costs_nothing(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in NAMES]
    for path in paths[:20] + paths[21:]:
        Path(path).touch()
    assert list(map_in_processes(die_once, paths)) == paths


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_is_killed_while_it_sends_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    paths = [str(tmp_path / name) for name in NAMES]
    results = map_in_processes(large, paths)
    first = next(results)
    assert first
    status = Path(f"/proc/{first[0]}/stat")
    # Nobody reads the second batch yet, so the process sleeps halfway through sending it.
    while not Path(paths[31]).exists() or status.read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.01)
    os.kill(first[0], signal.SIGKILL)
    rest = list(results)
    assert len(rest) == 39
    assert all(result and result[1] == LARGE for result in rest)


def test_processes_that_are_killed_for_every_item_are_one_message() -> None:
    with pytest.raises(UserError, match="its process was killed repeatedly, as for 7 others"):
        list(map_in_processes(always_die, NAMES))


def test_an_error_in_a_process_is_raised_with_its_place() -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        list(map_in_processes(divide, ["1", "0"]))
    assert "in divide" in raised.value.__notes__[0]


ENDLESS = """
import sys, time
from artgan.workers import map_in_processes

def slow(name):
    time.sleep(0.1)
    return name

if __name__ == "__main__":
    for name in map_in_processes(slow, [str(number) for number in range(10_000)]):
        print(name, flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_first(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(
        [sys.executable, tmp_path / "endless.py"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert first.stdout is not None
    first.stdout.readline()
    first.send_signal(how)
    # Each process holds the other end of these pipes: they end with the last one.
    _, errors = first.communicate()
    assert b"BrokenPipeError" not in errors
