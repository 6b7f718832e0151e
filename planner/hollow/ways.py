"""A model's passes as polynomials in sequences and tokens, whatever their graphs depend on.

One recording for any step; where the graph depends on that, one for each that a plan sets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from planner.demand import PREFILL_STEPS
from planner.hollow import work
from planner.hollow.graph import Graph
from planner.hollow.model import Refused
from planner.hollow.passes import STEP, Passes
from planner.hollow.symbols import Unclear, primes
from planner.program import Point
from planner.traced import Processor

FEW = 16  # tokens of a step that tell what each of more adds
RESTS = (8, 2)  # the rest of a prompt, of all layers: what a device may be behind by most
BY_TOKEN = (min(PREFILL_STEPS),)  # to record some layers at
Record = Callable[[Point], Graph]


class Ways:
    """The ways to record one model's passes."""

    def __init__(
        self,
        dimensions: Collection[int],
        windows: Collection[int],
        *,
        batched: bool,
        states: bool,
    ) -> None:
        """Of a model with these ``dimensions``, whose caches have these ``windows``.

        ``states``: they have more than keys and values, too, which only can need a part of the
        graph for each token, or for each so many.
        """
        self.batched = batched
        self.states = states
        self.prime = primes(dimensions, batched=batched)
        self.by_token = False  # whether the graph has a part for each token
        self.any_step = True  # whether it is the same whatever the step
        small = {0, 1, 2, 3, 4, -1, -2, -3, -4}
        around = {STEP * n + d for n in (-1, 0, 1) for d in (-2, -1, 0, 1, 2)}
        self.edges = small | around | {w + d for w in windows for d in (-2, -1, 0, 1)}
        self.far = -(-max(windows, default=0) // STEP) * STEP

    def look(self, server: Passes, name: str) -> None:
        """Whether the graph of a chunk has a part for each token, or for each so many of them.

        As some layers have it, which are of all kinds. ``name`` is the method of ``server`` that
        records a chunk.
        """
        if not self.states:
            return

        def differ(*points: Point) -> bool:
            return len({len(getattr(fewer, name)(point).operations) for point in points}) > 1

        with server.fewer(server.told.kinds) as fewer:
            # Short ones first: with a part for each token, long ones take long.
            self.by_token = differ(*self._short)
            batch, tokens = self._short[0].batch, self.far + 4096
            self.any_step = not self.by_token and not differ(
                *(Point(batch, step, tokens) for step in (2 * STEP, 3 * STEP))
            )

    @property
    def _short(self) -> tuple[Point, Point]:
        """A few tokens, and one more.

        Experts, which are sorted from 64 tokens of all sequences on, are so at both or at none.
        Nothing is cached before them, so that nothing hides what is left.
        """
        one, more = (Point(2 if self.batched else 1, step, step) for step in (FEW, FEW + 1))
        return one, more

    def left(self, server: Passes, name: str) -> int:
        """Of a part for each token: bytes of each that layers leave to the end of a pass.

        Those that ``server.fewer`` is without.
        """
        over = [0, 0]
        for count, often in server.alike.sum.items():
            with server.fewer(count) as some:
                for at, point in enumerate(self._short):
                    over[at] += often * work.alone(getattr(some, name)(point))
        one, more = over
        return -(-max(0, more - one) // self._short[0].batch)

    def program(
        self,
        record: Record,
        processor: Processor,
        *,
        step: int | None = None,
        empty: bool = False,
        check: Record | None = None,
    ) -> dict[str, Any]:
        """What ``record`` records, for ``processor``; ``step`` where it is always that.

        ``empty``: it may go into empty caches, too. ``check`` records the same of layers of all
        kinds, which is compared with a second recording; None where others were.
        """
        if self.any_step or step:
            try:
                prime = self.prime._replace(
                    step=step or self.prime.step, tokens=self.prime.tokens + (step == 1)
                )
                if check:
                    self._confirm(check, prime, step or 3 * STEP)
                return self._recorded(record, processor, prime, empty=empty)
            except Unclear:
                self.any_step = False  # nor are others: they are of the same parts
        steps = (step,) if step else (*PREFILL_STEPS, *RESTS)
        return self.for_each(record, processor, steps, empty=empty, check=check)

    def for_each(
        self,
        record: Record,
        processor: Processor,
        steps: Sequence[int],
        *,
        empty: bool = False,
        check: Record | None = None,
    ) -> dict[str, Any]:
        """A recording at each of ``steps``, of any sequences and tokens in their caches.

        Raises Refused where one recording does not tell of others.
        """
        made: dict[int, dict[str, Any]] = {}
        for step in steps:
            where = Point(self.prime.batch, step, self.prime.tokens + (step == 1))
            empties = empty and step in PREFILL_STEPS
            try:
                if check and not made:
                    self._confirm(check, where, step, number=True)
                made[step] = self._recorded(record, processor, where, empty=empties, number=True)
            except Unclear as error:
                raise Refused(
                    f"what it takes cannot be told from one context to another: {error}"
                ) from None
        return {"steps": made}

    def of_some(self, record: Record, processor: Processor, left: int) -> dict[str, Any]:
        """Chunks of a model, by what ``record`` records of some of its layers.

        All of them at many tokens would take long. What a device can be behind by is in some; what
        a layer leaves to the end of the pass, as caches do that are gathered from uneven prompts,
        is as much (``left``) for each token of however many, and of those before them in a
        convolution.
        """
        made = self.for_each(record, processor, BY_TOKEN)["steps"]
        held = {step: work.holding(one, left * (step + FEW)) for step, one in made.items()}
        return {"steps": held}

    def _recorded(
        self,
        record: Record,
        processor: Processor,
        where: Point,
        *,
        empty: bool,
        number: bool = False,
    ) -> dict[str, Any]:
        """``number``: the step is one, and S is 1; what is cached before it is T less the step."""
        graph = record(where)
        rows = self._read_off(graph, where, number=number)
        made = work.program(graph, rows, processor)
        if empty and not self.far:
            # There is less to do then, so that the device is more layers behind, with all that is
            # in them.
            first = where._replace(tokens=where.step)
            alone = self._recorded(record, processor, first, empty=False, number=number)
            made = work.either(made, alone)
        return made

    def _read_off(self, graph: Graph, where: Point, *, number: bool) -> work.Rows:
        if not number:
            return work.read_off(graph, where, self.edges)
        known = where._replace(step=1, tokens=1 if where.tokens == where.step else where.tokens)
        edges = self.edges | {edge - where.step for edge in self.edges}
        return work.read_off(graph, known, edges)

    def _confirm(self, record: Record, where: Point, step: int, *, number: bool = False) -> None:
        """Raise Unclear if what is read off at a point is not what there is at another.

        That has many sequences, for experts are sorted from 64 tokens on.
        """
        batch = (3 if step >= STEP else 71) if self.batched else 1
        second = Point(batch, step, self.far + 4096 + (step == 1))
        graph = record(where)
        rows = self._read_off(graph, where, number=number)
        # What depends on neither sequences nor tokens in whole parts is as large as it is here.
        there = second._replace(step=1) if number else second
        work.agree(graph, rows, record(second), there, least=number)
