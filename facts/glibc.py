"""The C library."""

from __future__ import annotations

from pyinfra.api import FactBase, StringCommand
from typing_extensions import override


class Glibc(FactBase[str]):
    """Version of the GNU C library, ``""`` where the C library is another."""

    @override
    def command(self) -> StringCommand:
        # musl's getconf does not know the variable and says so on stderr.
        return StringCommand("getconf GNU_LIBC_VERSION")

    @override
    def process(self, output: list[str]) -> str:
        words = output[0].split() if output else []
        return words[1] if len(words) == 2 and words[0] == "glibc" else ""  # noqa: PLR2004
