"""The unit on a real host under systemd: its sandbox holds, and it comes back from every fault."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lab import Host

pytestmark = pytest.mark.lab

HERE = Path(__file__).parent


def unit(host: Host) -> str:
    told = host.root_run("systemctl list-units --all --plain --no-legend 'mlx-model@*'").stdout
    return told.split()[0]


def test_its_exposure_is_what_the_design_says(serving: Host) -> None:
    """``systemd-analyze security``: 1.0 on a CPU."""
    told = serving.root_run(f"systemd-analyze security --no-pager {unit(serving)}").stdout
    match = re.search(r"Overall exposure level for .*: ([0-9.]+)", told)
    assert match is not None
    assert float(match[1]) <= 1.0, told


def test_each_setting_of_the_sandbox_holds(serving: Host) -> None:
    """What it should forbid is tried from inside, by the unit's own user, and fails."""
    name = unit(serving)
    shown = serving.root_run(f"systemctl cat {name}").stdout
    kept = [
        line
        for line in shown.splitlines()
        if "=" in line
        and not line.startswith(("#", "Exec", "Type", "Notify", "Restart", "Watchdog", "Timeout"))
    ]
    settings = "\n".join(kept).split("WantedBy")[0].replace("%i", "probe.0")
    first = settings.index("User=")
    text = (
        f"[Service]\nType=oneshot\nExecStart=/usr/bin/python3 /opt/confined.py\n{settings[first:]}"
    )
    text = re.sub(
        r"^(WantedBy|Wants|After|Requires|StartLimit|Description).*$", "", text, flags=re.MULTILINE
    )
    program = (HERE / "confined.py").read_text()
    serving.root_run("cat > /opt/confined.py", input=program)
    serving.root_run("cat > /run/systemd/system/confined.service", input=text)
    ended = serving.root_run("systemctl daemon-reload; systemctl start confined", check=False)
    log = serving.root_run("journalctl -u confined -o cat --no-pager").stdout
    found = [line for line in log.splitlines() if line.startswith("{")]
    assert found, f"{ended}\n{log}"
    told = json.loads(found[-1])
    print(json.dumps(told, indent=1))
    allowed = {name: how for name, how in told.items() if not how.startswith("forbidden")}
    assert allowed == {}
