"""Prove changes: each set of them on a fresh host, found by one check, repaired by one deploy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lab import Host, Lab
from tests.drift.checking import deploy, drift
from tests.drift.harmless import READY

SIDE_BY_SIDE = 6  # hosts; each holds a small model in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is done to a host, and what must be said of it."""

    id: str
    script: str
    finding: str
    at: str  # how the address begins
    repair: str = "deploy"


def prove(lab: Lab, layers: list[Path], sets: Iterable[Sequence[Change]]) -> None:
    """Go through all sets, a few hosts at a time; tell at the end all that went wrong."""
    wrong: list[str] = []
    waiting = iter(sets)
    number = 0
    while group := list(islice(waiting, SIDE_BY_SIDE)):
        hosts: dict[str, tuple[Host, Sequence[Change]]] = {}
        try:
            for changes in group:
                number += 1
                host = lab.boot(f"proving-{number}", layers=layers)
                hosts[host.name] = (host, changes)
            for host, changes in hosts.values():
                host.root_run(READY, timeout_s=180)
                for one in changes:
                    host.root_run(f"set -eu\n{one.script}", timeout_s=180)
            wrong += _found(lab, hosts)
            for host, changes in hosts.values():
                if any(one.repair == "reboot" for one in changes):
                    host.reboot()
            deploy(lab, *hosts)
            wrong += _left(lab, hosts)
        finally:
            for host, _ in hosts.values():
                host.destroy()
    assert not wrong, "\n".join(wrong)


def _found(lab: Lab, hosts: dict[str, tuple[Host, Sequence[Change]]]) -> Iterable[str]:
    checked = drift(lab, *hosts, timeout=300)
    for name, (_, changes) in hosts.items():
        if checked.host(name)["verdict"] != "drift":
            yield f"{[one.id for one in changes]}: {checked.host(name)}"
        found = checked.findings(name)
        for one in changes:
            fits = any(cause == one.finding and at.startswith(one.at) for cause, at in found)
            print("found " if fits else "MISSED", one.id, flush=True)
            if not fits:
                yield f"{one.id}: expected {one.finding} of {one.at}, found {found}"


def _left(lab: Lab, hosts: dict[str, tuple[Host, Sequence[Change]]]) -> Iterable[str]:
    checked = drift(lab, *hosts, timeout=300)
    for name, (_, changes) in hosts.items():
        repaired = checked.host(name)["verdict"] == "as declared"
        for one in changes:
            print("repaired " if repaired else "NOT REPAIRED", one.id, flush=True)
        if not repaired:
            yield f"{[one.id for one in changes]}: not repaired: {checked.host(name)}"
