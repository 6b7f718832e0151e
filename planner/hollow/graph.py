"""The graph of one forward pass, and the buffers that come and go while MLX works it off.

``mlx.core.export_function`` hands over every primitive with the shapes of what it reads and
makes. From these the allocator's work is replayed: a view shares its input's buffer, an
elementwise primitive takes over an input that nobody reads any more (MLX calls it donation), all
else gets a buffer of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

# Share their input's buffer (mlx/backend/common/common.cpp). SCATTERED ones leave it out of order.
SCATTERED = frozenset(
    {"AsStrided", "Broadcast", "BroadcastAxes", "DynamicSlice", "Slice", "Split", "Transpose"}
)
VIEWS = SCATTERED | {
    "Copy", "CustomTransforms", "Depends", "ExpandDims", "Squeeze", "StopGradient", "View",
}  # fmt: skip
# Share it where it lies in rows, copy otherwise.
RESHAPES = frozenset({"Contiguous", "Flatten", "Reshape", "Unflatten"})
# Take over an input's buffer of the same size that is read for the last time
# (mlx/backend/common/{unary,binary,ternary,copy}.h and the primitives' own `eval`).
DONATE = frozenset(
    {
        "Abs", "Add", "ArcTan2", "AsType", "BitwiseBinary", "Ceil", "Compiled", "Cos", "Divide",
        "DynamicSliceUpdate", "Equal", "Erf", "Exp", "Expm1", "Floor", "Greater", "GreaterEqual",
        "LayerNorm", "Less", "LessEqual", "Log", "Log1p", "LogAddExp", "LogicalAnd", "LogicalNot",
        "LogicalOr", "Maximum", "Minimum", "Multiply", "Negative", "NotEqual", "Power", "RMSNorm",
        "Remainder", "RoPE", "Round", "Scan", "Scatter", "ScatterAxis", "Select", "Sigmoid", "Sign",
        "Sin", "SliceUpdate", "Softmax", "Sqrt", "Square", "Subtract", "Tanh",
    }
)  # fmt: skip

# Copy an input whose rows do not follow one another, for as long as they run
# (mlx/backend/cpu/matmul.cpp, `check_transpose`).
WANT_ROWS = frozenset({"AddMM", "GatherMM", "GatherQMM", "Matmul", "QuantizedMatmul"})

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """An array that an operation makes."""

    name: str
    shape: Shape
    item: int  # bytes of an element


@dataclass(frozen=True, slots=True)
class Operation:
    """One primitive: what it reads, by name, and what it makes."""

    name: str
    reads: tuple[str, ...]
    makes: tuple[Made, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """The operations in MLX's order, the inputs and constants, the names of the results."""

    operations: tuple[Operation, ...]
    given: Mapping[str, Made]
    results: frozenset[str]
    spent: frozenset[str]  # inputs whose buffers are the pass's own to reuse or give back

    def alike(self, other: Graph) -> bool:
        """Whether both are the same but for shapes."""
        return [o.name for o in self.operations] == [o.name for o in other.operations]


def record(
    function: Callable[..., Sequence[mx.array]],
    arrays: Mapping[str, mx.array],
    spent: Callable[[str], bool],
) -> Graph:
    """The graph of ``function(**arrays)``; nothing is evaluated.

    ``spent`` says of an argument whether the pass may have its buffer.
    """
    operations: list[Operation] = []
    own: set[str] = set()
    given: dict[str, Made] = {}
    results: list[str] = []

    def see(item: Mapping[str, Any]) -> None:
        kind = item["type"]
        if kind == "inputs":
            given.update({row[0]: _made(row) for row in item["inputs"]})
        elif kind == "keyword_inputs":
            own.update(name for keyword, name in item["keywords"] if spent(keyword))
        elif kind == "constants":
            for name, array in item["constants"]:
                given[name] = Made(name, tuple(array.shape), array.dtype.size)
        elif kind == "outputs":
            results.extend(row[0] for row in item["outputs"])
        elif kind == "primitive":
            reads = tuple(row[0] for row in item["inputs"])
            operations.append(Operation(item["name"], reads, tuple(map(_made, item["outputs"]))))

    mx.export_function(see, function, (), dict(arrays))  # as keywords: 1024 at most
    return Graph(tuple(operations), given, frozenset(results), frozenset(own))


def _made(row: tuple[str, Sequence[int], mx.Dtype]) -> Made:
    name, shape, dtype = row
    return Made(name, tuple(shape), int(dtype.size))


@dataclass(frozen=True, slots=True)
class Run:
    """What the allocator does, operation by operation.

    ``taken[i]`` are the arrays that get a buffer of their own at operation ``i``, ``done[i]``
    those whose buffer nobody needs after it.
    """

    taken: tuple[tuple[Made, ...], ...]
    done: tuple[tuple[Made, ...], ...]
    dispatches: tuple[int, ...]  # of each operation: a view is one, any other two
    reads: tuple[tuple[Made, ...], ...]


class _Buffers:
    """Which array lies in which buffer, and who still needs it."""

    def __init__(self, graph: Graph) -> None:
        # The buffer of a weight belongs to nobody here: it stays.
        self.owner: dict[str, str | None] = dict.fromkeys(graph.given)
        self.owner.update({name: name for name in graph.spent})
        self.holders: dict[str, set[str]] = {name: {name} for name in graph.spent}
        self.in_rows: dict[str, bool] = dict.fromkeys(graph.given, True)
        self.ragged: set[str] = set()  # cut at the ends of their rows
        self.made: dict[str, Made] = dict(graph.given)

    def share(self, made: Made, source: str, *, in_rows: bool) -> None:
        owner = self.owner[source]
        self.owner[made.name] = owner
        self.in_rows[made.name] = in_rows
        cut = (
            made.shape and self.made[source].shape and made.shape[-1] < self.made[source].shape[-1]
        )
        if (cut and not in_rows) or source in self.ragged:
            self.ragged.add(made.name)
        self.made[made.name] = made
        if owner is not None:
            self.holders[owner].add(made.name)

    def take(self, made: Made) -> None:
        self.made[made.name] = made
        self.owner[made.name] = made.name
        self.in_rows[made.name] = True
        self.holders[made.name] = {made.name}

    def drop(self, name: str) -> str | None:
        """Nobody reads ``name`` any more; the buffer that this sets free, if any."""
        owner = self.owner[name]
        if owner is None or owner not in self.holders:
            return None
        self.holders[owner].discard(name)
        if self.holders[owner]:
            return None
        del self.holders[owner]
        return owner


def replay(graph: Graph) -> Run:
    """Work the graph off in its order, with views and donation as MLX has them."""
    last = {name: at for at, step in enumerate(graph.operations) for name in step.reads}
    buffers = _Buffers(graph)
    taken: list[tuple[Made, ...]] = []
    done: list[tuple[Made, ...]] = []
    dispatches: list[int] = []
    reads: list[tuple[Made, ...]] = []
    for at, step in enumerate(graph.operations):
        ends = [
            name
            for name in dict.fromkeys(step.reads)
            if last[name] == at and name not in graph.results
        ]
        new = tuple(made for made in step.makes if not _shared(step, made, buffers, ends))
        for made in new:
            buffers.take(made)
        ends += [m.name for m in step.makes if m.name not in last and m.name not in graph.results]
        free = [owner for name in ends if (owner := buffers.drop(name)) is not None]
        copies = tuple(
            buffers.made[name]
            for name in step.reads
            if step.name in WANT_ROWS and name in buffers.ragged
        )
        taken.append(new + copies)
        done.append(copies + tuple(buffers.made[owner] for owner in free))
        works = bool(new) or step.name in DONATE
        dispatches.append(2 if works else 1)
        sources = dict.fromkeys(step.reads) if works else {}
        reads.append(tuple(buffers.made[name] for name in sources))
    return Run(tuple(taken), tuple(done), tuple(dispatches), tuple(reads))


def _shared(step: Operation, made: Made, buffers: _Buffers, ends: Sequence[str]) -> bool:
    """Lay ``made`` into a buffer that is there, where MLX does."""
    source = step.reads[0] if step.reads else None
    if source is None:
        return False
    if step.name in VIEWS:
        in_rows = buffers.in_rows[source] and step.name not in SCATTERED
        buffers.share(made, source, in_rows=in_rows)
        return True
    if step.name in RESHAPES and buffers.in_rows[source]:
        buffers.share(made, source, in_rows=True)
        return True
    if step.name not in DONATE:
        return False
    for name in ends:
        owner = buffers.owner[name]
        given = buffers.made[name]
        if (
            owner is not None
            and buffers.holders[owner] == {name}
            and buffers.in_rows[name]
            and given.item == made.item
            and math.prod(given.shape) == math.prod(made.shape)
        ):
            buffers.share(made, name, in_rows=True)
            return True
    return False
