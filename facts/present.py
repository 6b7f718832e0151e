"""How much of something is there already."""

from __future__ import annotations

from collections.abc import Iterable

from pyinfra.api import FactBase, QuoteString, StringCommand
from pyinfra.api.exceptions import FactProcessError
from typing_extensions import override


class Present(FactBase[dict[str, int]]):
    """Bytes below each that is there of ``paths``, and of what has a longer name."""

    default = dict

    @override
    def command(self, paths: Iterable[str]) -> StringCommand:
        names = [StringCommand(QuoteString(path), "*", _separator="") for path in paths]
        each = StringCommand("for p in", *names, "; do")
        return StringCommand(each, '[ ! -e "$p" ] || du -sB1 "$p"; done')

    @override
    def process(self, output: list[str]) -> dict[str, int]:
        return dict(map(_size, output))


def _size(line: str) -> tuple[str, int]:
    size, _, path = line.partition("\t")
    if not size.isdigit() or not path:
        raise FactProcessError(f"du: expected `bytes<tab>path`, got {line!r}")
    return path, int(size)
