"""The order in which MLX works a graph off, which decides what is alive at once.

``mx.eval`` goes from the results backwards, breadth first, no more than ``WIDTH`` operations wide
and in depth where it would be wider; then it works off what it noted from the end to the beginning
(mlx/transforms.cpp, ``eval_impl``; the width is ``MLX_BFS_MAX_WIDTH``, by default 20).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

WIDTH = 20


class _Operation(Protocol):
    @property
    def reads(self) -> tuple[str, ...]: ...

    @property
    def makes(self) -> tuple[str, ...]: ...


Op = TypeVar("Op", bound=_Operation)


def scheduled(operations: Sequence[Op], results: Sequence[str]) -> tuple[Op, ...]:
    """Put ``operations``, of which ``results`` are wanted, into MLX's order."""
    maker = {name: at for at, step in enumerate(operations) for name in step.makes}
    wants = [[maker[name] for name in step.reads if name in maker] for step in operations]
    wants.append([maker[name] for name in results if name in maker])  # the evaluation itself
    last = len(operations)
    readers = _readers(wants)
    noted = [last]
    deeper: list[list[int]] = []
    at = 0
    while at < len(noted) or deeper:
        if at < len(noted):
            sources = wants[noted[at]]
            at += 1
        else:
            sources = deeper.pop()
        for index, source in enumerate(sources):
            if len(noted) - at >= WIDTH:
                deeper.append(sources[index:])
                break
            readers[source] -= 1
            if not readers[source]:
                noted.append(source)
    return tuple([operations[step] for step in reversed(noted) if step != last])


def _readers(wants: Sequence[Sequence[int]]) -> list[int]:
    """How often each operation is read by one that is needed; the last one is, by nobody."""
    readers = [0] * len(wants)
    for sources in wants:
        for source in sources:
            readers[source] += 1
    unneeded = [at for at, often in enumerate(readers[:-1]) if not often]
    for at in unneeded:
        for source in wants[at]:
            readers[source] -= 1
            if not readers[source]:
                unneeded.append(source)
    return readers
