"""Run the real `drift.py` on the hosts of a lab, as an operator would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from lab import Lab
from tests.deploying import ROOT, environment_of, pyinfra

INVENTORY = "tests/drift/inventory.py"


@dataclass(frozen=True, slots=True)
class Checked:
    """What one check ended with."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    def host(self, name: str) -> Any:
        """Give what is said of one host."""
        return next(one for one in self.json["hosts"] if one["name"] == name)

    def findings(self, name: str) -> set[tuple[str, str]]:
        """Give class and address of each finding of a host."""
        found = self.host(name)["findings"]
        return {(one["class"], f"{one['kind']}:{one['resource']}") for one in found}

    def __str__(self) -> str:
        return f"exit {self.returncode}\n{self.stdout}\n{self.stderr}"


def drift(
    lab: Lab,
    *hosts: str,
    arguments: tuple[str, ...] = ("--json",),
    inventory: str = INVENTORY,
    tolerated: list[dict[str, str]] | None = None,
    more_hosts: dict[str, dict[str, str | int]] | None = None,
    timeout: float = 120,
) -> Checked:
    """Run ``drift.py INVENTORY --json`` on some hosts of the lab (all, where none is named)."""
    limits = [word for host in hosts for word in ("--limit", host)]
    done = subprocess.run(
        [sys.executable, "drift.py", inventory, *arguments, *limits],
        cwd=ROOT,
        env={
            **os.environ,
            **environment_of(lab),
            "TOLERATED": json.dumps(tolerated or []),
            "MORE_HOSTS": json.dumps(more_hosts or {}),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Checked(done.returncode, done.stdout, done.stderr)


def deploy(lab: Lab, *hosts: str) -> None:
    """Deploy what ``tests/drift/inventory.py`` declares, and expect success."""
    limits = [word for host in hosts for word in ("--limit", host)]
    run = pyinfra(lab, "-y", "--json", *limits, inventory=INVENTORY)
    assert run.returncode == 0, str(run)
