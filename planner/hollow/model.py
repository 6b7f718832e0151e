"""A model on a hollow checkpoint: its weights, its caches, its ranks, none of it evaluated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models import cache as caches
from mlx_lm.utils import load_model

KINDS = {
    caches.KVCache: "kv",
    caches.RotatingKVCache: "rotating",
    caches.ArraysCache: "arrays",
    caches.ChunkedKVCache: "chunked",
}


class Refused(Exception):  # noqa: N818 -- a verdict, not a fault
    """The model cannot be traced; the message is for the operator."""


class StandIn:
    """A rank of a group that is not there; ``shard`` asks no more of a group than this."""

    def __init__(self, size: int, rank: int = 0) -> None:
        self._size, self._rank = size, rank

    def size(self) -> int:
        return self._size

    def rank(self) -> int:
        return self._rank


def load(directory: Path, *, strict: bool = True) -> tuple[Any, dict[str, Any]]:
    """The model and its configuration, lazily; remote code is never run."""
    model, config = load_model(directory, lazy=True, strict=strict, trust_remote_code=False)
    return model, config


def weights(model: Any) -> int:  # noqa: ANN401 -- mlx has no types
    """Bytes of the parameters, as they will be resident."""
    flat: Any = tree_flatten(model.parameters())
    return sum(array.nbytes for _, array in flat)


def leaves(found: list[Any]) -> Iterator[Any]:
    """The caches of all layers, lists of caches taken apart."""
    for cache in found:
        if isinstance(cache, caches.CacheList):
            yield from leaves(list(cache.caches))
        else:
            yield cache


def arrays(cache: Any) -> Iterator[mx.array]:  # noqa: ANN401
    """The arrays that a cache keeps for its tokens."""
    held = [cache.keys, cache.values] if hasattr(cache, "keys") else list(cache.cache)
    return (array for array in held if array is not None)


def kind(cache: Any) -> dict[str, Any]:  # noqa: ANN401
    """What one cache keeps, from its arrays after some tokens of one sequence."""
    name = KINDS.get(type(cache))
    if name is None:
        raise Refused(f"its cache `{type(cache).__name__}` is of a class that is not known here")
    if name == "arrays":
        return {"kind": name, "fixed_bytes": sum(array.nbytes for array in arrays(cache))}
    per_token = sum(a.nbytes // a.shape[2] for a in arrays(cache))
    window = {"rotating": "max_size", "chunked": "chunk_size"}.get(name)
    return {
        "kind": name,
        "token_bytes": per_token,
        "window": int(getattr(cache, window)) if window else 0,
    }


def examples(model: Any, tokens: int = 8) -> list[Any]:  # noqa: ANN401
    """The model's caches after ``tokens`` tokens of one sequence."""
    made: list[Any] = caches.make_prompt_cache(model)
    model(mx.zeros((1, tokens), mx.int32), cache=made)
    return made


def kinds(made: list[Any]) -> list[dict[str, Any]]:
    """What caches keep, those that are alike counted together."""
    counted: dict[tuple[tuple[str, Any], ...], int] = {}
    for cache in leaves(made):
        if not list(arrays(cache)):
            continue  # a layer that shares another's cache
        key = tuple(sorted(kind(cache).items()))
        counted[key] = counted.get(key, 0) + 1
    return [{**dict(key), "count": count} for key, count in counted.items()]


def batchable(model: Any) -> bool:  # noqa: ANN401
    """What the server asks before it serves in batches (mlx_lm/server.py, ``_load``)."""
    return all(hasattr(cache, "merge") for cache in caches.make_prompt_cache(model))


@contextlib.contextmanager
def watched_attention(seen: set[tuple[str, int]]) -> Iterator[None]:
    """Note the types and head sizes that attention is called with."""
    old = mx.fast.scaled_dot_product_attention

    def watch(q: mx.array, k: mx.array, v: mx.array, **more: Any) -> mx.array:  # noqa: ANN401
        for array in (q, v):
            seen.add((str(array.dtype).rpartition(".")[2], array.shape[-1]))
        return old(q, k, v, **more)

    mx.fast.scaled_dot_product_attention = watch
    try:
        yield
    finally:
        mx.fast.scaled_dot_product_attention = old
