"""A model split over two ranks of one host: two units that come, answer and go as one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import Host, Lab
from tests.asking import say
from tests.deploying import Run, pyinfra
from tests.drift.checking import INVENTORY, drift

pytestmark = pytest.mark.lab

RANKS = ("nonsense.0", "nonsense.0.1")
UNITS = ("mlx-model@nonsense.0.service", "mlx-rank@nonsense.0.1.service")
SPLIT = {"MORE_OF_THE_MODEL": json.dumps({"ranks": 2})}
START = f"Serving | Start {UNITS[0]}"


def deploy(lab: Lab, host: Host, environment: dict[str, str]) -> Run:
    words = ("-y", "--json", "--limit", host.name)
    run = pyinfra(lab, *words, inventory=INVENTORY, environment=environment)
    assert run.returncode == 0, str(run)
    return run


def choices(host: Host) -> object:
    """What it says, by whatever number of ranks."""
    return say(host, "nonsense.0", "nonsense")["choices"]


def state(host: Host, rank: int) -> dict[str, Any]:
    text = host.root_run(f"cat /run/mlx-hosts/{RANKS[rank]}/state.json", check=False).stdout
    return dict(json.loads(text)) if text else {}


def engines(host: Host) -> list[Any]:
    return [state(host, rank).get("engine_pid") for rank in (0, 1)]


def until_new(host: Host, before: list[Any]) -> None:
    """Until both ranks have other engines than before, and are ready."""
    began = time.monotonic()
    while set(before) & set(engines(host)) or any(
        state(host, rank).get("state") != "ready" for rank in (0, 1)
    ):
        assert time.monotonic() - began < 120, [state(host, 0), state(host, 1)]
        time.sleep(0.3)


@pytest.fixture(scope="module")
def host(lab: Lab, converged: list[Path]) -> Iterator[Host]:
    made = lab.boot("rank-group", layers=converged)
    yield made
    made.destroy()


def test_split_it_answers_as_it_did_whole(
    lab: Lab, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, split, no change, no drift, either rank lost and back, whole again."""
    deploy(lab, host, {})
    whole = choices(host)

    deploy(lab, host, SPLIT)
    assert host.root_run(f"systemctl is-active {' '.join(UNITS)}").stdout.split() == ["active"] * 2
    assert choices(host) == whole
    assert deploy(lab, host, SPLIT).changed == {}
    for name, value in SPLIT.items():
        monkeypatch.setenv(name, value)
    checked = drift(lab, host.name, arguments=("--json", "--ask"))
    assert (checked.returncode, checked.findings(host.name)) == (0, set()), checked

    for rank in (0, 1):
        before = engines(host)
        host.root_run(f"kill -KILL {before[rank]}")
        until_new(host, before)
        assert choices(host) == whole
    found = drift(lab, host.name).findings(host.name)
    assert found == {("changed by hand", f"unit:{unit}") for unit in UNITS}  # died, and came back
    assert START in deploy(lab, host, {}).changed
    assert deploy(lab, host, {}).changed == {}

    monkeypatch.undo()
    deploy(lab, host, {})
    assert choices(host) == whole
    left = host.root_run("systemctl list-units --all --plain --no-legend 'mlx-rank@*'").stdout
    left += host.root_run("ls /etc/mlx-hosts/instances /etc/systemd/system").stdout
    assert "nonsense.0.1" not in left
