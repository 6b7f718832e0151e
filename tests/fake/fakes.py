"""Runs of the real pyinfra, with the real tasks, on hosts that are not there."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploying import PYINFRA, ROOT, Run

# What hosts answer to preflight's look: kept by its own tests, from booted hosts and real systems.
LOOKS = ROOT / "tests/preflight/hosts"
INVENTORY = """\
from pathlib import Path
import json

given = json.loads(Path({data!r}).read_text())
fakes = (
    [
        (
            f"@fake/{{name}}",
            {{
                **data["data"],
                "fake_delay": 0.0,
                "fake_delay_jitter": 0.0,
                "fake_responses": {{
                    "LC_ALL=C; export LC_ALL": Path(data["look"]).read_text().splitlines(),
                    **data["responses"],
                }},
            }},
        )
        for name, data in given["hosts"].items()
    ],
    given["all"],
)
"""


@dataclass(frozen=True, slots=True)
class Fakes:
    """Some hosts that are not there, and what they were told so far."""

    directory: Path
    common: dict[str, Any]

    def declare(self, **hosts: dict[str, Any]) -> None:
        """Write the inventory.

        Each host has a ``look`` (a file of ``LOOKS``, a bare Debian 12 where none is named), its
        own ``data``, and ``responses`` to commands.
        """
        told = {
            name: {
                "look": str(LOOKS / f"{host.get('look', 'debian-12')}.txt"),
                "data": host.get("data", {}),
                "responses": host.get("responses", {}),
            }
            for name, host in hosts.items()
        }
        data = self.directory / "hosts.json"
        data.write_text(json.dumps({"hosts": told, "all": self.common}))
        (self.directory / "fakes.py").write_text(INVENTORY.format(data=str(data)))

    def run(self, *arguments: str, inventory: str | None = None) -> Run:
        """Run ``pyinfra INVENTORY deploy.py ARGUMENTS`` without a terminal."""
        memory = {"FAKE_MEMORY": str(self.directory), "PYINFRA_PROGRESS": "off"}
        config = ["--config", "tests/fake/config.py"]
        done = subprocess.run(
            [
                PYINFRA,
                inventory or str(self.directory / "fakes.py"),
                "deploy.py",
                *config,
                *arguments,
            ],
            cwd=ROOT,
            env={**os.environ, **memory},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Run(done.returncode, done.stdout, done.stderr)

    def told(self, name: str) -> list[str]:
        """The commands that a host was told, in order, without the looks at it."""
        memory = self.directory / f"{name}.json"
        return [one[0] for one in json.loads(memory.read_text())] if memory.exists() else []
