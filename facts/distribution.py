"""Which Linux this is."""

from __future__ import annotations

import shlex

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.exceptions import FactProcessError
from typing_extensions import override

from planner import found


class Distribution(FactBase[found.Distribution]):
    """The distribution by its own name and version (os-release(5))."""

    @override
    def command(self) -> StringCommand:
        return StringCommand("cat /etc/os-release")

    @override
    def process(self, output: list[str]) -> found.Distribution:
        values = dict(map(_assignment, filter(_says_something, output)))
        if "ID" not in values:
            raise FactProcessError(f"os-release: expected a line `ID=…`, got {output[:3]!r}")
        return found.Distribution(
            id=values["ID"],
            version=values.get("VERSION_ID", ""),
            name=values.get("PRETTY_NAME", values["ID"]),
        )


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _assignment(line: str) -> tuple[str, str]:
    key, equals, value = line.strip().partition("=")
    try:
        words = shlex.split(value)
    except ValueError:
        words = []
    if not equals or (value and len(words) != 1 and value not in ('""', "''")):
        raise FactProcessError(f"os-release: expected `KEY=value`, got {line!r}")
    return key, words[0] if words else ""
