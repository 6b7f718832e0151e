"""What is mounted."""

from __future__ import annotations

import re

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.exceptions import FactProcessError
from typing_extensions import override

from planner import found

FIELDS = 6  # fstab(5)


class Mounts(FactBase[tuple[found.Mount, ...]]):
    """Every mounted file system; of several on one path, the last is what is seen."""

    @override
    def command(self) -> StringCommand:
        return StringCommand("cat /proc/self/mounts")

    @override
    def process(self, output: list[str]) -> tuple[found.Mount, ...]:
        return tuple({mount.path: mount for mount in map(_mount, output)}.values())


def _mount(line: str) -> found.Mount:
    fields = line.split()
    if len(fields) != FIELDS:
        raise FactProcessError(f"/proc/self/mounts: expected {FIELDS} fields, got {line!r}")
    _, path, kind, options, _, _ = fields
    return found.Mount(
        # The kernel writes space, tab, newline and backslash as three octal digits.
        path=re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), path),
        kind=kind,
        read_only="ro" in options.split(","),
    )
