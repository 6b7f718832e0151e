"""A model split over two ranks of one host: two units that come, answer and go as one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Host, Lab
from tests.deploys.ranks import UNITS, choices, deploy, engines, until_new
from tests.drift.checking import drift

pytestmark = pytest.mark.lab

SPLIT = {"MORE_OF_THE_MODEL": json.dumps({"ranks": 2})}
START = f"Serving | Start {UNITS[0]}"


@pytest.fixture(scope="module")
def host(lab: Lab, converged: list[Path]) -> Iterator[Host]:
    made = lab.boot("rank-group", layers=converged)
    yield made
    made.destroy()


def test_split_it_answers_as_it_did_whole(
    lab: Lab, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, split, no change, no drift, either rank lost and back, whole again."""
    both = (host, host)
    deploy(lab, both, {})
    whole = choices(host)

    deploy(lab, both, SPLIT)
    assert host.root_run(f"systemctl is-active {' '.join(UNITS)}").stdout.split() == ["active"] * 2
    assert choices(host) == whole
    assert deploy(lab, both, SPLIT).changed == {}
    for name, value in SPLIT.items():
        monkeypatch.setenv(name, value)
    checked = drift(lab, host.name, arguments=("--json", "--ask"))
    assert (checked.returncode, checked.findings(host.name)) == (0, set()), checked

    for rank in (0, 1):
        before = engines(both)
        host.root_run(f"kill -KILL {before[rank]}")
        until_new(both, before)
        assert choices(host) == whole
    found = drift(lab, host.name).findings(host.name)
    assert found == {("changed by hand", f"unit:{unit}") for unit in UNITS}  # died, and came back
    assert START in deploy(lab, both, {}).changed
    assert deploy(lab, both, {}).changed == {}

    monkeypatch.undo()
    deploy(lab, both, {})
    assert choices(host) == whole
    left = host.root_run("systemctl list-units --all --plain --no-legend 'mlx-rank@*'").stdout
    left += host.root_run("ls /etc/mlx-hosts/instances /etc/systemd/system").stdout
    assert "nonsense.0.1" not in left
