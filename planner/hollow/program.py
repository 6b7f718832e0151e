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
from planner.hollow.ways import Record, Ways

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
    chunks: dict[str, Record] = {"chunk": server.prefill}
    if asked.batched:  # what is in the others is in the first
        chunks = {"admit": server.admit, "chunk": server.uneven, "stay": server.stay}
    wanted: dict[str, Record] = {name: getattr(server, name) for name in asked.moves}
    if asked.chunks:
        ways.look(chunks["chunk"])
    if "cpu" in asked.chunks:
        more = {name: wanted[name] for name in CHUNKS if name in wanted}
        made |= _chunks(chunks | more, ways, "", work.ON_CPU)
    if "gpu" in asked.chunks:
        with recording.kernels(attention=False):
            made |= _chunks(chunks, ways, " kernels", work.ON_GPU)
    if "gpu" in asked.chunks and asked.fused:
        if ways.unrolled:
            made |= {f"{name} fused": made[f"{name} kernels"] for name in chunks}
        else:
            with recording.kernels(attention=True):
                made |= _chunks(chunks, ways, " fused", work.ON_GPU, checked=False)
    if not asked.tokens:
        return made
    single = {name: record for name, record in wanted.items() if name not in CHUNKS}
    single |= {"join": server.join, "roll": server.roll} if asked.batched else {"step": server.step}
    lags = tuple(
        lag for device in work.DEVICES if device in asked.tokens for lag in work.LAGS[device]
    )
    return made | {name: ways.program(record, lags, step=1) for name, record in single.items()}


def _chunks(
    records: Mapping[str, Record],
    ways: Ways,
    suffix: str,
    lags: Sequence[int],
    *,
    checked: bool = True,
) -> Programs:
    """``checked``: the first, by a second recording."""
    if ways.by_token:
        return _by_token(records, ways, suffix, lags)
    made: Programs = {}
    for name, record in records.items():
        check = checked and not made
        made[name + suffix] = ways.program(record, lags, empty=name in EMPTY, checked=check)
    return made


def _by_token(
    records: Mapping[str, Record], ways: Ways, suffix: str, lags: Sequence[int]
) -> Programs:
    """``chunk``, which takes long, and of all others what they take more."""
    few = ways.few(records["chunk"], lags)  # checked, so that nothing longer has to be
    plain = ways.program(records["chunk"], lags, checked=False)
    return {
        name + suffix: plain if name == "chunk" else ways.more(plain, few, record, lags)
        for name, record in records.items()
    }


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
