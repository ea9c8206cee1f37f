import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from artgan.errors import UserError
from artgan.sweep import apart, failures, note_failure
from tests.helpers import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs are processes on Linux")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Kind(UserError):
    """Made of other arguments than it is told by, as one is that names a state of a run."""

    def __init__(self, number: int, _: str) -> None:
        super().__init__(f"another kind: {number}")


def refuse_in_a_kind_of_its_own() -> None:
    raise Kind(2, "")


def kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_out_of_time() -> None:
    os.kill(os.getpid(), signal.SIGXCPU)


def fail() -> None:
    raise UserError("model.width: 0 must be at least 1.")


def divide() -> None:
    _ = 1 / 0


def test_what_work_gives_comes_back_from_another_process() -> None:
    assert apart(lambda: float(os.getpid())) not in (None, os.getpid())
    assert apart(lambda: None) is None


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (fail, "model.width: 0 must be at least 1."),
        (refuse_in_a_kind_of_its_own, "another kind: 2"),
        (kill_oneself, "was killed, as the system does when it is short of memory."),
        (run_out_of_time, "was ended by SIGXCPU."),
        (lambda: os._exit(7), "ended with code 7."),
        (divide, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_bad_end_is_told(
    work: Callable[[], None], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as told:
        apart(work)
    assert str(told.value) == message
    # Only what is a fault of ours shows where it was.
    assert ("Traceback" in capfd.readouterr().err) == (work is divide)


@pytest.mark.parametrize("number", SIGNALS)
def test_who_stops_this_process_stops_the_work(number: signal.Signals) -> None:
    handlers = [signal.getsignal(kind) for kind in SIGNALS]

    def work() -> None:
        os.kill(os.getppid(), number)
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        apart(work)
    assert [signal.getsignal(kind) for kind in SIGNALS] == handlers


def test_the_work_may_save_its_state_before_it_stops(tmp_path: Path) -> None:
    def work() -> None:
        try:
            os.kill(os.getppid(), signal.SIGINT)
            time.sleep(60)
        except KeyboardInterrupt:
            (tmp_path / "saved").touch()
            raise

    with pytest.raises(KeyboardInterrupt):
        apart(work)
    assert (tmp_path / "saved").exists()


def test_the_work_may_end_well_though_it_was_to_stop() -> None:
    def work() -> float:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(0.2)
        return 3.0

    assert apart(work) == 3.0


def test_a_scheduler_that_ends_the_job_stops_the_work(tmp_path: Path) -> None:
    def save(*_: object) -> None:
        (tmp_path / "saved").touch()
        sys.exit()

    def work() -> None:
        signal.signal(signal.SIGTERM, save)
        os.kill(os.getppid(), signal.SIGUSR2)
        time.sleep(60)

    before = signal.signal(signal.SIGUSR2, lambda *_: sys.exit())  # as submitit does
    try:
        with pytest.raises(KeyboardInterrupt):
            apart(work)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert (tmp_path / "saved").exists()


def test_ctrl_c_at_the_terminal_reaches_the_work_once() -> None:
    """The terminal signals all processes of its group; the work is in another, on purpose."""
    assert apart(lambda: float(os.getpgid(0) == os.getpid())) == 1


def test_failures_are_told_in_order_with_what_is_their_own(tmp_path: Path) -> None:
    for number in (0, 2, 10):
        (tmp_path / f"{number}").mkdir()
    (tmp_path / ".submitit").mkdir()
    (tmp_path / "multirun.yaml").touch()
    assert failures(tmp_path, []) == []
    note_failure(tmp_path / "10", ["seed=1", "model.width=0", "name=w"], "one\nmessage")
    note_failure(tmp_path / "2", ["seed=0", "model.width=0", "name=w"], "another")
    assert failures(tmp_path, ["name=w", "seed=0,1", "model.width=0"]) == [
        "2 of 3 jobs failed:",
        "  #2 seed=0: another",
        "  #10 seed=1: one message",
    ]
    assert json.loads((tmp_path / "2" / "failure.json").read_text())["message"] == "another"


def test_a_job_ends_with_a_sweep_that_is_killed() -> None:
    code = (
        "import os, time\nfrom artgan.sweep import apart\n"
        "apart(lambda: (print(os.getpid(), flush=True), time.sleep(60)) and None)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as sweep:
        assert sweep.stdout is not None
        job = psutil.Process(int(sweep.stdout.readline()))
        sweep.kill()
    ends = time.monotonic() + 30
    with contextlib.suppress(psutil.NoSuchProcess):
        while job.status() != psutil.STATUS_ZOMBIE:  # where nobody waits for orphans
            assert time.monotonic() < ends
            time.sleep(0.05)
