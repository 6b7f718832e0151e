"""What the hollow model told of itself: what the lock keeps of a model, and nothing that guesses.

All sizes are bytes as MLX allocates them. Cache kinds and programs are enough to answer for any
context, concurrency and prefill step without loading the model again.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from planner.record import Record

# Coefficients by term: `BST` is of B sequences in the batch, S tokens of each in this step, T
# tokens of each in the cache after it; "" is of nothing.
Polynomial = Mapping[str, int]
# Operations (what each takes, lets go and reads; its kernels), and in which order they come.
Run = tuple[tuple[tuple[Polynomial, Polynomial, Polynomial, int], ...], tuple[int, ...]]
# The same at a point, in bytes.
Sized = tuple[tuple[tuple[int, int, int, int], ...], tuple[int, ...]]


class Point(NamedTuple):
    """What an evaluation is of."""

    batch: int  # sequences
    step: int  # tokens of each
    tokens: int  # of each in the cache after it


def value(polynomial: Polynomial, point: Point) -> int:
    """A polynomial at a point, in bytes."""
    values = {"B": point.batch, "S": point.step, "T": point.tokens}
    return sum(
        coefficient * math.prod(values[letter] for letter in term)
        for term, coefficient in polynomial.items()
    )


def pack(value: object) -> str:
    """JSON in which nearly all comes again layer by layer, as one short string."""
    return base64.b64encode(zlib.compress(json.dumps(value).encode(), 9)).decode()


def unpack(packed: str) -> Any:  # noqa: ANN401 -- any JSON
    """The reverse of ``pack``; raises ValueError."""
    try:
        return json.loads(zlib.decompress(base64.b64decode(packed)))
    except zlib.error as error:
        raise ValueError(f"packed: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Record):
    """Caches that behave alike: ``count`` of them, one for each layer that has such a one."""

    kind: str  # kv, rotating, arrays, chunked
    count: int
    token_bytes: int = 0  # of one sequence in one such cache, for each token it keeps
    fixed_bytes: int = 0  # of one sequence in one such cache, whatever its length
    window: int = 0  # tokens kept by a rotating or chunked cache; 0: all
    # Of one sequence, kept alive for each token of the pass that filled it: it holds a view.
    viewed_bytes: int = 0
    viewed_uneven_bytes: int = 0  # the same of uneven prompts, in an array cache
    # Of one sequence in one array cache between two steps of generation, over `fixed_bytes`: what
    # the state after the step is made of, since nobody evaluates it before the next.
    step_bytes: int = 0

    @property
    def kept_bytes(self) -> int:
        """Of one sequence in an array cache that was evaluated after a step, with its views."""
        return self.fixed_bytes + min(self.viewed_bytes, self.step_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind(Record):
    """How far a device may be behind when MLX hands out buffers.

    A CPU: ``lag`` dispatches, one for each operation and one for each kernel. A GPU: ``commits``
    command buffers, each of which is closed after ``lag / commits`` kernels or after
    ``commit_bytes`` read, whatever comes first.
    """

    lag: int
    commit_bytes: int = 0
    commits: int = 0  # 0: not a GPU
    least_lag: int = 0  # of kernels, where they are not known one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class Program(Record):
    """What one evaluation of the server's needs over weights and caches, counted on its graph.

    MLX hands out buffers before the device has used up the last ones, so that a recording is worked
    off operation by operation: ``tasks`` by a CPU, ``runs`` by a GPU; of several, whichever takes
    the most counts. Where the graph has a part for each token (``fitted``), there are polynomials
    in ``live`` instead, by how far a device may be behind, and ``reads`` is what all of it reads on
    a GPU.
    """

    tasks: tuple[Run, ...] = ()
    runs: tuple[Run, ...] = ()
    live: Mapping[int, tuple[Polynomial, ...]] = field(default_factory=dict)
    kernels: int = 0
    reads: Polynomial = field(default_factory=dict)
    fitted: bool = False

    def peak(self, behind: Behind, point: Point, after: Sequence[Sized] = ()) -> int:
        """Bytes at the worst moment, at least, where the device is still at what came before."""
        found = [_most(behind, (*after, each)) for each in self.sized(behind, point)]
        return max(0, *found, *(self._polynomials(behind, point) if self.live else ()))

    def sized(self, behind: Behind, point: Point) -> list[Sized]:
        """The recordings of what ``behind`` is of, in bytes."""
        return [
            (
                tuple(
                    (value(a, point), value(b, point), value(c, point), n) for a, b, c, n in kinds
                ),
                order,
            )
            for kinds, order in (self.runs if behind.commits else self.tasks)
        ]

    def _polynomials(self, behind: Behind, point: Point) -> list[int]:
        """By those for a lag that is as large, or the largest known."""
        lag = behind.lag
        if behind.commits:
            # Operations differ, and the average of what they read may mislead.
            read = max(1, value(self.reads, point))
            closed = -(-behind.commits * behind.commit_bytes * self.kernels // read)
            lag = min(lag, max(closed, behind.least_lag))
        known = sorted(self.live)
        chosen = next((each for each in known if each >= lag), known[-1])
        return [value(p, point) for p in self.live[chosen]]

    def to_json(self) -> dict[str, object]:
        made: dict[str, object] = {}
        for name in ("tasks", "runs"):
            if getattr(self, name):
                made[name] = pack(getattr(self, name))
        if self.fitted:
            live = {str(lag): [dict(row) for row in rows] for lag, rows in self.live.items()}
            made |= {"live": live, "kernels": self.kernels, "reads": dict(self.reads)}
        return made

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Program:
        return cls(
            tasks=_runs(data.get("tasks")),
            runs=_runs(data.get("runs")),
            live={int(lag): tuple(map(dict, rows)) for lag, rows in data.get("live", {}).items()},
            kernels=int(data.get("kernels", 0)),
            reads=dict(data.get("reads", {})),
            fitted="live" in data,
        )


def _runs(packed: str | None) -> tuple[Run, ...]:
    return tuple(
        (
            tuple((dict(a), dict(b), dict(c), int(number)) for a, b, c, number in kinds),
            tuple(order),
        )
        for kinds, order in (unpack(packed) if packed else ())
    )


def _most(behind: Behind, runs: Sequence[Sized]) -> int:
    """Work off ``runs``, one after the other; of the last, the most that is taken meanwhile.

    Counted from the end of it: caches are then as long as they will be, and are counted elsewhere.
    """
    queue = _Queue(behind)
    most = live = end = 0
    for kinds, order in runs:
        live -= end  # what the last one leaves is counted elsewhere
        most = end = 0
        for at in order:
            taken, done, read, number = kinds[at]
            live += taken
            most = max(most, live)
            live -= queue.give(done, read, number)
            end += taken - done
    return most - end


class _Queue:
    """What a device has been given to do and has not done."""

    def __init__(self, behind: Behind) -> None:
        self.behind = behind
        self.clock = 0  # of a CPU: dispatches
        self.waits: deque[tuple[int, int]] = deque()  # when it is over, and bytes
        self.back = self.read = self.launched = 0  # of a GPU's command buffer that is being filled

    def give(self, done: int, read: int, number: int) -> int:
        """An operation of ``number`` dispatches or kernels; bytes that are free after it."""
        behind = self.behind
        free = 0
        if not behind.commits:
            self.clock += number
            self.waits.append((self.clock + behind.lag, done))
            while self.waits and self.waits[0][0] <= self.clock:
                free += self.waits.popleft()[1]
            return free
        self.back += done
        self.read += read
        self.launched += number
        if self.launched > behind.lag // behind.commits or self.read > behind.commit_bytes:
            self.waits.append((0, self.back))
            self.back = self.read = self.launched = 0
            if len(self.waits) == behind.commits:
                free = self.waits.popleft()[1]
        return free


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank(Record):
    """What one process holds of the model: the whole of it, or its part of several ranks."""

    weights: int
    kinds: tuple[Kind, ...]

    def to_json(self) -> dict[str, object]:
        return {"weights": self.weights, "kinds": [kind.to_json() for kind in self.kinds]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Rank:
        kinds = tuple(Kind(**kind) for kind in data["kinds"])
        return cls(weights=int(data["weights"]), kinds=kinds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced(Record):
    """One model at one commit, as one version of mlx-lm loads and runs it."""

    mlx_lm: str
    mlx: str
    model_type: str
    layers: int
    parameters: int
    alone: str  # why requests are served one at a time; "" where they are served together
    context_max: int | None  # what the configuration says of the longest context
    head_dims: tuple[int, ...]  # of queries and of values, where attention was called
    dtype: str  # of what attention was called with
    logits_row_bytes: int  # the scores of one next token
    loading: int  # transient bytes over the weights while they are read
    ranks: Mapping[int, Rank | str]  # by world size; a sentence where it cannot be sharded
    # Of the whole model: a rank's own are smaller.
    programs: Mapping[str, Program]
    assumed: tuple[str, ...] = ()  # what was not read from the checkpoint, and from where it is
    # What was asked before: the same model is placed on many hosts under the same settings.
    _asked: dict[Any, int] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def batchable(self) -> bool:
        """Whether several sequences are served at once."""
        return not self.alone

    def rank(self, size: int) -> Rank | str:
        """One of ``size`` ranks, or why there is none."""
        return self.ranks.get(size, f"tensor parallelism over {size} GPUs was not traced")

    def over(
        self,
        name: str,
        behind: Behind,
        point: Point,
        *,
        longest: int | None = None,
        after: Sequence[tuple[str, Point, int]] = (),
    ) -> int:
        """Bytes over weights and caches in the evaluation ``name``, 0 where there is none.

        A model with a window has two recordings, of contexts within it and past it. Past it by up
        to a step nothing is cut off yet, so that each is an upper bound. ``longest`` are the tokens
        that a cache with a window ever saw, where those are not as many (None) as in one that keeps
        them all.
        ``after`` are evaluations (the last is their ``longest``) that the device may still be at,
        since nobody waited for them.
        """
        asked = (name, behind, point, longest, tuple(after))
        if asked not in self._asked:
            before: list[Sized] = []
            for earlier in after:
                for program, at in self._programs(*earlier)[:1]:
                    before += program.sized(behind, at)[:1]
            programs = self._programs(name, point, longest)
            found = [program.peak(behind, at, before) for program, at in programs]
            self._asked[asked] = min(found, default=0)
        return self._asked[asked]

    def _programs(
        self, name: str, point: Point, longest: int | None
    ) -> list[tuple[Program, Point]]:
        """Those that are upper bounds of the evaluation ``name``, and what to ask them for."""
        longest = longest or point.tokens
        past, within = (self.programs.get(key) for key in (name, f"{name} within"))
        found: list[tuple[Program, Point]] = []
        if past and (not within or longest > self._window):
            found.append((past, point))
        if within and (past is None or longest < self._window + point.step):
            found.append((within, point._replace(tokens=longest)))
        return found

    @property
    def _window(self) -> int:
        """The smallest window of a cache."""
        rank = self.ranks[1]
        kinds = rank.kinds if isinstance(rank, Rank) else ()
        return min((kind.window for kind in kinds if kind.window), default=0)

    def to_json(self) -> dict[str, object]:
        names = [name for name in self.__dataclass_fields__ if not name.startswith("_")]
        fields = {name: getattr(self, name) for name in names}
        ranks = {
            str(size): rank if isinstance(rank, str) else rank.to_json()
            for size, rank in sorted(self.ranks.items())
        }
        programs = {name: program.to_json() for name, program in self.programs.items()}
        return {**fields, "ranks": ranks, "programs": programs}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Traced:
        """The reverse of ``to_json``. Raises KeyError, TypeError or ValueError on other data."""
        return cls(
            **{
                **data,
                "head_dims": tuple(data["head_dims"]),
                "assumed": tuple(data.get("assumed", ())),
                "ranks": {
                    int(size): rank if isinstance(rank, str) else Rank.from_json(rank)
                    for size, rank in data["ranks"].items()
                },
                "programs": {
                    name: Program.from_json(program) for name, program in data["programs"].items()
                },
            }
        )
