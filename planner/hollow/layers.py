"""A model with some of its layers, where each takes so long that a device is at few at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from mlx.utils import tree_flatten

from planner.hollow.model import leaves

# Layers one after the other that a device may be at, where one of them has a part for each token:
# of 256 tokens, hundreds of operations.
TOGETHER = 5


@contextlib.contextmanager
def fewer(model: Any, examples: Sequence[Any]) -> Iterator[list[Any]]:  # noqa: ANN401 -- mlx has no types
    """Leave the first layers of ``model`` in it for a while; their caches of ``examples``.

    So many that what can follow each other in it does. All of them where they cannot be told,
    since they are not in one list, or not with one cache each; or where a device may be at more,
    since many that have nothing but keys and values follow each other.
    """
    layers = list(model.layers)
    quick = [all(hasattr(cache, "keys") for cache in leaves([each])) for each in examples]
    windows = [quick[at : at + TOGETHER] for at in range(max(1, len(quick) - TOGETHER + 1))]
    places = [
        (module, name)
        for module in model.modules()
        for name, value in module.items()
        if isinstance(value, list) and [*map(id, value)] == [*map(id, layers)]
    ]
    if len(places) != 1 or len(layers) != len(examples) or any(map(all, windows)):
        yield list(examples)
        return
    kinds = [_kind(layer, cache) for layer, cache in zip(layers, examples, strict=True)]
    ((module, name),) = places
    enough = _enough(kinds)
    try:
        module[name] = layers[:enough]
        yield list(examples[:enough])
    finally:
        module[name] = layers


def _kind(layer: Any, cache: Any) -> object:  # noqa: ANN401 -- mlx has no types
    flat: Any = tree_flatten(layer.parameters())
    parameters = tuple((name, array.shape, str(array.dtype)) for name, array in flat)
    return type(layer), parameters, type(cache), getattr(cache, "max_size", None)


def _enough(kinds: Sequence[object]) -> int:
    """How many of the first have all neighbours among them that any have."""

    def together(count: int) -> set[tuple[object, ...]]:
        firsts = range(max(1, count - TOGETHER + 1))
        return {tuple(kinds[at : min(at + TOGETHER, count)]) for at in firsts}

    every = together(len(kinds))
    return next(count for count in range(1, len(kinds) + 1) if every <= together(count))
