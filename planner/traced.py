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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from planner.record import Record

# Coefficients by term: `BST` is of B sequences in the batch, S tokens of each in this step, T
# tokens of each in the cache after it; "" is of nothing.
Polynomial = Mapping[str, int]
# Operations (what each takes, lets go and reads; its kernels), and in which order they come.
Run = tuple[tuple[tuple[Polynomial, Polynomial, Polynomial, int], ...], tuple[int, ...]]


def value(polynomial: Polynomial, *, batch: int, step: int, tokens: int) -> int:
    """A polynomial at a point, in bytes."""
    values = {"B": batch, "S": step, "T": tokens}
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

    A CPU: ``lag`` dispatches. A GPU: ``commits`` command buffers, each of which is closed after
    ``lag / commits`` kernels or after ``commit_bytes`` read, whatever comes first.
    """

    lag: int
    commit_bytes: int = 0
    commits: int = 0  # 0: not a GPU
    least_lag: int = 0  # of kernels, where they are not known one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class Program(Record):
    """What one evaluation of the server's needs over weights and caches, counted on its graph.

    MLX hands out buffers before the device has used up the last ones. ``live`` has, for a number of
    dispatches that a CPU may be behind, the polynomials of which the largest is the peak. For a GPU
    there are ``runs``, of which whichever takes the most counts. Where the graph has a part for
    each token (``fitted``), ``live`` has numbers of kernels for a GPU, too, and ``reads`` what all
    of them read.
    """

    live: Mapping[int, tuple[Polynomial, ...]]
    runs: tuple[Run, ...] = ()
    kernels: int = 0
    reads: Polynomial = field(default_factory=dict)
    fitted: bool = False
    # What was asked before: the same model is placed on many hosts under the same settings.
    _asked: dict[tuple[Behind, int, int, int], int] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def peak(self, behind: Behind, *, batch: int, step: int, tokens: int) -> int:
        """Bytes at the worst moment, at least."""
        asked = (behind, batch, step, tokens)
        if asked not in self._asked:
            found = [0]
            if behind.commits:
                found += [_in_buffers(run, behind, batch, step, tokens) for run in self.runs]
            if self.fitted or not behind.commits:
                found += self._polynomials(behind, batch, step, tokens)
            self._asked[asked] = max(found)
        return self._asked[asked]

    def _polynomials(self, behind: Behind, batch: int, step: int, tokens: int) -> list[int]:
        """By those for a lag that is as large, or the largest known."""
        lag = behind.lag
        if behind.commits:
            # Operations differ, and the average of what they read may mislead.
            read = max(1, value(self.reads, batch=batch, step=step, tokens=tokens))
            closed = -(-behind.commits * behind.commit_bytes * self.kernels // read)
            lag = min(lag, max(closed, behind.least_lag))
        known = sorted(self.live)
        chosen = next((each for each in known if each >= lag), known[-1])
        return [value(p, batch=batch, step=step, tokens=tokens) for p in self.live[chosen]]

    def to_json(self) -> dict[str, object]:
        data: dict[str, object] = {
            "live": {str(lag): [dict(row) for row in rows] for lag, rows in self.live.items()}
        }
        if self.runs:
            data["packed"] = pack(self.runs)
        if self.fitted:
            data |= {"kernels": self.kernels, "reads": dict(self.reads), "fitted": True}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Program:
        return cls(
            live={int(lag): tuple(map(dict, rows)) for lag, rows in data["live"].items()},
            runs=tuple(
                (
                    tuple((dict(a), dict(b), dict(c), int(kernels)) for a, b, c, kernels in kinds),
                    tuple(order),
                )
                for kinds, order in (unpack(data["packed"]) if "packed" in data else ())
            ),
            kernels=int(data.get("kernels", 0)),
            reads=dict(data.get("reads", {})),
            fitted=bool(data.get("fitted", False)),
        )


def _in_buffers(run: Run, behind: Behind, batch: int, step: int, tokens: int) -> int:
    """Work the operations off; what is done with is given back when its buffer is."""
    operations, order = run
    sizes = [
        (*(value(p, batch=batch, step=step, tokens=tokens) for p in polynomials), kernels)
        for *polynomials, kernels in operations
    ]
    most_kernels = behind.lag // behind.commits
    outstanding: deque[int] = deque()  # bytes that each command buffer gives back
    live = most = back = read = launched = 0
    end = sum(sizes[at][0] - sizes[at][1] for at in order)
    for at in order:
        taken, done, reads, kernels = sizes[at]
        live += taken
        most = max(most, live)
        back += done
        read += reads
        launched += kernels
        if launched > most_kernels or read > behind.commit_bytes:
            outstanding.append(back)
            back = read = launched = 0
            if len(outstanding) == behind.commits:
                live -= outstanding.popleft()
    # From the end: caches are then as long as they will be, and are counted elsewhere.
    return max(0, most - end)


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
        *,
        batch: int,
        step: int,
        tokens: int,
        longest: int | None = None,
    ) -> int:
        """Bytes over weights and caches in the evaluation ``name``, 0 where there is none.

        A model with a window has two recordings, of contexts within it and past it. Past it by up
        to a step nothing is cut off yet, so that each is an upper bound. ``longest`` are the tokens
        in a cache with a window, where those are not as many (None) as in one that keeps them all.
        """
        longest = longest or tokens
        past, within = (self.programs.get(key) for key in (name, f"{name} within"))
        found = []
        if within and (past is None or longest < self._window + step):
            found.append(within.peak(behind, batch=batch, step=step, tokens=longest))
        if past and (not within or longest > self._window):
            found.append(past.peak(behind, batch=batch, step=step, tokens=tokens))
        return min(found, default=0)

    @property
    def _window(self) -> int:
        """The smallest window of a cache."""
        rank = self.ranks[1]
        kinds = rank.kinds if isinstance(rank, Rank) else ()
        return min((kind.window for kind in kinds if kind.window), default=0)

    def to_json(self) -> dict[str, object]:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
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
