"""A model over two hosts: declared by both, planned as one, and coming, answering, going as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from tests.deploying import ROOT, environment_of, pyinfra
from tests.deploys.ranks import UNITS, Pair, choices, deploy, engines, until_new
from tests.drift.checking import INVENTORY, drift

pytestmark = pytest.mark.lab

LISTEN = (
    "setsid setpriv --reuid mlx --clear-groups python3 -m http.server --bind 127.0.0.1 8123"
    " >/dev/null 2>&1 </dev/null & until ss -Hltn sport = :8123 | grep -q .; do sleep 0.1; done"
)


def final_state(lab: Lab, pair: Pair) -> subprocess.CompletedProcess[str]:
    """Run the tests of the final state on both hosts, as an operator would."""
    only = [word for host in pair for word in ("--only", host.name)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/host", "--inventory", INVENTORY, *only],
        cwd=ROOT,
        env={**os.environ, **environment_of(lab)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def pair(lab: Lab, converged: list[Path]) -> Iterator[Pair]:
    made = tuple(lab.boot(f"span-{rank}", layers=converged) for rank in ("zero", "one"))
    yield made[0], made[1]
    for host in made:
        host.destroy()


def test_two_hosts_answer_as_each_did_alone(
    lab: Lab, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, together, no change, no drift, a host lost and back, each alone again."""
    together = {"TOGETHER": " ".join(host.name for host in pair)}
    deploy(lab, pair, {})
    alone = choices(pair[0])

    deploy(lab, pair, together)
    for host, unit in zip(pair, UNITS, strict=True):
        listed = host.root_run(
            "systemctl list-units --plain --no-legend 'mlx-model@*' 'mlx-rank@*'"
        )
        assert [line.split()[0] for line in listed.stdout.splitlines()] == [unit]
    assert choices(pair[0]) == alone
    for name, value in together.items():
        monkeypatch.setenv(name, value)
    assert deploy(lab, pair, together).changed == {}
    checked = drift(lab, arguments=("--json", "--ask"))
    assert checked.returncode == 0, checked
    looked = final_state(lab, pair)
    assert looked.returncode == 0, looked.stdout
    # What one rank is made of does not hang on whether the other host is in the run.
    assert deploy(lab, pair[:1], together).changed == {}

    before = engines(pair)
    # On the fabric ranks listen where they please; what listens elsewhere is nobody's.
    pair[0].root_run(LISTEN)
    assert drift(lab).findings(pair[0].name) == {("unmanaged", "sockets:mlx")}
    assert "Serving | End what listens besides them" in deploy(lab, pair, together).changed
    assert (drift(lab).returncode, engines(pair)) == (0, before)

    pair[1].root_run(f"kill -KILL {before[1]}")
    until_new(pair, before)
    assert choices(pair[0]) == alone
    assert drift(lab).returncode == 0, "the other host came back, and its peer with it"

    before = engines(pair)
    pair[0].reboot()
    until_new(pair, before)
    assert choices(pair[0]) == alone
    assert drift(lab).returncode == 0, "a reboot of one host is no change of the other"

    # A host that is refused takes nothing of the others' with it.
    before = engines(pair)
    refused = {**together, "MORE_OF_THE_MODEL": json.dumps({"context": 128})}
    pair[0].root_run("mv /usr/bin/awk /usr/bin/awk.kept")
    run = pyinfra(lab, "-y", inventory=INVENTORY, environment=refused)
    assert run.returncode == 1, run
    assert f"serves a model together with {pair[0].name}, which failed" in str(run)
    assert engines(pair) == before
    pair[0].root_run("mv /usr/bin/awk.kept /usr/bin/awk")

    for name in together:
        monkeypatch.delenv(name)
    deploy(lab, pair, {})
    assert [choices(host) for host in pair] == [alone] * 2
    left = "".join(
        host.root_run(
            "systemctl list-units --all --plain --no-legend 'mlx-rank@*';"
            "ls /etc/mlx-hosts/instances /etc/systemd/system"
        ).stdout
        for host in pair
    )
    assert "nonsense.0.1" not in left
    assert "30-group" not in left
