import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from artgan import workers as processes
from artgan.errors import UserError
from artgan.workers import map_in_processes

# Nothing of tests.helpers: with it, each process that is started here would import torch.
ROOT = Path(__file__).resolve().parents[2]
NAMES = [str(number) for number in range(40)]


def loud(name: str) -> str:
    return name + "!" * 10_000


def fall(name: str) -> str:
    if name in ("7", "8"):
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def fall_once(path: str) -> str:
    """Ends its process where there is no such file yet, which it makes."""
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return path
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def far_too_long(path: str) -> tuple[int, bytes]:
    """The number of this process, and more than a pipe holds."""
    Path(path).touch()
    return os.getpid(), bytes(10_000_000)


def divide(name: str) -> float:
    return 1 / int(name)


def test_results_come_in_order_and_none_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "AHEAD", 2)
    assert list(map_in_processes(loud, NAMES)) == [loud(name) for name in NAMES]


def test_only_what_ends_its_process_again_and_again_is_given_up() -> None:
    expected = [None if name in ("7", "8") else name for name in NAMES]
    assert list(map_in_processes(fall, NAMES)) == expected


def test_a_process_that_is_killed_once_costs_nothing(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in NAMES]
    for path in paths[:20] + paths[21:]:
        Path(path).touch()
    assert list(map_in_processes(fall_once, paths)) == paths


def test_a_process_that_is_killed_while_it_sends_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    first, second = tmp_path / "first", tmp_path / "second"
    results = map_in_processes(far_too_long, [str(first), str(second)])
    sent = next(results)
    assert sent
    while not second.exists():
        time.sleep(0.01)
    time.sleep(0.1)  # nobody reads the second result yet, so it is stuck half-way
    os.kill(sent[0], signal.SIGKILL)
    assert [result[1] for result in results if result] == [sent[1]]


def test_processes_that_end_again_and_again_are_one_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "MOST_ENDED", 1)
    with pytest.raises(UserError, match="7: the process that read it was ended from outside"):
        list(map_in_processes(fall, NAMES))


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
    # Each of the processes holds the other end of these pipes: they end with the last one.
    _, errors = first.communicate(timeout=30)
    assert b"BrokenPipeError" not in errors
