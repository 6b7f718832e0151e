"""A model on a hollow checkpoint: its weights, its caches, its ranks, none of it evaluated."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models import cache as caches
from mlx_lm.utils import load_model

KINDS = {
    caches.KVCache: "kv",
    caches.RotatingKVCache: "rotating",
    caches.ArraysCache: "arrays",
    caches.ChunkedKVCache: "chunked",
}


SEVERAL = 7  # sequences together


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


def load(directory: Path) -> tuple[Any, dict[str, Any]]:
    """The model and its configuration, lazily; remote code is never run."""
    model, config = load_model(directory, lazy=True, trust_remote_code=False)
    return model, config


def another(model: Any) -> Any:  # noqa: ANN401 -- mlx has no types
    """The same model once more, as it was loaded: ``shard`` of one leaves the other alone.

    Loading again would take longer. Its arrays are others of the same buffers: ``gpt_oss`` divides
    one in place.
    """
    made: dict[int, Any] = {}

    def copied(held: Any) -> Any:  # noqa: ANN401
        if id(held) in made:
            return made[id(held)]
        if isinstance(held, mx.array):
            array = made[id(held)] = copy.copy(held)
            return array
        if type(held) is tuple:
            return tuple(map(copied, held))
        if type(held) is list:
            items = made[id(held)] = []
            items.extend(map(copied, held))
            return items
        if isinstance(held, Module) or type(held) is dict:  # a module is one, too
            new = made[id(held)] = held.__class__.__new__(held.__class__)
            dict.update(new, {key: copied(value) for key, value in held.items()})
            if isinstance(held, Module):
                vars(new).update({name: copied(value) for name, value in vars(held).items()})
            return new
        return held

    return copied(model)


def leaves(found: list[Any]) -> Iterator[Any]:
    """The caches of all layers, lists of caches taken apart."""
    for cache in found:
        if isinstance(cache, caches.CacheList):
            yield from leaves(list(cache.caches))
        else:
            yield cache


def arrays(cache: Any) -> Iterator[mx.array]:  # noqa: ANN401
    """The arrays that a cache keeps for its tokens."""
    if type(cache) not in KINDS:
        raise Refused(f"its cache `{type(cache).__name__}` is of a class that is not known here")
    held = [cache.keys, cache.values] if hasattr(cache, "keys") else list(cache.cache)
    return (array for array in held if array is not None)


def kind(cache: Any) -> dict[str, Any]:  # noqa: ANN401
    """What one cache keeps, from its arrays after some tokens of one sequence."""
    name = KINDS[type(cache)]
    if name == "arrays":
        return {"kind": name, "fixed_bytes": sum(array.nbytes for array in arrays(cache))}
    per_token = sum(a.nbytes // a.shape[2] for a in arrays(cache))
    window = {"rotating": "max_size", "chunked": "chunk_size"}.get(name)
    return {
        "kind": name,
        "token_bytes": per_token,
        "window": int(getattr(cache, window)) if window else 0,
    }


def examples(model: Any, tokens: int = 8) -> tuple[list[Any], mx.array]:  # noqa: ANN401
    """The model's caches after ``tokens`` tokens of one sequence, and the scores of the next.

    Raises Refused where one is of a class that is not known.
    """
    made: list[Any] = caches.make_prompt_cache(model)
    for cache in leaves(made):
        arrays(cache)
    out = model(mx.zeros((1, tokens), mx.int32), cache=made)
    return made, out[:, -1, :]


def kinds(made: list[Any], beyond: Sequence[dict[str, int]] = ()) -> list[dict[str, Any]]:
    """What caches keep, those that are alike counted together.

    ``beyond`` is what ``views.beyond`` says of each.
    """
    counted: dict[tuple[tuple[str, Any], ...], int] = {}
    for at, cache in enumerate(leaves(made)):
        if not list(arrays(cache)):
            continue  # a layer that shares another's cache
        key = tuple(sorted((kind(cache) | (beyond[at] if beyond else {})).items()))
        counted[key] = counted.get(key, 0) + 1
    return [{**dict(key), "count": count} for key, count in counted.items()]


def mergeable(model: Any) -> bool:  # noqa: ANN401
    """What the server asks before it serves in batches (mlx_lm/server.py, ``_load``)."""
    return all(hasattr(cache, "merge") for cache in caches.make_prompt_cache(model))


def why_alone(model: Any, layers: int | None = None) -> str:  # noqa: ANN401
    """Why only one sequence can be served at a time; "" where several can.

    The server finds out at its first requests: sequences of unequal lengths are tried here, so
    many that their number is none of the model's own; of a model with so many ``layers`` in it.
    """
    if not mergeable(model):
        names = {type(c).__name__ for c in caches.make_prompt_cache(model)}
        return f"no `merge` in one of its caches: {', '.join(sorted(names))}"
    try:
        made = [
            cache.merge([cache] * SEVERAL) for cache in caches.make_prompt_cache(model)[:layers]
        ]
        for cache in made:
            cache.prepare(
                lengths=[8] * (SEVERAL - 1) + [7], right_padding=[0] * (SEVERAL - 1) + [1]
            )
        model(mx.zeros((SEVERAL, 8), mx.int32), cache=made)
        for cache in made:
            cache.finalize()
        model(mx.zeros((SEVERAL, 1), mx.int32), cache=made)
    except Exception as error:  # noqa: BLE001 -- whatever it raises, the server's thread would
        return f"several sequences together fail in mlx-lm: {error}"
    return ""


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
