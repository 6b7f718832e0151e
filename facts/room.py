"""Free space where something is going to be put."""

from __future__ import annotations

from collections.abc import Iterable

from pyinfra.api import FactBase, QuoteString, StringCommand
from pyinfra.api.exceptions import FactProcessError
from typing_extensions import override

from planner import found

# A directory that is yet to be made has the space of the nearest one above it.
LOOP = """\
do p=$asked; while ! [ -e "$p" ]; do p=$(dirname "$p"); done
echo "$asked"; df -PB1 "$p" | tail -n 1
done"""


class Room(FactBase[tuple[found.Room, ...]]):
    """The file system below each of ``paths``, which need not exist, and what is free on it."""

    @override
    def command(self, paths: Iterable[str] = ("/",)) -> StringCommand:
        return StringCommand("for asked in", *map(QuoteString, paths), ";", LOOP)

    @override
    def process(self, output: list[str]) -> tuple[found.Room, ...]:
        return tuple(map(_room, output[::2], output[1::2]))


def _room(path: str, line: str) -> found.Room:
    # The source and the target may hold spaces; the numbers between them do not.
    words = line.split()
    try:
        at = next(i for i, word in enumerate(words) if word.endswith("%") and i >= 4)  # noqa: PLR2004
        return found.Room(
            path=path,
            filesystem=" ".join(words[: at - 3]),
            mounted_on=" ".join(words[at + 1 :]),
            free_bytes=int(words[at - 1]),
        )
    except (StopIteration, ValueError):
        raise FactProcessError(f"df: expected a line of `df -P`, got {line!r}") from None
