"""The buffers that come and go while MLX works a graph off.

A view shares its input's buffer, an elementwise primitive takes over an input that nobody else
reads (MLX calls it donation; an earlier reader holds the buffer until the device has got there:
mlx/backend/cpu/eval.cpp), all else gets a buffer of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from planner.hollow import strides
from planner.hollow.graph import Graph, Made, Operation, size

# Share their input's buffer (mlx/backend/common/common.cpp).
VIEWS = frozenset(
    {
        "AsStrided", "Broadcast", "BroadcastAxes", "Copy", "CustomTransforms", "Depends",
        "ExpandDims", "Slice", "Split", "Squeeze", "StopGradient", "Transpose", "View",
    }
)  # fmt: skip
# Share it where its strides allow, copy otherwise.
RESHAPES = frozenset({"Contiguous", "Flatten", "Reshape", "Unflatten"})
# Take over an input's buffer of the same size that is read for the last time
# (mlx/backend/common/{unary,binary,ternary,copy}.h and the primitives' own `eval`).
DONATE = frozenset(
    {
        "Abs", "Add", "ArcTan2", "AsType", "BitwiseBinary", "Ceil", "Compiled", "Cos", "Divide",
        "DynamicSliceUpdate", "Equal", "Erf", "Exp", "Expm1", "Floor", "Greater", "GreaterEqual",
        "LayerNorm", "Less", "LessEqual", "Log", "Log1p", "LogAddExp", "LogicalAnd", "LogicalNot",
        "LogicalOr", "Maximum", "Minimum", "Multiply", "Negative", "NotEqual", "Power", "RMSNorm",
        "Remainder", "RoPE", "Round", "Scatter", "ScatterAxis", "Select", "Sigmoid", "Sign",
        "Sin", "SliceUpdate", "Softmax", "Sqrt", "Square", "Subtract", "Tanh",
    }
)  # fmt: skip

# Copy an input of which the last two dimensions are neither as they read nor transposed, for as
# long as they run (mlx/backend/cpu/matmul.cpp, `check_transpose`).
PRODUCTS = frozenset({"AddMM", "GatherMM", "GatherQMM", "Matmul", "QuantizedMatmul"})
# Copy an input that is not in rows (mlx/backend/cpu/{scan,softmax,logsumexp}.cpp).
WANT_ROWS = frozenset({"LogSumExp", "Scan", "Softmax"})
COPY = PRODUCTS | WANT_ROWS | {"Convolution"}
# Of those that donate, the ones that are not element by element.
NOT_ELEMENTWISE = frozenset(
    {
        "DynamicSliceUpdate", "LayerNorm", "RMSNorm", "RoPE", "Scatter", "ScatterAxis",
        "SliceUpdate", "Softmax",
    }
)  # fmt: skip
DONATION_EXTRA = 16384  # bytes that a buffer may be larger (mlx/backend/common/utils.h)


@dataclass(frozen=True, slots=True)
class Run:
    """What the allocator does, operation by operation.

    ``taken[i]`` are the arrays that get a buffer of their own at operation ``i``, ``done[i]``
    those whose buffer nobody needs after it.
    """

    taken: tuple[tuple[Made, ...], ...]
    done: tuple[tuple[Made, ...], ...]
    # Of each operation. On the CPU a view is one, which lets its inputs go, and any other one more
    # for each of its kernels (mlx/backend/cpu/eval.cpp); on a GPU only kernels count.
    dispatches: tuple[int, ...]
    kernels: tuple[int, ...]
    reads: tuple[tuple[Made, ...], ...]
    behind: tuple[Made, ...]  # of each result, what its buffer was made for: itself, or more


class _Buffers:
    """Which array lies in which buffer, and who still needs it."""

    def __init__(self, graph: Graph) -> None:
        # The buffer of a weight belongs to nobody here: it stays.
        self.owner: dict[str, str | None] = dict.fromkeys(graph.given)
        self.owner.update({name: name for name in graph.spent})
        self.holders = dict.fromkeys(graph.spent, 1)  # of each buffer, arrays that lie in it
        self.made: dict[str, Made] = dict(graph.given)
        self.strides = {name: strides.in_rows(made.shape) for name, made in graph.given.items()}
        self.read: set[str | None] = set()  # buffers that an operation reads, and may hold yet

    def lies_in_rows(self, name: str) -> bool:
        return strides.lies_in_rows(self.made[name].shape, self.strides[name])

    def of(self, names: Iterable[str]) -> tuple[strides.Array, ...]:
        """Shapes and strides."""
        return tuple([(self.made[name].shape, self.strides[name]) for name in names])

    def gives(self, name: str, made: Made) -> bool:
        """Whether the buffer of ``name``, read for the last time, is fit for ``made``."""
        owner = self.owner[name]
        if owner is None or owner in self.read or self.holders[owner] > 1:
            return False
        given = self.made[name]
        return (
            given.item == made.item
            and math.prod(given.shape) == math.prod(made.shape)
            and size(self.made[owner]) <= size(made) + DONATION_EXTRA
        )

    def share(self, made: Made, source: str, lies: strides.Strides) -> None:
        owner = self.owner[source]
        self.owner[made.name] = owner
        self.strides[made.name] = lies
        self.made[made.name] = made
        if owner is not None:
            self.holders[owner] += 1

    def view(self, step: Operation) -> None:
        """Lay what ``step`` makes where the first of what it reads lies."""
        source = step.reads[0]
        before, lies = self.made[source].shape, self.strides[source]
        for made in step.makes:
            self.share(
                made,
                source,
                strides.of_view(step.name, step.arguments, before, lies, made.shape),
            )

    def take(self, made: Made, lies: strides.Strides) -> None:
        self.made[made.name] = made
        self.owner[made.name] = made.name
        self.strides[made.name] = lies
        self.holders[made.name] = 1

    def drop(self, name: str) -> str | None:
        """Nobody reads ``name`` any more; the buffer that this sets free, if any."""
        owner = self.owner[name]
        if owner is None:
            return None
        self.holders[owner] -= 1
        return None if self.holders[owner] else owner


def replay(graph: Graph) -> Run:
    """Work the graph off as it is ordered, with views and donation as MLX has them."""
    last = {name: at for at, step in enumerate(graph.operations) for name in step.reads}
    last.update(dict.fromkeys(graph.results, len(graph.operations)))
    buffers = _Buffers(graph)
    taken: list[tuple[Made, ...]] = []
    done: list[tuple[Made, ...]] = []
    kernels: list[int] = []
    reads: list[tuple[Made, ...]] = []
    for at, step in enumerate(graph.operations):
        sources = step.reads if len(step.reads) == 1 else tuple(dict.fromkeys(step.reads))
        ends = [name for name in sources if last[name] == at]
        new: tuple[Made, ...] = ()
        if sources and step.name in VIEWS:
            buffers.view(step)
        else:
            once = [name for name in ends if step.reads.count(name) == 1]  # not of `x * x`
            new = tuple([made for made in step.makes if not _shared(step, made, buffers, once)])
        if new or len(sources) > 1:  # else its own buffer is all that it reads
            own = {buffers.owner[made.name] for made in step.makes}
            buffers.read.update([it for name in sources if (it := buffers.owner[name]) not in own])
        ends += [made.name for made in step.makes if made.name not in last]
        free = [owner for name in ends if (owner := buffers.drop(name)) is not None]
        copies = tuple(_copies(step, buffers)) if step.name in COPY else ()
        taken.append(new + copies)
        done.append(copies + tuple([buffers.made[owner] for owner in free]))
        works = bool(new) or step.name in DONATE
        kernels.append(_kernels(step, copied=bool(new), copies=len(copies)) if works else 0)
        reads.append(tuple([buffers.made[name] for name in sources]) if works else ())
    behind = tuple(buffers.made[buffers.owner[name] or name] for name in graph.results)
    return Run(
        taken=tuple(taken),
        done=tuple(done),
        dispatches=tuple(number + 1 for number in kernels),
        kernels=tuple(kernels),
        reads=tuple(reads),
        behind=behind,
    )


def _kernels(step: Operation, *, copied: bool, copies: int) -> int:
    """How many kernels an operation takes (mlx/backend/cpu/primitives.cpp, ``eval_cpu``)."""
    if step.name == "Concatenate":
        return len(step.reads)
    if step.name == "SliceUpdate":
        return 1 + copied
    if step.name == "Convolution":
        return 4  # zeros, the input in them, the windows, the product
    return 1 + copies + (step.name == "AddMM")  # what is added is copied to the result first


def _copies(step: Operation, buffers: _Buffers) -> Iterator[Made]:
    """Copies of what an operation reads, for as long as it runs, each by what is as large."""
    if step.name == "Convolution":
        # mlx/backend/cpu/conv.cpp, `explicit_gemm_conv_1D_cpu`: the input padded, and once more for
        # each element of the window, in 32 bits.
        source, window = (buffers.made[name] for name in step.reads[:2])
        for _ in range((1 + window.shape[1]) * 4 // source.item):
            yield source
    for name in step.reads[:2] if step.name == "AddMM" else step.reads:
        made = buffers.made[name]
        ragged = step.name in PRODUCTS and not strides.for_matmul(made.shape, buffers.strides[name])
        if ragged or (step.name in WANT_ROWS and not buffers.lies_in_rows(name)):
            yield made


def _lies(step: Operation, made: Made, buffers: _Buffers) -> tuple[strides.Strides, list[str]]:
    """How ``made`` lies in a buffer of its own, and what it reads that may give it one instead.

    As MLX has it element by element (mlx/backend/common/{unary,binary,ternary}.h), and of what is
    compiled (compiled.cpp, ``compiled_allocate_outputs``).
    """
    if step.name not in DONATE:
        return strides.in_rows(made.shape), []
    reads = list(dict.fromkeys(step.reads))
    arrays = buffers.of(reads)
    if step.name in NOT_ELEMENTWISE:
        givers = [name for name, array in zip(reads, arrays, strict=True) if strides.dense(*array)]
        return strides.in_rows(made.shape), givers
    lies, may = strides.elementwise(made.shape, arrays, choice=step.name == "Select")
    return lies, [reads[at] for at in may]


def _shared(step: Operation, made: Made, buffers: _Buffers, once: Sequence[str]) -> bool:
    """Lay ``made`` into a buffer that is there, where MLX does, else into one of its own.

    ``once``: what the operation reads once, and nobody after it.
    """
    if step.reads and step.name in RESHAPES:
        source = step.reads[0]
        before, lies = buffers.made[source].shape, buffers.strides[source]
        view = strides.of_reshape(before, lies, made.shape)
        if view is not None:
            buffers.share(made, source, view)
            return True
    lies, givers = _lies(step, made, buffers)
    for name in once if givers else ():
        if name in givers and buffers.gives(name, made):
            buffers.share(made, name, lies)
            return True
    buffers.take(made, lies)
    return False
