"""Where a model and its caches keep arrays, so that others can be put there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from planner.hollow.model import leaves

# A name, what holds the array, and the key or attribute or index there.
Slot = tuple[str, Any, Any]


def parameters(prefix: str, tree: Any) -> Iterator[Slot]:  # noqa: ANN401
    """Where a model keeps what ``Module.parameters`` is of."""
    items: Iterable[tuple[Any, Any]] = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, held in items:
        if isinstance(tree, Module) and key.startswith("_"):
            continue
        if isinstance(held, mx.array):
            yield f"{prefix}.{key}", tree, key
        elif isinstance(held, dict | list):
            yield from parameters(f"{prefix}.{key}", held)


def slots(prefix: str, made: Sequence[Any]) -> list[Slot]:
    """Where caches keep arrays."""
    found: list[Slot] = []
    for at, cache in enumerate(leaves(list(made))):
        for name, held in vars(cache).items():
            if isinstance(held, mx.array):
                found.append((f"{prefix}.{at}.{name}", cache, name))
            elif isinstance(held, list):
                found += [
                    (f"{prefix}.{at}.{name}.{index}", held, index)
                    for index, item in enumerate(held)
                    if isinstance(item, mx.array)
                ]
    return found


def state(made: Sequence[Any]) -> list[Any]:
    """All that a model can know of caches before it runs: arrays by shape and type."""

    def known(held: Any) -> Any:  # noqa: ANN401
        if isinstance(held, mx.array):
            return tuple(held.shape), held.dtype
        return [known(item) for item in held] if isinstance(held, list) else held

    return [
        (type(cache), {name: known(held) for name, held in vars(cache).items()})
        for cache in leaves(list(made))
    ]


def get(holder: Any, key: Any) -> mx.array:  # noqa: ANN401
    array: mx.array = holder[key] if isinstance(holder, dict | list) else getattr(holder, key)
    return array


def put(holder: Any, key: Any, array: mx.array) -> None:  # noqa: ANN401
    if isinstance(holder, dict | list):
        holder[key] = array
    else:
        setattr(holder, key, array)


def fill(places: Sequence[Slot], arrays: Sequence[mx.array]) -> None:
    """Put an array into each."""
    for (_, holder, key), array in zip(places, arrays, strict=True):
        put(holder, key, array)
