"""Where the elements of an array lie in its buffer, as MLX has it: strides, in elements.

MLX's views change strides and copy nothing; what a copy takes is decided by strides
(mlx/backend/common/{common,slicing,utils}.cpp).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

Shape = tuple[int, ...]
Strides = tuple[int, ...]
Array = tuple[Shape, Strides]


# Which argument of a view says how it lies: the order of the dimensions, the steps along each.
ALONG = {"Transpose": 0, "Slice": 2}


@cache
def in_rows(shape: Shape) -> Strides:
    """Of an array that lies as it reads."""
    made: list[int] = []
    step = 1
    for length in reversed(shape):
        made.append(step)
        step *= length
    return tuple(reversed(made))


@cache
def in_columns(shape: Shape) -> Strides:
    """Of an array of which the first dimension is the one that lies together."""
    return tuple(reversed(in_rows(shape[::-1])))


def alike(shape: Shape, one: Strides, other: Strides) -> bool:
    """The same but for dimensions of one element, of which the stride is nobody's."""
    return one == other or all(n == 1 or a == b for n, a, b in zip(shape, one, other, strict=True))


def lies_in_rows(shape: Shape, strides: Strides) -> bool:
    """Whether it lies as it reads."""
    return alike(shape, strides, in_rows(shape))


@cache
def dense(shape: Shape, strides: Strides) -> bool:
    """Whether it fills its part of the buffer, in whatever order."""
    step = 1
    for stride, length in sorted((s, n) for s, n in zip(strides, shape, strict=True) if n != 1):
        if stride != step:
            return False
        step *= length
    return True


@cache
def elementwise(
    shape: Shape, reads: tuple[Array, ...], *, choice: bool
) -> tuple[Strides, tuple[int, ...]]:
    """Those of what is made element by element of ``reads``, and which of these may give a buffer.

    Where all lies alike, the new array does too and takes over any of it; otherwise it lies in rows
    and takes over what does. One element for all stands beside anything, but for a ``choice``.
    """
    wide = tuple(
        at
        for at, (lengths, steps) in enumerate(reads)
        if choice or any(s for n, s in zip(lengths, steps, strict=True) if n != 1)
    )
    if len(wide) == 1 and dense(*reads[wide[0]]):
        return reads[wide[0]][1], wide
    rows = in_rows(shape)
    for lie in (rows, in_columns(shape)):
        if wide and all(alike(shape, reads[at][1], lie) for at in wide):
            return lie, wide
    return rows, tuple(at for at in wide if lies_in_rows(*reads[at]))


@cache
def for_matmul(shape: Shape, strides: Strides) -> bool:
    """Whether a product takes the last two dimensions as they lie (``check_transpose``)."""
    if len(shape) < 2:  # noqa: PLR2004 -- a vector
        return True
    rows, columns = shape[-2:]
    over, along = strides[-2:]
    as_read = (over == columns or rows == 1) and (along == 1 or columns == 1)
    return as_read or ((over == 1 or rows == 1) and (along == rows or columns == 1))


def of_view(
    name: str, along: Sequence[int], before: Shape, strides: Strides, after: Shape
) -> Strides:
    """Those of a view that the primitive ``name`` makes."""
    if name == "Transpose":
        return tuple(strides[axis] for axis in along)
    if name == "Slice":
        return tuple(s * by for s, by in zip(strides, along, strict=True))
    if name in {"Broadcast", "BroadcastAxes"}:
        missing = len(after) - len(before)
        kept = [
            s if n == m else 0 for n, m, s in zip(before, after[missing:], strides, strict=True)
        ]
        return (0,) * missing + tuple(kept)
    if len(after) == len(before):
        return strides  # Split, Copy, Depends, StopGradient
    return of_reshape(before, strides, after) or in_rows(after)  # ExpandDims, Squeeze


@cache
def of_reshape(before: Shape, strides: Strides, after: Shape) -> Strides | None:
    """Those of a reshape that copies nothing; None where it must (``prepare_reshape``)."""
    if lies_in_rows(before, strides):
        return in_rows(after)
    # Neighbours that follow one another are one dimension.
    lengths: list[int] = []
    steps: list[int] = []
    for length, stride in zip(before, strides, strict=True):
        if length == 1:
            continue
        if lengths and steps[-1] == stride * length:
            lengths[-1] *= length
            steps[-1] = stride
        else:
            lengths.append(length)
            steps.append(stride)
    made: list[int] = []
    at = 0
    for length in after:
        if length == 1:
            made.append(1)
            continue
        while at < len(lengths) and lengths[at] == 1:
            at += 1
        if at == len(lengths) or lengths[at] % length:
            return None
        lengths[at] //= length
        made.append(lengths[at] * steps[at])
    return tuple(made)
