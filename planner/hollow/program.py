"""What is recorded of a model: the server's evaluations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx

from planner.hollow import recording
from planner.hollow.passes import Passes
from planner.hollow.slots import get
from planner.hollow.ways import RESTS, Ways
from planner.traced import Processor

CHUNKS = ("prefill", "enter")  # which of the moves are of a prompt, not of a token
PLAIN = ("chunk", "prefill")  # nothing but a chunk, which may be the first of a prompt
Programs = dict[str, dict[str, Any]]
Parts = dict[str, Callable[[], Programs]]  # of the work, by name


def parts(
    server: Passes,
    processor: Processor,
    *,
    batched: bool,
    ends: Sequence[str],
    moves: Sequence[str] = (),
) -> tuple[Parts, Parts]:
    """What the server's evaluations on ``processor`` need over weights and caches.

    Those of prompts and those of tokens. ``batched``: of more than one sequence; ``ends`` of
    prompts' names, by how attention is done (``planner.traced.endings``); ``moves``: further
    methods of ``Passes`` that a plan has no use for: ``join`` and ``admit`` take at least as much.

    ``chunk`` of prompts, ``admit`` after one more has joined those being read, ``stay`` after one
    has left them; ``join`` of a sequence to those generated for, which takes more than a ``step``
    where nobody can join; ``roll`` of uneven prompts. Of a model with windows all of it twice, past
    them and `` within``.
    """
    dimensions = {n for _, holder, key in server.parameters for n in get(holder, key).shape}
    windows = {
        int(size)
        for cache in server.examples
        for name in ("max_size", "chunk_size")
        if (size := getattr(cache, name, None))
    }
    asked = _Asked(processor=processor, batched=batched, moves=moves if batched else ())
    states = not all(hasattr(cache, "keys") for cache in server.examples)
    servers = {"": (server, windows)}
    if any(hasattr(cache, "max_size") for cache in server.examples):
        servers[" within"] = (server.near(), set())
    prompts: Parts = {}
    tokens: Parts = {}
    for where, (one, its) in servers.items():
        ways = Ways(dimensions, its, batched=batched, states=states)
        ways.look(one, asked.chunks["chunk"])
        for end in ends:
            them = _Prompts(asked, one, ways, end, f"{end}{where}")
            if ways.by_token:
                prompts[f"some{end}{where}"] = them.some
            prompts[f"chunks{end}{where}"] = them.chunks
        for name in asked.tokens:
            tokens[f"{name}{where}"] = partial(_tokens, asked, one, copy(ways), name, where)
    return prompts, tokens


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Which evaluations are wanted."""

    processor: Processor
    batched: bool
    moves: Sequence[str]

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


@dataclass(frozen=True)
class _Prompts:
    """The evaluations of prompts, with attention done in one way."""

    asked: _Asked
    server: Passes
    ways: Ways
    attention: str  # as ``planner.traced.endings`` has it
    end: str  # of the programs' names

    def chunks(self) -> Programs:
        """All of them, of which the first is checked by a second recording of some layers."""
        made: Programs = {}
        ways, processor = copy(self.ways), self.asked.processor  # for what it finds out holds here
        with self._instead(), self.server.keeping():
            for name, method in self.asked.chunks.items():
                record = getattr(self.server, method)
                check = None if made else partial(self.server.of_all_kinds, method)
                if ways.by_token:
                    # Of others a plan takes what they are more than a chunk, at so many tokens.
                    steps = RESTS if name in PLAIN else (min(RESTS),)
                    one = ways.for_each(record, processor, steps, check=check)
                else:
                    one = ways.program(record, processor, empty=name in PLAIN, check=check)
                made[f"{name}{self.end}"] = one
        return made

    def some(self) -> Programs:
        """Long chunks of some layers, of a model with a part of its graph for each token."""
        method = self.asked.chunks["chunk"]
        left = self.ways.left(self.server, method)
        with self._instead(), self.server.fewer() as fewer:
            record = getattr(fewer, method)
            made = self.ways.of_some(record, self.asked.processor, left)
        return {f"chunk{self.end}": made}

    def _instead(self) -> AbstractContextManager[None]:
        """What is another's meanwhile."""
        if not self.attention:
            return contextlib.nullcontext()
        return recording.kernels(attention=self.attention == " fused")


def _tokens(asked: _Asked, server: Passes, ways: Ways, name: str, where: str) -> Programs:
    record, check = getattr(server, name), partial(server.of_all_kinds, name)
    return {f"{name}{where}": ways.program(record, asked.processor, step=1, check=check)}


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
