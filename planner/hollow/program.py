"""A model's passes as polynomials, by whichever of two ways holds for its architecture."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from planner.hollow import passes, recording, work
from planner.hollow.graph import Graph
from planner.hollow.model import leaves
from planner.hollow.symbols import Unclear, primes
from planner.program import Point

STEP = passes.STEP
BY_TOKEN = (64, 112)  # steps to record at where the graph has a part for each token
FEW = 16  # tokens of a step at which two such graphs are compared
FAR = (2**16, 2**17)  # tokens at which attention takes more than anything else, in any architecture
CHUNKS = ("prefill", "enter")  # which of the moves are of a prompt, not of a token
EMPTY = ("chunk", "prefill")  # which may be the first of a prompt
Record = Callable[[Point], Graph]
Programs = dict[str, dict[str, Any]]


def programs(
    model: Any,  # noqa: ANN401
    examples: Sequence[Any],
    *,
    merged: bool,
    batched: bool,
    chunks: Collection[str] = work.DEVICES,
    tokens: Collection[str] = work.DEVICES,
    fused: bool = True,
    moves: Sequence[str] = (),
) -> Programs:
    """What the server's evaluations need over weights and caches.

    ``merged``: the server generates in batches; ``batched``: of more than one sequence; ``chunks``
    and ``tokens``: the devices for which those of prompts and those of generation are wanted;
    ``fused``: some GPU has a kernel for its attention; ``moves``: further methods of ``Passes``
    that a plan has no use for: ``join`` and ``admit`` take at least as much.

    ``chunk`` of prompts, ``admit`` after one more has joined those being read, ``stay`` after one
    has left them; on a CPU as they are called, ``… kernels`` on a GPU, ``… fused`` on one with a
    kernel for attention; ``join`` of a sequence to those generated for, which takes more than a
    ``step`` where nobody can join; ``roll`` of uneven prompts.
    """
    flat: Any = tree_flatten(model.parameters())
    windows = {
        int(size)
        for cache in leaves(list(examples))
        for name in ("max_size", "chunk_size")
        if (size := getattr(cache, name, None))
    }
    asked = _Asked(
        dimensions=frozenset(length for _, array in flat for length in array.shape),
        batched=batched,
        chunks=frozenset(chunks),
        tokens=frozenset(tokens),
        fused=fused,
        states=not all(hasattr(cache, "keys") for cache in leaves(list(examples))),
        moves=tuple(moves) if batched else (),
    )
    made = _all(passes.Passes(model, examples, merged=merged), _Ways(asked, windows))
    if any(hasattr(cache, "max_size") for cache in leaves(list(examples))):
        near = passes.Passes(model, examples, merged=merged, within=True)
        within = _all(near, _Ways(asked, set()))
        made |= {f"{name} within": program for name, program in within.items()}
    return {name: work.packed(program) for name, program in made.items()}


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is asked, and of what model."""

    dimensions: frozenset[int]
    batched: bool
    chunks: frozenset[str]
    tokens: frozenset[str]
    fused: bool
    states: bool  # in its caches: only they can need a part of the graph for each token
    moves: tuple[str, ...]


def _all(server: passes.Passes, ways: _Ways) -> Programs:
    made: Programs = {}
    asked = ways.asked
    chunks: dict[str, Record] = {"chunk": server.prefill}
    if asked.batched:
        chunks = {"chunk": server.uneven, "admit": server.admit, "stay": server.stay}
    wanted: dict[str, Record] = {name: getattr(server, name) for name in asked.moves}
    if "cpu" in asked.chunks:
        more = {name: wanted[name] for name in CHUNKS if name in wanted}
        made |= _chunks(chunks | more, ways, "", work.ON_CPU)
    if "gpu" in asked.chunks:
        with recording.kernels(attention=False):
            made |= _chunks(chunks, ways, " kernels", work.ON_GPU)
    if "gpu" in asked.chunks and asked.fused:
        if ways.unrolled:
            made |= {f"{name} fused": made[f"{name} kernels"] for name in chunks}
        else:
            with recording.kernels(attention=True):
                made |= _chunks(chunks, ways, " fused", work.ON_GPU)
    if not asked.tokens:
        return made
    single = {name: record for name, record in wanted.items() if name not in CHUNKS}
    single |= {"join": server.join, "roll": server.roll} if asked.batched else {"step": server.step}
    return made | {name: ways.program(record, step=1) for name, record in single.items()}


def _chunks(
    records: Mapping[str, Record], ways: _Ways, suffix: str, lags: Sequence[int]
) -> Programs:
    made: Programs = {}
    for name, record in records.items():
        if ways.by_token and made:
            known = made[f"chunk{suffix}"]
            made[name + suffix] = ways.more(known, records["chunk"], record, lags)
        else:
            # What is in the others is in these.
            check = name in {"chunk", "admit"}
            made[name + suffix] = ways.program(record, lags=lags, empty=name in EMPTY, check=check)
    return made


class _Ways:
    """Two ways to a polynomial: read off the shapes, or fitted to small numbers."""

    def __init__(self, asked: _Asked, windows: set[int]) -> None:
        self.asked = asked
        self.batched = asked.batched
        self.prime = primes(asked.dimensions, batched=asked.batched)
        self.unrolled: int | None = None  # the first step recorded at where it is fitted; else 0
        small = {0, 1, 2, 3, 4, -1, -2, -3, -4}
        around = {STEP * n + d for n in (-1, 0, 1) for d in (-2, -1, 0, 1, 2)}
        self.edges = small | around | {w + d for w in windows for d in (-2, -1, 0, 1)}
        self.far = -(-max(windows, default=0) // STEP) * STEP
        # A step so long that no device is behind by all parts for its tokens, and that is not taken
        # for a dimension of the model's; 0 where there is none.
        free = (
            n
            for n in (113, 109, 107, 103, 101, 97, 89, 83, 79, 73, 127, 131, 137, 139, 149)
            if all(size % n and size - n not in self.edges for size in asked.dimensions if size)
        )
        self.middle = next(free, 0)

    @property
    def by_token(self) -> bool:
        """Whether the graph has a part for each token."""
        return self.unrolled == BY_TOKEN[0]

    def program(
        self,
        record: Record,
        *,
        step: int | None = None,
        lags: Sequence[int] = (),
        empty: bool = False,
        check: bool = True,
    ) -> dict[str, Any]:
        """The polynomials of what ``record`` records; ``step`` where it is always that.

        ``empty``: it may go into empty caches, too; ``check``: by a second recording.
        """
        lags = lags or work.lags(self.asked.tokens)
        # Many sequences: experts are sorted from 64 tokens on, and that takes the most.
        many = 3 if step is None else 71
        second = Point(many if self.batched else 1, step or 768, self.far + 4096 + (step == 1))
        if self.unrolled is None and step is None and self.asked.states and self._grows(record):
            self.unrolled = BY_TOKEN[0]
        if not self.unrolled or step is not None:
            with contextlib.suppress(Unclear):
                # On a GPU the first one only: the parts of the others are checked on the CPU.
                parts = self.unrolled is None or step is not None or lags == work.ON_CPU
                small = record(second) if check and parts else None
                if small is not None and step is None and self.unrolled is None:
                    other = Point(second.batch, 512, second.tokens)
                    if self.asked.states and not small.alike(record(other)):
                        raise Unclear("the graph has a part for each chunk")
                    self.unrolled = 0
                prime = Point(
                    self.prime.batch, step or self.prime.step, self.prime.tokens + (step == 1)
                )
                others = [(small, second)] if small is not None else []
                made = work.program(record(prime), prime, self.edges, others, lags)
                if empty and not self.far:
                    # There is less to do then, so that the device is more layers behind, with all
                    # that is in them.
                    where = Point(prime.batch, prime.step, prime.step)
                    first = work.program(record(where), where, self.edges, (), lags)
                    made = work.either(made, first)
                return made
        return self._fitted(record, step, lags)

    def _fitted(self, record: Record, step: int | None, lags: Sequence[int]) -> dict[str, Any]:
        steps = (step, step) if step else BY_TOKEN if self.by_token else (STEP, 4 * STEP)
        if step is None:
            self.unrolled = steps[0]
        batches = (2, 3) if self.batched else (1, 1)
        far = self.far + (step == 1)
        # By point of the polynomial, the tokens to record at. Where attention takes the most; where
        # it takes little; where it takes the least, so that what else there is takes the most,
        # which is then the same for any context.
        long = {(at, far + more): far + more for at in steps for more in FAR}
        near = {(at, far + at + more): far + at + more for at in steps for more in (STEP, 2 * STEP)}
        least = {(at, 0): far + (STEP + 1 if step else at) for at in steps}
        chunked = step is None and self.unrolled == STEP
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
        if step is None and not chunked:
            with contextlib.suppress(Unclear):
                made = work.either(made, self._between(record, lags))
        return made

    def more(
        self, known: dict[str, Any], plain: Record, record: Record, lags: Sequence[int]
    ) -> dict[str, Any]:
        """What ``record`` takes, where ``plain``, a part of it, is ``known`` and takes a minute.

        What it takes more is taken at a few tokens, when the device is behind by the most of it:
        at long contexts, and at short ones, where attention hides nothing.
        """
        batches = dict.fromkeys((2, 3) if self.batched else (1,))
        extras: dict[int, list[dict[str, int]]] = {lag: [] for lag in lags}
        for grid in (FAR, (STEP, 2 * STEP)):
            points = [Point(batch, FEW, self.far + more) for batch in batches for more in grid]
            mine = [work.counted(record(point), lags).peaks for point in points]
            theirs = [work.counted(plain(point), lags).peaks for point in points]
            for lag in lags:
                over = [one[lag] - other[lag] for one, other in zip(mine, theirs, strict=True)]
                extras[lag].append(work.fitted(dict(zip(points, over, strict=True))))
        live = {
            lag: [
                *known["live"][lag],
                *(work.total(row, extra) for row in known["live"][lag] for extra in extras[lag]),
            ]
            for lag in lags
        }
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

    def _grows(self, record: Record) -> bool:
        """Whether a token more is an operation more; short, for such a recording is a long one."""
        points = [Point(2 if self.batched else 1, step, self.far + 4096) for step in (40, 41)]
        one, more = (len(record(point).operations) for point in points)
        return one != more


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
