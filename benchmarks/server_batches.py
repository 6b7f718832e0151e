"""Batches of sequences in numbers: how long the caches of each are, and how many bytes.

What the classes of mlx_lm 0.32.2 do with lengths: ``generate.py`` (``PromptProcessingBatch``,
``GenerationBatch``), ``models/cache.py`` (``BatchKVCache``, ``BatchRotatingKVCache``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from planner.traced import Kind

STEP = 256  # tokens by which a cache grows (`BatchKVCache.step`)


@dataclass
class Request:
    """One request: its prompt's tokens, how many it generates, how many its cache has seen."""

    prompt: int
    answer: int
    done: int = 0
    answered: int = 0


@dataclass
class Lengths:
    """One batch's caches of one kind: how many tokens they have room for, and where they are."""

    kind: Kind
    padding: list[int]  # tokens of padding on the left, of each sequence
    room: int | None = None  # None: empty
    index: int = 0
    offset: int = 0  # of a rotating cache: tokens ever seen
    viewed: int = 0  # bytes of one sequence that it keeps alive by a view

    @property
    def size(self) -> int:
        return (self.room or 0) * self.kind.token_bytes * len(self.padding) + self.beyond

    @property
    def beyond(self) -> int:
        """Of its bytes, those that go when it is copied."""
        return self.viewed * len(self.padding)

    def update(self, tokens: int, *, uneven: bool = False) -> None:
        """``update_and_fetch``."""
        of_arrays = uneven and self.kind.kind == "arrays"
        rate = self.kind.viewed_uneven_bytes if of_arrays else self.kind.viewed_bytes
        self.viewed = tokens * rate if self._views(tokens) else 0
        if self.kind.kind == "arrays" and tokens == 1:
            self.viewed = self.kind.step_bytes
        if self.kind.kind == "rotating":
            self._rotate(tokens)
            return
        if self.room is None or self.index + tokens > self.room:
            grown = -(-tokens // STEP) * STEP
            held = self.room or 0
            self.room = (self.index if self.index % STEP else held) + grown
        self.index += tokens

    def _views(self, tokens: int) -> bool:
        """Whether what comes is kept as it is, and not copied into the cache."""
        if self.kind.kind == "arrays":
            return True
        if self.room is not None:
            return False
        return tokens > 1 if self.kind.kind == "rotating" else tokens % STEP == 0

    def _rotate(self, tokens: int) -> None:
        window = self.kind.window
        if tokens > 1:
            kept = 0 if self.room is None else min(self.index, window - 1)
            self.room = kept + tokens
            self.index = self.room
        else:
            if self.room is None or (self.offset >= self.room and self.room < window):
                self.room = (self.room or 0) + min(STEP, window - self.offset)
                self.index = self.offset
            if self.room > window:
                self.room = self.index = window
            self.index = 1 if self.index == window else self.index + 1
        self.offset += tokens

    def finalize(self, padding: Sequence[int]) -> None:
        self.padding = [a + b for a, b in zip(self.padding, padding, strict=True)]
        if self.kind.kind != "arrays":
            self.viewed = 0

    def extend(self, other: Lengths) -> None:
        self.viewed = 0
        index = max(self.index, other.index)
        self.padding = [p + index - self.index for p in self.padding] + [
            p + index - other.index for p in other.padding
        ]
        if self.room is not None or other.room is not None:
            self.room = max(self.room or 0, other.room or 0)
        self.index = index
        self.offset = max(self.offset, other.offset)

    def keep(self, which: Sequence[int]) -> None:
        """``filter``."""
        self.viewed = 0
        self.padding = [self.padding[at] for at in which]
        least = min(self.padding, default=0)
        if least > 0 and self.kind.kind != "rotating":
            self.room = None if self.room is None else self.room - least
            self.index -= least
            self.padding = [p - least for p in self.padding]


@dataclass
class Batch:
    """Sequences whose caches lie in one batch."""

    kinds: Sequence[Kind]
    lengths: list[Lengths] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all caches."""
        fixed = sum(kind.fixed_bytes * kind.count for kind in self.kinds)
        fixed *= len(self.requests) if any(s.done for s in self.requests) else 0
        return fixed + sum(it.size * it.kind.count for it in self.lengths)

    @property
    def beyond(self) -> int:
        """Of its bytes, those that go when caches are copied."""
        return sum(it.beyond * it.kind.count for it in self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens of the longest, in caches that keep them all."""
        kept = [it.index for it in self.lengths if not it.kind.window]
        return max(kept, default=self.longest)

    @property
    def longest(self) -> int:
        """Tokens of the longest in any cache, those that went out of its window included."""
        return max(
            (it.offset if it.kind.window else it.index for it in self.lengths),
            default=0,
        )

    @property
    def room(self) -> int:
        """Tokens for which caches that keep them all have room."""
        rooms = [it.room or 0 for it in self.lengths if not it.kind.window]
        return max(rooms, default=self.longest)

    def add(self, requests: Sequence[Request]) -> None:
        """Join sequences that have no cache yet."""
        other = Batch(self.kinds)
        other.requests = list(requests)
        other.lengths = [Lengths(kind, [0] * len(requests)) for kind in self.kinds]
        self.extend(other)

    def extend(self, other: Batch) -> None:
        if not self.requests:
            self.lengths = other.lengths
        else:
            for mine, theirs in zip(self.lengths, other.lengths, strict=True):
                mine.extend(theirs)
        self.requests = [*self.requests, *other.requests]

    def split(self, which: Sequence[int]) -> Batch:
        """Take ``which`` out into a batch of their own."""
        out = Batch(self.kinds)
        out.requests = [self.requests[at] for at in which]
        out.lengths = [
            Lengths(it.kind, list(it.padding), it.room, it.index, it.offset) for it in self.lengths
        ]
        for it in out.lengths:
            it.keep(which)
        self.keep([at for at in range(len(self.requests)) if at not in which])
        return out

    def keep(self, which: Sequence[int]) -> None:
        self.requests = [self.requests[at] for at in which]
        if not which:
            self.lengths = []
        for it in self.lengths:
            it.keep(which)

    def prompt(self, tokens: Sequence[int]) -> None:
        """``PromptProcessingBatch.prompt``, its first half: so many tokens of each, padded."""
        for it in self.lengths:
            it.update(max(tokens), uneven=min(tokens) < max(tokens))
        for request, n in zip(self.requests, tokens, strict=True):
            request.done += n

    def finalize(self, tokens: Sequence[int]) -> None:
        """Its second half, where prompts are uneven: the padding goes to the left."""
        for it in self.lengths:
            it.finalize([max(tokens) - n for n in tokens])

    def step(self) -> bool:
        """One token of each; whether a cache had to grow."""
        before = [it.room for it in self.lengths]
        for it in self.lengths:
            it.update(1)
        for request in self.requests:
            request.done += 1
        return before != [it.room for it in self.lengths]
