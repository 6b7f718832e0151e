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

BY_TOKEN = (64, 112)  # steps to record at where the graph has a part for each token
FEW = 16  # tokens of a step at which two such graphs are compared
FAR = (2**16, 2**17)  # tokens at which attention takes more than anything else, in any architecture
Record = Callable[[Point], Graph]
Few = dict[Point, dict[int, int]]


class Ways:
    """Two ways to a polynomial: read off the shapes, or fitted to small numbers."""

    def __init__(
        self,
        dimensions: Collection[int],
        windows: Collection[int],
        *,
        batched: bool,
        states: bool,
        checked: bool,
    ) -> None:
        """Of a model with these ``dimensions``, whose caches have these ``windows``.

        ``states``: they have more than keys and values, too, which only can need a part of the
        graph for each token; ``checked``: by second recordings, wherever that is asked for.
        """
        self.checked = checked
        self.batched = batched
        self.states = states
        self.prime = primes(dimensions, batched=batched)
        self.unrolled = 0  # the first step that prompts are recorded at where they are fitted
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
        return self.unrolled == BY_TOKEN[0]

    def look(self, record: Record) -> None:
        """Whether the graph of ``record`` has a part for each token, or for each chunk of them."""
        if not self.states:
            return
        # Short ones first: with a part for each token, long ones take minutes.
        for first, *steps in ((BY_TOKEN[0], 40, 41), (STEP, 2 * STEP, 3 * STEP)):
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
        if step or not self.unrolled:
            try:
                return self._read_off(record, lags, step, empty=empty, checked=checked)
            except Unclear:
                # Nor are those that are not checked, for they are of the same parts.
                self.unrolled = self.unrolled if step else STEP
        return self._fitted(record, lags, step)

    def _read_off(
        self, record: Record, lags: Sequence[int], step: int | None, *, empty: bool, checked: bool
    ) -> dict[str, Any]:
        others = []
        if checked and self.checked:
            # Many sequences: experts are sorted from 64 tokens on, and that takes the most.
            batch = (71 if step else 3) if self.batched else 1
            second = Point(batch, step or 3 * STEP, self.far + 4096 + (step == 1))
            others = [(record(second), second)]
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

    def _fitted(self, record: Record, lags: Sequence[int], step: int | None) -> dict[str, Any]:
        steps = (step, step) if step else BY_TOKEN if self.by_token else (STEP, 4 * STEP)
        batches = (2, 3) if self.batched else (1, 1)
        far = self.far + (step == 1)
        # By point of the polynomial, the tokens to record at. Where attention takes the most; where
        # it takes little; where it takes the least, so that what else there is takes the most,
        # which is then the same for any context.
        long = {(at, far + more): far + more for at in steps for more in FAR}
        near = {(at, far + at + more): far + at + more for at in steps for more in (STEP, 2 * STEP)}
        least = {(at, 0): far + (STEP + 1 if step else at) for at in steps}
        chunked = not step and not self.by_token
        grids = [long, near, least] if chunked else [long, least]
        rows: list[dict[int, dict[str, int]]] = []
        reads: dict[str, int] = {}  # counted on a GPU only
        kernels = 0
        for grid in grids:
            # Each graph is let go before the next is recorded.
            seen = {
                Point(batch, step, label): work.counted(record(Point(batch, step, tokens)), lags)
                for batch in dict.fromkeys(batches)
                for (step, label), tokens in grid.items()
            }
            rows.append(
                {lag: work.fitted({p: it.peaks[lag] for p, it in seen.items()}) for lag in lags}
            )
            if not reads:
                reads = work.fitted({point: it.reads for point, it in seen.items()})
                kernels = min(it.kernels for it in seen.values())
        live = {lag: [row[lag] for row in rows] for lag in lags}
        made = {"live": live, "kernels": kernels, "reads": reads}
        if not step and self.by_token:
            with contextlib.suppress(Unclear):
                made = work.either(made, self._between(record, lags))
        return made

    def few(self, record: Record, lags: Sequence[int]) -> list[Few]:
        """Peaks by lag at a few tokens, when the device is behind by the most of what is no part.

        At long contexts, and at short ones, where attention hides nothing.
        """
        batches = dict.fromkeys((2, 3) if self.batched else (1,))
        grids = [
            [Point(batch, FEW, self.far + more) for batch in batches for more in tokens]
            for tokens in (FAR, (STEP, 2 * STEP))
        ]
        return [{at: work.counted(record(at), lags).peaks for at in grid} for grid in grids]

    def more(
        self, known: dict[str, Any], few: Sequence[Few], record: Record, lags: Sequence[int]
    ) -> dict[str, Any]:
        """What ``record`` takes, of which a part is ``known``, and at ``few`` tokens, too."""
        pairs = list(zip(self.few(record, lags), few, strict=True))
        live = {}
        for lag in lags:
            extras = [
                work.fitted({at: mine[at][lag] - plain[at][lag] for at in mine})
                for mine, plain in pairs
            ]
            rows = known["live"][lag]
            live[lag] = [*rows, *(work.total(row, extra) for row in rows for extra in extras)]
        made = {"live": live, "kernels": known["kernels"], "reads": known["reads"]}
        with contextlib.suppress(Unclear):
            made = work.either(made, self._between(record, lags))
        return made

    def _between(self, record: Record, lags: Sequence[int]) -> dict[str, Any]:
        """What layers without a part for each token take, which is read off the shapes.

        Between the shortest context and one where attention takes more than all else, theirs is the
        worst moment, and no fit of a few points has it. Those with such parts are as they are at
        this step, by which the device can be behind.
        """
        if not self.middle:
            raise Unclear("no step is far enough from the model's dimensions")
        point = Point(self.prime.batch, self.middle, self.prime.tokens)
        return work.program(record(point), point, self.edges, (), lags)
