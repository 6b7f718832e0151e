"""One operation of what ``mx.compile`` makes one of, which an export takes apart.

mlx-lm compiles its activations (``mlx.nn.silu``, ``mlx_lm.models.activations.swiglu``): an
evaluation has one operation for them and nothing in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.hollow.graph import Operation


def joined(operations: Sequence[Operation], results: Sequence[str]) -> tuple[Operation, ...]:
    """``x * sigmoid(x)``, or that times ``y``, as one operation where nobody reads the parts."""
    readers = Counter(name for step in operations for name in dict.fromkeys(step.reads))
    readers.update(results)
    made: dict[str, int] = {}
    left: list[Operation | None] = []
    for at, step in enumerate(operations):
        one = step
        if step.name == "Multiply":
            parts = [made[name] for name in step.reads if name in made and readers[name] == 1]
            for part in parts:
                inner = left[part]
                if inner is None:
                    continue
                others = tuple(n for n in one.reads if n not in {m.name for m in inner.makes})
                silu = inner.name == "Sigmoid" and others == inner.reads
                gated = inner.name == "Compiled" and inner.makes[0].shape == step.makes[0].shape
                if silu or gated:
                    one = one._replace(
                        name="Compiled", reads=tuple(dict.fromkeys((*inner.reads, *others)))
                    )
                    left[part] = None
        left.append(one)
        made.update({array.name: at for array in step.makes})
    return tuple(step for step in left if step is not None)
