"""A model of two ranks: on which hosts they are, deployed, asked, and waited for."""

from __future__ import annotations

from typing import Any

from lab import Host, Lab
from tests.asking import say
from tests.deploying import Run, pyinfra
from tests.drift.checking import INVENTORY
from tests.ranks import Ranks

RANKS = ("nonsense.0", "nonsense.0.1")
UNITS = ("mlx-model@nonsense.0.service", "mlx-rank@nonsense.0.1.service")
Pair = tuple[Host, Host]  # the host of each rank; one host twice where it has both


def deploy(lab: Lab, hosts: tuple[Host, ...], environment: dict[str, str]) -> Run:
    limits = [word for host in dict.fromkeys(hosts) for word in ("--limit", host.name)]
    run = pyinfra(lab, "-y", "--json", *limits, inventory=INVENTORY, environment=environment)
    assert run.returncode == 0, str(run)
    return run


def choices(host: Host) -> object:
    """What it says, by whatever number of ranks."""
    return say(host, RANKS[0], "nonsense")["choices"]


def engines(pair: Pair) -> list[Any]:
    return Ranks(pair, RANKS).engines()


def until_new(pair: Pair, before: list[Any]) -> None:
    Ranks(pair, RANKS).until_new(before, within_s=120)
