"""What is recorded of a model: the server's evaluations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from planner.hollow import passes, recording, work
from planner.hollow.model import leaves
from planner.hollow.ways import RESTS, Ways
from planner.traced import Processor

CHUNKS = ("prefill", "enter")  # which of the moves are of a prompt, not of a token
EMPTY = ("chunk", "prefill")  # which may be the first of a prompt
Programs = dict[str, dict[str, Any]]


def programs(
    model: Any,  # noqa: ANN401
    examples: Sequence[Any],
    processor: Processor,
    *,
    merged: bool,
    batched: bool,
    fused: bool = True,
    moves: Sequence[str] = (),
    mine: Callable[[str], bool] = lambda _: True,
) -> Programs:
    """What the server's evaluations on ``processor`` need over weights and caches.

    ``merged``: the server generates in batches; ``batched``: of more than one sequence; ``fused``:
    some GPU has a kernel for its attention; ``moves``: further methods of ``Passes`` that a plan
    has no use for: ``join`` and ``admit`` take at least as much; ``mine``: says of a part of the
    work, by name, whether to do it.

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
    asked = _Asked(
        processor=processor, batched=batched, fused=fused, moves=moves if batched else (), mine=mine
    )
    states = not all(hasattr(cache, "keys") for cache in held)
    ways = Ways(dimensions, windows, batched=batched, states=states)
    made = _all(asked, passes.Passes(model, examples, merged=merged), ways)
    if any(hasattr(cache, "max_size") for cache in held):
        ways = Ways(dimensions, (), batched=batched, states=states)
        near = passes.Passes(model, examples, merged=merged, within=True)
        made |= _all(asked, near, ways, " within")
    return {name: work.packed(program) for name, program in made.items()}


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Which evaluations are wanted."""

    processor: Processor
    batched: bool
    fused: bool
    moves: Sequence[str]
    mine: Callable[[str], bool]

    @property
    def chunks(self) -> dict[str, str]:
        """Those of prompts, by the method of ``Passes``; what is in the others is in the first."""
        if not self.batched:
            return {"chunk": "prefill"}
        more = {name: name for name in self.moves if name in CHUNKS}
        return {"admit": "admit", "chunk": "uneven", "stay": "stay", **more}

    @property
    def tokens(self) -> list[str]:
        """Those of generation."""
        more = [name for name in self.moves if name not in CHUNKS]
        return list(dict.fromkeys([*more, *(["join", "roll"] if self.batched else ["step"])]))

    @property
    def ways(self) -> Mapping[str, AbstractContextManager[None]]:
        """What the names of prompts' evaluations end with, and what is another's meanwhile."""
        if self.processor == "cpu":
            return {"": contextlib.nullcontext()}
        attention = {" kernels": False, " fused": True} if self.fused else {" kernels": False}
        return {way: recording.kernels(attention=one) for way, one in attention.items()}


def _all(asked: _Asked, server: passes.Passes, ways: Ways, where: str = "") -> Programs:
    """``where``: what the names of the parts and of the programs end with."""
    made: Programs = {}
    for way, instead in asked.ways.items():
        if asked.mine(f"chunks{way}{where}"):
            ways.look(server, asked.chunks["chunk"])
            with instead:
                found = _chunks(asked, server, copy(ways))  # for what it finds out holds for these
            made |= {f"{name}{way}{where}": program for name, program in found.items()}
    if asked.mine(f"tokens{where}"):
        made |= {
            f"{name}{where}": ways.program(getattr(server, name), asked.processor, step=1)
            for name in asked.tokens
        }
    return made


def _chunks(asked: _Asked, server: passes.Passes, ways: Ways) -> Programs:
    """Those of prompts, of which the first is checked by a second recording."""
    made: Programs = {}
    processor = asked.processor
    for name, method in asked.chunks.items():
        record, check = getattr(server, method), not made
        if ways.by_token:
            made[name] = ways.for_each(record, processor, RESTS, checked=check)
        else:
            made[name] = ways.program(record, processor, empty=name in EMPTY, checked=check)
    if ways.by_token:
        with server.fewer() as some:
            record = getattr(some, asked.chunks["chunk"])
            made["chunk"]["steps"] |= ways.of_some(record, processor)
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
