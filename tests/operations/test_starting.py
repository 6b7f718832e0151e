"""Units started and restarted by the real systemd of a host."""

from __future__ import annotations

import shlex

import pytest

from lab import Host
from operations.units import START

pytestmark = pytest.mark.lab

OFTEN = """\
[Unit]
StartLimitIntervalSec=600
StartLimitBurst=2
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
"""


def test_restarts_by_deploys_use_up_no_start_limit(host: Host) -> None:
    """A deploy's restarts are not the unit's own failures: there may be more than the limit."""
    unit = "/etc/systemd/system/often.service"
    host.root_run(f"cat >{unit}; systemctl daemon-reload", input=OFTEN)
    run = f"sh -c {shlex.quote(START)} mlx-hosts"
    assert host.root_run("systemctl list-units --all --no-legend often.service").stdout == ""
    host.root_run(f"{run} start often.service")
    for _ in range(4):
        host.root_run(f"{run} restart often.service")
    assert host.root_run("systemctl is-active often.service").stdout == "active\n"
    host.root_run(f"sed -i s,/bin/true,/bin/false, {unit}; systemctl daemon-reload")
    assert host.root_run(f"{run} restart often.service", check=False).returncode == 1
    host.root_run(f"sed -i s,/bin/false,/bin/true, {unit}; systemctl daemon-reload")
    host.root_run(f"{run} start often.service")
