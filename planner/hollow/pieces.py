"""Graphs that were recorded apart, each of which stands in another as one operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from planner.hollow.graph import Graph
from planner.hollow.operation import Operation, Shape

NUMBER = mx.uint64  # the type of a piece's number, and of nothing else in a graph
ZEROS = mx.zeros  # whatever is in its place while a graph is recorded


@dataclass(frozen=True, eq=False)
class Piece:
    """What was recorded of a function."""

    graph: Graph
    reads: tuple[str, ...]  # the graph's names of the arrays that it was given
    makes: tuple[tuple[Shape, mx.Dtype], ...]


class Pieces:
    """Those of one recording."""

    def __init__(self) -> None:
        self._put: list[Piece] = []

    def put(self, piece: Piece, arrays: Sequence[mx.array]) -> list[mx.array]:
        """What ``piece`` makes of ``arrays``."""
        if not piece.makes:
            return []
        number = mx.array(len(self._put), NUMBER)
        self._put.append(piece)
        made: list[mx.array] = mx.depends([ZEROS(*each) for each in piece.makes], [*arrays, number])
        return made

    def into(self, graph: Graph) -> Graph:
        """``graph``, in the recording of which they were put, with all that is in them."""
        numbers: dict[str, Any] = {
            name: array.item()
            for name, array in graph.constants.items()
            if array.dtype == NUMBER and not array.shape
        }
        given, constants = dict(graph.given), dict(graph.constants)
        names: dict[str, str] = {}  # of what pieces make
        steps: list[Operation] = []
        for step in graph.operations:
            reads = tuple([names.get(name, name) for name in step.reads])
            number = numbers.get(reads[-1]) if step.name == "Depends" else None
            if number is None:
                steps.append(step._replace(reads=reads))
                continue
            piece = self._put[number]
            new = {name: f"{number} {name}" for name in piece.graph.names}
            new.update(zip(piece.reads, reads[len(piece.makes) : -1], strict=True))
            inner = piece.graph.renamed(new.__getitem__)
            steps += inner.operations
            given |= {name: made for name, made in inner.given.items() if name not in reads}
            constants |= inner.constants
            names.update(zip(step.makes, inner.results, strict=True))
        results = tuple([names.get(name, name) for name in graph.results])
        return replace(
            graph,
            operations=_needed(steps, results),
            given=given,
            constants=constants,
            results=results,
        )


def _needed(steps: Sequence[Operation], results: Sequence[str]) -> tuple[Operation, ...]:
    """Those that ``results`` need."""
    names = set(results)
    needed = []
    for step in reversed(steps):
        if not names.isdisjoint(step.makes):
            names.update(step.reads)
            needed.append(step)
    return tuple(reversed(needed))
