"""What caches keep alive beyond what they hold.

A cache that was given a slice holds a view in MLX, and with it the whole array that was sliced.
Where queries, keys and values come from one product, the first part of a prompt that fills a
``KVCache`` to the brim is kept as it came (``mx.slice_update`` of everything is the update itself),
until the cache grows and copies; a ``RotatingKVCache`` keeps its first part so whatever its length;
an ``ArraysCache`` that is given the end of a convolution's input keeps all of that input, unless
prompts are uneven and their ends are gathered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlx_lm.models import cache as caches

from planner.hollow import graph
from planner.hollow.model import leaves
from planner.hollow.passes import Passes

SHORT, LONG = 16, 32  # tokens


def beyond(model: Any, examples: Sequence[Any]) -> list[dict[str, int]]:  # noqa: ANN401 -- mlx has no types
    """Of each cache, bytes for each token of the pass that filled it, of one sequence."""
    passes = Passes(model, examples, merged=False)
    even = _growth(passes, uneven=False)
    arrays = [isinstance(cache, caches.ArraysCache) for cache in passes.examples]
    ends = any(rate for rate, it in zip(even, arrays, strict=True) if it)
    uneven = _growth(passes, uneven=True) if ends else even
    return [
        {
            **({"viewed_bytes": rate} if rate else {}),
            **({"viewed_uneven_bytes": gathered} if it and gathered else {}),
        }
        for rate, gathered, it in zip(even, uneven, arrays, strict=True)
    ]


def _growth(passes: Passes, *, uneven: bool) -> list[int]:
    short = _extra(passes, SHORT, uneven=uneven)
    if not any(short):
        return short
    long = _extra(passes, LONG, uneven=uneven)
    return [max(0, b - a) // (LONG - SHORT) for a, b in zip(short, long, strict=True)]


def _extra(passes: Passes, tokens: int, *, uneven: bool) -> list[int]:
    """Bytes that each cache keeps alive over what it holds, after ``tokens`` of one prompt."""
    made: list[Any] = caches.make_prompt_cache(passes.model)
    for cache in leaves(made):
        if hasattr(cache, "step"):
            cache.step = tokens  # filled to the brim
        elif uneven:
            cache.prepare(lengths=[tokens - 1])
    recorded, names = passes.first(made, tokens)
    held: list[int] = [0] * len(passes.examples)
    behind: list[dict[str, graph.Made]] = [{} for _ in passes.examples]
    run = graph.replay(recorded)
    sizes = {array.name: array for step in recorded.operations for array in step.makes}
    results = recorded.results[len(recorded.results) - len(names) :]
    for name, result, owner in zip(
        names, results, run.behind[len(run.behind) - len(names) :], strict=True
    ):
        at = int(name.split(".")[1])
        if result in sizes:
            held[at] += graph.size(sizes[result])
            behind[at][owner.name] = owner
    return [
        sum(map(graph.size, owners.values())) - mine
        for owners, mine in zip(behind, held, strict=True)
    ]
