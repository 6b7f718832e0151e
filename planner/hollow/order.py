"""The order in which MLX works a graph off, which decides what is alive at once.

``mx.eval`` goes from the results backwards, breadth first, no more than ``WIDTH`` operations wide
and in depth where it would be wider; then it works off what it noted from the end to the beginning
(mlx/transforms.cpp, ``eval_impl``; the width is ``MLX_BFS_MAX_WIDTH``, by default 20).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

WIDTH = 20


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class _Operation(Protocol):
    @property
    def reads(self) -> tuple[str, ...]: ...

    @property
    def makes(self) -> Sequence[_Named]: ...


Op = TypeVar("Op", bound=_Operation)


def scheduled(operations: Sequence[Op], results: Sequence[str]) -> tuple[Op, ...]:
    """Put ``operations``, of which ``results`` are wanted, into MLX's order."""
    maker = {made.name: at for at, step in enumerate(operations) for made in step.makes}
    wants = [[maker[name] for name in step.reads if name in maker] for step in operations]
    wants.append([maker[name] for name in results if name in maker])  # the evaluation itself
    last = len(operations)
    readers = _readers(wants, last)
    noted = [last]
    deeper: list[tuple[int, int]] = []
    at = 0
    while at < len(noted) or deeper:
        if at < len(noted):
            step, first = noted[at], 0
            at += 1
        else:
            step, first = deeper.pop()
        for index in range(first, len(wants[step])):
            if len(noted) - at >= WIDTH:
                deeper.append((step, index))
                break
            source = wants[step][index]
            readers[source] -= 1
            if not readers[source]:
                noted.append(source)
    return tuple(operations[step] for step in reversed(noted) if step != last)


def _readers(wants: Sequence[Sequence[int]], last: int) -> list[int]:
    """How often each operation is read by one that is needed."""
    readers = [0] * len(wants)
    unseen = [last]
    for step in unseen:
        for source in wants[step]:
            if not readers[source]:
                unseen.append(source)
            readers[source] += 1
    return readers
