"""What a pass needs over weights and caches, operation by operation, as polynomials."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from planner.hollow.buffers import Run, replay
from planner.hollow.graph import Graph
from planner.hollow.operation import Sort
from planner.hollow.symbols import TERMS, Row, Unclear, row, terms
from planner.program import Behind, Point, Polynomial, most, pack
from planner.traced import Processor

Rows = Mapping[Sort, Row]


def program(graph: Graph, rows: Rows, processor: Processor) -> dict[str, Any]:
    """The pass as ``processor`` works it off."""
    cpu = processor == "cpu"
    return {"tasks" if cpu else "runs": [_operations(_run(graph, cpu=cpu), rows, cpu=cpu)]}


def read_off(graph: Graph, point: Point, edges: Collection[int]) -> Rows:
    """The bytes of each kind of array. Raises Unclear."""
    return {sort: row(*sort, point, edges) for sort in dict.fromkeys(graph.sorts)}


def as_recorded(graph: Graph) -> Rows:
    """The same, whatever the point."""
    rest = (0,) * (len(TERMS) - 1)
    return {sort: (sort.size, *rest) for sort in dict.fromkeys(graph.sorts)}


def agree(graph: Graph, rows: Rows, other: Graph, where: Point, *, least: bool = False) -> None:
    """Raise Unclear if what was read off ``graph`` is not what ``other`` has ``where`` it is.

    ``least``: if it is less.
    """
    if not graph.alike(other):
        raise Unclear("the operations depend on the step")
    there = terms(where)
    counted = {
        sort: sum(a * b for a, b in zip(known, there, strict=True)) for sort, known in rows.items()
    }
    both = [*graph.sorts], [*other.sorts]
    if len(both[0]) != len(both[1]):
        raise Unclear("what is given depends on the step")
    for mine, theirs in zip(*both, strict=True):
        over = counted[mine] - theirs.size
        if over < 0 or (over and not least):
            raise Unclear(f"an array of {mine.shape} here is one of {theirs.shape} there")


def _operations(run: Run, rows: Rows, *, cpu: bool) -> list[Any]:
    """What each operation takes, gives back and reads, its dispatches or kernels; their order.

    In bytes, but for what is read, which MLX counts in elements (mlx/backend/cuda/device.cpp,
    ``set_input_array``).
    """
    seen: dict[object, int | None] = {}
    kinds: dict[tuple[Row, Row, Row, int], int] = {}
    order: list[int] = []
    counted = run.dispatches if cpu else run.kernels
    for taken, done, reads, number in zip(run.taken, run.done, run.reads, counted, strict=True):
        asked = () if cpu else reads  # of a CPU nobody asks what it reads
        key = number, taken, done, asked
        if key not in seen:
            a, b = (_summed(rows[m.sort] for m in moment) for moment in (taken, done))
            c = _summed(_elements(rows[m.sort], m.sort.item) for m in asked)
            some = any((*a, *b, *c, number))
            seen[key] = kinds.setdefault((a, b, c, number), len(kinds)) if some else None
        at = seen[key]
        if at is not None:
            order.append(at)
    return [[(_named(a), _named(b), _named(c), number) for a, b, c, number in kinds], order]


def _elements(row: Row, item: int) -> Row:
    return tuple([coefficient // item for coefficient in row])


def _summed(rows: Iterable[Row]) -> Row:
    return tuple(map(sum, zip((0,) * len(TERMS), *rows, strict=True)))


def either(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two recordings of a pass, of which whichever takes the most counts."""
    return {name: [*made, *other[name]] for name, made in one.items()}


def alone(graph: Graph) -> int:
    """Bytes at the worst moment on a CPU that is never behind."""
    return peak(_run(graph, cpu=True), 0)


def holding(program: Mapping[str, Any], sequence_bytes: int) -> dict[str, Any]:
    """The pass with so many bytes of each sequence beside it, from its start to its end."""
    more: Polynomial = {"B": sequence_bytes}
    return {
        name: [
            (
                [*kinds, (more, {}, {}, 0), ({}, more, {}, 0)],
                [len(kinds), *order, len(kinds) + 1],
            )
            for kinds, order in made
        ]
        for name, made in program.items()
    }


def packed(program: Mapping[str, Any]) -> dict[str, Any]:
    """The same as the lock has it."""
    if "steps" in program:
        return {"steps": {str(step): packed(made) for step, made in program["steps"].items()}}
    return {name: pack(made) for name, made in program.items()}


def _run(graph: Graph, *, cpu: bool) -> Run:
    """On a CPU nothing is compiled (guard/engines/mlx.py, ``environment``)."""
    return replay(graph.ordered() if cpu else graph.compiled())


def _named(values: Iterable[int]) -> dict[str, int]:
    """A row with its terms, those of nothing left out."""
    return {term: int(v) for term, v in zip(TERMS, values, strict=True) if v}


def peak(run: Run, lag: int) -> int:
    """Bytes at the worst moment of one replay on a CPU, ``lag`` dispatches behind."""
    kinds = tuple(
        (sum([it.size for it in taken]), sum([it.size for it in done]), 0, number)
        for taken, done, number in zip(run.taken, run.done, run.dispatches, strict=True)
    )
    return most(Behind(lag=lag), [(kinds, tuple(range(len(kinds))))])
