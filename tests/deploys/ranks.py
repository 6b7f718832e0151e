"""A model of two ranks: on which hosts they are, deployed, asked, and waited for."""

from __future__ import annotations

import json
import time
from operator import eq
from typing import Any

from lab import Host, Lab
from tests.asking import say
from tests.deploying import Run, pyinfra
from tests.drift.checking import INVENTORY

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


def state(pair: Pair, rank: int) -> dict[str, Any]:
    text = pair[rank].root_run(f"cat /run/mlx-hosts/{RANKS[rank]}/state.json", check=False).stdout
    return dict(json.loads(text)) if text else {}


def engines(pair: Pair) -> list[Any]:
    return [state(pair, rank).get("engine_pid") for rank in (0, 1)]


def until_new(pair: Pair, before: list[Any]) -> None:
    """Until both ranks have other engines than before, and are ready."""
    began = time.monotonic()
    # Rank by rank: where they are on two hosts, each counts its processes for itself.
    while any(map(eq, before, engines(pair))) or any(
        state(pair, rank).get("state") != "ready" for rank in (0, 1)
    ):
        assert time.monotonic() - began < 120, [state(pair, 0), state(pair, 1)]
        time.sleep(0.3)
