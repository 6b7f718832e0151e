"""A model's passes as polynomials, by whichever of two ways holds for its architecture."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

from planner.hollow import work
from planner.hollow.graph import Graph
from planner.hollow.passes import STEP
from planner.hollow.symbols import Unclear, primes
from planner.program import Point

BY_TOKEN = 64  # the first step to record at where the graph has a part for each token
FEW = 16  # tokens of a step at which two such graphs are compared
FAR = (2**16, 2**17)  # tokens at which attention takes more than anything else, in any architecture
NEAR = (STEP, 2 * STEP)  # those at which it hides nothing
Record = Callable[[Point], Graph]
Few = dict[Point, work.Counted]


class Ways:
    """Two ways to a polynomial: read off the shapes, or fitted to small numbers."""

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
        graph for each token.
        """
        self.batched = batched
        self.batches = (2, 3) if batched else (1,)  # to fit to
        self.states = states
        self.prime = primes(dimensions, batched=batched)
        self.clear = True  # whatever was recorded yet could be read off
        self.unrolled = 0  # the first step to record at where the graph grows with the step
        small = {0, 1, 2, 3, 4, -1, -2, -3, -4}
        around = {STEP * n + d for n in (-1, 0, 1) for d in (-2, -1, 0, 1, 2)}
        self.edges = small | around | {w + d for w in windows for d in (-2, -1, 0, 1)}
        self.far = -(-max(windows, default=0) // STEP) * STEP
        # A step so long that no device is behind by all parts for its tokens, and that is not taken
        # for a dimension of the model's; 0 where there is none.
        free = (
            n
            for n in (113, 109, 107, 103, 101, 97, 89, 83, 79, 73, 127, 131, 137, 139, 149)
            if all(size % n and size - n not in self.edges for size in dimensions if size)
        )
        self.middle = next(free, 0)

    @property
    def by_token(self) -> bool:
        """Whether the graph has a part for each token."""
        return self.unrolled == BY_TOKEN

    def look(self, record: Record) -> None:
        """Whether the graph of ``record`` has a part for each token, or for each chunk of them."""
        if not self.states:
            return
        # Short ones first: with a part for each token, long ones take long. Experts, which are
        # sorted from 64 tokens of all sequences on, are so at both or at none.
        for first, *steps in ((BY_TOKEN, FEW, FEW + 1), (STEP, 2 * STEP, 3 * STEP)):
            points = [Point(2 if self.batched else 1, step, self.far + 4096) for step in steps]
            one, more = (len(record(point).operations) for point in points)
            if one != more:
                self.unrolled = first
                return

    def program(
        self,
        record: Record,
        lags: Sequence[int],
        *,
        step: int | None = None,
        empty: bool = False,
        checked: bool = True,
    ) -> dict[str, Any]:
        """The polynomials of what ``record`` records; ``step`` where it is always that.

        ``empty``: it may go into empty caches, too; ``checked``: by a second recording.
        """
        if self.clear and (step or not self.unrolled):
            try:
                return self._read_off(record, lags, step, empty=empty, checked=checked)
            except Unclear:
                self.clear = False  # nor are those that are not checked: they are of the same parts
        return self._fitted(record, lags, step, checked=checked)

    def _read_off(
        self, record: Record, lags: Sequence[int], step: int | None, *, empty: bool, checked: bool
    ) -> dict[str, Any]:
        others = self._others(record, step or 3 * STEP) if checked else []
        prime = self.prime._replace(
            step=step or self.prime.step, tokens=self.prime.tokens + (step == 1)
        )
        made = work.program(record(prime), prime, self.edges, others, lags)
        if empty and not self.far:
            # There is less to do then, so that the device is more layers behind, with all that is
            # in them.
            first = prime._replace(tokens=prime.step)
            alone = work.program(record(first), first, self.edges, (), lags)
            made = work.either(made, alone)
        return made

    def _others(self, record: Record, step: int) -> list[tuple[Graph, Point]]:
        """A second recording; of many sequences, for experts are sorted from 64 tokens on."""
        batch = (3 if step >= STEP else 71) if self.batched else 1
        second = Point(batch, step, self.far + 4096 + (step == 1))
        return [(record(second), second)]

    def _fitted(
        self, record: Record, lags: Sequence[int], step: int | None, *, checked: bool
    ) -> dict[str, Any]:
        by_token = self.by_token and not step
        steps = (
            (step,) if step else (BY_TOKEN, self.middle or 112) if by_token else (STEP, 4 * STEP)
        )
        far = self.far + (step == 1)
        seen: dict[Point, work.Counted] = {}
        for at in steps:
            contexts = [far + more for more in FAR]
            if not step and not by_token:
                contexts += [far + at + more for more in NEAR]
            check = checked and at == steps[0]
            seen |= self.counted(record, lags, at, contexts, checked=check)
            shortest = far + (STEP + 1 if step else at)
            seen |= self.counted(record, lags, at, [0], tokens=shortest)
        # Where attention takes the most; where it takes the least, so that what else there is takes
        # the most, which is then the same for any context; where it takes little.
        long = [point for point in seen if point.tokens - far in FAR]
        least = [point for point in seen if not point.tokens]
        near = [point for point in seen if point not in {*long, *least}]
        live = {
            lag: [
                work.fitted({point: seen[point].peaks[lag] for point in grid})
                for grid in (long, near, least)
                if grid
            ]
            for lag in lags
        }
        reads = work.fitted({point: seen[point].reads for point in long})
        made = {"live": live, "kernels": min(seen[point].kernels for point in long), "reads": reads}
        return self._between(made, record, lags) if by_token else made

    def counted(
        self,
        record: Record,
        lags: Sequence[int],
        step: int,
        contexts: Sequence[int],
        *,
        tokens: int = 0,
        checked: bool = False,
    ) -> dict[Point, work.Counted]:
        """What ``record`` takes at ``contexts``; with ``tokens`` in the cache for all of them.

        One recording is enough where sizes are polynomials in sequences and tokens.
        """
        points = [Point(batch, step, context) for batch in self.batches for context in contexts]
        if self.clear:
            # The step is a number, and S is 1; what is cached before it is T less that number.
            where = Point(self.prime.batch, step, tokens or self.prime.tokens)
            known = where._replace(step=1, tokens=1 if tokens else where.tokens)
            edges = self.edges | {edge - step for edge in self.edges}
            graph = record(where)
            others = self._others(record, step) if checked else []
            try:
                rows = work.read_off(
                    graph, known, edges, [(other, at._replace(step=1)) for other, at in others]
                )
                said = work.counted(graph, lags, rows, [at._replace(step=1) for at in points])
                return dict(zip(points, said.values(), strict=True))
            except Unclear:
                self.clear = False
        made: dict[Point, work.Counted] = {}
        for point in points:
            graph = record(point._replace(tokens=tokens or point.tokens))
            made |= work.counted(graph, lags, work.as_recorded(graph), [point])
        return made

    def few(self, record: Record, lags: Sequence[int]) -> Few:
        """At a few tokens, when the device is behind by the most of what is no part for one."""
        contexts = [self.far + more for more in (*FAR, *NEAR)]
        return self.counted(record, lags, FEW, contexts, checked=True)

    def more(
        self, known: dict[str, Any], few: Few, record: Record, lags: Sequence[int]
    ) -> dict[str, Any]:
        """What ``record`` takes, of which a part is ``known``, and at ``few`` tokens, too."""
        mine = self.few(record, lags)
        live = {}
        for lag in lags:
            over = {at: mine[at].peaks[lag] - few[at].peaks[lag] for at in mine}
            extras = [
                work.fitted({at: it for at, it in over.items() if at.tokens - self.far in contexts})
                for contexts in (FAR, NEAR)
            ]
            rows = known["live"][lag]
            live[lag] = [*rows, *(work.total(row, extra) for row in rows for extra in extras)]
        made = {"live": live, "kernels": known["kernels"], "reads": known["reads"]}
        return self._between(made, record, lags)

    def _between(self, made: dict[str, Any], record: Record, lags: Sequence[int]) -> dict[str, Any]:
        """And what layers without a part for each token take, which is read off the shapes.

        Between the shortest context and one where attention takes more than all else, theirs is the
        worst moment, and no fit of a few points has it. Those with such parts are as they are at
        this step, by which the device can be behind.
        """
        if not self.middle:
            return made
        point = Point(self.prime.batch, self.middle, self.prime.tokens)
        with contextlib.suppress(Unclear):
            made = work.either(made, work.program(record(point), point, self.edges, (), lags))
        return made
