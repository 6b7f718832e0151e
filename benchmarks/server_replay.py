"""The server's batches, replayed token by token without a model: how long its caches are when.

A replica, in numbers only, of what ``BatchGenerator`` of mlx_lm 0.32.2 (``generate.py``) and its
caches (``server_batches.py``) do with lengths. ``planner_accuracy.py`` holds it against
the real ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.server_batches import Batch, Request
from planner.demand import Settings
from planner.program import Behind, Point
from planner.record import Record
from planner.traced import Rank, Traced

TOKEN = 4  # bytes of a token that was seen (`TokenBuffer`)
# Bytes of positions and paddings in a cache, and of each sequence there. An `ArraysCache` subtracts
# from its paddings at each token, 4 bytes at a time that nobody evaluates.
SMALL, SMALLER = 512, 16
# What else than a plan's evaluations is traced for: methods of `planner.hollow.passes.Passes`.
MOVES = ("prefill", "enter", "step", "still", "move", "go", "append", "leave", "trim")


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
        self.kept: deque[Entry] = deque()
        self.next_step = ""  # what comes with it: copies that nobody evaluated yet
        self.leaving = 0  # bytes that go with them
        self.staying = 0  # of prompts that go with the next chunk
        self.scores = (0, 0)  # rows of this step and of the next
        self.peak = 0
        self.changed = ""  # of prompts that joined or left, and nobody evaluated it yet
        self.running: list[tuple[str, Point, int]] = []  # evaluations that nobody waited for

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.prompts.requests or self.answers.requests)

    @property
    def held(self) -> int:
        alive = [*self.prompts.requests, *self.answers.requests]
        small = (SMALL + SMALLER * len(alive)) * sum(kind.count for kind in self.rank.kinds)
        # Those of the prompt, of this step and of the next.
        tokens = TOKEN * sum(request.prompt + 2 for request in self.answers.requests)
        caches = self.prompts.size + self.answers.size + stored(self.kept)
        scores = self.traced.logits_row_bytes * sum(self.scores)
        return self.rank.weights + caches + scores + tokens + small

    def next(self) -> Moment:
        """``BatchGenerator._next``."""
        self.peak = 0
        self.running = []
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
            settled=not self.next_step,
        )

    @property
    def _most(self) -> int:
        return max(self.settings.decode_concurrency, self.settings.prompt_concurrency)

    def _note(
        self,
        name: str = "",
        of: Batch | None = None,
        step: int = 1,
        more: int = 0,
        *,
        waits: bool = True,
    ) -> None:
        """An evaluation: what it needs comes on top of what is held after it.

        ``more`` are bytes that were held before it and no longer after it. Where the server does
        not wait for it, the device may still be at it in the next one.
        """
        over = 0
        if of is not None:
            behind, count = Behind(lag=self.lag), len(of.requests)
            # What copies caches copies all that they have room for.
            points = [Point(count, step, tokens) for tokens in {of.tokens, of.room}]
            over = max(
                self.traced.over(name, behind, point, longest=of.longest, after=self.running)
                for point in points
            )
            if waits:
                self.running = []
            else:
                self.running.append((name, max(points), of.longest))
        self.peak = max(self.peak, self.held + over + more)

    def _generate(self) -> None:
        answers = self.answers
        grows = answers.step()
        self.scores = (self.scores[1], len(answers.requests))
        # generate.py, `GenerationBatch._step`: a chunk does not wait for the token before it.
        step = "step" if grows and not self.next_step else self.next_step or "still"
        self._note(step, answers, more=self.leaving, waits=False)
        self.next_step, self.leaving = "", 0
        for request in answers.requests:
            request.answered += 1
        ends = [at for at, r in enumerate(answers.requests) if r.answered >= r.answer]
        batch = array_bytes(answers)
        for at in ends:
            # Evaluated when it is kept, while the batch that it leaves is still whole.
            self.kept.append(Entry(entry(self.rank, answers.requests[at].done), batch, ends))
            while len(self.kept) > self.settings.prompt_cache_entries:
                self.kept.popleft()
            self._note()
        if ends:
            before, index = answers.size, answers.tokens
            answers.keep([at for at in range(len(answers.requests)) if at not in ends])
            if answers.requests:
                self.next_step = "leave" if answers.tokens == index else "trim"
                # One that leaves is in the recording.
                one = answers.size // len(answers.requests)
                self.leaving = max(0, before - answers.size - one)
            else:
                self.scores = (self.scores[0], 0)

    def _admit(self) -> None:
        room = min(
            self.settings.prompt_concurrency - len(self.prompts.requests),
            self._most - len(self.answers.requests),
            len(self.waiting),
        )
        if room > 0:
            self.changed = "enter" if self.prompts.longest else ""
            # Views that those there have are copied with the next chunk only.
            self.staying = self.prompts.beyond
            self.prompts.add([self.waiting.popleft() for _ in range(room)])

    def _move(self) -> None:
        """From the prompts to those generated for."""
        ready = [at for at, r in enumerate(self.prompts.requests) if r.done == r.prompt - 1]
        if not ready:
            return
        before = self.prompts.size
        moved = self.prompts.split(ready)
        moved.step()
        stays = bool(self.prompts.requests)
        self.changed = "stay" if stays else ""
        # Whoever stays is copied with the next chunk only: until then all of it is there.
        self.staying = before + self.staying - self.prompts.size if stays else 0
        alone = replace(moved, lengths=[replace(it) for it in moved.lengths])
        longer = moved.tokens > self.answers.tokens and bool(self.answers.requests)
        first = not self.answers.requests
        self.answers.extend(moved)
        self.scores = (self.scores[0], self.scores[1] + len(alone.requests))
        self._note("move" if stays else "go", alone, more=self.staying, waits=False)
        if stays:  # one that went is in the recording
            one = self.prompts.size // len(self.prompts.requests)
            self.staying = max(0, self.staying - one)
        if not first:
            self.next_step = "join" if longer else "append"

    def _prompt(self) -> None:
        requests = self.prompts.requests
        chunk = [min(self.settings.prefill_step, r.prompt - 1 - r.done) for r in requests]
        before = self.prompts.beyond + self.staying
        self.staying = 0
        self.prompts.prompt(chunk)
        uneven = min(chunk) < max(chunk)
        name = self.changed or ("chunk" if uneven else "prefill")
        self.changed = ""
        self._note(name, self.prompts, max(chunk), more=before)
        if uneven:
            before = self.prompts.beyond
            self.prompts.finalize(chunk)
            self._note("roll", self.prompts, more=before - self.prompts.beyond)


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished sequence kept for reuse."""

    own: int
    shared: int  # bytes of arrays that it has slices of
    group: object  # those that have slices of the same


def stored(kept: Iterable[Entry]) -> int:
    """Bytes of all that are kept, what several have slices of counted once."""
    return sum(e.own for e in kept) + sum({id(e.group): e.shared for e in kept}.values())


def array_bytes(batch: Batch) -> int:
    """Bytes of a batch's array caches: a slice that they give out keeps all of them alive."""
    return len(batch.requests) * sum(kind.kept_bytes * kind.count for kind in batch.kinds)


def entry(rank: Rank, tokens: int) -> int:
    """Bytes that one finished sequence of ``tokens`` tokens has for itself."""
    return sum(
        kind.count * kind.token_bytes * (min(tokens, kind.window) if kind.window else tokens)
        for kind in rank.kinds
    )
