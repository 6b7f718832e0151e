"""Run the real pyinfra on the hosts of a lab, as an operator would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import Lab

ROOT = Path(__file__).parents[1]
PYINFRA = Path(sys.executable).with_name("pyinfra")


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of pyinfra ended with."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def changed(self) -> dict[str, int]:
        """Operations that changed, or would change, something: name to number of hosts."""
        plan, results = self.json["plan"], self.json["results"]
        if results is not None:
            done = {one["name"]: len(one["success"]) for one in results["operations"]}
        else:
            done = {one["name"]: len(one["hosts_with_change"]) for one in plan}
        return {name: count for name, count in done.items() if count}

    def __str__(self) -> str:
        return f"exit {self.returncode}\n{self.stdout}\n{self.stderr}"


def pyinfra(
    lab: Lab,
    *arguments: str,
    inventory: str = "inventories/lab.py",
    environment: dict[str, str] | None = None,
    checkout: Path = ROOT,
    timeout: float = 600,
) -> Run:
    """Run ``pyinfra INVENTORY deploy.py ARGUMENTS`` without a terminal."""
    done = subprocess.run(
        [PYINFRA, inventory, "deploy.py", *arguments],
        cwd=checkout,
        env={**os.environ, **environment_of(lab), **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def environment_of(lab: Lab) -> dict[str, str]:
    """Variables under which ``inventories/lab.py`` is this lab's."""
    return {"MLX_HOSTS_LAB_STATE": str(lab.state), "PYINFRA_PROGRESS": "off"}


def deploy(lab: Lab, *hosts: str, arguments: tuple[str, ...] = ("-y", "--json")) -> Run:
    """Deploy to some hosts of the lab (all, where none is named), and expect success."""
    limits = [word for host in hosts for word in ("--limit", host)]
    run = pyinfra(lab, *arguments, *limits)
    assert run.returncode == 0, str(run)
    return run
