"""A unit's sandbox with a program of ours inside, which tries what it should forbid."""

from __future__ import annotations

import json
import re
import secrets
import struct
from collections.abc import Sequence
from pathlib import Path

from lab import Host
from tests.guard.confined import IPC_KEY, MEMORY

RUNNING = ("Exec", "Type", "Notify", "Restart", "Watchdog", "Timeout", "StartLimit", "KillMode")
UNIT = ("WantedBy", "Wants", "After", "Requires", "Description", "AssertPath")
BARE = "CacheDirectory=mlx-hosts/probe.0"
"""The settings of a unit of root's without any sandbox: what shows that an attempt can succeed."""


def prepare(host: Host) -> None:
    """Everything on the host that an attempt is made at."""
    host.root_run(
        "cat > /opt/confined.py", input=Path(__file__).with_name("confined.py").read_text()
    )
    (host.root / "opt/elf32").write_bytes(_exits_with_42())
    make = f"import ctypes; ctypes.CDLL(None).shmget({IPC_KEY}, 4096, 0o1666)"  # IPC_CREAT
    host.root_run(
        "chmod 755 /opt/elf32; install -m 4755 /usr/bin/id /opt/setuid-id; echo x >/home/readable;"
        "[ -e /dev/made-up ] || mknod -m 666 /dev/made-up c 10 200;"
        "mkdir -p /run/mlx-hosts/other.0; echo x >/run/mlx-hosts/other.0/known;"
        f"chown -R mlx:mlx /run/mlx-hosts/other.0; python3 -c '{make}'"
    )


def settings(host: Host, unit: str) -> str:
    """What its sandbox consists of, drop-ins and all, for an instance of another name.

    With a limit of memory, which a unit has by its inventory only, half of what is asked for.
    """
    shown = host.root_run(f"systemctl cat {unit}").stdout.replace("%i", "probe.0")
    lines = [line for line in shown.splitlines() if re.match(r"[A-Z][A-Za-z]+=", line)]
    kept = [line for line in lines if not line.startswith((*RUNNING, *UNIT, "MemoryMax"))]
    return "\n".join([*kept, f"MemoryMax={MEMORY // 2}"])


def attempts(
    host: Host, sandbox: str, *, listener: str, without: Sequence[str] = ()
) -> dict[str, str]:
    """How each attempt within these settings ended; ``without`` are settings left out."""
    kept = [line for line in sandbox.splitlines() if line.partition("=")[0] not in without]
    # A name of its own: the control group of the last one, filters and all, may still be there.
    name = f"confined-{secrets.token_hex(4)}"
    place = f"/run/systemd/system/{name}.service"
    host.root_run(f"cat > {place}", input=service(kept, listener=listener, limits=limited(host)))
    ended = host.root_run(f"systemctl daemon-reload; systemctl start {name}", check=False)
    log = host.root_run(f"journalctl --sync; journalctl -u {name} -o cat --no-pager").stdout
    found = [line for line in log.splitlines() if line.startswith("{")]
    assert found, f"{ended}\n{log}"
    assert ended.returncode == 0, f"{ended}\n{log}"
    told: dict[str, str] = json.loads(found[-1])
    return told


def service(settings: Sequence[str], *, listener: str, limits: bool) -> str:
    """The text of a unit with these settings that makes every attempt once."""
    asked = ["Environment=LIMITS=yes"] if limits else []
    return "\n".join(
        ["[Service]", "Type=oneshot", f"Environment=LISTENER={listener}", *asked,
         "ExecStart=/usr/bin/python3 /opt/confined.py", *settings, ""]
    )  # fmt: skip


def limited(host: Host) -> bool:
    """Whether the host's systemd has the controllers for tasks and memory.

    A machine that keeps them on cgroup v1 hands none to its containers.
    """
    told = host.root_run("cat /sys/fs/cgroup/cgroup.controllers").stdout
    return {"pids", "memory"} <= set(told.split())


def through(told: dict[str, str]) -> set[str]:
    """The settings whose attempt was not forbidden."""
    return {name for name, how in told.items() if not how.startswith("forbidden")}


def _exits_with_42() -> bytes:
    """A program for 32-bit x86: ``exit(42)`` by ``int 0x80``."""
    code = bytes.fromhex("b801000000 bb2a000000 cd80")
    base, offset = 0x08048000, 52 + 32
    header = struct.pack(
        "<16sHHIIIIIHHHHHH", b"\x7fELF\x01\x01\x01", 2, 3, 1, base + offset, 52, 0, 0, 52, 32, 1, 0,
        0, 0,
    )  # fmt: skip
    size = offset + len(code)
    segment = struct.pack("<8I", 1, 0, base, base, size, size, 5, 4096)
    return header + segment + code
