"""What a pass needs over weights and caches, as polynomials: the largest of them is the peak."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from planner.hollow.graph import Graph, Made, Run, Shape, replay, size
from planner.hollow.symbols import INDEX, TERMS, Row, Unclear, row, terms
from planner.program import Point, pack

# Dispatches by which a CPU may be behind; kernels by which a GPU may be, where a graph has a part
# for each token: planner/demand.py says which holds where.
ON_CPU = (110,)
ON_GPU = (220, 330, 440, 660, 1212)
LAGS = {"cpu": ON_CPU, "gpu": ON_GPU}
DEVICES = tuple(LAGS)
Kind = tuple[Shape, int]  # of an array: its shape, and the bytes of an element
Rows = Mapping[Kind, Row]
Bytes = npt.NDArray[np.int64]
Sizes = Mapping[Kind, Bytes]


def program(
    graph: Graph,
    point: Point,
    edges: Collection[int],
    others: Sequence[tuple[Graph, Point]],
    lags: Sequence[int],
) -> dict[str, Any]:
    """The pass recorded at ``point``, checked against ``others``. Raises Unclear."""
    rows = read_off(graph, point, edges, others)
    ways = {"tasks": ON_CPU, "runs": ON_GPU}
    return {
        name: [_operations(_run(graph, cpu=known == ON_CPU), rows, cpu=known == ON_CPU)]
        for name, known in ways.items()
        if set(lags) & set(known)
    }


def read_off(
    graph: Graph, point: Point, edges: Collection[int], others: Sequence[tuple[Graph, Point]] = ()
) -> Rows:
    """The bytes of each kind of array. Raises Unclear, where ``others`` disagree, too."""
    rows: dict[Kind, Row] = {}
    for array in _arrays(graph):
        if (array.shape, array.item) not in rows:
            rows[array.shape, array.item] = row(array.shape, array.item, point, edges)
    for other, where in others:
        _agree(graph, rows, other, where)
    return rows


def as_recorded(graph: Graph) -> Rows:
    """The same, whatever the point."""
    rest = (0,) * (len(TERMS) - 1)
    return {(array.shape, array.item): (size(array), *rest) for array in _arrays(graph)}


def _arrays(graph: Graph) -> list[Made]:
    return [*(array for step in graph.operations for array in step.makes), *graph.given.values()]


def _operations(run: Run, rows: Rows, *, cpu: bool) -> list[Any]:
    """What each operation takes, gives back and reads, its dispatches or kernels; their order."""
    seen: dict[tuple[object, ...], int | None] = {}
    kinds: dict[tuple[Row, Row, Row, int], int] = {}
    order: list[int] = []
    counted = run.dispatches if cpu else run.kernels
    for taken, done, reads, number in zip(run.taken, run.done, run.reads, counted, strict=True):
        moments = (taken, done, () if cpu else reads)  # of a CPU nobody asks what it reads
        key = (number, *[tuple([(m.shape, m.item) for m in moment]) for moment in moments])
        if key not in seen:
            a, b, c = (_summed(rows[m.shape, m.item] for m in moment) for moment in moments)
            some = any((*a, *b, *c, number))
            seen[key] = kinds.setdefault((a, b, c, number), len(kinds)) if some else None
        at = seen[key]
        if at is not None:
            order.append(at)
    return [[(named(a), named(b), named(c), number) for a, b, c, number in kinds], order]


def _summed(rows: Iterable[Row]) -> Row:
    return tuple(map(sum, zip((0,) * len(TERMS), *rows, strict=True)))


def total(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """The sum of two polynomials."""
    return {term: one.get(term, 0) + other.get(term, 0) for term in {**one, **other}}


def either(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two recordings of a pass, of which whichever takes the most counts."""
    both = {name: [*one.get(name, ()), *other.get(name, ())] for name in ("tasks", "runs")}
    return {**one, **both}


def packed(program: Mapping[str, Any]) -> dict[str, Any]:
    """The same as the lock has it."""
    kept = {name: value for name, value in program.items() if value}
    return {**kept, **{name: pack(kept[name]) for name in ("tasks", "runs") if name in kept}}


def _run(graph: Graph, *, cpu: bool) -> Run:
    """On a CPU nothing is compiled (guard/engines/mlx.py, ``environment``)."""
    return replay(graph.ordered() if cpu else graph.compiled())


def named(values: Iterable[int]) -> dict[str, int]:
    """A row with its terms, those of nothing left out."""
    return {term: int(v) for term, v in zip(TERMS, values, strict=True) if v}


def _agree(graph: Graph, rows: Rows, other: Graph, where: Point) -> None:
    if not graph.alike(other):
        raise Unclear("the operations depend on the step")
    there = terms(where)
    counted = {
        array: sum(a * b for a, b in zip(known, there, strict=True))
        for array, known in rows.items()
    }
    for mine, theirs in zip(_arrays(graph), _arrays(other), strict=True):
        if counted[mine.shape, mine.item] != size(theirs):
            raise Unclear(f"an array of {mine.shape} here is one of {theirs.shape} there")


class Counted(NamedTuple):
    """What one evaluation takes at one point, in bytes."""

    peaks: dict[int, int]  # by lag, at the worst moment, counted from the end
    reads: int = 0  # by all operations on a GPU
    kernels: int = 0  # there


def counted(
    graph: Graph, lags: Sequence[int], rows: Rows, points: Sequence[Point]
) -> dict[Point, Counted]:
    """Replayed as often as ``lags`` ask, for a CPU and for a GPU, and added up at each point."""
    at = np.array([terms(point) for point in points], np.int64).T
    sizes: Sizes = dict(zip(rows, np.array([*rows.values()], np.int64) @ at, strict=True))
    peaks: dict[int, Bytes] = {}
    reads = np.zeros(len(points), np.int64)
    kernels = 0
    for device, known in LAGS.items():
        if wanted := [lag for lag in lags if lag in known]:
            run = _run(graph, cpu=device == "cpu")
            taken, done = _added(run.taken, sizes), _added(run.done, sizes)
            numbers = run.dispatches if device == "cpu" else run.kernels
            peaks |= {lag: _peaks(taken, done, numbers, lag) for lag in wanted}
            if device == "gpu":
                reads, kernels = _added(run.reads, sizes).sum(axis=0), sum(run.kernels)
    return {
        point: Counted({lag: int(peaks[lag][n]) for lag in lags}, int(reads[n]), kernels)
        for n, point in enumerate(points)
    }


def peak(run: Run, lag: int) -> int:
    """Bytes at the worst moment of one replay on a CPU, ``lag`` dispatches behind."""
    taken, done = (
        np.array([sum(map(size, moment)) for moment in moments], np.int64)[:, np.newaxis]
        for moments in (run.taken, run.done)
    )
    return int(_peaks(taken, done, run.dispatches, lag)[0])


def _added(moments: Sequence[Sequence[Made]], sizes: Sizes) -> Bytes:
    """Bytes of each moment (rows) at each point (columns)."""
    kinds: dict[tuple[Kind, ...], int] = {}
    order = [
        kinds.setdefault(tuple([(made.shape, made.item) for made in moment]), len(kinds))
        for moment in moments
    ]
    nothing = np.zeros_like(next(iter(sizes.values())))
    each = np.array([sum((sizes[kind] for kind in key), nothing) for key in kinds], np.int64)
    return each.reshape(len(kinds), len(nothing))[np.array(order, np.int64)]


def _peaks(taken: Bytes, done: Bytes, numbers: Sequence[int], lag: int) -> Bytes:
    """Bytes at the worst moment of one replay, counted from its end, at each point.

    What is ``done`` is given back after the operation up to which the device, ``lag`` behind, has
    got there: in dispatches for a lag of a CPU's, in kernels for one of a GPU's, of which
    ``numbers`` are each operation's.
    """
    clock = np.cumsum(numbers)
    over = np.searchsorted(clock + lag, clock - numbers, side="right")
    back = np.cumsum(np.vstack([np.zeros_like(done[:1]), done]), axis=0)
    live = np.cumsum(taken, axis=0) - back[over]
    most: Bytes = live.max(axis=0, initial=0) - (taken.sum(axis=0) - done.sum(axis=0))
    return most


def fitted(values: Mapping[Point, int]) -> dict[str, int]:
    """The polynomial through points: two of each of batch, step and tokens, or fewer."""
    varies = [
        letter
        for letter, many in (
            ("B", {p.batch for p in values}),
            ("S", {p.step for p in values}),
            ("T", {p.tokens for p in values}),
        )
        if len(many) > 1
    ]
    asked = [t for t in TERMS if len(set(t)) == len(t) and set(t) <= set(varies)]
    matrix = np.array([[terms(p)[INDEX[term]] for term in asked] for p in values], dtype=np.float64)
    solved = np.linalg.lstsq(matrix, np.array(list(values.values()), dtype=np.float64), rcond=None)
    return {term: round(v) for term, v in zip(asked, solved[0], strict=True) if round(v)}
