"""The machine's memory."""

from __future__ import annotations

import re

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.exceptions import FactProcessError
from typing_extensions import override

from planner import found

KIB = 1024


class Memory(FactBase[found.Memory]):
    """How much memory there is, and how much could be had without swapping (proc(5))."""

    @override
    def command(self) -> StringCommand:
        return StringCommand("cat /proc/meminfo")

    @override
    def process(self, output: list[str]) -> found.Memory:
        lines = map(re.compile(r"(\w+):\s+(\d+) kB").fullmatch, output)
        kib = {match[1]: int(match[2]) for match in lines if match}
        try:
            return found.Memory(
                total_bytes=kib["MemTotal"] * KIB, available_bytes=kib["MemAvailable"] * KIB
            )
        except KeyError as missing:
            raise FactProcessError(f"/proc/meminfo: expected a line {missing}, got none") from None
