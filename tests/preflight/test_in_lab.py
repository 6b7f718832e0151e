"""Hosts of the lab, with the simulated driver of every profile, before preflight."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from facts.bare_host import BareHost
from lab import Host, Lab
from lab.driver import ACTIVATE, install, names
from planner import verdict
from tests.preflight.cases import ALL, HOSTS

pytestmark = pytest.mark.lab
PATHS = ["/opt/mlx-hosts", "/var/lib/mlx-hosts/hub"]
SECONDS = 4  # for a driver that hangs; the others answer in tenths of one


@pytest.fixture(scope="module")
def gpu_host(lab: Lab) -> Iterator[Host]:
    """One Debian 12 host that every driver is put into in turn."""
    booted = lab.boot("drivers")
    yield booted
    booted.destroy()


def answers(host: Host, **arguments: object) -> str:
    """Ask a host what preflight asks it."""
    command = BareHost().command(paths=PATHS, seconds=SECONDS, **arguments)  # type: ignore[arg-type]
    return host.root_run(command.get_raw_value()).stdout


def record(name: str, output: str) -> None:
    """Keep what a host answered, without what differs from lab to lab."""
    output = re.sub(r"mlx-hosts-lab/[^/]+/hosts/[^/]+", "mlx-hosts-lab/ID/hosts/NAME", output)
    output = re.sub(r"bases/(\w+)-\w+", r"bases/\1", output)
    output = re.sub(
        r"^ \w{3} \w{3} [ \d]\d [\d:]{8} \d{4} *$", " (date)", output, flags=re.MULTILINE
    )
    output = re.sub(r"^ 10\.\d+\.\d+\.\d+$", " 10.0.0.2", output, flags=re.MULTILINE)
    (HOSTS / f"{name}.txt").write_text(output)


def judged(name: str, output: str) -> list[str]:
    """Give what every case with these answers is refused for, live and as recorded."""
    live = BareHost().process(output.splitlines())
    differ = []
    for case in ALL.values():
        if case.answers == name and case.system is None:
            kept = case.found()
            # Disk, memory and network are those of the machine that the lab is on today.
            same = {"room": kept.room, "memory": kept.memory, "addresses": kept.addresses}
            here = replace(live, **same)
            now, before = (verdict.judge(f, case.host, room=case.room) for f in (here, kept))
            if now != before:
                differ.append(f"{case.title}: {now} is not {before}")
    return differ


@pytest.mark.parametrize("name", names())
def test_a_simulated_driver_is_judged_as_recorded(gpu_host: Host, name: str):
    """The table in the docs is what a booted host with this driver really gets."""
    install(gpu_host.root, name)
    gpu_host.root_run(ACTIVATE)
    output = answers(gpu_host)
    if os.environ.get("UPDATE"):
        record(name, output)
    assert judged(name, output) == []


@pytest.mark.parametrize(
    ("name", "release"),
    [("debian-11", "bullseye"), ("debian-12", "bookworm"), ("debian-13", "trixie")],
)
def test_a_booted_debian_is_judged_as_recorded(lab: Lab, name: str, release: str):
    """Debian 12 and 13 go on, Debian 11 does not."""
    host = lab.boot(name, release=release)
    output = answers(host)
    host.destroy()
    if os.environ.get("UPDATE"):
        record(name, output)
    assert judged(name, output) == []
