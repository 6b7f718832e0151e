"""Processes that the lab started, known by more than a number that may be given again."""

import os
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from lab.machine import LabError, boot_id


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process by its id, its start time and the boot it ran in: these three never recur."""

    pid: int
    started: int
    """Clock ticks after boot (field 22 of proc_pid_stat(5))."""
    boot: str

    @classmethod
    def of(cls, pid: int) -> Self:
        """Identify a running process; raise ProcessLookupError if there is none."""
        return cls(pid=pid, started=_started(pid), boot=boot_id())

    @classmethod
    def of_json(cls, value: dict[str, int | str]) -> Self:
        """Read what `to_json` wrote."""
        return cls(pid=int(value["pid"]), started=int(value["started"]), boot=str(value["boot"]))

    def to_json(self) -> dict[str, int | str]:
        """Return what to record."""
        return asdict(self)

    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        if self.boot != boot_id():
            return False
        try:
            return _started(self.pid) == self.started and _state(self.pid) != "Z"
        except ProcessLookupError:
            return False

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """Send it a signal, and nobody else, even if its number was given to another process."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # The descriptor is of whatever has the number now; it cannot change any more.
            if self.alive():
                signal.pidfd_send_signal(descriptor, signal_number)
        except ProcessLookupError:
            pass  # it ended by itself between the two lines
        finally:
            os.close(descriptor)

    def end(self, patience_s: float = 5) -> None:
        """Ask it to end (SIGTERM), kill it if it does not, and return when it is gone."""
        self.kill(signal.SIGTERM)
        if not self._gone_within(patience_s):
            self.kill()
            if not self._gone_within(patience_s):
                raise LabError(f"process {self.pid} outlives SIGKILL")

    def wait(self, timeout_s: float) -> None:
        """Wait until it is gone; raise LabError if it is not in time."""
        if not self._gone_within(timeout_s):
            raise LabError(f"process {self.pid} still runs after {timeout_s:g} s")

    def _reap(self) -> None:
        with suppress(ChildProcessError):  # started by an earlier run: not our child
            os.waitpid(self.pid, os.WNOHANG)

    def _gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.alive():
            self._reap()
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


def children(pid: int) -> list[int]:
    """Return the ids of a process's children."""
    try:
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_first_of_a_namespace(pid: int) -> bool:
    """Whether a process is PID 1 of a process namespace below this one."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    ids = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
    return ids[1:] == [str(pid), "1"]


def _fields(pid: int) -> list[str]:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(pid) from None
    # The second field is the program's name in brackets, and may hold blanks and brackets itself.
    return stat.rpartition(")")[2].split()


def _state(pid: int) -> str:
    return _fields(pid)[0]


def _started(pid: int) -> int:
    return int(_fields(pid)[19])


def spawn(*argv: str | Path, log: Path, env: dict[str, str]) -> Process:
    """Start a program that outlives this process, in a session of its own, its output in a log."""
    command = [str(word) for word in argv]
    pid = os.posix_spawnp(
        command[0],
        command,
        env,
        setsid=True,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )
    return Process.of(pid)
