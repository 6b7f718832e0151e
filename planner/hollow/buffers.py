"""The buffers that come and go while MLX works a graph off.

A view shares its input's buffer, an elementwise primitive takes over an input that nobody else
reads (MLX calls it donation; an earlier reader holds the buffer until the device has got there:
mlx/backend/cpu/eval.cpp), all else gets a buffer of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from planner.hollow import strides
from planner.hollow.graph import Graph
from planner.hollow.operation import Made, Primitive, Shape, Sort

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
# Of those that donate, the ones that are not element by element.
NOT_ELEMENTWISE = frozenset(
    {
        "DynamicSliceUpdate", "LayerNorm", "RMSNorm", "RoPE", "Scatter", "ScatterAxis",
        "SliceUpdate", "Softmax",
    }
)  # fmt: skip
DONATION_EXTRA = 16384  # bytes that a buffer may be larger (mlx/backend/common/utils.h)


@dataclass(frozen=True, slots=True, eq=False)
class Array:
    """How an array lies in its buffer: one object for all that lie so."""

    sort: Sort
    strides: strides.Strides
    size: int  # bytes

    @property
    def shape(self) -> Shape:
        return self.sort.shape


Taken = tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """What the allocator does, operation by operation.

    ``taken[i]`` are the arrays that get a buffer of their own at operation ``i``, ``done[i]``
    those whose buffer nobody needs after it.
    """

    taken: tuple[Taken, ...]
    done: tuple[Taken, ...]
    # Of each operation. On the CPU a view is one, which lets its inputs go, and any other one more
    # for each of its kernels (mlx/backend/cpu/eval.cpp); on a GPU only kernels count.
    dispatches: tuple[int, ...]
    kernels: tuple[int, ...]
    reads: tuple[Taken, ...]
    behind: tuple[Made, ...]  # of each result, what its buffer was made for: itself, or more


class _Buffer:
    """A buffer, while it is there."""

    __slots__ = ("array", "held", "made", "read")

    def __init__(self, made: str, array: Array) -> None:
        self.made = made  # the array that it was made for
        self.array = array
        self.held = 0  # arrays that lie in it and are still needed
        self.read = False  # by an operation that may hold it yet

    def fits(self, array: Array) -> bool:
        """Whether it may be given to ``array`` by the only one in it, read for the last time."""
        return not self.read and self.held == 1 and self.array.size <= array.size + DONATION_EXTRA


class _Effect(NamedTuple):
    """What an operation does to buffers, as far as how what it reads lies decides that."""

    makes: Taken
    givers: tuple[tuple[int, ...], ...]  # of each, what it reads that may give it its own buffer
    shares: bool = False  # that of the first, whoever else needs it
    copies: Taken = ()  # for as long as it runs
    kernels: int = 0  # where it makes nothing but what it is given a buffer for


class _Memory:
    """Which array lies how in which buffer, and who reads it last."""

    def __init__(self, graph: Graph) -> None:
        self.last = {name: at for at, step in enumerate(graph.operations) for name in step.reads}
        self.last.update(dict.fromkeys(graph.results, len(graph.operations)))
        self.arrays = {name: _in_rows(made.sort) for name, made in graph.given.items()}
        # The buffer of a weight belongs to nobody here: it stays.
        self.buffers: dict[str, _Buffer | None] = dict.fromkeys(graph.given)
        for name in graph.spent:
            spent = self.buffers[name] = _Buffer(name, self.arrays[name])
            spent.held = 1

    def lay(self, at: int, makes: Sequence[str], reads: Sequence[str], effect: _Effect) -> Taken:
        """Lay what operation ``at`` makes; that which takes a buffer of its own."""
        new: Taken = ()
        for name, array, givers in zip(makes, effect.makes, effect.givers, strict=True):
            self.arrays[name] = array
            for giver in givers:
                read = reads[giver]
                buffer = self.buffers[read]
                if effect.shares or (
                    buffer is not None and self.last[read] == at and buffer.fits(array)
                ):
                    break
            else:
                new = (*new, array)
                buffer = _Buffer(name, array)
            self.buffers[name] = buffer
            if buffer is not None:
                buffer.held += 1
        if new or len(reads) > 1:  # else its own buffer is all that it reads
            own = [self.buffers[name] for name in makes]
            for name in reads:
                buffer = self.buffers[name]
                if buffer is not None and buffer not in own:
                    buffer.read = True
        return new

    def view(self, at: int, name: str, source: str, array: Array) -> Taken:
        """``lay`` and ``free`` of what makes one array where the only one that it reads lies."""
        buffer = self.buffers[name] = self.buffers[source]
        self.arrays[name] = array
        if buffer is not None:
            buffer.held += (name in self.last) - (self.last[source] == at)
            if not buffer.held:
                return (buffer.array,)
        return ()

    def free(self, at: int, names: Sequence[str]) -> Taken:
        """What nobody needs after operation ``at``, of the buffers of ``names``."""
        free: Taken = ()
        for name in names:
            if self.last.get(name, at) == at:
                buffer = self.buffers[name]
                if buffer is not None:
                    buffer.held -= 1
                    if not buffer.held:
                        free = (*free, buffer.array)
        return free

    def behind(self, name: str) -> Made:
        """The array that the buffer of ``name`` was made for."""
        buffer = self.buffers[name] or _Buffer(name, self.arrays[name])
        return Made(buffer.made, buffer.array.sort)


def replay(graph: Graph) -> Run:
    """Work the graph off as it is ordered, with views and donation as MLX has them."""
    memory = _Memory(graph)
    arrays = memory.arrays
    taken: list[Taken] = []
    done: list[Taken] = []
    kernels: list[int] = []
    reads: list[Taken] = []
    for at, (primitive, sources, makes) in enumerate(graph.operations):
        again: tuple[int, ...] = ()
        if len(sources) > 1 and len(once := tuple(dict.fromkeys(sources))) < len(sources):
            again = tuple([once.index(source) for source in sources])
            sources = once  # noqa: PLW2901
        lie = tuple([arrays[source] for source in sources])
        effect = _effect(primitive, again, lie)
        if effect.shares and len(sources) == len(makes) == 1:
            new: Taken = ()
            free = memory.view(at, makes[0], sources[0], effect.makes[0])
        else:
            new = memory.lay(at, makes, sources, effect)
            free = memory.free(at, (*sources, *makes))
        taken.append(new + effect.copies)
        done.append(effect.copies + free)
        kernels.append(effect.kernels + (primitive.name == "SliceUpdate" and bool(new)))
        reads.append(lie if effect.kernels else ())
    return Run(
        taken=tuple(taken),
        done=tuple(done),
        dispatches=tuple(number + 1 for number in kernels),
        kernels=tuple(kernels),
        reads=tuple(reads),
        behind=tuple(map(memory.behind, graph.results)),
    )


@cache
def _effect(primitive: Primitive, again: tuple[int, ...], arrays: tuple[Array, ...]) -> _Effect:
    """``arrays`` are what it reads, each once; ``again``, where one is read twice, their order."""
    name, makes = primitive.name, primitive.makes
    views = _views(primitive, arrays)
    if views is not None:
        made = tuple(_array(each, lies) for each, lies in zip(makes, views, strict=True))
        return _Effect(made, ((0,),) * len(made), shares=True)
    read = [arrays[at] for at in again] or list(arrays)
    once = [at for at in range(len(arrays)) if again.count(at) < 2]  # noqa: PLR2004 -- not of `x * x`
    of_each = [_lies(name, shape, arrays) for shape, _ in makes]
    made = tuple(_array(each, lies) for each, (lies, _) in zip(makes, of_each, strict=True))
    givers = tuple(
        tuple(at for at in once if at in may and _as_large(arrays[at], each))
        for each, (_, may) in zip(made, of_each, strict=True)
    )
    copies = tuple(_copies(name, read))
    return _Effect(made, givers, copies=copies, kernels=_kernels(name, len(read), len(copies)))


@cache
def _array(sort: Sort, lies: strides.Strides) -> Array:
    return Array(sort, lies, sort.size)


def _in_rows(sort: Sort) -> Array:
    return _array(sort, strides.in_rows(sort.shape))


def _as_large(one: Array, other: Array) -> bool:
    """In elements, which are of one size."""
    return one.sort.item == other.sort.item and one.size == other.size


def _kernels(name: str, reads: int, copies: int) -> int:
    """How many kernels an operation takes (mlx/backend/cpu/primitives.cpp, ``eval_cpu``).

    A ``SliceUpdate`` that copies what it updates has one more.
    """
    if name == "Concatenate":
        return reads
    if name == "SliceUpdate":
        return 1
    if name == "Convolution":
        return 4  # zeros, the input in them, the windows, the product
    return 1 + copies + (name == "AddMM")  # what is added is copied to the result first


def _copies(name: str, reads: Sequence[Array]) -> Iterator[Array]:
    """Copies of what an operation reads, for as long as it runs, each by what is as large."""
    if name == "Convolution":
        # mlx/backend/cpu/conv.cpp, `explicit_gemm_conv_1D_cpu`: the input padded, and once more for
        # each element of the window, in 32 bits.
        source, window = reads[:2]
        for _ in range((1 + window.shape[1]) * 4 // source.sort.item):
            yield source
    for array in reads[:2] if name == "AddMM" else reads:
        ragged = name in PRODUCTS and not strides.for_matmul(array.shape, array.strides)
        if ragged or (name in WANT_ROWS and not strides.lies_in_rows(array.shape, array.strides)):
            yield array


def _views(primitive: Primitive, reads: Sequence[Array]) -> list[strides.Strides] | None:
    """How what is made lies in the buffer of the first that is read; None where it does not."""
    name = primitive.name
    if not reads or name not in VIEWS | RESHAPES:
        return None
    before = reads[0]
    if name in VIEWS:
        return [
            strides.of_view(name, primitive.along, before.shape, before.strides, after)
            for after, _ in primitive.makes
        ]
    ((after, _),) = primitive.makes
    lies = strides.of_reshape(before.shape, before.strides, after)
    return None if lies is None else [lies]


def _lies(name: str, shape: Shape, reads: Sequence[Array]) -> tuple[strides.Strides, Sequence[int]]:
    """How ``shape`` lies in a buffer of its own, and what is read that may give it one instead.

    As MLX has it element by element (mlx/backend/common/{unary,binary,ternary}.h), and of what is
    compiled (compiled.cpp, ``compiled_allocate_outputs``).
    """
    if name not in DONATE:
        return strides.in_rows(shape), ()
    arrays = tuple((array.shape, array.strides) for array in reads)
    if name in NOT_ELEMENTWISE:
        dense = [at for at, array in enumerate(arrays) if strides.dense(*array)]
        return strides.in_rows(shape), dense
    return strides.elementwise(shape, arrays, choice=name == "Select")
