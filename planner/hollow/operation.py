"""One operation of a graph, and the arrays that it reads and makes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

Shape = tuple[int, ...]


class Sort(NamedTuple):
    """Arrays that are as large."""

    shape: Shape
    item: int  # bytes of an element

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.item


class Made(NamedTuple):
    """An array that an operation makes."""

    name: str
    sort: Sort


@dataclass(frozen=True, slots=True, eq=False)
class Primitive:
    """What many operations have in common: one object for all that do."""

    name: str
    makes: tuple[Sort, ...]
    along: tuple[int, ...]  # of a view, what ``strides.ALONG`` says


@cache
def _primitive(name: str, makes: tuple[Sort, ...], along: tuple[int, ...]) -> Primitive:
    return Primitive(name, makes, along)


def primitive(name: str, makes: tuple[Sort, ...], along: tuple[int, ...] = ()) -> Primitive:
    """The one of them."""
    return _primitive(name, makes, along)


class Operation(NamedTuple):
    """A primitive, the arrays that it reads and those that it makes, by name."""

    of: Primitive
    reads: tuple[str, ...]
    makes: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.of.name
