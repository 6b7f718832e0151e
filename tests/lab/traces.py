"""What a lab leaves on the machine while it is there."""

from pathlib import Path

from lab.lab import ROOMS
from lab.machine import run


def traces(lab_id: str) -> list[str]:
    """Whatever on this machine carries a lab's id: links, mounts, rules, groups, processes."""
    listed = "\n".join(
        [
            run("ip", "-o", "link"),
            Path("/proc/self/mountinfo").read_text(),
            run("iptables-save"),
            *(str(group) for group in Path("/sys/fs/cgroup").glob("mlx-hosts-lab-*")),
            *(str(group) for group in Path("/sys/fs/cgroup").glob("*/mlx-hosts-lab-*")),
            run("losetup", "--list", "--noheadings"),
            *(_command_line(process) for process in Path("/proc").glob("[0-9]*")),
            *(str(room) for room in ROOMS.glob("*")),
        ]
    )
    return [line for line in listed.splitlines() if lab_id in line]


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
