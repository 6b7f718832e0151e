"""What caches keep alive beyond what they hold.

A cache that was given a slice holds a view in MLX, and with it the whole array that was sliced.
Where queries, keys and values come from one product, the first part of a prompt that fills a
``KVCache`` to the brim is kept as it came (``mx.slice_update`` of everything is the update itself),
until the cache grows and copies; a ``RotatingKVCache`` keeps its first part so whatever its length;
an ``ArraysCache`` that is given the end of a convolution's input keeps all of that input, unless
prompts are uneven and their ends are gathered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlx_lm.models import cache as caches

from planner.hollow.buffers import replay
from planner.hollow.model import leaves
from planner.hollow.operation import Made, Operation
from planner.hollow.order import scheduled
from planner.hollow.passes import STEP, Passes
from planner.program import Point

SHORT, LONG = 16, 32  # tokens


def beyond(server: Passes) -> list[dict[str, int]]:
    """Of each cache, bytes for each token of the pass that filled it, of one sequence.

    And those that it keeps between two steps of generation.
    """
    with server.fewer(server.told.ending) as some:
        found = iter(_beyond(some))
    of_layers = [[next(found) for _ in leaves([each])] for each in some.caches]
    return [cache for at in server.told.like for cache in of_layers[at]]


def _beyond(server: Passes) -> list[dict[str, int]]:
    passes = server.of(server.caches, merged=False)
    even = _growth(passes, uneven=False)
    arrays = [isinstance(cache, caches.ArraysCache) for cache in passes.examples]
    ends = any(rate for rate, it in zip(even, arrays, strict=True) if it)
    uneven = _growth(passes, uneven=True) if ends else even
    steps = between(server) if any(arrays) else [0] * len(arrays)
    return [
        {
            **({"viewed_bytes": rate} if rate else {}),
            **({"viewed_uneven_bytes": gathered} if it and gathered else {}),
            **({"step_bytes": step} if it and step else {}),
        }
        for rate, gathered, step, it in zip(even, uneven, steps, arrays, strict=True)
    ]


def between(server: Passes) -> list[int]:
    """Bytes of one sequence that each cache keeps between two steps, over what it holds.

    A step evaluates its scores and nothing else (generate.py, ``GenerationBatch._step``): a state
    that the scores do not need comes with the next step, and until then all that it is made of
    is there: where padding is masked, the state before it too.
    """
    recorded, names = server.generated(Point(1, 1, 2 * STEP))
    scores, kept = recorded.results[: -len(names)], recorded.results[-len(names) :]
    run = scheduled(recorded.operations, scores)
    evaluated = {name for step in run for name in step.makes} | set(recorded.given)
    makers = {name: step for step in recorded.operations for name in step.makes}
    sizes = {array.name: array for array in recorded.arrays}
    held: list[int] = [0] * len(server.examples)
    needs: list[set[str]] = [set() for _ in server.examples]
    for name, result in zip(names, kept, strict=True):
        if ".cache." in name:
            at = int(name.split(".")[1])
            held[at] += sizes[result].sort.size
            needs[at] |= _left(result, makers, evaluated)
    own = [*recorded.spent, *(evaluated - set(recorded.given))]
    wanted = tuple(sorted(set().union(*needs).intersection(own)))
    buffers = replay(replace(recorded, operations=run, results=(*scores, *wanted))).behind
    behind = dict(zip(wanted, buffers[len(scores) :], strict=True))
    found = [{behind[name] for name in names if name in behind} for names in needs]
    return [
        max(0, sum(array.sort.size for array in arrays) - mine)
        for arrays, mine in zip(found, held, strict=True)
    ]


def _left(result: str, makers: Mapping[str, Operation], evaluated: set[str]) -> set[str]:
    """What is evaluated of all that ``result`` is made of, the last of it."""
    found: set[str] = set()
    unseen = [result]
    while unseen:
        name = unseen.pop()
        if name in evaluated:
            found.add(name)
        else:
            unseen += makers[name].reads
    return found


def _growth(passes: Passes, *, uneven: bool) -> list[int]:
    short = _extra(passes, SHORT, uneven=uneven)
    if not any(short):
        return short
    long = _extra(passes, LONG, uneven=uneven)
    return [max(0, b - a) // (LONG - SHORT) for a, b in zip(short, long, strict=True)]


def _extra(passes: Passes, tokens: int, *, uneven: bool) -> list[int]:
    """Bytes that each cache keeps alive over what it holds, after ``tokens`` of one prompt."""
    made: list[Any] = caches.make_prompt_cache(passes.model)[: len(passes.caches)]
    for cache in leaves(made):
        if hasattr(cache, "step"):
            cache.step = tokens  # filled to the brim
        elif uneven:
            cache.prepare(lengths=[tokens - 1])
    recorded, names = passes.first(made, tokens)
    held: list[int] = [0] * len(passes.examples)
    behind: list[dict[str, Made]] = [{} for _ in passes.examples]
    run = replay(recorded.ordered())
    sizes = {array.name: array for array in recorded.arrays}
    results = recorded.results[len(recorded.results) - len(names) :]
    for name, result, owner in zip(
        names, results, run.behind[len(run.behind) - len(names) :], strict=True
    ):
        at = int(name.split(".")[1])
        if result not in recorded.given:
            held[at] += sizes[result].sort.size
            behind[at][owner.name] = owner
    return [
        sum(owner.sort.size for owner in owners.values()) - mine
        for owners, mine in zip(behind, held, strict=True)
    ]
