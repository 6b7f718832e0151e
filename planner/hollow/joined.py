"""One operation of what ``mx.compile`` makes one of, which an export takes apart.

mlx-lm compiles its activations (``mlx.nn.silu``, ``mlx_lm.models.activations.swiglu``): an
evaluation has one operation for them and nothing in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planner.hollow.operation import Operation, Shape, primitive

PARTS = frozenset({"Multiply", "Sigmoid"})


def joined(operations: Sequence[Operation], results: Sequence[str]) -> tuple[Operation, ...]:
    """``x * sigmoid(x)``, or that times ``y``, as one operation where nobody reads the parts."""
    parts = {step.makes[0]: at for at, step in enumerate(operations) if step.name in PARTS}
    readers = _readers(parts, operations, results)
    left: list[Operation | None] = list(operations)
    for at in parts.values():
        one = operations[at]
        if one.name != "Multiply":
            continue
        for part in [parts[name] for name in one.reads if readers.get(name) == 1]:
            inner = left[part]
            if inner is None:
                continue
            others = tuple(n for n in one.reads if n not in inner.makes)
            silu = inner.name == "Sigmoid" and others == inner.reads
            gated = inner.name == "Compiled" and _shape(inner) == _shape(one)
            if silu or gated:
                reads = tuple(dict.fromkeys((*inner.reads, *others)))
                left[at] = one = Operation(primitive("Compiled", one.of.makes), reads, one.makes)
                left[part] = None
    return tuple([step for step in left if step is not None])


def _shape(step: Operation) -> Shape:
    return step.of.makes[0][0]


def _readers(
    names: Mapping[str, object], operations: Sequence[Operation], results: Sequence[str]
) -> dict[str, int]:
    """How many operations read each of ``names``, and whether it is a result."""
    readers = dict.fromkeys(names, 0)
    for step in operations:
        for name in step.reads if len(step.reads) == 1 else set(step.reads):
            if name in readers:
                readers[name] += 1
    for name in results:
        if name in readers:
            readers[name] += 1
    return readers
