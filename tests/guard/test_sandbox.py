"""The unit on a real host under systemd: its sandbox holds, setting by setting."""

from __future__ import annotations

import json
import re
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Host, Lab
from tests.guard import sandbox
from tests.guard.confined import RAISED_NOFILE

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
BELOW = {
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectClock",
}
"""What the lab's containers forbid everybody, so that trying it says nothing about the unit."""


@pytest.fixture
def listener(lab: Lab) -> Iterator[str]:
    """Somebody on the network who takes connections, and is declared nowhere."""
    with socket.create_server((lab.network.machine, 0)) as server:
        yield f"{lab.network.machine}:{server.getsockname()[1]}"


@pytest.fixture
def tried(serving: Host) -> Host:
    sandbox.prepare(serving)
    return serving


def unit(host: Host) -> str:
    told = host.root_run("systemctl list-units --all --plain --no-legend 'mlx-model@*'").stdout
    return told.split()[0]


def test_its_exposure_is_what_the_design_says(serving: Host) -> None:
    """``systemd-analyze security``: 1.0 on a CPU."""
    told = serving.root_run(f"systemd-analyze security --no-pager {unit(serving)}").stdout
    match = re.search(r"Overall exposure level for .*: ([0-9.]+)", told)
    assert match is not None
    assert float(match[1]) <= 1.0, told


def test_each_setting_of_the_sandbox_holds(tried: Host, listener: str) -> None:
    """What it should forbid is tried from inside, by the unit's own user, and fails.

    The same attempts by root without a sandbox succeed: none of them fails for another reason.
    """
    told = sandbox.attempts(tried, sandbox.settings(tried, unit(tried)), listener=listener)
    print(json.dumps(told, indent=1))
    assert sandbox.through(told) == set()
    bare = sandbox.attempts(tried, sandbox.BARE, listener=listener)
    failed = {name: how for name, how in bare.items() if name not in sandbox.through(bare)}
    # mlx_lm, imported here by a test of the launcher, lowers the limit of all that is started here.
    low = resource.getrlimit(resource.RLIMIT_NOFILE)[1] < RAISED_NOFILE
    assert set(failed) == BELOW | ({"LimitNOFILE"} if low else set()), failed


def test_no_address_is_reached_where_there_is_a_network(tried: Host, listener: str) -> None:
    """``IPAddressDeny=`` alone, as behind a mistake in ``PrivateNetwork=``."""
    own = sandbox.settings(tried, unit(tried))
    told = sandbox.attempts(tried, own, listener=listener, without=["PrivateNetwork"])
    assert sandbox.through(told) == {"PrivateNetwork"}
    told = sandbox.attempts(
        tried, own, listener=listener, without=["PrivateNetwork", "IPAddressDeny"]
    )
    assert sandbox.through(told) == {"PrivateNetwork", "IPAddressDeny"}


def test_a_gpu_opens_what_its_drop_in_says(tried: Host, listener: str) -> None:
    """The four exceptions and nothing else; the device policy stays closed to what is no GPU."""
    drop_in = (ROOT / "templates/mlx-model-gpu.conf.j2").read_text()
    own = f"{sandbox.settings(tried, unit(tried))}\n{drop_in.partition('[Service]')[2]}"
    told = sandbox.attempts(tried, own, listener=listener)
    assert sandbox.through(told) == {"ProcSubset", "SystemCallFilter: @resources"}
    assert "Operation not permitted" in told["DevicePolicy"]
    policy = ["DevicePolicy", "DeviceAllow"]
    open_policy = sandbox.attempts(tried, own, listener=listener, without=policy)
    assert "PrivateDevices" in sandbox.through(open_policy), open_policy
