"""Sizes as polynomials in B, S and T, read off the shapes of one recording.

B sequences, S tokens of each in this step, T tokens of each in the cache after it. Recorded with
large primes in all three, a dimension that one of them divides is a multiple of it; one that is S
or T and an edge (a window's, a convolution's) is known by that edge. Recordings with other numbers,
of all that others are parts of, must agree, array by array.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from planner.program import Point

# All products that occur: a batch once, tokens of the step twice (attention within a step).
TERMS = ("", "B", "S", "T", "BS", "BT", "ST", "SS", "BST", "BSS", "TT", "BTT")
INDEX = {term: at for at, term in enumerate(TERMS)}
PAST = {"T": 1, "S": -1}  # tokens in the cache before the step
Row = tuple[int, ...]  # coefficients in the order of TERMS


class Unclear(ValueError):  # noqa: N818 -- not an error: the caller has another way
    """Sizes that are no polynomials of this kind."""


def terms(point: Point) -> Row:
    """What each of ``TERMS`` is at ``point``."""
    values = {"B": point.batch, "S": point.step, "T": point.tokens}
    return tuple(math.prod(values[letter] for letter in term) for term in TERMS)


def primes(dimensions: Collection[int], *, batched: bool) -> Point:
    """A point whose primes divide none of the model's own dimensions."""

    def free(candidates: Sequence[int]) -> int:
        return next(n for n in candidates if not any(d % n == 0 for d in dimensions if d))

    # One sequence more or less is no dimension either.
    near = {size + more for size in dimensions for more in (-1, 1)}
    batches = [n for n in (211, 223, 227, 229, 233, 239) if n not in near]
    return Point(
        batch=free(batches) if batched else 1,
        step=256 * free((61, 67, 71, 73, 79, 83, 89)),
        tokens=256 * free((1009, 1013, 1019, 1021)),
    )


def row(shape: Sequence[int], item: int, point: Point, edges: Collection[int]) -> Row:
    """The bytes of an array of ``shape`` recorded at ``point``. Raises Unclear."""
    total = {"": item}
    for length in shape:
        if length == 1:
            continue
        total = _multiply(total, _dimension(length, point, edges))
    made = [0] * len(TERMS)
    for term, coefficient in total.items():
        if term not in INDEX:
            raise Unclear(f"a term {term!r} of shape {tuple(shape)}")
        made[INDEX[term]] = coefficient
    return tuple(made)


def _dimension(length: int, point: Point, edges: Collection[int]) -> dict[str, int]:
    term, rest = "", length
    for letter, whole in (("B", point.batch), ("S", point.step), ("T", point.tokens)):
        if whole > 1 and rest and rest % whole == 0:
            term, rest = term + letter, rest // whole
    if term:
        return {term: rest}
    if point.batch > 2 and length in {point.batch - 1, point.batch + 1}:  # noqa: PLR2004 -- 1 is any
        return {"B": 1, "": length - point.batch}
    past = point.tokens - point.step
    for known, whole in (({"S": 1}, point.step), ({"T": 1}, point.tokens), (PAST, past)):
        if whole > 1 and (length == whole or length - whole in edges):
            return {**known, "": length - whole}
    return {"": length}


def _multiply(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    product: dict[str, int] = {}
    for left, a in one.items():
        for right, b in other.items():
            term = "".join(sorted(left + right))
            product[term] = product.get(term, 0) + a * b
    return product
