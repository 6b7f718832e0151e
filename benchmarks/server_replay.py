"""The server's batches, replayed token by token without a model: how long its caches are when.

A replica, in numbers only, of what ``BatchGenerator`` of mlx_lm 0.32.2 (``generate.py``) and its
caches (``server_batches.py``) do with lengths. ``planner_accuracy.py`` holds it against
the real ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from server_batches import Batch, Request

from planner.demand import Settings
from planner.record import Record
from planner.traced import Behind, Rank, Traced

TOKEN = 4  # bytes of a token that was seen (`TokenBuffer`)
SMALL, SMALLER = 512, 128  # bytes of positions and paddings in a cache, and of each sequence there


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
                Behind(lag=self.lag),
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
