"""The host's deploy lock, taken by real processes: one at a time, and not for ever."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from operations.locks import HEARTBEAT, PROGRAM


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
    assert silence >= 4 * HEARTBEAT
