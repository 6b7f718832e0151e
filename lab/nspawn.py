"""The container that a host is: `systemd-nspawn --boot` over a mounted tree."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lab.cgroups import Cgroup
from lab.machine import LabError
from lab.processes import Process, children, is_first_of_a_namespace, spawn

# In a mount namespace of its own, without the disks of the other hosts: a copy of their mounts in
# here would keep their file systems alive when they are gone. Rebooting, nspawn exits with 133 and
# leaves it to its caller to start it again.
_SUPERVISOR = """\
echo $$ > "$1"
awk -v all="$2/" -v own="$3/" \\
    'index($5, all) == 1 && index($5 "/", own) != 1 { print $5 }' /proc/self/mountinfo |
sort --reverse | xargs --no-run-if-empty umount --lazy
shift 3
while :; do "$@"; status=$?; [ $status = 133 ] || exit $status; done
"""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INSIDE = ("env", "-i", f"PATH={_PATH}", "HOME=/root", "USER=root", "LANG=C.UTF-8")


class Nspawn:
    """The processes of one host, and the way to them."""

    def __init__(self, name: str, console: Path) -> None:
        """Name it, 11 letters at most; what it prints goes into a file."""
        self.interface = f"vb-{name}"
        """Its port on the bridge, as nspawn calls it."""
        self._name = name
        self._console = console
        self._cgroup = Cgroup(f"mlx-hosts-lab-{name}")

    @property
    def console(self) -> str:
        """What it printed so far."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def start(self, root: Path, *, bridge: str, binds: Sequence[str], rooms: Path) -> Process:
        """Start it over a tree; disks below `rooms` but outside the tree's folder are hidden."""
        self._cgroup.make()
        return spawn(
            "unshare",
            "--mount",
            "--propagation=private",
            "sh",
            "-c",
            _SUPERVISOR,
            f"lab-host-{self._name}",
            self._cgroup.procs,
            rooms,
            root.parent,
            "systemd-nspawn",
            "--quiet",
            f"--directory={root}",
            "--boot",
            f"--machine={self._name}",
            f"--network-bridge={bridge}",
            # There may be no systemd on this machine to register with.
            "--register=no",
            "--keep-unit",
            "--resolv-conf=off",
            "--link-journal=no",
            # Without this and the unified hierarchy systemd silently enforces no policy that
            # needs BPF (IPAddressDeny=, DevicePolicy=). The usual capabilities do.
            "--system-call-filter=bpf",
            *(f"--bind={bind}" for bind in binds),
            log=self._console,
            env={"PATH": _PATH, "LANG": "C.UTF-8", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )

    def systemd(self, supervisor: Process) -> Process | None:
        """Find its PID 1; None while it is starting or rebooting, LabError if it is off."""
        if not supervisor.alive():
            raise LabError(f"{self._name} is not running; its console:\n{self.console[-2000:]}")
        for nspawn in children(supervisor.pid):
            for child in children(nspawn):
                # nspawn has another child for a moment, in this machine's own namespaces.
                if is_first_of_a_namespace(child):
                    with suppress(ProcessLookupError):
                        return Process.of(child)
        return None

    def enter(self, systemd: Process) -> list[str]:
        """Return what to put before a command so that it runs inside, as root."""
        return ["nsenter", f"--target={systemd.pid}", "--all", "--", *_INSIDE]

    def freeze(self, *, frozen: bool) -> None:
        """Stop or let go on all its processes."""
        self._cgroup.freeze(frozen=frozen)

    def kill(self) -> None:
        """End all its processes at once, and remove their control group."""
        self._cgroup.remove()
