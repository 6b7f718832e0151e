"""The running kernel."""

from __future__ import annotations

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.exceptions import FactProcessError
from typing_extensions import override

from planner import found


class Kernel(FactBase[found.Kernel]):
    """The kernel's release and the machine's architecture."""

    @override
    def command(self) -> StringCommand:
        return StringCommand("uname -rm")

    @override
    def process(self, output: list[str]) -> found.Kernel:
        words = " ".join(output).split()
        if len(words) != 2:  # noqa: PLR2004 - release and machine
            raise FactProcessError(f"uname: expected `release machine`, got {output!r}")
        return found.Kernel(release=words[0], architecture=words[1])
