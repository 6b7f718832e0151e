"""What stands in for MLX's own functions while a graph is recorded, so that it is what MLX runs."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx

ROPE = mx.fast.rope  # in its parts, as the CPU has it


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Let the recording have every operation that an evaluation has.

    An export makes one of operations that are alike (mlx/export.cpp, ``compile_simplify``), which
    an evaluation does not: the room to grow of keys and of values, the angles of each ``rope``, a
    product that an activation makes twice (``xielu``).
    ``contiguous`` has no name in MLX's export format; it is a copy where its input is not in rows.
    """
    number, turn = itertools.count(), itertools.count(1)
    rope = mx.fast.rope

    def zeros(shape: Any, dtype: Any = mx.float32, **_: Any) -> mx.array:  # noqa: ANN401
        return mx.full(shape, _value(next(number), dtype), dtype)

    def turned(x: mx.array, *rest: Any, scale: float = 1.0, **more: Any) -> mx.array:  # noqa: ANN401
        return rope(x, *rest, scale=scale + next(turn), **more)

    times = mx.array.__mul__
    made: dict[tuple[int, int], tuple[mx.array, mx.array]] = {}

    def product(one: mx.array, other: Any) -> mx.array:  # noqa: ANN401
        if isinstance(other, mx.array):
            if (id(one), id(other)) in made:
                return times(other, one)
            made[id(one), id(other)] = (one, other)  # held, so that their numbers stay theirs
        return times(one, other)

    new: dict[tuple[Any, str], Any] = {
        (mx.array, "__mul__"): product,
        (mx, "contiguous"): lambda x, *_, **__: mx.abs(x),
        (mx, "zeros"): zeros,
    }
    if rope is ROPE:
        new[mx.fast, "rope"] = turned
    with instead(new):
        yield


def _value(number: int, dtype: mx.Dtype) -> float:
    """Another one for each number: 64, 64.5, … 127.5, 128, 129, … is that in 16 bits, too."""
    if not mx.issubdtype(dtype, mx.floating):
        return number + 1
    return math.ldexp(128 + number % 128, number // 128 - 1)


@contextlib.contextmanager
def instead(new: Mapping[tuple[Any, str], Any]) -> Iterator[None]:
    """Let objects have other attributes, by object and name, for a while."""
    old = {(where, name): getattr(where, name) for where, name in new}
    try:
        for (where, name), function in new.items():
            setattr(where, name, function)
        yield
    finally:
        for (where, name), function in old.items():
            setattr(where, name, function)


@contextlib.contextmanager
def kernels(*, attention: bool) -> Iterator[None]:
    """Let ``mlx.core.fast`` be what it is on a GPU: one operation, not its parts.

    The CPU has no kernels for them and records the parts. A stand-in reads and makes what the
    kernel does. With ``attention``, attention is one kernel too.
    """
    new: dict[str, Any] = {"rms_norm": _norm, "layer_norm": _norm, "rope": _rope}
    if attention:
        new["scaled_dot_product_attention"] = _attend
    with instead({(mx.fast, name): function for name, function in new.items()}):
        yield


def _norm(x: mx.array, weight: mx.array | None = None, *_: Any, **__: Any) -> mx.array:  # noqa: ANN401
    return mx.abs(x) if weight is None else mx.abs(mx.depends(x, weight))


def _rope(x: mx.array, *_: Any, **__: Any) -> mx.array:  # noqa: ANN401
    return mx.abs(x)


def _attend(q: mx.array, k: mx.array, v: mx.array, **more: Any) -> mx.array:  # noqa: ANN401
    mask = more.get("mask")
    reads = [q, k, v, *([mask] if isinstance(mask, mx.array) else [])]
    made: mx.array = mx.depends(mx.zeros((*q.shape[:-1], v.shape[-1]), q.dtype), reads)
    return made
