"""Runs inside the unit's sandbox, as its user: tries what each setting forbids.

Prints one JSON object: each setting, and how the attempt ended (``forbidden`` or what it got).
Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)


def write(path: str) -> Callable[[], object]:
    return lambda: Path(path).write_text("x")


def call(number: int, *arguments: int) -> Callable[[], object]:
    def attempt() -> object:
        if LIBC.syscall(number, *arguments) == -1:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return "allowed"

    return attempt


def writable_and_executable() -> object:
    return mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def outward() -> object:
    """No way to anywhere but loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return "a route"


def others() -> object:
    """Processes of other users are not to be seen."""
    strangers = [
        entry.name
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and entry.stat().st_uid != os.getuid()
    ]
    if strangers:
        return strangers
    raise PermissionError


def capabilities() -> object:
    status = Path("/proc/self/status").read_text()
    sets = {line.split()[0]: line.split()[1] for line in status.splitlines() if line[:3] == "Cap"}
    if any(int(value, 16) for value in sets.values()):
        return sets
    raise PermissionError


def raises_limit(which: int, value: int) -> Callable[[], object]:
    def attempt() -> object:
        resource.setrlimit(which, (value, value))
        return resource.getrlimit(which)

    return attempt


ATTEMPTS: dict[str, Callable[[], object]] = {
    "PrivateNetwork": outward,
    "RestrictAddressFamilies": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "NoNewPrivileges, CapabilityBoundingSet": capabilities,
    "RestrictSUIDSGID": lambda: Path(_own("suid")).chmod(0o4755),
    "RestrictNamespaces": call(272, 0x10000000),  # unshare(CLONE_NEWUSER)
    "RestrictRealtime": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "LockPersonality": call(135, 0x0040000),  # personality(ADDR_NO_RANDOMIZE)
    "MemoryDenyWriteExecute": writable_and_executable,
    "SystemCallFilter: mount": call(165, 0, 0, 0, 0, 0),
    "SystemCallFilter: reboot": call(169, 0, 0, 0, 0),
    "SystemCallFilter: bpf": call(321, 0, 0, 0),
    "SystemCallFilter: nice": lambda: os.nice(-5),
    "ProtectSystem: /usr": write("/usr/x"),
    "ProtectSystem: /etc": write("/etc/x"),
    "ProtectSystem: /opt": write("/opt/mlx-hosts/x"),
    "ProtectSystem: weights": write("/var/lib/mlx-hosts/hub/x"),
    "ProtectHome": lambda: next(Path("/root").iterdir()),
    "TemporaryFileSystem: /tmp": write("/tmp/x"),
    "TemporaryFileSystem: /var/tmp": write("/var/tmp/x"),
    "InaccessiblePaths: /dev/shm": write("/dev/shm/x"),
    "ProtectControlGroups": lambda: Path("/sys/fs/cgroup/x").mkdir(),
    "ProtectKernelLogs": lambda: Path("/dev/kmsg").read_bytes(),
    "ProtectKernelTunables": write("/proc/sys/kernel/domainname"),
    "ProtectKernelModules": call(313, 0, 0, 0),  # finit_module
    "ProtectClock": call(227, 0, 0),  # clock_settime
    "ProtectHostname": lambda: socket.sethostname("x"),
    "ProtectProc": others,
    "ProcSubset": lambda: Path("/proc/cmdline").read_text(),
    "PrivateDevices": lambda: next(Path("/dev").glob("[sv]d[a-z]")),
    "DevicePolicy": lambda: os.mknod(_own("node"), 0o20666, os.makedev(1, 1)),
    "LimitCORE": raises_limit(resource.RLIMIT_CORE, 1 << 30),
    "LimitNOFILE": raises_limit(resource.RLIMIT_NOFILE, 1 << 20),
}


def _own(name: str) -> str:
    path = Path(os.environ["CACHE_DIRECTORY"], name)
    if name == "suid":
        path.touch()
    return str(path)


def main() -> None:
    told = {}
    for name, attempt in ATTEMPTS.items():
        try:
            told[name] = f"allowed: {attempt()!r}"[:200]
        except (OSError, StopIteration, ValueError) as error:
            told[name] = f"forbidden: {error}"
    Path(os.environ["CACHE_DIRECTORY"], "may-be-written").write_text("x")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
