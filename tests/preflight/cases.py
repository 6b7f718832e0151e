"""Every host that preflight is shown, and what it is declared to be.

What a host answers is kept in ``hosts/``, as it came from lab hosts with the simulated driver
(``test_in_lab.py`` compares, and renews them with ``UPDATE=1``). Ubuntu and RHEL cannot be booted
in the lab: theirs hold what these systems print, in place of Debian's sections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facts.bare_host import BareHost
from lab.driver import Profile, names
from planner.declared import Host
from planner.found import HostFacts

HOSTS = Path(__file__).parent / "hosts"
WITH_TWO_CARDS = "two_rtx_pro_6000"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A host as it answers, and its declaration."""

    title: str
    answers: str  # name of the file in hosts/
    system: str | None = None  # name of a file whose sections replace those
    declared: Mapping[str, Any] = field(default_factory=dict)
    room: Mapping[str, int] = field(default_factory=dict)

    @property
    def host(self) -> Host:
        """The declaration, typed."""
        return Host.model_validate({"name": "gpu-1", **self.declared})

    def lines(self) -> list[str]:
        """What the host answers to the one round trip."""
        sections = _sections(self.answers)
        if self.system:
            sections |= _sections(self.system)
        return [line for lines in sections.values() for line in lines]

    def found(self) -> HostFacts:
        """The same, read."""
        return BareHost().process(self.lines())


def _sections(name: str) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    for line in (HOSTS / f"{name}.txt").read_text().splitlines():
        if line.startswith("== "):
            lines = sections[line.split()[1]] = []
        lines.append(line)
    return sections


RTX = "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"
CPU = {"flavour": "cpu"}

SYSTEMS = [
    Case(title="Debian 12, no GPU, `flavour: cpu`", answers="debian-12", declared=CPU),
    Case(title="Debian 12, no GPU, nothing declared", answers="debian-12"),
    Case(title="Debian 13, no GPU, `flavour: cpu`", answers="debian-13", declared=CPU),
    Case(title="Debian 11, no GPU, `flavour: cpu`", answers="debian-11", declared=CPU),
    Case(title="Ubuntu 24.04, two cards", answers=WITH_TWO_CARDS, system="ubuntu-24.04"),
    Case(title="Ubuntu 22.04, two cards", answers=WITH_TWO_CARDS, system="ubuntu-22.04"),
    Case(
        title="Ubuntu 22.04, two cards, an interpreter given",
        answers=WITH_TWO_CARDS,
        system="ubuntu-22.04-python-3.12",
        declared={"site": {"python": "/opt/python3.12/bin/python3"}},
    ),
    Case(title="RHEL 9, two cards", answers=WITH_TWO_CARDS, system="rhel-9"),
    Case(title="RHEL 10, two cards", answers=WITH_TWO_CARDS, system="rhel-10"),
]
PROFILES = [Case(title=Profile.load(name).what, answers=name) for name in names()]
DECLARED = [
    Case(title="the two cards as declared", answers=WITH_TWO_CARDS, declared={"gpus": [RTX, RTX]}),
    Case(
        title="two cards, three declared",
        answers=WITH_TWO_CARDS,
        declared={"gpus": [RTX, RTX, RTX]},
    ),
    Case(
        title="two cards, others declared",
        answers=WITH_TWO_CARDS,
        declared={"gpus": ["NVIDIA H200", RTX]},
    ),
    Case(
        title="T4 with driver 550, `flavour: cuda13`", answers="t4", declared={"flavour": "cuda13"}
    ),
    Case(
        title="two cards, `flavour: cuda12`", answers=WITH_TWO_CARDS, declared={"flavour": "cuda12"}
    ),
    Case(title="two cards, `flavour: cpu`", answers=WITH_TWO_CARDS, declared=CPU),
    Case(
        title="a card of which others may hold 45 GiB",
        answers="busy_gpu",
        declared={"shared_gpus": {0: 45 * 1024**3}},
    ),
    Case(
        title="a declared mount that is not mounted",
        answers=WITH_TWO_CARDS,
        declared={"mounts": ["/var/lib/mlx-hosts/hub"]},
    ),
    Case(
        title="another `fabric` address than the host has",
        answers=WITH_TWO_CARDS,
        declared={"fabric": "10.0.0.9"},
    ),
    Case(title="its own `fabric` address", answers=WITH_TWO_CARDS, declared={"fabric": "10.0.0.2"}),
    Case(
        title="1 TiB of memory declared, `flavour: cpu`",
        answers="debian-12",
        declared={**CPU, "memory_bytes": 1024**4},
    ),
    Case(
        title="no room for the weights",
        answers=WITH_TWO_CARDS,
        room={"/opt/mlx-hosts": 3 * 1024**3, "/var/lib/mlx-hosts/hub": 900 * 1024**3},
    ),
    Case(
        title="apt at work, even after the wait",
        answers="debian-12",
        system="busy-packages",
        declared=CPU,
    ),
]
ALL = {case.title: case for case in (*SYSTEMS, *PROFILES, *DECLARED)}
