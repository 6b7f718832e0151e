"""What is recorded of a model: the server's evaluations, by device."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from planner.hollow import passes, recording, work
from planner.hollow.model import leaves
from planner.hollow.ways import RESTS, Ways

CHUNKS = ("prefill", "enter")  # which of the moves are of a prompt, not of a token
EMPTY = ("chunk", "prefill")  # which may be the first of a prompt
Programs = dict[str, dict[str, Any]]


def programs(
    model: Any,  # noqa: ANN401
    examples: Sequence[Any],
    *,
    merged: bool,
    batched: bool,
    chunks: Collection[str] = work.DEVICES,
    tokens: Collection[str] = work.DEVICES,
    fused: bool = True,
    moves: Sequence[str] = (),
) -> Programs:
    """What the server's evaluations need over weights and caches.

    ``merged``: the server generates in batches; ``batched``: of more than one sequence; ``chunks``
    and ``tokens``: the devices for which those of prompts and those of generation are wanted;
    ``fused``: some GPU has a kernel for its attention; ``moves``: further methods of ``Passes``
    that a plan has no use for: ``join`` and ``admit`` take at least as much.

    ``chunk`` of prompts, ``admit`` after one more has joined those being read, ``stay`` after one
    has left them; on a CPU as they are called, ``… kernels`` on a GPU, ``… fused`` on one with a
    kernel for attention; ``join`` of a sequence to those generated for, which takes more than a
    ``step`` where nobody can join; ``roll`` of uneven prompts.
    """
    flat: Any = tree_flatten(model.parameters())
    dimensions = {length for _, array in flat for length in array.shape}
    held = list(leaves(list(examples)))
    windows = {
        int(size)
        for cache in held
        for name in ("max_size", "chunk_size")
        if (size := getattr(cache, name, None))
    }
    states = not all(hasattr(cache, "keys") for cache in held)
    asked = _Asked(
        batched=batched,
        chunks=frozenset(chunks),
        tokens=frozenset(tokens),
        fused=fused,
        moves=tuple(moves) if batched else (),
    )

    def all_of(windows: Collection[int], *, within: bool) -> Programs:
        server = passes.Passes(model, examples, merged=merged, within=within)
        return _all(asked, server, Ways(dimensions, windows, batched=batched, states=states))

    made = all_of(windows, within=False)
    if any(hasattr(cache, "max_size") for cache in held):
        near = all_of((), within=True)
        made |= {f"{name} within": program for name, program in near.items()}
    return {name: work.packed(program) for name, program in made.items()}


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Which evaluations are wanted, for which devices."""

    batched: bool
    chunks: frozenset[str]
    tokens: frozenset[str]
    fused: bool
    moves: tuple[str, ...]


def _all(asked: _Asked, server: passes.Passes, ways: Ways) -> Programs:
    made: Programs = {}
    chunks = {"chunk": "prefill"}
    if asked.batched:  # what is in the others is in the first
        chunks = {"admit": "admit", "chunk": "uneven", "stay": "stay"}
    if asked.chunks:
        ways.look(server, chunks["chunk"])
    if "cpu" in asked.chunks:
        more = {name: name for name in asked.moves if name in CHUNKS}
        made |= _chunks(chunks | more, server, ways, "cpu")
    if "gpu" in asked.chunks:
        with recording.kernels(attention=False):
            on_gpu = _chunks(chunks, server, ways, "gpu")
        made |= {f"{name} kernels": program for name, program in on_gpu.items()}
    if "gpu" in asked.chunks and asked.fused:
        with recording.kernels(attention=True):
            on_gpu = _chunks(chunks, server, ways, "gpu", checked=False)
        made |= {f"{name} fused": program for name, program in on_gpu.items()}
    if not asked.tokens:
        return made
    single = [name for name in asked.moves if name not in CHUNKS]
    single += ["join", "roll"] if asked.batched else ["step"]
    return made | {
        name: ways.program(getattr(server, name), asked.tokens, step=1)
        for name in dict.fromkeys(single)
    }


def _chunks(
    records: Mapping[str, str],
    server: passes.Passes,
    ways: Ways,
    device: str,
    *,
    checked: bool = True,
) -> Programs:
    """``records``: a method of ``server`` for each; ``checked``: the first, by a second one."""
    made: Programs = {}
    for name, method in records.items():
        record, check = getattr(server, method), checked and not made
        if ways.by_token:
            made[name] = ways.for_each(record, [device], RESTS, checked=check)
        else:
            made[name] = ways.program(record, [device], empty=name in EMPTY, checked=check)
    if ways.by_token:
        with server.fewer() as some:
            made["chunk"]["steps"] |= ways.of_some(getattr(some, records["chunk"]), device)
    return made


@contextlib.contextmanager
def cpu() -> Iterator[None]:
    """MLX on the CPU, and a rank's sum over its group without a group."""
    mx.set_default_device(mx.cpu)
    old = mx.distributed.all_sum
    mx.distributed.all_sum = lambda x, **_: x
    try:
        yield
    finally:
        mx.distributed.all_sum = old
