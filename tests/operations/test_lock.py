"""The host's deploy lock, taken by real processes: one at a time, and not for ever."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.state import StateStage

from operations import locks
from operations.locks import HEARTBEAT, PROGRAM, SILENCE


class Deploy:
    """A controller's end of the lock."""

    def __init__(self, lock: Path, holder: str, *, silence: float = 60) -> None:
        program = PROGRAM.replace("SILENCE = 60", f"SILENCE = {silence}")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", program, lock, holder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.answer = self._process.stdout.readline().strip()

    def beat(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def leave(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(timeout=10)

    def ended(self, *, within_s: float) -> bool:
        try:
            self._process.wait(timeout=within_s)
        except subprocess.TimeoutExpired:
            return False
        return True


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "deploy.lock"


def test_the_second_is_refused_with_the_firsts_name(lock: Path) -> None:
    """Who holds it is told; when the first leaves, the next one has it."""
    first = Deploy(lock, "ada, since noon")
    second = Deploy(lock, "bob")
    assert (first.answer, second.answer) == ("held", "refused ada, since noon")
    first.leave()
    assert lock.read_text() == ""
    third = Deploy(lock, "bob")
    assert third.answer == "held"
    assert Deploy(lock, "eve").answer == "refused bob"
    third.leave()


def test_a_killed_holder_leaves_nothing_behind(lock: Path) -> None:
    """The kernel drops the lock with its process; a name left in the file holds nobody up."""
    first = Deploy(lock, "ada")
    first.kill()
    second = Deploy(lock, "bob")
    assert second.answer == "held"
    assert lock.read_text() == "bob"
    second.leave()


def test_silence_ends_it(lock: Path) -> None:
    """A controller that is not heard of any more loses the lock; one that beats keeps it."""
    silent = Deploy(lock, "gone", silence=1)
    assert silent.ended(within_s=10)
    beating = Deploy(lock, "there", silence=2)
    for _ in range(4):
        time.sleep(0.8)
        beating.beat()
    assert not beating.ended(within_s=0)
    beating.leave()


def test_a_name_is_whole(lock: Path) -> None:
    """A shorter name after a longer one is not the longer one's end."""
    Deploy(lock, "a very long name indeed").leave()
    first = Deploy(lock, "kim")
    assert Deploy(lock, "eve").answer == "refused kim"
    first.leave()


def test_beats_come_often_enough() -> None:
    """Several beats may be lost before the host gives a controller up."""
    (silence,) = [
        int(line.split()[2]) for line in PROGRAM.splitlines() if line.startswith("SILENCE = ")
    ]
    assert silence == SILENCE >= 4 * HEARTBEAT


class Channel:
    """The controller's end of a lock on a host."""

    def __init__(self) -> None:
        self.status_event, self.heard = threading.Event(), 0

    def sendall(self, data: bytes) -> None:
        self.heard += len(data)
        if self.heard == 3:
            self.status_event.set()  # the host ends it

    def exit_status_ready(self) -> bool:
        return self.status_event.is_set()


class Host:
    """As much of pyinfra's host as a lock has to do with, and of its state and its connection."""

    def __init__(self, stage: StateStage) -> None:
        self.name, self.current_stage = "h", stage
        self.state = self.connector = self.client = self
        self.failed, self.closed, self.said = set[Any](), False, ""
        self.lock = locks.Lock(Channel())
        locks._locks[self.name] = self.lock  # noqa: SLF001

    def get_transport(self) -> Host:
        return self

    def close(self) -> None:
        self.closed = True

    def log_styled(self, message: str, **_: object) -> None:
        self.said = message

    def fail_hosts(self, hosts: set[Any]) -> None:
        self.failed |= hosts
        raise PyinfraError("No hosts remaining!")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT", 0.01)
    monkeypatch.setattr(locks, "_locks", {})


def test_a_lock_that_the_host_ends_ends_the_run_there() -> None:
    """The host is failed and says why, and its connection is closed: no command comes after."""
    host = Host(StateStage.Execute)
    locks.keep(cast("Any", host))
    assert (host.failed, host.closed) == ({host}, True)
    assert "lock is lost" in host.said


def test_a_lock_that_ends_with_its_run_is_not_lost() -> None:
    """When all is done the connection goes, and nobody is failed for it."""
    host = Host(StateStage.Disconnect)
    locks.keep(cast("Any", host))
    assert (host.failed, host.closed, host.said) == (set(), False, "")


@pytest.mark.parametrize(
    ("slept_s", "lost"), [(0, False), (SILENCE - 5, False), (SILENCE + 1, True)]
)
def test_a_controller_that_slept_knows_by_its_own_clock(slept_s: int, *, lost: bool) -> None:
    """Before the next operation, and before any word of the host's has come through."""
    host = Host(StateStage.Execute)
    host.lock.beaten -= slept_s
    for _ in range(2):
        locks.Watch.operation_host_start(cast("Any", host), cast("Any", host), "")
    assert (host.failed, host.closed) == (({host}, True) if lost else (set(), False))
    other = SimpleNamespace(name="other")
    locks.Watch.operation_host_start(cast("Any", host), cast("Any", other), "")
