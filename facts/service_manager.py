"""What runs the services of the host."""

from __future__ import annotations

import re

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.exceptions import FactProcessError
from typing_extensions import override

from planner import found


class ServiceManager(FactBase[found.ServiceManager]):
    """The first process and systemd's version."""

    @override
    def command(self) -> StringCommand:
        return StringCommand("cat /proc/1/comm; systemctl --version")

    @override
    def process(self, output: list[str]) -> found.ServiceManager:
        if not output:
            raise FactProcessError("process 1: expected its name, got nothing")
        version = next((m for m in map(re.compile(r"systemd (\d+)").match, output) if m), None)
        return found.ServiceManager(
            first_process=output[0].strip(), version=int(version[1]) if version else 0
        )
