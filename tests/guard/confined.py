"""Runs inside a unit's sandbox, as its user: tries what each setting forbids, each in a child.

Prints one JSON object: each setting, and how the attempt ended: ``forbidden: …`` or ``got through:
…`` (an error that comes after the permission was given counts as that).  Standard library only.
``LISTENER`` (``IP:PORT``) is somebody on the network.  With ``LIMITS=yes`` the limits of control
groups are tried too: not everywhere has the host's systemd their controllers.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
IPC_KEY = 0x6D6C78
RAISED_NOFILE = 10_000
TASKS = 1100  # over the unit's own
MEMORY = 512 << 20  # bytes, over those of the unit that this is tried in
FORBIDDEN = {
    errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENETUNREACH, errno.EAFNOSUPPORT,
}  # fmt: skip


def write(path: str, text: str = "x") -> Callable[[], object]:
    return lambda: Path(path).write_text(text)


def read(path: str) -> Callable[[], object]:
    return lambda: Path(path).read_text()


def call(number: int, *arguments: int) -> Callable[[], object]:
    def attempt() -> object:
        told = LIBC.syscall(number, *arguments)
        if told == -1:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return told

    return attempt


def writable_and_executable() -> object:
    return mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def route() -> object:
    """No way to anywhere but loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return "a route"


def connect() -> object:
    host, _, port = os.environ["LISTENER"].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return "a connection"
    except TimeoutError:
        raise PermissionError("the packets are dropped") from None


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


def status(*fields: str) -> Callable[[], object]:
    """Whether any of these sets of the process is not empty."""

    def attempt() -> object:
        lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
        sets = {line[0]: line[1] for line in lines if line[0] in fields}
        if any(int(value, 16) for value in sets.values()):
            return sets
        raise PermissionError

    return attempt


def runs_as_root() -> object:
    """A setuid program of root's."""
    told = subprocess.run(["/opt/setuid-id", "-u"], capture_output=True, text=True, check=True)
    if told.stdout.strip() == "0":
        return told.stdout
    raise PermissionError(told.stdout)


def runs_foreign_code() -> object:
    """A program of 32 bits that exits with 42."""
    if (code := subprocess.run(["/opt/elf32"], check=False).returncode) == 42:
        return code
    raise PermissionError(f"ended with {code}")


def whole_range_of_users() -> object:
    if (mapping := Path("/proc/self/uid_map").read_text().split())[2] == str(2**32 - 1):
        return mapping
    raise PermissionError(mapping)


def raises_limit(which: int, value: int) -> Callable[[], object]:
    def attempt() -> object:
        try:
            resource.setrlimit(which, (value, value))
        except ValueError as error:  # Python's word for EPERM
            raise PermissionError(error) from None
        return resource.getrlimit(which)

    return attempt


def own(name: str) -> Path:
    path = Path(os.environ["CACHE_DIRECTORY"], name)
    path.unlink(missing_ok=True)
    return path


def sets_setuid() -> object:
    own("suid").touch()
    return Path(os.environ["CACHE_DIRECTORY"], "suid").chmod(0o4755)


def others_may_read() -> object:
    path = own("mode")
    path.touch()
    if path.stat().st_mode & 0o027:
        return oct(path.stat().st_mode)
    raise PermissionError


def makes_a_group() -> object:
    place = Path("/sys/fs/cgroup/tried")
    place.mkdir()
    place.rmdir()
    return "made"


def same_affinity() -> object:
    return os.sched_setaffinity(0, os.sched_getaffinity(0))


def starts_tasks() -> object:
    end = threading.Event()
    threading.stack_size(1 << 16)
    try:
        for _ in range(TASKS):
            threading.Thread(target=end.wait).start()
    except RuntimeError as error:  # Python's word for EAGAIN
        raise PermissionError(error) from None
    finally:
        end.set()
    return f"{TASKS} threads"


def takes_memory() -> object:
    """Pages that are written to; over a limit the kernel ends the process."""
    with mmap.mmap(-1, MEMORY) as pages:
        for at in range(0, MEMORY, mmap.PAGESIZE):
            pages[at] = 1
    return f"{MEMORY} bytes"


def family(number: int, kind: int = socket.SOCK_RAW) -> Callable[[], object]:
    return lambda: socket.socket(number, kind).close()


ATTEMPTS: dict[str, Callable[[], object]] = {
    "PrivateNetwork": route,
    "IPAddressDeny": connect,
    "RestrictAddressFamilies: netlink": family(socket.AF_NETLINK),
    "RestrictAddressFamilies: packet": family(socket.AF_PACKET),
    "CapabilityBoundingSet, AmbientCapabilities": status("CapPrm:", "CapEff:", "CapBnd:"),
    "NoNewPrivileges": runs_as_root,
    "PrivateUsers": whole_range_of_users,
    "RestrictSUIDSGID": sets_setuid,
    "RestrictNamespaces": call(272, 0x10000000),  # unshare(CLONE_NEWUSER)
    "RestrictRealtime": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "LockPersonality": call(135, 0x0040000),  # personality(ADDR_NO_RANDOMIZE)
    "MemoryDenyWriteExecute": writable_and_executable,
    "SystemCallArchitectures": runs_foreign_code,
    "SystemCallFilter: mount": call(165, 0, 0, 0, 0, 0),
    "SystemCallFilter: reboot": call(169, 0, 0, 0, 0),
    "SystemCallFilter: bpf": call(321, 0, 0, 0),
    "SystemCallFilter: nice": lambda: os.nice(-5),
    "SystemCallFilter: @resources": same_affinity,
    "ProtectSystem: /usr": write("/usr/x"),
    "ProtectSystem: /etc": write("/etc/x"),
    "ProtectSystem: /opt": write("/opt/mlx-hosts/x"),
    "ProtectSystem: weights": write("/var/lib/mlx-hosts/hub/x"),
    "ProtectHome": read("/home/readable"),
    "TemporaryFileSystem: /tmp": write("/tmp/x"),
    "TemporaryFileSystem: /var/tmp": write("/var/tmp/x"),
    "TemporaryFileSystem: others' sockets": read("/run/mlx-hosts/other.0/known"),
    "InaccessiblePaths: /dev/shm": write("/dev/shm/x"),
    "InaccessiblePaths: /dev/mqueue": lambda: list(Path("/dev/mqueue").iterdir()),
    "PrivateIPC": call(29, IPC_KEY, 0, 0),  # shmget of the host's
    "ProtectControlGroups": makes_a_group,
    "ProtectKernelLogs": call(103, 10, 0, 0),  # syslog(SIZE_BUFFER)
    "ProtectKernelTunables": write("/proc/sys/net/ipv4/ip_default_ttl", "64"),
    "ProtectKernelModules": call(313, -1, 0, 0),  # finit_module
    "ProtectClock": call(227, 0, 0),  # clock_settime
    "ProtectHostname": lambda: socket.sethostname(socket.gethostname()),
    "ProtectProc": others,
    "ProcSubset": read("/proc/cmdline"),
    "PrivateDevices": lambda: Path("/dev/made-up").open("rb").close(),
    "DevicePolicy": lambda: Path("/dev/made-up").open("rb").close(),
    "DevicePolicy: mknod": lambda: os.mknod(own("node"), 0o20666, os.makedev(1, 1)),
    "UMask": others_may_read,
    "LimitCORE": raises_limit(resource.RLIMIT_CORE, 1 << 30),
    "LimitNOFILE": raises_limit(resource.RLIMIT_NOFILE, RAISED_NOFILE),
}


LIMITS: dict[str, Callable[[], object]] = {"TasksMax": starts_tasks, "MemoryMax": takes_memory}


def tried(attempt: Callable[[], object]) -> str:
    """How it ended, in a child that it may ruin."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            words = f"got through: {attempt()!r}"
        except OSError as error:
            words = (
                f"{'forbidden' if error.errno in {*FORBIDDEN, None} else 'got through'}: {error}"
            )
        os.write(writing, words[:200].encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as end:
        words = end.read().decode()
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended > 0:
        raise SystemExit(f"{attempt} is not made well")
    return words or f"forbidden: ended by signal {-ended}"


def main() -> None:
    attempts = ATTEMPTS | (LIMITS if os.environ.get("LIMITS") else {})
    told = {name: tried(attempt) for name, attempt in attempts.items()}
    Path(os.environ["CACHE_DIRECTORY"], "may-be-written").write_text("x")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
