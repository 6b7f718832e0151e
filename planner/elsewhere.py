"""Other engines, for what MLX cannot serve: which, in which format, by how much memory."""

from __future__ import annotations

from collections.abc import Sequence

from planner.amounts import gib
from planner.engines import ENGINES, Engine, Format
from planner.plan import Space
from planner.traced import Traced

# What an engine may take of a GPU. vLLM 0.33.0 takes 0.92 if it is told nothing
# (`--gpu-memory-utilization`, vllm/config/cache.py); the others are given the same, a little less.
SHARE = 0.9


def elsewhere(traced: Traced, kv_bytes: int, spaces: Sequence[Space]) -> tuple[str, ...]:
    """One line for each engine: in which format it could serve the model on these GPUs, or not.

    ``kv_bytes`` are the caches of all sequences together.
    """
    gpus = [space for space in spaces if space.gpu is not None and space.compute_capability]
    if not gpus:
        return ()
    capability = min(float(space.compute_capability or 0) for space in gpus)
    room = int(sum(min(space.usable, space.total * SHARE) for space in gpus))
    lines: list[str] = []
    for engine in ENGINES:
        if traced.model_type not in engine.supports:
            lines.append(
                f"{engine.name}: not known to run `{traced.model_type}`: "
                f"not in the list of its {engine.seen}"
            )
            continue
        lines.append(
            f"{engine.name}: {_best(engine, capability, traced.parameters, kv_bytes, room)}"
        )
    return tuple(lines)


def _best(engine: Engine, capability: float, parameters: int, kv_bytes: int, room: int) -> str:
    tried: list[tuple[Format, int]] = [
        (form, int(parameters * form.bits / 8) + kv_bytes)
        for form in engine.formats
        if form.capability <= capability <= form.capability_up_to
    ]
    for form, size in tried:
        if size <= room:
            return (
                f"{form.name}, {gib(size)} of {gib(room)} over the GPUs with nothing else on them "
                f"({engine.splits}); take a checkpoint in {form.name}: it cannot read MLX's files"
            )
    if not tried:
        return f"has no format for compute capability {capability}"
    form, size = min(tried, key=lambda it: it[1])
    return f"no: {gib(size)} in {form.name}, {gib(room)} over the GPUs"
