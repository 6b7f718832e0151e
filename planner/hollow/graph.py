"""The graph of one forward pass: ``mlx.core.export_function`` hands over every primitive, with the
shapes of what it reads and makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, starmap
from typing import Any

import mlx.core as mx

from planner.hollow import strides
from planner.hollow.joined import joined
from planner.hollow.operation import Made, Operation, Sort, primitive
from planner.hollow.order import scheduled


@dataclass(frozen=True, slots=True)
class Graph:
    """The operations, the inputs and constants, the names of the results.

    As an export has them: the parts of what ``mx.compile`` joins are apart.
    """

    operations: tuple[Operation, ...]
    given: Mapping[str, Made]
    results: tuple[str, ...]
    spent: frozenset[str]  # inputs whose buffers are the pass's own to reuse or give back
    arguments: Mapping[str, str] = field(default_factory=dict)  # by the function's name for each
    constants: Mapping[str, mx.array] = field(default_factory=dict)  # of ``given``

    @property
    def names(self) -> Iterator[str]:
        """Those of all its arrays, the given ones last."""
        return chain(_all(step.makes for step in self.operations), self.given)

    @property
    def arrays(self) -> Iterator[Made]:
        """The same."""
        made = _all(zip(step.makes, step.of.makes, strict=True) for step in self.operations)
        return chain(starmap(Made, made), self.given.values())

    @property
    def sorts(self) -> Iterator[Sort]:
        """Those of what each operation makes, then of what is given and each reads.

        As often as it is read: constants of one value are one array, whatever they are.
        """
        given = self.given
        return chain(
            _all(step.of.makes for step in self.operations),
            (given[name].sort for step in self.operations for name in step.reads if name in given),
        )

    def ordered(self) -> Graph:
        """The same in MLX's order, as a CPU runs it."""
        return replace(self, operations=scheduled(self.operations, self.results))

    def compiled(self) -> Graph:
        """The same in MLX's order, as a GPU runs it."""
        return replace(self, operations=joined(self.operations, self.results)).ordered()

    def after(self, first: Graph, arguments: Sequence[str]) -> Graph | None:
        """This after ``first``, whose results are these ``arguments`` of this.

        None where two of them are one array there, which has no two names.
        """
        passed = {
            result: self.arguments[argument]
            for result, argument in zip(first.results, arguments, strict=True)
            if argument in self.arguments
        }
        if len(passed) < len(self.arguments.keys() & set(arguments)):
            return None
        before = first.renamed(lambda name: passed.get(name) or f"before {name}")
        given = {n: it for n, it in self.given.items() if n not in passed.values()}
        return Graph(
            before.operations + self.operations,
            {**before.given, **given},
            self.results,
            before.spent | (self.spent - set(passed.values())),
        )

    def renamed(self, new: Callable[[str], str]) -> Graph:
        """The same with other names for its arrays."""
        return Graph(
            tuple(
                Operation(of, tuple(map(new, reads)), tuple(map(new, makes)))
                for of, reads, makes in self.operations
            ),
            {new(name): made._replace(name=new(name)) for name, made in self.given.items()},
            tuple(map(new, self.results)),
            frozenset(map(new, self.spent)),
            {argument: new(name) for argument, name in self.arguments.items()},
            {new(name): array for name, array in self.constants.items()},
        )

    def alike(self, other: Graph) -> bool:
        """Whether both are the same but for shapes."""
        return [o.name for o in self.operations] == [o.name for o in other.operations]


_all = chain.from_iterable


def record(
    function: Callable[..., Sequence[mx.array]],
    arrays: Mapping[str, mx.array],
    spent: Callable[[str], bool],
) -> Graph:
    """The graph of ``function(**arrays)``; nothing is evaluated.

    ``spent`` says of an argument whether the pass may have its buffer.
    """
    operations: list[Operation] = []
    arguments: dict[str, str] = {}
    given: dict[str, Made] = {}
    constants: dict[str, mx.array] = {}
    results: list[str] = []
    known: dict[str, str] = {}
    one = known.setdefault  # of names, which come again and again

    def see(item: Mapping[str, Any]) -> None:
        kind = item["type"]
        if kind == "primitive":
            name = item["name"]
            at = strides.ALONG.get(name)
            along = () if at is None else tuple(item["arguments"][at])
            reads = tuple([one(row[0], row[0]) for row in item["inputs"]])
            makes = tuple([Sort(tuple(shape), dtype.size) for _, shape, dtype in item["outputs"]])
            names = tuple([one(row[0], row[0]) for row in item["outputs"]])
            operations.append(Operation(primitive(name, makes, along), reads, names))
        elif kind == "inputs":
            for name, shape, dtype in item["inputs"]:
                given[name] = Made(name, Sort(tuple(shape), dtype.size))
        elif kind == "keyword_inputs":
            arguments.update(item["keywords"])
        elif kind == "constants":
            for name, array in item["constants"]:
                given[name] = Made(name, Sort(tuple(array.shape), array.dtype.size))
                constants[name] = array
        elif kind == "outputs":
            results.extend(row[0] for row in item["outputs"])

    mx.export_function(see, function, (), dict(arrays))  # as keywords: 1024 at most
    own = frozenset(name for keyword, name in arguments.items() if spent(keyword))
    return Graph(tuple(operations), given, tuple(results), own, arguments, constants)
