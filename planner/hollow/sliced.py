"""What a rank keeps of a parameter that was sliced out of a whole one.

A slice is a view in MLX: the buffer of the whole array lives as long as the slice does. Most of
mlx-lm's ``shard`` copies what it slices (``Contiguous``), some of it does not (the heads of
``deepseek_v3``), and MLX does not copy where it would save less than 16 KiB
(``mlx/backend/cpu/primitives.cpp`` and ``mlx/backend/gpu/primitives.cpp``, ``Contiguous::eval``).
"""

from __future__ import annotations

import io
import re
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

SLICES = frozenset({"Slice", "Split"})
WORTH_A_COPY = 16 * 1024


def sizes(model: Any) -> dict[str, int]:  # noqa: ANN401 -- mlx has no types
    """Bytes of each parameter, by name."""
    flat: Any = tree_flatten(model.parameters())
    return {name: array.nbytes for name, array in flat}


def kept(model: Any, whole: dict[str, int]) -> int:  # noqa: ANN401
    """Bytes of all parameters as they will be resident; ``whole`` are those before ``shard``."""
    flat: Any = tree_flatten(model.parameters())
    return sum(_kept(array, whole.get(name, 0)) for name, array in flat)


def _kept(array: mx.array, whole: int) -> int:
    last, before = primitives(array)
    slice_of_it = last in SLICES
    not_worth_it = (
        last == "Contiguous" and before in SLICES and whole <= array.nbytes + WORTH_A_COPY
    )
    return whole if slice_of_it or not_worth_it else array.nbytes


def primitives(array: mx.array) -> tuple[str, str]:
    """Name the last two primitives that make an array which is not evaluated yet."""
    text = io.StringIO()
    mx.export_to_dot(text, array)
    names = re.findall(r'\[label ="(\w+)", shape=rectangle\]', text.getvalue())
    before, last = ["", "", *names][-2:]
    return last, before
