"""Other engines, for what MLX cannot serve: which, in which format, by how much memory."""

from __future__ import annotations

from collections.abc import Sequence

from planner.amounts import gib
from planner.engines import ENGINES, TENSOR_PARALLEL, Engine, Format
from planner.fitting import by_kind
from planner.plan import Space
from planner.traced import SIZES, Traced

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
    lines: list[str] = []
    for engine in ENGINES:
        own = gpus if engine.splits != TENSOR_PARALLEL else _alike(gpus)
        room = sum(map(_room, own))
        if engine.splits == TENSOR_PARALLEL:  # as much on each
            room = min(map(_room, own)) * len(own)
        capability = min(float(space.compute_capability or 0) for space in own)
        alike = len({space.name for space in gpus}) == 1
        more = {n: room * n // len(own) for n in SIZES if alike and n > len(gpus)}
        if traced.model_type not in engine.supports:
            lines.append(
                f"{engine.name}: not known to run `{traced.model_type}`: "
                f"not in the list of its {engine.seen}"
            )
            continue
        tried = [
            (form, int(traced.parameters * form.bits / 8) + kv_bytes)
            for form in engine.formats
            if form.capability <= capability <= form.capability_up_to
        ]
        if not tried:
            lines.append(f"{engine.name}: has no format for compute capability {capability}")
        elif best := _best(engine, tried, room, _over(own, gpus)):
            lines.append(f"{engine.name}: {best}")
        else:
            form, size = min(tried, key=lambda it: it[1])
            no = f"no: {gib(size)} in {form.name}, {gib(room)} {_over(own, gpus)}"
            enough = ((n, _best(engine, tried, its, "over the GPUs")) for n, its in more.items())
            count, best = next((it for it in enough if it[1]), (0, ""))
            lines.append(f"{engine.name}: {no}{f'; over {count} such: {best}' if best else ''}")
    return tuple(lines)


def _alike(gpus: Sequence[Space]) -> list[Space]:
    """Those of one kind that most can be split over evenly: a number that divides heads."""
    kinds = by_kind(sorted(gpus, key=_room, reverse=True), lambda space: space.name)
    even = [own[: max(n for n in SIZES if n <= len(own))] for own in kinds]
    return max(even, key=lambda own: _room(own[-1]) * len(own))


def _room(space: Space) -> int:
    return int(min(space.usable, space.total * SHARE))


def _over(own: Sequence[Space], gpus: Sequence[Space]) -> str:
    return "over the GPUs" if len(own) == len(gpus) else f"over {len(own)} of the GPUs"


def _best(engine: Engine, tried: Sequence[tuple[Format, int]], room: int, over: str) -> str:
    """The first format of which the bytes have room, "" where none has."""
    for form, size in tried:
        if size <= room:
            return (
                f"{form.name}, {gib(size)} of {gib(room)} {over} with nothing else on them "
                f"({engine.splits}); take a checkpoint in {form.name}: it cannot read MLX's files"
            )
    return ""
