"""What one evaluation of the server's takes over what is held, worked off operation by operation.

All sizes are bytes as MLX allocates them.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from planner.record import Record

# Coefficients by term: `BST` is of B sequences in the batch, S tokens of each in this step, T
# tokens of each in the cache after it; "" is of nothing.
Polynomial = Mapping[str, int]
# Operations (bytes that each takes and lets go, elements that it reads; its kernels), and in which
# order they come.
Run = tuple[tuple[tuple[Polynomial, Polynomial, Polynomial, int], ...], tuple[int, ...]]
# The same at a point.
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
class Behind(Record):
    """How far a device may be behind when MLX hands out buffers.

    A CPU: ``lag`` dispatches, one for each operation and one for each kernel. A GPU: ``commits``
    command buffers, each of which is closed after more than ``kernels`` of them or once
    ``elements`` were read, whatever comes first.
    """

    lag: int = 0
    commits: int = 0  # 0: not a GPU
    kernels: int = 0
    elements: int = 0  # of arrays: a GPU's buffers are not closed by bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Program(Record):
    """What one evaluation of the server's needs over weights and caches, counted on its graph.

    MLX hands out buffers before the device has used up the last ones, so that a recording is worked
    off operation by operation: ``tasks`` by a CPU, ``runs`` by a GPU; of several, whichever takes
    the most counts. Where the graph depends on the step there is one in ``steps`` for each that was
    recorded, by its tokens.
    """

    tasks: tuple[Run, ...] = ()
    runs: tuple[Run, ...] = ()
    steps: Mapping[int, Program] = field(default_factory=dict)

    @property
    def longest(self) -> int | None:
        """Tokens of the longest step that is known; None: any."""
        return max(self.steps, default=None)

    def at(self, point: Point) -> list[tuple[Program, Point]]:
        """The recording of as long a step, or of the next longer one, and those of shorter ones.

        And where to ask them: a device is behind by more operations of a short step, the rest of a
        prompt, and may then hold more. Raises KeyError where none is as long.
        """
        if not self.steps:
            return [(self, point)]
        enough = min((step for step in self.steps if step >= point.step), default=0)
        if not enough:
            raise KeyError(f"a step of {point.step} tokens was not recorded")
        # A step is a number there, and what is cached is no less than it.
        return [
            (made, Point(point.batch, 1, max(point.tokens, step)))
            for step, made in sorted(self.steps.items(), reverse=True)
            if step <= enough
        ]

    def peak(self, behind: Behind, point: Point, after: Sequence[Sized] = ()) -> int:
        """Bytes at the worst moment, at least, where the device is still at what came before.

        Of a step of as many tokens or of fewer, where it is known by step.
        """
        return max([0, *(most(behind, (*after, each)) for each in self.sized(behind, point))])

    def sized(self, behind: Behind, point: Point) -> list[Sized]:
        """The recordings of what ``behind`` is of, in bytes."""
        return [
            (
                tuple(
                    (value(a, where), value(b, where), value(c, where), n) for a, b, c, n in kinds
                ),
                order,
            )
            for recorded, where in self.at(point)
            for kinds, order in (recorded.runs if behind.commits else recorded.tasks)
        ]

    def to_json(self) -> dict[str, object]:
        if self.steps:
            return {"steps": {str(step): made.to_json() for step, made in self.steps.items()}}
        named = {"tasks": self.tasks, "runs": self.runs}
        return {name: pack(made) for name, made in named.items() if made}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Program:
        return cls(
            tasks=_runs(data.get("tasks")),
            runs=_runs(data.get("runs")),
            steps={int(step): cls.from_json(made) for step, made in data.get("steps", {}).items()},
        )


def _runs(packed: str | None) -> tuple[Run, ...]:
    return tuple(
        (
            tuple((dict(a), dict(b), dict(c), int(number)) for a, b, c, number in kinds),
            tuple(order),
        )
        for kinds, order in (unpack(packed) if packed else ())
    )


def most(behind: Behind, runs: Sequence[Sized]) -> int:
    """Work off ``runs``, one after the other; of the last, the most that is taken meanwhile.

    Counted from the end of it: caches are then as long as they will be, and are counted elsewhere.
    """
    give_back = _buffers(behind) if behind.commits else _dispatches(behind)
    next(give_back)
    most = live = end = 0
    for kinds, order in runs:
        live -= end  # what the last one leaves is counted elsewhere
        most = end = 0
        for at in order:
            operation = kinds[at]
            live += operation[0]
            if live > most:  # noqa: PLR1730 -- this runs once for each operation
                most = live
            live -= give_back.send(operation)
            end += operation[0] - operation[1]
    return most - end


# Bytes that are free after each operation, of what a device has been given to do and has done.
Queue = Generator[int, tuple[int, int, int, int], None]


def _dispatches(behind: Behind) -> Queue:
    """A CPU's: each operation is over so many dispatches later."""
    clock = free = 0
    waits: deque[tuple[int, int]] = deque()  # when it is over, and bytes
    while True:
        _, done, _, number = yield free
        clock += number
        waits.append((clock + behind.lag, done))
        free = 0
        while waits and waits[0][0] <= clock:
            free += waits.popleft()[1]


def _buffers(behind: Behind) -> Queue:
    """A GPU's: by command buffers, of which so many may be outstanding."""
    back = read = launched = free = 0  # of the one that is being filled
    waits: deque[int] = deque()
    while True:
        _, done, reads, number = yield free
        back += done
        read += reads
        launched += number
        free = 0
        if launched > behind.kernels or read >= behind.elements:
            waits.append(back)
            back = read = launched = 0
            if len(waits) == behind.commits:
                free = waits.popleft()
