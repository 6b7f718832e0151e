"""Breaks put together so that none hides another: a check and a deploy for many at once."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from manifest import layout
from tests.breaks import Break

# What belongs to the running model is broken one at a time; so is its user.
_ALONE = re.compile(r"^(unit|instance|user|runtime|weights|sockets|unit-set)\b")


def batches(breaks: Iterable[Break], *, seed: int) -> list[list[Break]]:
    """Group breaks, in an order that the seed decides."""
    waiting = list(breaks)
    random.Random(seed).shuffle(waiting)
    groups: list[list[Break]] = []
    for one in waiting:
        for group in groups:
            if all(_apart(one, other) for other in group):
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def _apart(one: Break, other: Break) -> bool:
    if _blinds(one) or _blinds(other):
        return False
    if _runs(one) or _runs(other):
        # Units and settings are what a model is restarted by: not together with it.
        return not (_runs(one) and _runs(other)) and "package" in {one.kind, other.kind}
    mine, theirs = _path(one), _path(other)
    return not (f"{mine}/".startswith(f"{theirs}/") or f"{theirs}/".startswith(f"{mine}/"))


def _blinds(one: Break) -> bool:
    """Without its stamp a host cannot tell a hand's change from what was never rolled out."""
    return _path(one) in {layout.STAMP, layout.ETC}


def _runs(one: Break) -> bool:
    return bool(_ALONE.match(one.kind))


def _path(one: Break) -> str:
    return one.resource.partition(":")[2]
