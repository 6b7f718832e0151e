"""The reasons that no host of the table gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from planner import found as f
from planner import verdict
from planner.declared import Host
from tests.preflight.cases import ALL

FOUND = ALL["Debian 12, no GPU, `flavour: cpu`"].found()
HOST = Host(name="gpu-1", flavour="cpu", mounts=("/srv/models",))
MOUNTED = f.Mount(path="/srv/models", kind="xfs", read_only=False)


def refusals(**found: Any) -> list[str]:
    """Give what is printed where the good host differs so."""
    whole = replace(FOUND, **{"mounts": (MOUNTED,), **found})
    return [str(refusal) for refusal in verdict.judge(whole, HOST)]


def python(version: str) -> f.Python:
    """Give an interpreter of a version."""
    return f.Python(path="python3", version=version, executable="/usr/bin/python3")


def test_the_good_host_is_good():
    """So that what follows is told for what it changes."""
    assert refusals() == []


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (
            {"kernel": f.Kernel(release="6.1", architecture="riscv64")},
            "aarch64, x86_64; found risc",
        ),
        ({"glibc": ""}, "found another C library"),
        ({"python": python("3.16.0")}, "below 3.16; found `python3` is 3.16.0"),
        ({"python": python("3.10.12")}, "`site.python`"),
        ({"python": python("")}, "`apt install python3`"),
        (
            {"service_manager": f.ServiceManager(first_process="tini", version=252)},
            "found `tini` as process 1, systemd 252",
        ),
        (
            {"service_manager": f.ServiceManager(first_process="init", version=0)},
            "systemd absent",
        ),
        ({"mounts": (replace(MOUNTED, read_only=True),)}, "found mounted read-only"),
        ({"mounts": ()}, "found nothing mounted there"),
        ({"distribution": f.Distribution(id="debian", version="", name="sid")}, "found sid"),
        ({"unread": ("glibc: no answer in time",)}, "found glibc: no answer in time"),
    ],
)
def test_one_thing_wrong_is_one_reason(found: dict[str, Any], told: str):
    """Needed, found, and what to do."""
    (refusal,) = refusals(**found)
    assert told in refusal
    assert len(refusal.split("; ")) >= 3


def test_a_python_of_the_newest_kind_is_good():
    """The wheels go up to 3.15."""
    assert refusals(python=python("3.15.1")) == []


def test_room_is_added_up_by_file_system():
    """Two places on one disk share what is free there; two disks do not."""
    gib = 1024**3

    def place(path: str, disk: str) -> f.Room:
        return f.Room(path=path, filesystem=disk, mounted_on="/", free_bytes=10 * gib)

    room = {"/opt": 6 * gib, "/var": 6 * gib}
    one = replace(FOUND, room=(place("/opt", "vda"), place("/var", "vda")))
    two = replace(FOUND, room=(place("/opt", "vda"), place("/var", "vdb")))
    assert verdict.lacking(one, room)
    assert not verdict.lacking(two, room)
