"""The engine's process: started, watched through /proc, ended."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

KILL_S = 5.0  # a process that can be killed is gone in less, with all its memory


class EngineProcess:
    """One child in a process group of its own."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child
        self.exited = asyncio.create_task(child.wait())

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> EngineProcess:
        return cls(
            await asyncio.create_subprocess_exec(
                *command,
                env=dict(environment),
                stdin=asyncio.subprocess.DEVNULL,
                process_group=0,
            )
        )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def ended(self) -> str | None:
        """How it ended, in words; ``None`` while it lives."""
        code = self._child.returncode
        if code is None:
            return None
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"

    @property
    def stopped(self) -> bool:
        """Stopped by a signal (SIGSTOP), so that it can do nothing at all."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return False
        return stat.rsplit(")", 1)[1].split()[0] == "T"

    def signs(self) -> tuple[int, int]:
        """Bytes it has read and bytes it holds: what grows while weights are loaded.

        Zeros once it is gone.
        """
        try:
            io = Path(f"/proc/{self.pid}/io").read_text(encoding="ascii")
            resident = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        except (OSError, IndexError):
            return 0, 0
        read = int(io.split("rchar: ", 1)[1].split("\n", 1)[0])
        return read, resident * os.sysconf("SC_PAGE_SIZE")

    def signal(self, number: signal.Signals) -> None:
        """Signal the whole group (an engine may have children: compilers, workers)."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return

    async def end(self, *, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after ``grace_s`` seconds."""
        if not self.exited.done():
            self.signal(signal.SIGTERM)
            await asyncio.wait({self.exited}, timeout=grace_s)
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL; one that hangs inside the driver takes none, and is left to systemd."""
        self.signal(signal.SIGKILL)
        await asyncio.wait({self.exited}, timeout=KILL_S)
        if not self.exited.done():
            print("guard: the engine does not end on SIGKILL", file=sys.stderr, flush=True)
