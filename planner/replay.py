"""The server's batches, replayed token by token without a model: how long its caches are when.

A replica, in numbers only, of what the classes of mlx_lm 0.32.2 do with lengths
(``generate.py``: ``BatchGenerator``; ``models/cache.py``: ``BatchKVCache``,
``BatchRotatingKVCache``). ``benchmarks/planner_accuracy.py`` holds it against the real ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from planner.demand import Settings
from planner.record import Record
from planner.traced import Kind, Rank, Traced

TOKEN = 4  # bytes of a token that was seen (`TokenBuffer`)
SMALL, SMALLER = 512, 128  # bytes of positions and paddings in a cache, and of each sequence there
STEP = 256  # tokens by which a cache grows (`BatchKVCache.step`)


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
        """Tokens of the longest in any cache, those of a window included."""
        return max(
            (min(it.offset, it.room or 0) if it.kind.window else it.index for it in self.lengths),
            default=0,
        )

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

    def step(self) -> None:
        for it in self.lengths:
            it.update(1)
        for request in self.requests:
            request.done += 1


@dataclass
class Request:
    """One request: its prompt's tokens, how many it generates, how many its cache has seen."""

    prompt: int
    answer: int
    done: int = 0
    answered: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment(Record):
    """After one call of ``BatchGenerator.next``: what is held, and the worst on the way there."""

    held: int  # weights, caches, kept sequences
    peak: int
    alive: int  # sequences
    settled: bool  # nothing is left for the next evaluation to copy


def replay(
    traced: Traced,
    rank: Rank,
    settings: Settings,
    requests: Sequence[tuple[int, int, int]],
    *,
    lag: int,
) -> Iterator[Moment]:
    """Serve ``requests`` (call at which it arrives, prompt's tokens, answer's tokens).

    ``lag`` is that of ``planner.demand.Device``. Yields after each call of the batch generator's.
    """
    server = _Server(traced, rank, settings, lag)
    arriving = deque(sorted(requests))
    call = 0
    while arriving or server.busy:
        while arriving and arriving[0][0] <= call:
            _, prompt, answer = arriving.popleft()
            server.waiting.append(Request(prompt, answer))
        call += 1
        yield server.next()


class _Server:
    """``BatchGenerator`` and the prompt cache, in numbers."""

    def __init__(self, traced: Traced, rank: Rank, settings: Settings, lag: int) -> None:
        self.traced = traced
        self.rank = rank
        self.settings = settings
        self.lag = lag
        self.prompts = Batch(rank.kinds)
        self.answers = Batch(rank.kinds)
        self.waiting: deque[Request] = deque()
        self.kept: deque[int] = deque()
        self.joined = False  # copies that come with the next step
        self.peak = 0
        self.flying = 0  # over what is held, of a token that is still on its way
        self.widest = 0  # batch so far

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.prompts.requests or self.answers.requests)

    @property
    def held(self) -> int:
        # Of this step and of the next. They are slices, which keep the widest batch alive.
        scores = 2 * self.traced.logits_row_bytes * self.widest
        tokens = sum(TOKEN * request.prompt for request in self.answers.requests)
        small = (SMALL + SMALLER * self.widest) * sum(kind.count for kind in self.rank.kinds)
        caches = self.prompts.size + self.answers.size + sum(self.kept)
        return self.rank.weights + caches + scores + tokens + small

    def next(self) -> Moment:
        """``BatchGenerator._next``."""
        self.peak = self.flying = 0
        if self.answers.requests:
            self._generate()
        if len(self.answers.requests) < self._most:
            self._admit()
            self._move()
            if self.prompts.requests:
                self._prompt()
        return Moment(
            held=self.held,
            peak=max(self.peak, self.held),
            alive=len(self.prompts.requests) + len(self.answers.requests),
            settled=not self.joined,
        )

    @property
    def _most(self) -> int:
        return max(self.settings.decode_concurrency, self.settings.prompt_concurrency)

    def _note(self, name: str = "", of: Batch | None = None, step: int = 1, more: int = 0) -> int:
        """An evaluation: what it needs comes on top of what is held after it.

        ``more`` are bytes that were held before it and no longer after it.
        """
        over = 0
        if of is not None:
            over = self.traced.over(
                name,
                self.lag,
                batch=len(of.requests),
                step=step,
                tokens=of.tokens,
                longest=of.longest,
            )
        self.peak = max(self.peak, self.held + over + more + self.flying)
        return over

    def _generate(self) -> None:
        answers = self.answers
        answers.step()
        self._note("join" if self.joined else "step", answers)
        self.joined = False
        for request in answers.requests:
            request.answered += 1
        ends = [at for at, r in enumerate(answers.requests) if r.answered >= r.answer]
        for at in ends:
            # Evaluated when it is kept, while the batch that it leaves is still whole.
            self.kept.append(
                entry(self.rank, answers.requests[at].done, batch=len(answers.requests))
            )
            self._note()
            while len(self.kept) > self.settings.prompt_cache_entries:
                self.kept.popleft()
        if ends:
            answers.keep([at for at in range(len(answers.requests)) if at not in ends])
            self.joined = True

    def _admit(self) -> None:
        room = min(
            self.settings.prompt_concurrency - len(self.prompts.requests),
            self._most - len(self.answers.requests),
            len(self.waiting),
        )
        if room > 0:
            self.prompts.add([self.waiting.popleft() for _ in range(room)])

    def _move(self) -> None:
        """From the prompts to those generated for."""
        ready = [at for at, r in enumerate(self.prompts.requests) if r.done == r.prompt - 1]
        if not ready:
            return
        more = self.prompts.beyond
        moved = self.prompts.split(ready)
        moved.step()
        alone = replace(moved, lengths=[replace(it) for it in moved.lengths])
        self.answers.extend(moved)
        self.widest = max(self.widest, len(self.answers.requests))
        # generate.py, `GenerationBatch._step`: the chunk after it does not wait for it
        self.flying = self._note("join", alone, more=more)
        self.joined = True

    def _prompt(self) -> None:
        requests = self.prompts.requests
        chunk = [min(self.settings.prefill_step, r.prompt - 1 - r.done) for r in requests]
        before = self.prompts.beyond
        self.prompts.prompt(chunk)
        self._note("prefill", self.prompts, max(chunk), more=before)
        if min(chunk) < max(chunk):
            self._note("uneven", self.prompts, max(chunk), more=before)
            before = self.prompts.beyond
            self.prompts.finalize(chunk)
            self._note("roll", self.prompts, more=before - self.prompts.beyond)


def entry(rank: Rank, tokens: int, *, batch: int) -> int:
    """One finished sequence of ``tokens`` tokens out of a batch, kept for reuse.

    What an ``ArraysCache`` gives out is a slice, which keeps the batch's array alive.
    """
    total = 0
    for kind in rank.kinds:
        held = min(tokens, kind.window) if kind.window else tokens
        total += kind.count * (kind.token_bytes * held + kind.fixed_bytes * batch)
    return total
