"""What a pass needs over weights and caches, as polynomials: the largest of them is the peak."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from planner.hollow.graph import Graph, Made, Run, replay, size
from planner.hollow.symbols import INDEX, TERMS, Unclear, row, terms
from planner.program import Point, pack

Matrix = np.ndarray[Any, np.dtype[np.int64]]

# Dispatches by which a CPU may be behind; kernels by which a GPU may be, where a graph has a part
# for each token: planner/demand.py says which holds where.
ON_CPU = (110,)
ON_GPU = (220, 330, 440, 660, 1100)
ON_BOTH = ON_CPU + ON_GPU


def program(
    graph: Graph,
    point: Point,
    edges: Collection[int],
    others: Sequence[tuple[Graph, Point]],
    lags: Sequence[int],
) -> dict[str, Any]:
    """The pass recorded at ``point``, checked against ``others``. Raises Unclear."""
    arrays = [array for step in graph.operations for array in step.makes]
    arrays += graph.given.values()
    at = {array.name: index for index, array in enumerate(arrays)}
    known: dict[tuple[Any, int], tuple[int, ...]] = {}
    for array in arrays:
        key = (array.shape, array.item)
        if key not in known:
            known[key] = row(array.shape, array.item, point, edges)
    rows = np.array([known[array.shape, array.item] for array in arrays], dtype=np.int64)
    for other, where in others:
        _agree(graph, rows, arrays, other, where)
    ways = {"tasks": ON_CPU, "runs": ON_GPU}
    return {
        name: [_operations(_run(graph, cpu=known == ON_CPU), rows, at, cpu=known == ON_CPU)]
        for name, known in ways.items()
        if set(lags) & set(known)
    }


def _operations(run: Run, rows: Matrix, at: Mapping[str, int], *, cpu: bool) -> list[Any]:
    """What each operation takes, gives back and reads, its dispatches or kernels; their order."""
    reads = ((),) * len(run.reads) if cpu else run.reads  # of a CPU nobody asks
    parts = [_summed(moments, rows, at) for moments in (run.taken, run.done, reads)]
    number = run.dispatches if cpu else run.kernels
    whole = np.hstack([*parts, np.array(number, dtype=np.int64)[:, None]])
    whole = whole[whole.any(axis=1)]
    kinds, order = np.unique(whole, axis=0, return_inverse=True)
    split = [np.split(kind[:-1], 3) for kind in kinds]
    operations = [
        (*map(named, polynomials), int(kind[-1]))
        for polynomials, kind in zip(split, kinds, strict=True)
    ]
    return [operations, order.ravel().tolist()]


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
    return replay(graph if cpu else graph.compiled())


def named(values: Iterable[int]) -> dict[str, int]:
    """A row with its terms, those of nothing left out."""
    return {term: int(v) for term, v in zip(TERMS, values, strict=True) if v}


def _agree(graph: Graph, rows: Matrix, arrays: Sequence[Made], other: Graph, where: Point) -> None:
    if not graph.alike(other):
        raise Unclear("the operations depend on the step")
    seen = [array for step in other.operations for array in step.makes]
    seen += other.given.values()
    for counted, mine, theirs in zip(rows @ np.array(terms(where)), arrays, seen, strict=True):
        if int(counted) != size(theirs):
            raise Unclear(f"an array of {mine.shape} here is one of {theirs.shape} there")


def changes(run: Run, lag: int) -> list[list[Made]]:
    """What is given back at each operation, with the device ``lag`` behind.

    In dispatches for a lag of a CPU's, in kernels for one of a GPU's.
    """
    back: list[list[Made]] = [[] for _ in run.done]
    clock = at = 0
    due: list[tuple[int, tuple[Made, ...]]] = []
    counted = run.dispatches if lag in ON_CPU else run.kernels
    for index, done in enumerate(run.done):
        clock += counted[index]
        due.append((clock + lag, done))
        while at < len(due) and due[at][0] <= clock:
            back[index].extend(due[at][1])
            at += 1
    return back


def _summed(moments: Sequence[Sequence[Made]], rows: Matrix, at: Mapping[str, int]) -> Matrix:
    """By moment, the polynomial of all its arrays."""
    total = np.zeros((len(moments), len(TERMS)), dtype=np.int64)
    pairs = [(i, at[made.name]) for i, moment in enumerate(moments) for made in moment]
    if pairs:
        index, which = np.array(pairs).T
        np.add.at(total, index, rows[which])
    return total


def peaks(graph: Graph, lags: Sequence[int]) -> dict[int, int]:
    """Bytes at the worst moment of one recording, counted from the end, by lag."""
    runs = {cpu: _run(graph, cpu=cpu) for cpu in {lag in ON_CPU for lag in lags}}
    return {lag: _peak(runs[lag in ON_CPU], lag) for lag in lags}


def _peak(run: Run, lag: int) -> int:
    live = most = 0
    for new, old in zip(run.taken, changes(run, lag), strict=True):
        live += sum(map(size, new))
        most = max(most, live)
        live -= sum(map(size, old))
    end = sum(sum(map(size, new)) for new in run.taken)
    end -= sum(sum(map(size, old)) for old in run.done)
    return most - end


def read(graph: Graph) -> tuple[int, int]:
    """Bytes that all operations of one recording read on a GPU, and how many kernels they are."""
    run = _run(graph, cpu=False)
    return sum(size(made) for step in run.reads for made in step), sum(run.kernels)


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
