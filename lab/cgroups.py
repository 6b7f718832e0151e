"""One control group a host, so that its processes are found and killed together, and only they.

Without one of its own, a host started with `--keep-unit` shares the group `payload` of whatever
started it with every other such host, and the systemd of each would meddle with all of them.
"""

import time
from pathlib import Path

from lab.machine import LabError


def _hierarchies() -> dict[str, Path]:
    """Find where the machine mounts cgroup v2, and v1's `name=systemd` if it has that."""
    found: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        head, _, tail = line.partition(" - ")
        kind, _, options = tail.split(maxsplit=2)
        point = Path(head.split()[4])
        if kind == "cgroup2":
            found.setdefault("v2", point)
        elif kind == "cgroup" and "name=systemd" in options:
            found.setdefault("systemd", point)
    return found


class Cgroup:
    """The control group of one host."""

    def __init__(self, name: str) -> None:
        """Name a group below the root; nothing is made yet."""
        self.name = name
        self._at = {kind: root / name for kind, root in _hierarchies().items()}
        if "v2" not in self._at:
            raise LabError("cgroup v2 is not mounted: mount it, or use a kernel and init with it")

    @property
    def procs(self) -> Path:
        """The file that takes in a process."""
        return self._at["v2"] / "cgroup.procs"

    def make(self) -> None:
        """Make the group."""
        self._at["v2"].mkdir(parents=True, exist_ok=True)

    def kill(self) -> None:
        """Kill every process in it at once (SIGKILL), and wait until none is left."""
        group = self._at["v2"]
        if not group.exists():
            return
        (group / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + 10
        while "populated 1" in (group / "cgroup.events").read_text():
            if time.monotonic() > deadline:
                raise LabError(f"control group `{group}` still has processes after SIGKILL")
            time.sleep(0.005)

    def freeze(self, *, frozen: bool) -> None:
        """Stop or let go on every process in it."""
        group = self._at["v2"]
        (group / "cgroup.freeze").write_text("1" if frozen else "0")
        deadline = time.monotonic() + 10
        while f"frozen {int(frozen)}" not in (group / "cgroup.events").read_text():
            if time.monotonic() > deadline:
                raise LabError(f"control group `{group}` does not freeze")
            time.sleep(0.005)

    def remove(self) -> None:
        """Kill what is in it and remove it, with all that the host's systemd made below it."""
        self.kill()
        for top in self._at.values():
            if top.exists():
                for group in sorted(top.rglob("*/"), reverse=True):
                    if group.is_dir():
                        group.rmdir()
                top.rmdir()
