"""Passes of a hollow model over a batch whose caches are already long."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx
from mlx_lm.models import cache as caches

from planner.hollow import graph, layers, recording
from planner.hollow.model import leaves
from planner.hollow.repeated import Layers
from planner.hollow.slots import fill, get, parameters, put, slots, state
from planner.program import Point

STEP = 256  # tokens by which caches grow; the edges of what they make
Caches = list[Any]
State = list[Any]


@dataclass(frozen=True)
class Begun:
    """Caches before a chunk, and what is done to them first; those of who joins stay so."""

    made: Caches
    do: Callable[[], None] = lambda: None
    kept: Caches | None = None


class Passes:
    """What the server does to a model, recorded: each method is one evaluation of its."""

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        examples: Sequence[Any],
        *,
        merged: bool,
        within: bool = False,
        every: Layers | None = None,
    ) -> None:
        self.model = model
        self.within = within  # any window: contexts are shorter
        self.caches = list(examples)
        self.examples = list(leaves(self.caches))
        self.merged = merged  # as the batch generator has caches, even of one sequence
        self.parameters = list(parameters("p", model))
        self.every = every or Layers(layers.kinds(model))
        self._chunks: dict[Point, tuple[graph.Graph, State]] | None = None

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep the chunks that are recorded meanwhile: what joins or goes is done before one."""
        self._chunks = {}
        try:
            yield
        finally:
            self._chunks = None

    @cached_property
    def alike(self) -> layers.Alike:
        """Which layers tell of all, as far as a device may be at."""
        if layers.at_few(self.caches):
            return self.told
        return layers.every(self.model, self.caches)

    @cached_property
    def told(self) -> layers.Alike:
        """Which layers tell of all."""
        return layers.alike(self.model, self.caches, self.every.kinds)

    def of_all_kinds(self, name: str, point: Point) -> graph.Graph:
        """What the method ``name`` records of the first layers, as many as are of all kinds."""
        with self.fewer(self.told.kinds) as fewer:
            recorded: graph.Graph = getattr(fewer, name)(point)
        return recorded

    @contextlib.contextmanager
    def fewer(self, count: int | None = None) -> Iterator[Passes]:
        """The same of ``count`` layers: None, of those that tell of all."""
        count = self.alike.first if count is None else count
        with layers.only(self.model, count):
            some = self.caches[:count]
            yield self.of(some)

    def of(self, examples: Sequence[Any], *, merged: bool | None = None) -> Passes:
        """The same of a model with these caches."""
        merged = self.merged if merged is None else merged
        return Passes(self.model, examples, merged=merged, within=self.within, every=self.every)

    def near(self) -> Passes:
        """The same of contexts that are shorter than any window."""
        near = copy.copy(self)
        near.within = True
        return near

    def first(self, made: Caches, tokens: int) -> tuple[graph.Graph, list[str]]:
        """``tokens`` of one prompt into empty caches, and the caches' names of the last results."""

        def run(given: mx.array) -> list[mx.array]:
            self.model(given, cache=made)
            return []

        recorded = self._record(made, run, (1, tokens))
        return recorded, [name for name, _, _ in slots("c", made)]

    def uneven(self, point: Point) -> graph.Graph:
        """The same of prompts of different lengths, for which some caches copy more."""
        if self._chunks is None:
            return self.prefill(point, uneven=True)
        if point not in self._chunks:
            begun = Begun(self._grown(point.batch, point.tokens - point.step))
            before = state(begun.made)
            self._chunks[point] = self._chunk(begun, point), before
        return self._chunks[point][0]

    def prefill(self, point: Point, *, uneven: bool = False) -> graph.Graph:
        """``point.step`` tokens of each prompt (generate.py, ``PromptProcessingBatch.prompt``)."""
        begun = Begun(self._grown(point.batch, point.tokens - point.step))
        return self._chunk(begun, point, uneven=uneven)

    def _chunk(self, begun: Begun, point: Point, *, uneven: bool = True) -> graph.Graph:
        def run(tokens: mx.array) -> list[mx.array]:
            begun.do()
            if uneven:
                self._prepare(begun.made, point)
            self.model(tokens, cache=begun.made)
            return []

        return self._record(begun.made, run, (point.batch, point.step), kept=begun.kept)

    def _prepare(self, made: Caches, point: Point) -> None:
        """The last prompt is a token shorter than all others, where there are others."""
        for cache in made if self.merged and point.batch > 1 else ():
            cache.prepare(
                lengths=[point.step] * (point.batch - 1) + [point.step - 1],
                right_padding=[0] * (point.batch - 1) + [1],
            )

    def enter(self, point: Point) -> graph.Graph:
        """``uneven`` after a prompt that nothing is cached of has joined those being read."""
        return self._after_one_more(point, (point.batch - 1, point.tokens - point.step), 0)

    def stay(self, point: Point) -> graph.Graph:
        """``uneven`` after one prompt more has gone to those generated for (``split``)."""

        def begin() -> Begun:
            made = self._grown(point.batch + 1, point.tokens - point.step)
            return Begun(made, lambda: _keep(made, point.batch))

        return self._before_chunk(point, begin)

    def admit(self, point: Point) -> graph.Graph:
        """The same after one of which a part is kept (``PromptProcessingBatch.extend``).

        What is kept is longer than the batch, so that the batch is copied twice.
        """
        before = point.tokens - point.step
        return self._after_one_more(point, (point.batch - 1, before - 1), before)

    def _after_one_more(self, point: Point, of: tuple[int, int], kept: int) -> graph.Graph:
        def begin() -> Begun:
            made = self._grown(*of)
            alone = self._grown(1, kept)

            def extend() -> None:
                for mine, theirs in zip(made, alone, strict=True):
                    mine.extend(theirs)

            return Begun(made, extend, alone)

        return self._before_chunk(point, begin)

    def _before_chunk(self, point: Point, begin: Callable[[], Begun]) -> graph.Graph:
        """``uneven`` after what ``begin`` says.

        Where the chunk is there and its caches are as they are then, only that is recorded.
        """
        if self._chunks is not None:
            chunk = self.uneven(point)
            begun, after = begin(), []

            def only(_: mx.array) -> list[mx.array]:
                begun.do()
                after.append(state(begun.made))
                return []

            first = self._record(begun.made, only, (1, 1), kept=begun.kept, model=False)
            names = [name for name, _, _ in slots("c", begun.made)]
            if after == [self._chunks[point][1]] and (both := chunk.after(first, names)):
                return both
        return self._chunk(begin(), point)

    def step(self, point: Point) -> graph.Graph:
        """One token for each sequence, where all caches are full and must grow."""
        made = self._grown(point.batch, point.tokens - 1)

        def run(tokens: mx.array) -> list[mx.array]:
            return self._next(self.model(tokens, cache=made))

        return self._record(made, run, (point.batch, 1))

    def join(self, point: Point) -> graph.Graph:
        """One token for each sequence after another has joined (``GenerationBatch.extend``).

        The one that joins is longer than the batch by a step, so that the batch is copied twice.
        """
        joins = self._grown(1, point.tokens - 1)
        batch = self._grown(point.batch - 1, point.tokens - 1 - STEP)

        def run(tokens: mx.array) -> list[mx.array]:
            for mine, theirs in zip(batch, joins, strict=True):
                mine.extend(theirs)
            return self._next(self.model(tokens, cache=batch))

        return self._record(batch, run, (point.batch, 1), gone=joins)

    def still(self, point: Point) -> graph.Graph:
        """One token for each sequence, where all caches have room for it."""
        return self.generated(point)[0]

    def generated(self, point: Point) -> tuple[graph.Graph, list[str]]:
        """``still``, and the caches' names of the last results."""
        made = self._grown(point.batch, point.tokens, room=1)

        def run(tokens: mx.array) -> list[mx.array]:
            return self._next(self.model(tokens, cache=made))

        recorded = self._record(made, run, (point.batch, 1))
        return recorded, [name for name, _, _ in slots("c", made)]

    def append(self, point: Point) -> graph.Graph:
        """``join`` of one that is shorter than the batch by a step, and where there is room."""
        joins = self._grown(1, point.tokens - STEP, room=1)
        batch = self._grown(point.batch - 1, point.tokens, room=1)

        def run(tokens: mx.array) -> list[mx.array]:
            for mine, theirs in zip(batch, joins, strict=True):
                mine.extend(theirs)
            return self._next(self.model(tokens, cache=batch))

        return self._record(batch, run, (point.batch, 1), gone=joins)

    def leave(self, point: Point, *, cut: int = 0) -> graph.Graph:
        """One token for each after one more has left the batch (``GenerationBatch.filter``)."""
        made = self._grown(point.batch + 1, point.tokens, room=1)

        def run(tokens: mx.array) -> list[mx.array]:
            _keep(made, point.batch, cut)
            return self._next(self.model(tokens, cache=made))

        return self._record(made, run, (point.batch, 1))

    def trim(self, point: Point) -> graph.Graph:
        """The same of the longest, so that padding is cut off all others."""
        return self.leave(point, cut=1)

    def move(self, point: Point, *, spent: bool = False) -> graph.Graph:
        """The first token of prompts that go to the batch generated for, where others stay."""
        made = self._grown(point.batch, point.tokens - 1)

        def run(tokens: mx.array) -> list[mx.array]:
            _keep(made, point.batch)
            return self._next(self.model(tokens, cache=made))

        return self._record(made, run, (point.batch, 1), spent=spent)

    def go(self, point: Point) -> graph.Graph:
        """The same where none stays."""
        return self.move(point, spent=True)

    def roll(self, point: Point) -> graph.Graph:
        """Prompts of different lengths are pushed to the right (``finalize``)."""
        made = self._grown(point.batch, point.tokens)
        for cache in made:
            cache.prepare(
                lengths=[point.tokens] * point.batch,
                right_padding=[0] * (point.batch - 1) + [1],
            )

        def run(_: mx.array) -> list[mx.array]:
            for cache in made:
                cache.finalize()
            return []

        return self._record(made, run, (1, 1))

    @staticmethod
    def _next(out: mx.array) -> list[mx.array]:
        # generate.py, `GenerationBatch._step`
        last = out[:, -1, :]
        scores = last - mx.logsumexp(last, axis=-1, keepdims=True)
        return [scores, mx.argmax(scores, axis=-1)]

    def _grown(self, batch: int, tokens: int, *, room: int = 0) -> Caches:
        """The model's caches after ``tokens`` tokens of each of ``batch`` sequences.

        Of the last, where they keep all, ``room`` are yet to come.
        """
        made = self._empty(batch)
        for cache, example in zip(leaves(made), self.examples, strict=True):
            if hasattr(example, "keys"):
                if example.keys is None or tokens <= 0:
                    continue
                # Two pieces: a window is then at its steady length, not at its first.
                for piece in (tokens - STEP, STEP) if tokens > STEP else (tokens,):
                    cache.update_and_fetch(
                        *(
                            mx.zeros((batch, a.shape[1], piece, a.shape[3]), a.dtype)
                            for a in (example.keys, example.values)
                        )
                    )
            else:
                for at, array in enumerate(example.cache):
                    if array is not None:
                        cache[at] = mx.zeros((batch, *array.shape[1:]), array.dtype)
            if room and type(cache) is caches.BatchKVCache:
                cache.trim(room)  # type: ignore[no-untyped-call]
        for _, holder, key in slots("c", made):
            array = get(holder, key)
            put(holder, key, mx.zeros(array.shape, array.dtype))
        return made

    def _empty(self, batch: int) -> Caches:
        made: Caches = caches.make_prompt_cache(self.model)[: len(self.caches)]
        for cache in leaves(made):
            if self.within and hasattr(cache, "max_size"):
                cache.max_size = 2**30
        if self.merged:
            made = [cache.merge([copy.copy(cache)] * batch) for cache in made]
        return made

    def _record(
        self,
        made: Caches,
        function: Callable[[mx.array], list[mx.array]],
        tokens: tuple[int, int],
        *,
        gone: Caches | None = None,
        kept: Caches | None = None,
        spent: bool = True,
        model: bool = True,
    ) -> graph.Graph:
        weights = self.parameters if model else []
        places = [
            *weights,
            *slots("c", made),
            *slots("g", gone or []),
            *slots("k", kept or []),
        ]
        arrays = {name: get(holder, key) for name, holder, key in places}

        def run(tokens: mx.array, **given: mx.array) -> list[mx.array]:
            fill(places, [given[name] for name, _, _ in places])
            results = function(tokens)
            return [*results, *(get(holder, key) for _, holder, key in slots("c", made))]

        try:
            with recording.apart(), self.every.once(self.model.layers) as pieces:
                recorded = graph.record(
                    run,
                    {**arrays, "tokens": mx.zeros(tokens, mx.int32)},
                    lambda name: spent and name[:2] in {"c.", "g."},
                )
            return pieces.into(recorded)
        finally:
            fill(weights, [arrays[name] for name, _, _ in weights])


def _keep(made: Caches, batch: int, cut: int = 0) -> None:
    """``filter`` of every cache, which cannot be traced: it looks how much padding is left."""
    for _, holder, key in slots("c", made):
        put(holder, key, get(holder, key)[list(range(batch))])
    for cache in leaves(made):
        if cut and type(cache) is caches.BatchKVCache:
            held: list[Any] = [cache.keys, cache.values]
            cache.keys, cache.values = (array[..., cut:, :] for array in held)
            cache._idx -= cut  # noqa: SLF001 -- as its own `filter` does
